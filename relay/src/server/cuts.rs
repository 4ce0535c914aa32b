//! The joins that live, by whom they join: those of a revoked member are cut, whatever its node does.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use postern_proto::id::Identifier;
use tokio::sync::oneshot;

/// Both ends of a join.
type Ends = (Identifier, Identifier);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    joins: HashMap<u64, (Ends, oneshot::Sender<()>)>,
}

/// All joins of a relay.
#[derive(Debug, Default)]
pub(super) struct Cuts(Mutex<Table>);

/// The place of a join among them; leaves it when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    cuts: &'a Cuts,
    number: u64,
}

impl Cuts {
    /// A join begins. The receiver hears when it must end.
    pub(super) fn enter(&self, ends: Ends) -> (Place<'_>, oneshot::Receiver<()>) {
        let (cut, is_cut) = oneshot::channel();
        let mut table = self.lock();
        let number = table.next;
        table.next += 1;
        table.joins.insert(number, (ends, cut));
        (Place { cuts: self, number }, is_cut)
    }

    /// Ends the joins with an end that `is_out`; returns how many.
    pub(super) fn cut(&self, is_out: impl Fn(&Identifier) -> bool) -> usize {
        let mut table = self.lock();
        let before = table.joins.len();
        // Dropping the sender says it.
        table.joins.retain(|_, ((one, other), _)| !is_out(one) && !is_out(other));
        before - table.joins.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.cuts.lock().joins.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_joins_of_one_who_is_out_are_cut_and_no_others() {
        let cuts = Cuts::default();
        let who = |number| Identifier::from_bytes([number; 32]);
        let (_one, mut first) = cuts.enter((who(1), who(2)));
        let (_two, mut second) = cuts.enter((who(3), who(1)));
        let (three, mut third) = cuts.enter((who(3), who(2)));
        assert_eq!(cuts.cut(|end| *end == who(1)), 2);
        let open = oneshot::error::TryRecvError::Empty;
        assert!(first.try_recv() != Err(open.clone()) && second.try_recv() != Err(open.clone()));
        assert_eq!(third.try_recv(), Err(open));
        assert_eq!(cuts.cut(|end| *end == who(1)), 0);
        drop(three);
        assert!(cuts.lock().joins.is_empty());
    }
}
