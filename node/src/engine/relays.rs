//! The relays that a node uses, as a set.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use postern_proto::address::HostPort;
use postern_proto::authority::RelayRow;
use postern_proto::link::Instance;
use postern_proto::name::RelayName;
use postern_proto::spec::RelaySpec;
use tracing::debug;

use super::code;
use super::failure::{Failure, Step};
use super::relay_link::{RelayLink, lock};
use super::shared::Shared;
use tokio::time::Instant;

/// All relays of the project that this node uses.
#[derive(Default)]
pub struct RelayLinks {
    links: Mutex<Vec<Arc<RelayLink>>>,
    /// Names that inlets lead to, also while no relay is known yet.
    watched: Mutex<BTreeSet<RelayName>>,
}

/// A node keeps control links to so many relays.
const MAX_RELAYS: usize = 3;

impl RelayLinks {
    /// Uses these relays from now on: starts links to new ones, ends those to relays that are gone.
    pub fn set(&self, shared: &Arc<Shared>, rows: &[RelayRow]) {
        // Not under the lock of the links: the specs have one of their own.
        let specs: Vec<RelaySpec> = shared.relay_specs().values().cloned().collect();
        let wanted_at = |address: &HostPort| {
            specs.iter().filter(|spec| spec.at.means(address)).map(|spec| spec.name.clone()).collect::<BTreeSet<_>>()
        };
        let mut links = lock(&self.links);
        links.retain(|link| {
            let stays = rows.iter().any(|row| row.identifier == link.identifier);
            if !stays {
                link.stop();
            }
            stays
        });
        for row in rows {
            if let Some(link) = links.iter().find(|link| link.identifier == row.identifier) {
                link.set_row(row.clone());
                link.set_names(&wanted_at(&row.address));
            } else if links.len() < MAX_RELAYS {
                let link = RelayLink::new(row.clone(), shared.stop.child_token());
                link.set_names(&wanted_at(&row.address));
                lock(&self.watched).iter().for_each(|name| drop(link.watch(name)));
                links.push(Arc::clone(&link));
                shared.spawn("relay link", link.run(Arc::clone(shared)));
            }
        }
    }

    #[must_use]
    pub fn all(&self) -> Vec<Arc<RelayLink>> {
        lock(&self.links).clone()
    }

    /// Whether all relays have been connected since before `moment`: what none of them knows is not there.
    #[must_use]
    pub fn were_up_since(&self, moment: Instant) -> bool {
        let links = self.all();
        !links.is_empty() && links.iter().all(|link| link.was_up_since(moment))
    }

    /// Whether the relays say that `name` is registered; `None` while none has answered.
    #[must_use]
    pub fn is_registered(&self, name: &RelayName) -> Option<bool> {
        let links = self.all();
        links.iter().filter_map(|link| link.is_registered(name)).reduce(|any, this| any || this)
    }

    /// Wants to know who is registered under `name`, at every relay that there is and at those that come.
    pub fn watch(&self, name: &RelayName) {
        // Before the links are looked at: one that is made meanwhile finds the name here.
        lock(&self.watched).insert(name.clone());
        self.all().iter().for_each(|link| drop(link.watch(name)));
    }

    /// Who is registered under `name`, at any relay.
    ///
    /// # Errors
    /// Where no relay could be asked.
    pub async fn instances(&self, name: &RelayName) -> Result<Vec<(Arc<RelayLink>, Instance)>, Failure> {
        let links = self.all();
        if links.is_empty() {
            return Err(Failure::new(Step::Relay, code::NO_RELAY, "the project has no relay that this node knows of"));
        }
        let mut asking = tokio::task::JoinSet::new();
        for link in links {
            let name = name.clone();
            asking.spawn(async move { (Arc::clone(&link), link.instances(&name).await) });
        }
        let (mut found, mut failure, mut answered) = (Vec::new(), None, false);
        while let Some(asked) = asking.join_next().await {
            match asked {
                Ok((link, Ok(instances))) => {
                    answered = true;
                    found.extend(instances.into_iter().map(|instance| (Arc::clone(&link), instance)));
                    if !found.is_empty() {
                        break;
                    }
                }
                Ok((_, Err(error))) => failure = Some(error),
                Err(error) => debug!(%error, "a look-up was given up"),
            }
        }
        match failure {
            // Where one says that nobody is there, that is the reason, whatever became of the others.
            Some(failure) if !answered => Err(failure),
            _ => Ok(found),
        }
    }
}
