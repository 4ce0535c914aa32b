//! Joining a project with a ticket, and what a member says of itself whenever it connects to its authority.

use std::time::Duration;

use postern_proto::authority::{Answer, Enrolment, Hello};
use postern_proto::handshake::StaticKey;
use postern_proto::id::{NodeId, StaticPublic};
use postern_proto::identity::{Attestation, Identity};
use postern_proto::name::IdentityName;
use postern_proto::ticket::Ticket;
use postern_proto::time::Timestamp;

use crate::authority::{AuthorityClient, AuthorityError, Pinned, Pushed};
use crate::membership::{Membership, MembershipError};
use crate::supervise::Supervisor;

/// How long an attestation of a static key is valid. It is made anew for every connection; the authority asks for no more than
/// that it is valid now.
const ATTESTATION_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Why a ticket did not make its bearer a member.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("the authority's answer to the ticket does not verify: {0}")]
    Membership(#[from] MembershipError),
    #[error("the authority answered the ticket with something else")]
    Unexpected,
}

impl EnrolError {
    /// Whether trying again later can help: the authority was not reached, or is busy.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        use postern_proto::authority::Refusal;
        match self {
            Self::Authority(AuthorityError::Refused(Refusal::Busy { .. } | Refusal::Internal, _)) => true,
            Self::Authority(AuthorityError::Refused(..)) | Self::Membership(_) | Self::Unexpected => false,
            Self::Authority(_) => true,
        }
    }
}

/// What `identity` says of itself and of the static key that it connects with.
#[must_use]
pub fn hello(identity: &Identity, node_id: NodeId, static_key: &StaticKey, now: Timestamp) -> Hello {
    Hello {
        history: identity.history().encode(),
        attestation: attest(identity, node_id, static_key.public(), now),
        enrolment: None,
    }
}

/// That `static_key` is a key of this node of `identity`.
#[must_use]
pub fn attest(identity: &Identity, node_id: NodeId, static_key: StaticPublic, now: Timestamp) -> Vec<u8> {
    identity.attest(&Attestation {
        identifier: identity.identifier(),
        node_id,
        static_key,
        // The verifier's clock may be behind this one.
        created: now.minus(Duration::from_secs(60)),
        expires: now.plus(ATTESTATION_LIFETIME),
    })
}

/// Redeems `ticket` for `identity`, as a member with nodes. A second time by the same identity gives the same membership and spends nothing.
///
/// The ticket's secret leaves only after the authority has proven that it is the one that the ticket pins. The session stays
/// open; the caller may go on with it.
///
/// # Errors
/// [`EnrolError`].
pub async fn enrol(
    supervisor: &Supervisor,
    identity: (&Identity, &IdentityName),
    node: (NodeId, &StaticKey),
    ticket: &Ticket,
    now: Timestamp,
) -> Result<(Membership, AuthorityClient, Pushed), EnrolError> {
    redeem(supervisor, identity, node, ticket, now, false).await
}

/// As [`enrol`], for a relay server.
///
/// # Errors
/// [`EnrolError`].
pub async fn enrol_relay_server(
    supervisor: &Supervisor,
    identity: (&Identity, &IdentityName),
    node: (NodeId, &StaticKey),
    ticket: &Ticket,
    now: Timestamp,
) -> Result<(Membership, AuthorityClient, Pushed), EnrolError> {
    redeem(supervisor, identity, node, ticket, now, true).await
}

async fn redeem(
    supervisor: &Supervisor,
    identity: (&Identity, &IdentityName),
    node: (NodeId, &StaticKey),
    ticket: &Ticket,
    now: Timestamp,
    relay_server: bool,
) -> Result<(Membership, AuthorityClient, Pushed), EnrolError> {
    let mut hello = hello(identity.0, node.0, node.1, now);
    hello.enrolment =
        Some(Enrolment { ticket: ticket.id, secret: ticket.secret.clone(), name: identity.1.clone(), relay_server });
    let authority = Pinned { addresses: &ticket.addresses, static_key: ticket.authority_static };
    let (client, mut pushed) = AuthorityClient::connect_for_a_command(supervisor, authority, node.1, &hello).await?;
    match pushed.recv().await {
        Some(Answer::ProjectInfo { statement, history }) => {
            Ok((Membership::from_ticket(ticket, history, statement)?, client, pushed))
        }
        Some(_) | None => Err(EnrolError::Unexpected),
    }
}
