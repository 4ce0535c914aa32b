//! Redemption of a ticket: one transaction that takes a use, makes the member and writes the audit, or changes nothing.

use std::time::Duration;

use postern_proto::authority::{Refusal, RelayPermission, Role, VoidEntry};
use postern_proto::id::{Identifier, StaticPublic, TicketId};
use postern_proto::identity::{History, Identity};
use postern_proto::name::IdentityName;
use postern_proto::secret::SecretBytes;
use postern_proto::time::Timestamp;

use crate::act::ActError;
use crate::failpoint;
use crate::rules;
use crate::store::{Action, Entry, Member, Store, StoreError, Write, grants, members, project, relay_names};

/// Who wants to join: what the handshake and the identity proved, and the name that it gives itself.
#[derive(Debug, Clone)]
pub struct Newcomer {
    pub identifier: Identifier,
    /// Its change history, verified and encoded.
    pub history: Vec<u8>,
    /// The handshake's remote static, attested by the identity.
    pub static_key: StaticPublic,
    pub name: IdentityName,
    /// It says that it is a relay server.
    pub relay_server: bool,
}

impl Newcomer {
    /// An identity that is this process's own.
    #[must_use]
    pub fn of(identity: &Identity, static_key: StaticPublic, name: IdentityName) -> Self {
        Self { identifier: identity.identifier(), history: identity.history().encode(), static_key, name, relay_server: false }
    }
}

/// What came of a redemption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redeemed {
    /// A use of the ticket was spent.
    Joined(Member),
    /// The identity was a member; nothing was spent and nothing changed, whatever the ticket says.
    Already(Member),
}

impl Redeemed {
    #[must_use]
    pub const fn member(&self) -> &Member {
        match self {
            Self::Joined(member) | Self::Already(member) => member,
        }
    }
}

/// Redeems a ticket. When this fails nothing was spent; when its answer is lost, asking again gives the same membership.
///
/// # Errors
/// The refusals that begin with `Ticket`; [`Refusal::RelayNameHeld`] where a name of the ticket has gone to another member
/// since it was issued; [`Refusal::NotPermitted`] for an identity that was revoked after the ticket was issued, and where a relay
/// server comes with a member's ticket or the other way round; and what the database reports.
pub async fn redeem(
    store: &Store,
    newcomer: &Newcomer,
    ticket: TicketId,
    secret: &SecretBytes<32>,
    now: Timestamp,
) -> Result<Redeemed, ActError> {
    // Most callers with a ticket that they used before need no turn at the writer.
    if let Some(member) = members::find(&mut store.read().await?, newcomer.identifier).await? {
        return Ok(Redeemed::Already(member));
    }
    let mut write = store.write().await?;
    if let Some(member) = members::find(&mut write, newcomer.identifier).await? {
        return Ok(Redeemed::Already(member));
    }
    failpoint::hit("redeem-begun");
    let Some(taken) = write.take_ticket(ticket, secret, now).await? else {
        let why = write.why_not_taken(ticket, secret).await?;
        return Err(of_its_own(&mut write, newcomer, ticket, why).await?.into());
    };
    failpoint::hit("redeem-taken");
    // Taken back with the transaction: the ticket stays good for whom it is meant.
    rules::may_be_called(&newcomer.name)?;
    if let Some(bound) = &taken.bound {
        rules::is_for(bound, newcomer.identifier, &newcomer.name)?;
    }
    match (matches!(taken.role, Role::RelayServer { .. }), newcomer.relay_server) {
        (true, false) => return Err(not_for("a relay server: give it to `postern serve relay --ticket`")),
        (false, true) => return Err(not_for("a member, and this is a relay server: ask for one made with --relay-server")),
        _ => {}
    }
    if let Some(revoked) = members::find_revoked(&mut write, newcomer.identifier).await? {
        if taken.epoch < revoked.epoch {
            return Err(was_revoked(revoked.revoked_at).into());
        }
        not_back(newcomer, &revoked.member)?;
    }
    if !write.insert_use(ticket, newcomer.identifier, now).await? {
        let reason = "this identity was removed from the project after it joined with this ticket; ask for a new one";
        return Err(Refusal::NotPermitted { reason: reason.to_owned() }.into());
    }
    failpoint::hit("redeem-used");
    let member = Member {
        identifier: newcomer.identifier,
        name: newcomer.name.clone(),
        attributes: taken.attributes,
        relays: taken.relays,
        role: taken.role,
        attested_by: taken.issued_by,
        added_at: joined_at(&mut write, newcomer.identifier, now).await?,
        history: newcomer.history.clone(),
    };
    admit(&mut write, &member, newcomer.static_key, now).await?;
    failpoint::hit("redeem-admitted");
    let reason = format!("{} joined, admitted by {}", member.name, member.attested_by);
    let granted = grants(&member.attributes, &member.relays, &member.role);
    let entry = Entry::ok(now, Some(member.identifier), Action::RedeemTicket, ticket).because(reason);
    write.audit(&entry.after(granted)).await?;
    failpoint::hit("redeem-audited");
    write.commit().await?;
    failpoint::hit("redeem-committed");
    Ok(Redeemed::Joined(member))
}

fn was_revoked(at: Timestamp) -> Refusal {
    let reason = format!("this identity was revoked at {at}; only a ticket issued after that admits it again");
    Refusal::NotPermitted { reason }
}

/// Why a ticket was not taken. To who was revoked and comes with the ticket that it once joined with, that is no theft by somebody else.
async fn of_its_own(write: &mut Write, newcomer: &Newcomer, ticket: TicketId, why: Refusal) -> Result<Refusal, ActError> {
    if !matches!(why, Refusal::TicketUsedUp { .. } | Refusal::TicketRevoked)
        || !write.has_used(ticket, newcomer.identifier).await?
    {
        return Ok(why);
    }
    let revoked = members::find_revoked(write, newcomer.identifier).await?;
    Ok(revoked.map_or(why, |revoked| was_revoked(revoked.revoked_at)))
}

/// One that comes back has at least the changes of its identity that are known of it: a key that it replaced, because others had it, lets
/// nobody in.
fn not_back(newcomer: &Newcomer, known: &Member) -> Result<(), ActError> {
    if newcomer.history == known.history {
        return Ok(());
    }
    let seen = History::decode(&known.history)
        .map_err(|error| StoreError::Damaged { what: format!("the history of {}: {error}", known.identifier) })?;
    let shown = History::decode(&newcomer.history).map_err(|error| Refusal::Invalid { reason: error.to_string() })?;
    shown.succeeds(&seen).map_err(|error| Refusal::NotPermitted { reason: error.to_string() })?;
    Ok(())
}

fn not_for(whom: &str) -> ActError {
    Refusal::NotPermitted { reason: format!("the ticket is for {whom}") }.into()
}

/// Writes the member with what its permissions reserve for it, and its relay entry where it is a relay server.
///
/// # Errors
/// [`Refusal::RelayNameHeld`], and what the database reports.
pub(crate) async fn admit(write: &mut Write, member: &Member, static_key: StaticPublic, now: Timestamp) -> Result<(), ActError> {
    write.insert_member(member).await?;
    failpoint::hit("redeem-member");
    for permission in &member.relays {
        let (name, exclusive) = match permission {
            RelayPermission::Any => continue,
            RelayPermission::Name(name) => (name, true),
            RelayPermission::Shared(name) => (name, false),
        };
        let holders = relay_names::holders(write, name).await?;
        if holders.iter().any(|holder| holder.member == member.identifier) {
            continue;
        }
        if holders.iter().any(|holder| exclusive || holder.exclusive) {
            return Err(Refusal::RelayNameHeld { name: name.clone() }.into());
        }
        write.grant_name(name, member.identifier, exclusive, false, now).await?;
    }
    if let Role::RelayServer { address } = &member.role {
        write.set_relay(member.identifier, static_key, address).await?;
        write.raise_sequence(now).await?;
    }
    Ok(())
}

/// When a membership begins. One that was revoked begins anew: its earlier credentials stay void, which everybody is told in the place of
/// the revocation, and those of the new membership are not.
pub(crate) async fn joined_at(write: &mut Write, identity: Identifier, now: Timestamp) -> Result<Timestamp, ActError> {
    let voided = match members::find_revoked(write, identity).await? {
        None => project::voided_before(write, identity).await?.filter(|voided| *voided < VoidEntry::FOR_EVER),
        Some(revoked) => {
            // No credential of the old membership begins later.
            let not_before = revoked.revoked_at.max(now).plus(Duration::from_secs(1));
            write.void(VoidEntry { member: identity, not_before }, true, now).await?;
            write.forget_revoked(identity).await?;
            Some(not_before)
        }
    };
    Ok(voided.map_or(now, |voided| voided.max(now)))
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
