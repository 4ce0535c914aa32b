//! The joins that live, by whom they join: those of a revoked member are cut, whatever its node does.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_proto::id::Identifier;
use slab::Slab;
use tokio::task::AbortHandle;

/// All joins of a relay.
#[derive(Debug, Default)]
pub(super) struct Cuts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    joins: Slab<Join>,
    /// Everyone who joins, once: a member has few nodes, and each may have thousands of joins.
    members: HashSet<Arc<Identifier>>,
}

#[derive(Debug)]
struct Join {
    ends: [Arc<Identifier>; 2],
    /// None once it was cut: it keeps its number until it leaves.
    task: Option<AbortHandle>,
}

/// The place of a join among them; leaves it when dropped.
#[derive(Debug)]
pub(super) struct Place {
    cuts: Arc<Cuts>,
    number: usize,
}

impl Cuts {
    /// A join begins, and is the work of `task`, which drops the place when it ends.
    pub(super) fn enter(self: &Arc<Self>, ends: [Identifier; 2], task: AbortHandle) -> Place {
        let mut table = self.lock();
        let ends = ends.map(|end| table.member(end));
        let number = table.joins.insert(Join { ends, task: Some(task) });
        Place { cuts: Arc::clone(self), number }
    }

    /// Ends the joins with an end that `is_out`; returns whose they are.
    pub(super) fn cut(&self, is_out: impl Fn(&Identifier) -> bool) -> Vec<[Identifier; 2]> {
        let cut = self.lock().take(is_out);
        // Without the lock, which a task that ends takes.
        cut.into_iter()
            .map(|(ends, task)| {
                task.abort();
                ends
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn member(&mut self, identifier: Identifier) -> Arc<Identifier> {
        if let Some(known) = self.members.get(&identifier) {
            return Arc::clone(known);
        }
        let member = Arc::new(identifier);
        self.members.insert(Arc::clone(&member));
        member
    }

    /// The joins with an end that `is_out`, with the tasks of those that were not taken before.
    fn take(&mut self, is_out: impl Fn(&Identifier) -> bool) -> Vec<([Identifier; 2], AbortHandle)> {
        let out: HashSet<&Identifier> = self.members.iter().map(|member| &**member).filter(|member| is_out(member)).collect();
        if out.is_empty() {
            return Vec::new();
        }
        let of_out = self.joins.iter_mut().map(|(_, join)| join).filter(|join| join.ends.iter().any(|end| out.contains(&**end)));
        of_out.filter_map(|join| Some((join.ends.each_ref().map(|end| **end), join.task.take()?))).collect()
    }

    fn leave(&mut self, number: usize) {
        let Some(Join { ends, .. }) = self.joins.try_remove(number) else { return };
        for end in ends {
            // This one, and the one among the members.
            if Arc::strong_count(&end) == 2 {
                self.members.remove(&end);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cuts.lock().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;

    #[tokio::test]
    async fn the_joins_of_one_who_is_out_are_cut_and_no_others() {
        let cuts = Arc::new(Cuts::default());
        let who = |number| Identifier::from_bytes([number; 32]);
        let counts = || {
            let table = cuts.lock();
            (table.joins.len(), table.members.len())
        };
        let enter = |ends: [u8; 2]| -> JoinHandle<()> {
            let (tell, place) = tokio::sync::oneshot::channel::<Place>();
            let task = tokio::spawn(async move {
                let _place = place.await;
                std::future::pending().await
            });
            tell.send(cuts.enter(ends.map(who), task.abort_handle())).unwrap();
            task
        };
        let (first, second, third, own) = (enter([1, 2]), enter([3, 1]), enter([3, 2]), enter([4, 4]));
        assert_eq!(counts(), (4, 4));
        assert_eq!(cuts.cut(|end| *end == who(1)), [[who(1), who(2)], [who(3), who(1)]]);
        assert!(cuts.cut(|end| *end == who(1)).is_empty(), "once");
        assert!(first.await.unwrap_err().is_cancelled() && second.await.unwrap_err().is_cancelled());
        assert!(!third.is_finished());
        assert_eq!(counts(), (2, 3));
        assert_eq!(cuts.cut(|end| *end == who(4)), [[who(4); 2]]);
        assert!(own.await.unwrap_err().is_cancelled());
        assert_eq!(counts(), (1, 2), "one member at both ends");
        assert_eq!(cuts.cut(|_| true).len(), 1);
        assert!(third.await.unwrap_err().is_cancelled());
        assert_eq!(counts(), (0, 0));
    }

    #[test]
    fn a_join_takes_little_room() {
        assert_eq!(size_of::<Join>(), 3 * size_of::<usize>());
    }
}
