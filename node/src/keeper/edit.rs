//! What commands change: outlets, inlets, relay names, policies.

use std::time::Duration;

use postern_proto::name::{Alias, OutletName, RelayName};
use postern_proto::spec::{InletSpec, OutletSpec, PeerRoute, PolicySpec, PolicyTarget, RelaySpec};
use tokio::time::Instant;

use super::Keeper;
use crate::config::resource::OutletRequest;
use crate::control::code;
use crate::control::document::{DeletedDocument, InletDocument, OutletDocument, PolicyDocument, RelayDocument};
use crate::control::fault::Fault;
use crate::engine::RelayState;
use crate::store::Specs;

/// Most resources of one kind; the same bound as a configuration's.
const MAX_RESOURCES: usize = 4096;

impl Keeper {
    /// # Errors
    /// Where the name is taken.
    pub async fn create_outlet(&self, request: OutletRequest) -> Result<OutletDocument, Fault> {
        let spec = self
            .edit(|stored| {
                let specs = &mut stored.specs;
                room_for(specs.outlets.len())?;
                let spec = request.named(|name| specs.outlets.iter().any(|outlet| outlet.name.as_str() == name));
                if specs.outlet(&spec.name).is_some() {
                    let delete = format!("postern tcp-outlet delete {}", spec.name);
                    return Err(Fault::exists("an outlet", &spec.name)
                        .try_this(format!("choose another name with --from, or delete that one first: {delete}")));
                }
                forget_policy(specs, spec.name.as_str(), spec.allow.is_some());
                specs.outlets.push(spec.clone());
                Ok(spec)
            })
            .await?;
        Ok(OutletDocument::new(&spec, &self.seen.borrow().specs))
    }

    /// # Errors
    /// Where there is none of that name.
    pub async fn delete_outlet(&self, name: &OutletName) -> Result<DeletedDocument, Fault> {
        self.edit(|stored| remove(&mut stored.specs.outlets, |outlet: &OutletSpec| outlet.name == *name, "outlet", name)).await?;
        Ok(DeletedDocument::new(name))
    }

    /// # Errors
    /// Where the alias is taken or the address cannot be listened on.
    pub async fn create_inlet(&self, spec: InletSpec) -> Result<InletDocument, Fault> {
        let alias = spec.alias.clone();
        if spec.to.iter().any(|to| matches!(to.peer, PeerRoute::Relay(_))) {
            self.needs_project(format!("inlet `{alias}`"))?;
        }
        self.edit(|stored| {
            let specs = &mut stored.specs;
            room_for(specs.inlets.len())?;
            if specs.inlet(&spec.alias).is_some() {
                let delete = format!("postern tcp-inlet delete {}", spec.alias);
                return Err(Fault::exists("an inlet", &spec.alias)
                    .try_this(format!("choose another name with --alias, or delete that one first: {delete}")));
            }
            forget_policy(specs, spec.alias.as_str(), spec.allow.is_some());
            specs.inlets.push(spec);
            Ok(())
        })
        .await?;
        self.inlet(&alias)
    }

    /// # Errors
    /// Where there is none of that alias.
    pub fn inlet(&self, alias: &Alias) -> Result<InletDocument, Fault> {
        let status = self.engine.status();
        let found = status.inlets.iter().find(|inlet| inlet.spec.alias == *alias);
        found
            .map(|inlet| InletDocument::running(inlet, &self.seen.borrow().specs))
            .ok_or_else(|| Fault::not_found("inlet", alias))
    }

    /// # Errors
    /// Where there is none of that alias.
    pub async fn delete_inlet(&self, alias: &Alias) -> Result<DeletedDocument, Fault> {
        self.edit(|stored| remove(&mut stored.specs.inlets, |inlet: &InletSpec| inlet.alias == *alias, "inlet", alias)).await?;
        Ok(DeletedDocument::new(alias))
    }

    /// Claims a relay name, and waits up to `wait` for the relays' answer. A name that this node holds already is a success.
    ///
    /// # Errors
    /// Where the credential does not permit the name; the claim is taken back then.
    pub async fn create_relay(&self, spec: RelaySpec, wait: Duration) -> Result<RelayDocument, Fault> {
        let name = spec.name.clone();
        self.needs_project(format!("relay name `{name}`"))?;
        let mut changes = self.engine.watch();
        self.edit(|stored| {
            room_for(stored.specs.relays.len())?;
            stored.specs.relays.retain(|relay| relay.name != spec.name);
            stored.specs.relays.push(spec);
            Ok(())
        })
        .await?;
        let deadline = Instant::now() + wait;
        loop {
            changes.mark_unchanged();
            match self.relay_state(&name) {
                Some(RelayState::Refused(failure)) => {
                    let why = failure.reason.clone();
                    self.delete_relay(&name).await?;
                    return Err(relay_denied(&name).because(why));
                }
                Some(RelayState::Up) | None => break,
                Some(RelayState::Waiting(_)) => {}
            }
            if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        self.relay(&name)
    }

    fn relay_state(&self, name: &RelayName) -> Option<RelayState> {
        self.engine.status().relays.into_iter().find(|relay| relay.spec.name == *name).map(|relay| relay.state)
    }

    /// A relay name of this node that no retry will make it hold.
    #[must_use]
    pub fn refused_relay(&self) -> Option<Fault> {
        self.engine.status().relays.into_iter().find_map(|relay| match relay.state {
            RelayState::Refused(failure) => Some(relay_denied(&relay.spec.name).because(failure.reason)),
            RelayState::Up | RelayState::Waiting(_) => None,
        })
    }

    /// # Errors
    /// Where this node does not claim the name.
    pub fn relay(&self, name: &RelayName) -> Result<RelayDocument, Fault> {
        let status = self.engine.status();
        let found = status.relays.iter().find(|relay| relay.spec.name == *name);
        found.map(|relay| RelayDocument::running(self.node.name(), relay)).ok_or_else(|| Fault::not_found("relay", name))
    }

    /// # Errors
    /// Where this node does not claim the name.
    pub async fn delete_relay(&self, name: &RelayName) -> Result<DeletedDocument, Fault> {
        self.edit(|stored| remove(&mut stored.specs.relays, |relay: &RelaySpec| relay.name == *name, "relay", name)).await?;
        Ok(DeletedDocument::new(name))
    }

    /// Sets the policy of a resource or a type, in the place of the one it had.
    ///
    /// # Errors
    /// Where it cannot be stored.
    pub async fn create_policy(&self, policy: PolicySpec) -> Result<PolicyDocument, Fault> {
        let document = PolicyDocument::own(&policy);
        self.edit(|stored| {
            let policies = &mut stored.specs.policies;
            room_for(policies.len())?;
            // In its place, so that listing keeps the order in which policies were first made.
            match policies.iter_mut().find(|other| other.target == policy.target) {
                Some(other) => *other = policy,
                None => policies.push(policy),
            }
            Ok(())
        })
        .await?;
        Ok(document)
    }

    /// Removes the policy of a resource or a type. What it was in the place of is in force again: for a resource the `allow` that it was
    /// made with, and only where that is what there is to remove, the policy of its type.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn delete_policy(&self, target: &PolicyTarget) -> Result<DeletedDocument, Fault> {
        let name = match target {
            PolicyTarget::Resource(name) => name.clone(),
            PolicyTarget::ResourceType(kind) => kind.to_string(),
        };
        self.edit(|stored| {
            let specs = &mut stored.specs;
            let before = specs.policies.len();
            specs.policies.retain(|policy| policy.target != *target);
            let mut found = specs.policies.len() < before;
            if !found && matches!(target, PolicyTarget::Resource(_)) {
                let outlets =
                    specs.outlets.iter_mut().filter(|outlet| outlet.name.as_str() == name).map(|outlet| &mut outlet.allow);
                let inlets = specs.inlets.iter_mut().filter(|inlet| inlet.alias.as_str() == name).map(|inlet| &mut inlet.allow);
                for allow in outlets.chain(inlets) {
                    found |= allow.take().is_some();
                }
            }
            if found { Ok(()) } else { Err(Fault::not_found("policy", &name)) }
        })
        .await?;
        Ok(DeletedDocument::new(&name))
    }
}

fn relay_denied(name: &RelayName) -> Fault {
    Fault::new(code::RELAY_DENIED, format!("this node may not claim the relay name `{name}`"))
        .try_this(format!("enrol with a ticket that was issued with `--relay {name}`"))
}

fn room_for(present: usize) -> Result<(), Fault> {
    if present < MAX_RESOURCES {
        Ok(())
    } else {
        Err(Fault::new(code::LIMIT, format!("a node has at most {MAX_RESOURCES} of these")))
    }
}

/// A resource that comes with an `allow` of its own takes the place of one that is gone and whose policy stayed behind.
fn forget_policy(specs: &mut Specs, name: &str, has_allow: bool) {
    if has_allow && specs.resource(name).is_none() {
        specs.policies.retain(|policy| !matches!(&policy.target, PolicyTarget::Resource(resource) if resource == name));
    }
}

fn remove<T>(list: &mut Vec<T>, is: impl Fn(&T) -> bool, kind: &str, name: impl std::fmt::Display) -> Result<(), Fault> {
    let before = list.len();
    list.retain(|item| !is(item));
    if list.len() < before { Ok(()) } else { Err(Fault::not_found(kind, name)) }
}
