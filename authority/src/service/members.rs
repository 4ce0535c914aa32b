//! Listing and removing members, and the two that the authority's own process admits.

use postern_proto::address::HostPort;
use postern_proto::authority::{Answer, Attributes, Refusal, RelayPermission, Role};
use postern_proto::credential::MAX_LIFETIME;
use postern_proto::id::Identifier;
use postern_proto::time::CLOCK_TOLERANCE;

use super::{Caller, PAGE_ROWS, Service, member, page, stored};
use crate::ActError;
use crate::enrol::{self, Newcomer};
use crate::rules::{self, Scope};
use crate::store::{Action, Entry, Member, grants};

impl Service {
    pub(super) async fn list_members(&self, caller: &Caller, after: Option<Identifier>) -> Result<Answer, ActError> {
        let mut read = self.0.store.read().await?;
        let caller = member(&mut read, caller.identifier).await?;
        let attested_by = match rules::scope(&caller)? {
            Scope::All => None,
            Scope::Own(enroller) => Some(enroller),
        };
        let (rows, more) = page(stored::list(&mut read, attested_by, after, PAGE_ROWS).await?);
        Ok(Answer::Members { rows, more })
    }

    /// Removes a member: with it go its relay names, the tickets that it issued, and the validity of every credential it has.
    pub(super) async fn delete_member(&self, caller: &Caller, removed: Identifier) -> Result<Answer, ActError> {
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let caller = member(&mut write, caller.identifier).await?;
        let scope = rules::scope(&caller)?;
        let found = stored::find(&mut write, removed).await?;
        // An administrator joins by its own hand; to an enroller, members of others are not there.
        let Some(target) = found.filter(|found| scope == Scope::All || scope == Scope::Own(found.attested_by)) else {
            return Err(Refusal::NotFound { what: format!("member {removed}") }.into());
        };
        if target.role == Role::Administrator && stored::count_administrators(&mut write).await? == 1 {
            let reason = "it is the project's only administrator; admit another one first".to_owned();
            return Err(Refusal::NotPermitted { reason }.into());
        }
        write.delete_member(removed).await?;
        let tickets = write.revoke_tickets_of(removed, now).await?;
        let valid_again = now.plus(std::time::Duration::from_secs(1));
        let forgotten = now.minus(MAX_LIFETIME + 2 * CLOCK_TOLERANCE);
        write.void(removed, valid_again, now, forgotten).await?;
        let held = grants(&target.attributes, &target.relays, &target.role);
        let reason = format!("{}, enrolled by {}; {tickets} of its tickets revoked", target.name, target.attested_by);
        write.audit(&Entry::ok(now, Some(caller.identifier), Action::DeleteMember, removed).because(reason).before(held)).await?;
        write.commit().await?;
        tracing::info!(member = %removed, by = %caller.identifier, "a member was removed");
        self.republish().await?;
        // Nobody listens where there is no session.
        let _ = self.0.removed.send(removed);
        Ok(Answer::Done)
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
        let relay = member(&mut write, caller.identifier).await?;
        if !matches!(relay.role, Role::RelayServer { .. }) {
            return Err(Refusal::NotPermitted { reason: "only relay servers say where they are".to_owned() }.into());
        }
        if address.port() == 0 {
            return Err(Refusal::Invalid { reason: "port 0 cannot be dialled".to_owned() }.into());
        }
        if write.set_relay(relay.identifier, caller.static_key, address).await? {
            write.set_role(relay.identifier, &Role::RelayServer { address: address.clone() }).await?;
            write.raise_sequence(now).await?;
            write.audit(&Entry::ok(now, Some(relay.identifier), Action::AdvertiseRelay, address)).await?;
            write.commit().await?;
            self.republish().await?;
        }
        Ok(Answer::Done)
    }
}

fn other_role(wanted: &str) -> ActError {
    Refusal::NotPermitted { reason: format!("this identity is a member already, and not {wanted}: remove it first") }.into()
}
