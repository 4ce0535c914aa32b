//! Listing, changing and revoking members, and the two that the authority's own process admits.

use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::authority::{Answer, Attributes, Refusal, RelayPermission, Role, VoidEntry};
use postern_proto::id::Identifier;
use postern_proto::identity::History;

use super::{Caller, Out, PAGE_ROWS, Service, calling, page, stored};
use crate::ActError;
use crate::enrol::{self, Newcomer};
use crate::rules::{self, Scope};
use crate::store::{Action, Connection, Entry, Member, grants, project};

impl Service {
    pub(super) async fn list_members(&self, caller: &Caller, after: Option<Identifier>) -> Result<Answer, ActError> {
        let mut read = self.0.store.read().await?;
        let caller = calling(&mut read, caller).await?;
        let attested_by = match rules::scope(&caller)? {
            Scope::All => None,
            Scope::Own(enroller) => Some(enroller),
        };
        let (rows, more) = page(stored::list(&mut read, attested_by, after, PAGE_ROWS).await?);
        Ok(Answer::Members { rows, more })
    }

    /// Revokes a member, and takes it out of the list.
    pub(super) async fn delete_member(&self, caller: &Caller, removed: Identifier) -> Result<Answer, ActError> {
        self.end_membership(caller, removed, Action::DeleteMember).await
    }

    /// Revokes a member. It stays in the list, as one that was revoked.
    pub(super) async fn revoke_member(&self, caller: &Caller, removed: Identifier) -> Result<Answer, ActError> {
        self.end_membership(caller, removed, Action::RevokeMember).await
    }

    /// Ends a membership: with it go its relay names, every credential that it has, for ever, and the tickets that it issued or joined with: with what
    /// is left of such a one it would be back, under another key.
    async fn end_membership(&self, caller: &Caller, removed: Identifier, action: Action) -> Result<Answer, ActError> {
        let hidden = action == Action::DeleteMember;
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let caller = calling(&mut write, caller).await?;
        let scope = rules::scope(&caller)?;
        // An administrator joins by its own hand; to an enroller, members of others are not there.
        let visible = |found: &Member| scope == Scope::All || scope == Scope::Own(found.attested_by);
        let Some(target) = stored::find(&mut write, removed).await?.filter(visible) else {
            let gone = stored::find_revoked(&mut write, removed).await?.filter(|gone| visible(&gone.member));
            // What is deleted is not there to be deleted again.
            let Some(gone) = gone.filter(|gone| !gone.hidden) else {
                return Err(Refusal::NotFound { what: format!("member {removed}") }.into());
            };
            if hidden {
                write.hide_revoked(removed).await?;
                let reason = format!("{}, revoked at {}", gone.member.name, gone.revoked_at);
                write.audit(&Entry::ok(now, Some(caller.identifier), action, removed).because(reason)).await?;
                write.commit().await?;
            }
            // Said again, in case it was not told when it was decided.
            self.republish().await?;
            return Ok(Answer::Voided { epoch: gone.epoch });
        };
        self.may_change(&caller)?;
        if target.role == Role::Administrator && stored::count_administrators(&mut write).await? == 1 {
            let reason = "it is the project's only administrator; admit another one first".to_owned();
            return Err(Refusal::NotPermitted { reason }.into());
        }
        let void = VoidEntry { member: removed, not_before: VoidEntry::FOR_EVER };
        let epoch = write.void(void, true, now).await?;
        write.revoke_member(removed, epoch, hidden, now).await?;
        let tickets = write.revoke_tickets_of(removed, now).await?;
        let held = grants(&target.attributes, &target.relays, &target.role);
        let reason = format!(
            "{}, enrolled by {}; {tickets} tickets that it issued or joined with revoked",
            target.name, target.attested_by
        );
        write.audit(&Entry::ok(now, Some(caller.identifier), action, removed).because(reason).before(held)).await?;
        write.commit().await?;
        self.0.enforcement.begin(epoch);
        // Nobody listens where there is no session.
        let _ = self.0.removed.send(Out::Removed(removed));
        self.republish().await?;
        tracing::info!(member = %removed, by = %caller.identifier, epoch, "a member was revoked");
        Ok(Answer::Voided { epoch })
    }

    /// Replaces a member's attributes. What it shows now is void; it is told so, and gets new credentials.
    pub(super) async fn update_member(
        &self,
        caller: &Caller,
        changed: Identifier,
        attributes: &Attributes,
    ) -> Result<Answer, ActError> {
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let by = calling(&mut write, caller).await?;
        let scope = rules::scope(&by)?;
        let visible = |found: &Member| scope == Scope::All || scope == Scope::Own(found.attested_by);
        let Some(target) = stored::find(&mut write, changed).await?.filter(visible) else {
            return Err(Refusal::NotFound { what: format!("member {changed}") }.into());
        };
        rules::may_update(&by, &target, attributes)?;
        self.check_credential(caller, attributes)?;
        if target.attributes == *attributes {
            drop(write);
            self.republish().await?;
            return Ok(Answer::Voided { epoch: self.0.published.borrow().info().epoch });
        }
        self.may_change(&by)?;
        // Above every credential that it can have, also of a change in the same second.
        let voided = project::voided_before(&mut write, changed).await?.unwrap_or(target.added_at);
        let not_before = voided.max(now).plus(Duration::from_secs(1));
        let epoch = write.void(VoidEntry { member: changed, not_before }, false, now).await?;
        write.set_attributes(changed, attributes).await?;
        let reason = format!("{}: attributes {} instead of {}", target.name, listed(attributes), listed(&target.attributes));
        let [before, after] = [&target.attributes, attributes].map(|attributes| grants(attributes, &target.relays, &target.role));
        let entry = Entry::ok(now, Some(by.identifier), Action::UpdateMember, changed).because(reason);
        write.audit(&entry.before(before).after(after)).await?;
        write.commit().await?;
        self.0.enforcement.begin(epoch);
        self.republish().await?;
        tracing::info!(member = %changed, by = %by.identifier, epoch, "a member's attributes were changed");
        Ok(Answer::Voided { epoch })
    }

    /// The caller enforces what was voided up to `epoch`. Whatever it says, it says of itself alone.
    pub(super) fn acknowledge(&self, caller: &Caller, epoch: u64) -> Result<Answer, ActError> {
        if epoch > self.0.published.borrow().info().epoch {
            return Err(Refusal::Invalid { reason: format!("there is no epoch {epoch} yet") }.into());
        }
        self.0.enforcement.acknowledge(caller.static_key, epoch);
        Ok(Answer::Done)
    }

    pub(super) async fn show_enforcement(&self, caller: &Caller, epoch: u64) -> Result<Answer, ActError> {
        let mut read = self.0.store.read().await?;
        rules::scope(&calling(&mut read, caller).await?)?;
        let enforcers = stored::enforcers(&mut read, self.now()).await?;
        Ok(Answer::Enforcement(self.0.enforcement.report(epoch, enforcers)))
    }

    /// Makes an identity of this machine an administrator. Again for the same identity: nothing changes.
    ///
    /// # Errors
    /// [`Refusal::NotPermitted`] where the identity is a member of another role; what the database reports.
    pub(crate) async fn bootstrap_administrator(&self, identity: &Newcomer) -> Result<(), ActError> {
        let now = self.now();
        let mut write = self.0.store.write().await?;
        match stored::find(&mut write, identity.identifier).await? {
            Some(Member { role: Role::Administrator, .. }) => return Ok(()),
            Some(_) => return Err(other_role("an administrator")),
            None => {}
        }
        if was_revoked(&mut write, identity.identifier).await? {
            return Ok(());
        }
        let administrator = Member {
            identifier: identity.identifier,
            name: identity.name.clone(),
            attributes: Attributes::new(),
            relays: vec![RelayPermission::Any],
            role: Role::Administrator,
            // Nobody admitted it but whoever holds the machine, as its own identity.
            attested_by: identity.identifier,
            added_at: enrol::joined_at(&mut write, identity.identifier, now).await?,
            history: identity.history.clone(),
        };
        enrol::admit(&mut write, &administrator, identity.static_key, now).await?;
        let held = grants(&administrator.attributes, &administrator.relays, &administrator.role);
        write.audit(&Entry::ok(now, None, Action::BootstrapAdministrator, identity.identifier).after(held)).await?;
        write.commit().await?;
        Ok(())
    }

    /// Admits the relay server of this process, or changes where it is. Again with the same values: nothing changes.
    ///
    /// # Errors
    /// [`Refusal::NotPermitted`] where the identity is a member of another role; what the database reports.
    pub(crate) async fn admit_relay(&self, identity: &Newcomer, address: &HostPort) -> Result<(), ActError> {
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let changed = match stored::find(&mut write, identity.identifier).await? {
            Some(Member { role: Role::RelayServer { .. }, .. }) => {
                let changed = write.set_relay(identity.identifier, identity.static_key, address).await?;
                if changed {
                    write.set_role(identity.identifier, &Role::RelayServer { address: address.clone() }).await?;
                    write.raise_sequence(now).await?;
                }
                changed
            }
            Some(_) => return Err(other_role("a relay server")),
            None if was_revoked(&mut write, identity.identifier).await? => false,
            None => {
                let relay = Member {
                    identifier: identity.identifier,
                    name: identity.name.clone(),
                    attributes: Attributes::new(),
                    relays: Vec::new(),
                    role: Role::RelayServer { address: address.clone() },
                    attested_by: self.0.keys.identity.identifier(),
                    added_at: enrol::joined_at(&mut write, identity.identifier, now).await?,
                    history: identity.history.clone(),
                };
                enrol::admit(&mut write, &relay, identity.static_key, now).await?;
                true
            }
        };
        if changed {
            let entry = Entry::ok(now, None, Action::AdmitRelay, identity.identifier).because(address.to_string());
            write.audit(&entry).await?;
            write.commit().await?;
            self.republish().await?;
        }
        Ok(())
    }

    pub(super) async fn advertise_relay(&self, caller: &Caller, address: &HostPort) -> Result<Answer, ActError> {
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let relay = calling(&mut write, caller).await?;
        if !matches!(relay.role, Role::RelayServer { .. }) {
            return Err(Refusal::NotPermitted { reason: "only relay servers say where they are".to_owned() }.into());
        }
        if address.port() == 0 {
            return Err(Refusal::Invalid { reason: "port 0 cannot be dialled".to_owned() }.into());
        }
        if write.set_relay(relay.identifier, caller.static_key, address).await? {
            self.may_change(&relay)?;
            write.set_role(relay.identifier, &Role::RelayServer { address: address.clone() }).await?;
            write.raise_sequence(now).await?;
            write.audit(&Entry::ok(now, Some(relay.identifier), Action::AdvertiseRelay, address)).await?;
            write.commit().await?;
            self.republish().await?;
        }
        Ok(Answer::Done)
    }
}

impl Service {
    /// A relay server shows the static key of its session, and next the one that `next` attests.
    pub(super) async fn announce_static(&self, caller: &Caller, next: &[u8]) -> Result<Answer, ActError> {
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let relay = calling(&mut write, caller).await?;
        if !matches!(relay.role, Role::RelayServer { .. }) {
            return Err(Refusal::NotPermitted { reason: "only static keys of relay servers are announced".to_owned() }.into());
        }
        let invalid = |reason: String| Refusal::Invalid { reason };
        let history = History::decode(&relay.history).map_err(|error| invalid(error.to_string()))?;
        let next = history.verify_attestation(next, now).map_err(|error| invalid(error.to_string()))?.static_key;
        if write.set_relay_statics(relay.identifier, caller.static_key, next).await? {
            self.may_change(&relay)?;
            write.raise_sequence(now).await?;
            let entry = Entry::ok(now, Some(relay.identifier), Action::AdvertiseRelay, relay.identifier);
            write.audit(&entry.because(format!("static key {}, next {next}", caller.static_key))).await?;
            write.commit().await?;
            self.republish().await?;
        }
        Ok(Answer::Done)
    }
}

/// What a person revoked is not undone by starting the authority again.
async fn was_revoked(from: &mut impl Connection, identity: Identifier) -> Result<bool, ActError> {
    let revoked = stored::find_revoked(from, identity).await?;
    if let Some(revoked) = &revoked {
        tracing::warn!(%identity, at = %revoked.revoked_at, "an identity of this machine was revoked; a new ticket admits it again");
    }
    Ok(revoked.is_some())
}

fn listed(attributes: &Attributes) -> String {
    let listed: Vec<_> = attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if listed.is_empty() { "none".to_owned() } else { listed.join(" ") }
}

fn other_role(wanted: &str) -> ActError {
    Refusal::NotPermitted { reason: format!("this identity is a member already, and not {wanted}: remove it first") }.into()
}
