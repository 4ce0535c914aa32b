//! Credentials and the relay names that they may carry.

use std::sync::PoisonError;
use std::time::Instant;

use postern_proto::authority::{Answer, Refusal, Role};
use postern_proto::credential::{self, Audience, Claims};
use postern_proto::id::CredentialId;
use postern_proto::name::RelayName;

use super::tickets::{no_key, no_project};
use super::{BACKDATE, Caller, Service, member};
use crate::ActError;
use crate::rules::{self, Claim, MAX_HELD_NAMES};
use crate::store::{Action, Entry, Issued, Member, ShownTo, Write, project, relay_names};

impl Service {
    /// Issues both credentials, bound to the caller's static key. The one for relays names `names`; those that its permission for
    /// any name covers are claimed by this.
    pub(super) async fn credentials(&self, caller: &Caller, names: &[RelayName]) -> Result<Answer, ActError> {
        if names.len() as u64 > MAX_HELD_NAMES {
            return Err(Refusal::Invalid { reason: format!("a credential names at most {MAX_HELD_NAMES} relay names") }.into());
        }
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let holder = member(&mut write, caller.identifier).await?;
        rules::no_relay_server(&holder)?;
        self.may_write(&holder)?;
        for name in names {
            self.take_name(&mut write, &holder, name).await?;
        }
        // What is from before the membership, or from before it was last changed, is void.
        let voided = project::voided_before(&mut write, holder.identifier).await?.unwrap_or(holder.added_at);
        let not_before = now.minus(BACKDATE).max(holder.added_at).max(voided);
        let expires = now.max(not_before).plus(self.0.credential_lifetime);
        write.forget_credentials(holder.identifier, now).await?;
        // As the database says in this transaction: behind a change of keys, the key before it signs nothing.
        let ring = project::load(&mut write).await?.ok_or_else(no_project)?.key_ring;
        let signing = self.0.keys.signing.active(&ring).ok_or_else(no_key)?;
        let mut issue = async |audience, shown_to| -> Result<Vec<u8>, ActError> {
            let claims = Claims {
                issuer: self.0.keys.identity.identifier(),
                subject: holder.identifier,
                project: self.0.published.borrow().project(),
                audience,
                not_before,
                expires,
                id: CredentialId::random(),
                confirmation: caller.static_key,
                attributes: if audience == Audience::Member { holder.attributes.clone() } else { Default::default() },
                relay_names: if audience == Audience::Relay { names.to_vec() } else { Vec::new() },
            };
            let signed = credential::issue(&signing, &claims).map_err(|error| Refusal::Invalid { reason: error.to_string() })?;
            let issued = Issued {
                id: claims.id,
                member: holder.identifier,
                static_key: caller.static_key,
                shown_to,
                at: now,
                expires,
                signing_key: signing.key_id(),
            };
            write.insert_credential(&issued).await?;
            Ok(signed)
        };
        let member = issue(Audience::Member, ShownTo::Members).await?;
        let relay = issue(Audience::Relay, ShownTo::Relays).await?;
        let named: Vec<&str> = names.iter().map(RelayName::as_str).collect();
        let entry = Entry::ok(now, Some(holder.identifier), Action::IssueCredentials, holder.identifier);
        write.audit(&entry.because(named.join(", "))).await?;
        write.commit().await?;
        Ok(Answer::Credentials { member, relay })
    }

    pub(super) async fn claim(&self, caller: &Caller, name: &RelayName) -> Result<Answer, ActError> {
        let mut write = self.0.store.write().await?;
        let holder = member(&mut write, caller.identifier).await?;
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
        let holder = member(&mut write, caller.identifier).await?;
        if write.release_name(name, holder.identifier).await? {
            self.may_write(&holder)?;
            let entry = Entry::ok(self.now(), Some(holder.identifier), Action::ReleaseRelayName, name);
            write.audit(&entry).await?;
            write.commit().await?;
        }
        Ok(Answer::Done)
    }
}
