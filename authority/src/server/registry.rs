//! Which members have sessions, and how many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_proto::id::Identifier;

/// Most sessions of one member: each of its nodes has one, and commands have short ones.
const MAX_PER_MEMBER: usize = 64;

/// Most sessions in all; with their buffers of 16 KiB, 256 MiB.
const MAX_SESSIONS: usize = 16_384;

#[derive(Debug, Default)]
struct Table {
    total: usize,
    members: HashMap<Identifier, usize>,
}

/// Counts sessions. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<Mutex<Table>>);

/// One session; dropping it uncounts it.
#[derive(Debug)]
pub struct Registered {
    registry: Registry,
    member: Identifier,
}

impl Registry {
    /// Counts a session of `member`, unless there are too many.
    #[must_use]
    pub fn enter(&self, member: Identifier) -> Option<Registered> {
        let mut table = self.lock();
        if table.total >= MAX_SESSIONS {
            return None;
        }
        let sessions = table.members.entry(member).or_default();
        if *sessions >= MAX_PER_MEMBER {
            return None;
        }
        *sessions += 1;
        table.total += 1;
        drop(table);
        Some(Registered { registry: self.clone(), member })
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No code that holds the lock can leave the table half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut table = self.registry.lock();
        table.total -= 1;
        if let Some(sessions) = table.members.get_mut(&self.member) {
            *sessions -= 1;
            if *sessions == 0 {
                table.members.remove(&self.member);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::identifier;

    #[test]
    fn each_member_is_bounded() {
        let registry = Registry::default();
        let mut held: Vec<_> = (0..MAX_PER_MEMBER).map(|_| registry.enter(identifier(1)).unwrap()).collect();
        assert!(registry.enter(identifier(1)).is_none());
        assert!(registry.enter(identifier(2)).is_some());
        held.pop();
        assert!(registry.enter(identifier(1)).is_some());
        drop(held);
        assert_eq!(registry.count(), 0);
        assert!(registry.lock().members.is_empty());
    }
}
