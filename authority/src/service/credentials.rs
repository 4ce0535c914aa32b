//! Credentials and the relay names that they may carry.

use std::sync::PoisonError;
use std::time::Instant;

use postern_proto::authority::{Answer, Refusal, Role};
use postern_proto::credential::{self, Audience, Claims};
use postern_proto::id::{CredentialId, StaticPublic};
use postern_proto::identity::History;
use postern_proto::name::RelayName;
use postern_proto::sign::SigningKey;
use postern_proto::time::Timestamp;

use super::tickets::{no_key, no_project};
use super::{BACKDATE, Caller, Service, calling};
use crate::ActError;
use crate::rules::{self, Claim, MAX_HELD_NAMES};
use crate::store::{Action, Entry, Issued, Member, ShownTo, Write, project, relay_names};

/// What the credentials of one answer have in common.
struct Issuer<'a> {
    holder: &'a Member,
    /// The static key under which they are recorded: the node that has them.
    node: StaticPublic,
    signing: SigningKey,
    now: Timestamp,
    not_before: Timestamp,
    expires: Timestamp,
}

impl Service {
    /// Issues both credentials, bound to the caller's static key. The one for relays names `names`; those that its permission for
    /// any name covers are claimed by this.
    pub(super) async fn credentials(&self, caller: &Caller, names: &[RelayName]) -> Result<Answer, ActError> {
        if names.len() as u64 > MAX_HELD_NAMES {
            return Err(Refusal::Invalid { reason: format!("a credential names at most {MAX_HELD_NAMES} relay names") }.into());
        }
        let mut write = self.0.store.write().await?;
        let holder = calling(&mut write, caller).await?;
        rules::no_relay_server(&holder)?;
        self.may_write(&holder)?;
        for name in names {
            self.take_name(&mut write, &holder, name).await?;
        }
        let issuer = self.issuer(&mut write, &holder, caller.static_key).await?;
        let member = self.issue(&mut write, &issuer, Audience::Member, caller.static_key, &[]).await?;
        let relay = self.issue(&mut write, &issuer, Audience::Relay, caller.static_key, names).await?;
        let named: Vec<&str> = names.iter().map(RelayName::as_str).collect();
        let entry = Entry::ok(issuer.now, Some(holder.identifier), Action::IssueCredentials, holder.identifier);
        write.audit(&entry.because(named.join(", "))).await?;
        write.commit().await?;
        Ok(Answer::Credentials { member, relay })
    }

    /// Issues a credential for the static key that the caller's node showed before, which its identity attests. What was issued for that
    /// key is the node's under its new one from here on.
    pub(super) async fn credential_before(&self, caller: &Caller, attestation: &[u8]) -> Result<Answer, ActError> {
        let invalid = |reason: String| Refusal::Invalid { reason };
        let mut write = self.0.store.write().await?;
        let holder = calling(&mut write, caller).await?;
        rules::no_relay_server(&holder)?;
        self.may_write(&holder)?;
        let history = History::decode(&holder.history).map_err(|error| invalid(error.to_string()))?;
        let before = history.verify_attestation(attestation, self.now()).map_err(|error| invalid(error.to_string()))?.static_key;
        write.move_credentials(holder.identifier, before, caller.static_key).await?;
        let issuer = self.issuer(&mut write, &holder, caller.static_key).await?;
        let member = self.issue(&mut write, &issuer, Audience::Member, before, &[]).await?;
        let entry = Entry::ok(issuer.now, Some(holder.identifier), Action::IssueCredentials, holder.identifier);
        write.audit(&entry.because("for the static key before")).await?;
        write.commit().await?;
        Ok(Answer::Credentials { member, relay: Vec::new() })
    }

    /// What credentials of `holder` are to say now.
    async fn issuer<'a>(&self, write: &mut Write, holder: &'a Member, node: StaticPublic) -> Result<Issuer<'a>, ActError> {
        let now = self.now();
        // What is from before the membership, or from before it was last changed, is void.
        let voided = project::voided_before(write, holder.identifier).await?.unwrap_or(holder.added_at);
        let not_before = now.minus(BACKDATE).max(holder.added_at).max(voided);
        let expires = now.max(not_before).plus(self.0.credential_lifetime);
        write.forget_credentials(holder.identifier, now).await?;
        // As the database says in this transaction: behind a change of keys, the key before it signs nothing.
        let ring = project::load(write).await?.ok_or_else(no_project)?.key_ring;
        let signing = self.0.keys.signing.active(&ring).ok_or_else(no_key)?;
        Ok(Issuer { holder, node, signing, now, not_before, expires })
    }

    async fn issue(
        &self,
        write: &mut Write,
        issuer: &Issuer<'_>,
        audience: Audience,
        confirmation: StaticPublic,
        names: &[RelayName],
    ) -> Result<Vec<u8>, ActError> {
        let Issuer { holder, node, signing, now, not_before, expires } = issuer;
        let claims = Claims {
            issuer: self.0.keys.identity.identifier(),
            subject: holder.identifier,
            project: self.0.published.borrow().project(),
            audience,
            not_before: *not_before,
            expires: *expires,
            id: CredentialId::random(),
            confirmation,
            attributes: if audience == Audience::Member { holder.attributes.clone() } else { Default::default() },
            relay_names: names.to_vec(),
        };
        let signed = credential::issue(signing, &claims).map_err(|error| Refusal::Invalid { reason: error.to_string() })?;
        let issued = Issued {
            id: claims.id,
            member: holder.identifier,
            static_key: *node,
            shown_to: if audience == Audience::Member { ShownTo::Members } else { ShownTo::Relays },
            at: *now,
            expires: *expires,
            signing_key: signing.key_id(),
        };
        write.insert_credential(&issued).await?;
        Ok(signed)
    }

    pub(super) async fn claim(&self, caller: &Caller, name: &RelayName) -> Result<Answer, ActError> {
        let mut write = self.0.store.write().await?;
        let holder = calling(&mut write, caller).await?;
        rules::no_relay_server(&holder)?;
        if self.take_name(&mut write, &holder, name).await? {
            write.commit().await?;
        }
        Ok(Answer::Done)
    }

    /// Whether a member may change something now that others see; then it counts. Administrators may always: one that is no friend can
    /// do worse than write much.
    pub(super) fn may_change(&self, member: &Member) -> Result<(), Refusal> {
        if member.role == Role::Administrator { Ok(()) } else { self.may_write(member) }
    }

    /// Whether a member may make the database write now; then it counts.
    fn may_write(&self, member: &Member) -> Result<(), Refusal> {
        let mut writes = self.0.writes.lock().unwrap_or_else(PoisonError::into_inner);
        if writes.take(member.identifier, Instant::now()) { Ok(()) } else { Err(Refusal::Busy { after: 2 }) }
    }

    /// True where the member did not hold the name before.
    async fn take_name(&self, write: &mut Write, holder: &Member, name: &RelayName) -> Result<bool, ActError> {
        let holders = relay_names::holders(write, name).await?;
        match rules::may_claim(holder, name, &holders)? {
            Claim::Held => Ok(false),
            Claim::Take => {
                self.may_write(holder)?;
                if relay_names::count(write, holder.identifier).await? >= MAX_HELD_NAMES {
                    let reason = format!("a member holds at most {MAX_HELD_NAMES} relay names: release one");
                    return Err(Refusal::NotPermitted { reason }.into());
                }
                let now = self.now();
                write.grant_name(name, holder.identifier, true, true, now).await?;
                write.audit(&Entry::ok(now, Some(holder.identifier), Action::ClaimRelayName, name)).await?;
                Ok(true)
            }
        }
    }

    /// Gives up a claimed name, so that others may take it. What the member's ticket granted stays its own; so only haste makes this fail.
    pub(super) async fn release(&self, caller: &Caller, name: &RelayName) -> Result<Answer, ActError> {
        let mut write = self.0.store.write().await?;
        let holder = calling(&mut write, caller).await?;
        if write.release_name(name, holder.identifier).await? {
            self.may_write(&holder)?;
            let entry = Entry::ok(self.now(), Some(holder.identifier), Action::ReleaseRelayName, name);
            write.audit(&entry).await?;
            write.commit().await?;
        }
        Ok(Answer::Done)
    }
}
