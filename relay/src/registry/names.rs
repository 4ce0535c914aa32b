//! Names: who is registered under each, and who watches it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use postern_proto::id::{Identifier, NodeId, SessionId};
use postern_proto::link::MAX_INSTANCES;
use postern_proto::name::RelayName;

#[derive(Default)]
pub(super) struct Names {
    names: HashMap<RelayName, Entry>,
}

#[derive(Default)]
struct Entry {
    /// One registration a node; the node's newer session has replaced the older one's.
    registered: BTreeMap<(Identifier, NodeId), SessionId>,
    watchers: BTreeSet<SessionId>,
}

impl Names {
    pub(super) fn register(&mut self, name: &RelayName, node: (Identifier, NodeId), session: SessionId) {
        self.names.entry(name.clone()).or_default().registered.insert(node, session);
    }

    /// Takes the node's registration back, unless a newer session of the node has made it its own.
    pub(super) fn unregister(&mut self, name: &RelayName, node: (Identifier, NodeId), session: SessionId) {
        self.change(name, |entry| {
            if entry.registered.get(&node) == Some(&session) {
                entry.registered.remove(&node);
            }
        });
    }

    pub(super) fn watch(&mut self, name: &RelayName, session: SessionId) {
        self.names.entry(name.clone()).or_default().watchers.insert(session);
    }

    pub(super) fn unwatch(&mut self, name: &RelayName, session: SessionId) {
        self.change(name, |entry| {
            entry.watchers.remove(&session);
        });
    }

    fn change(&mut self, name: &RelayName, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.names.get_mut(name) {
            change(entry);
            if entry.registered.is_empty() && entry.watchers.is_empty() {
                self.names.remove(name);
            }
        }
    }

    pub(super) fn watchers(&self, name: &RelayName) -> Vec<SessionId> {
        self.names.get(name).map(|entry| entry.watchers.iter().copied().collect()).unwrap_or_default()
    }

    /// The sessions registered under `name` that `watcher` is told of. Where there are more than fit, each watcher sees its own
    /// part, so that all are used.
    pub(super) fn instances(&self, name: &RelayName, watcher: SessionId) -> impl Iterator<Item = SessionId> {
        let registered = self.names.get(name).map(|entry| &entry.registered);
        let count = registered.map_or(0, BTreeMap::len);
        let skip = if count > MAX_INSTANCES {
            let mut hasher = DefaultHasher::new();
            watcher.hash(&mut hasher);
            (hasher.finish() % count as u64) as usize
        } else {
            0
        };
        let sessions = || registered.into_iter().flat_map(|registered| registered.values().copied());
        sessions().skip(skip).chain(sessions().take(skip)).take(MAX_INSTANCES)
    }

    pub(super) fn count(&self, name: &RelayName) -> usize {
        self.names.get(name).map_or(0, |entry| entry.registered.len())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}
