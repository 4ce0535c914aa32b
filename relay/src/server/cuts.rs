//! The joins that live, by whom they join: those of a revoked member are cut, whatever its node does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_proto::id::Identifier;
use slab::Slab;
use tokio::sync::oneshot;

/// Both ends of a join.
type Ends = (Identifier, Identifier);

/// Who joins, and how the join hears that it must end.
type Table = Slab<(Ends, Option<oneshot::Sender<()>>)>;

/// All joins of a relay. One that was cut has no sender any more, and keeps its number until it leaves.
#[derive(Debug, Default)]
pub(super) struct Cuts(Mutex<Table>);

/// The place of a join among them; leaves it when dropped.
#[derive(Debug)]
pub(super) struct Place {
    cuts: Arc<Cuts>,
    number: usize,
}

impl Cuts {
    /// A join begins. The receiver hears when it must end.
    pub(super) fn enter(self: &Arc<Self>, ends: Ends) -> (Place, oneshot::Receiver<()>) {
        let (cut, is_cut) = oneshot::channel();
        let number = self.lock().insert((ends, Some(cut)));
        (Place { cuts: Arc::clone(self), number }, is_cut)
    }

    /// Ends the joins with an end that `is_out`; returns whose they are.
    pub(super) fn cut(&self, is_out: impl Fn(&Identifier) -> bool) -> Vec<Ends> {
        let mut table = self.lock();
        let out = table.iter_mut().filter(|(_, ((one, other), _))| is_out(one) || is_out(other));
        // Dropping the sender says it.
        out.filter_map(|(_, (ends, cut))| cut.take().map(|_| *ends)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cuts.lock().try_remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_joins_of_one_who_is_out_are_cut_and_no_others() {
        let cuts = Arc::new(Cuts::default());
        let who = |number| Identifier::from_bytes([number; 32]);
        let (one, mut first) = cuts.enter((who(1), who(2)));
        let (two, mut second) = cuts.enter((who(3), who(1)));
        let (three, mut third) = cuts.enter((who(3), who(2)));
        assert_eq!(cuts.cut(|end| *end == who(1)), [(who(1), who(2)), (who(3), who(1))]);
        let open = oneshot::error::TryRecvError::Empty;
        assert!(first.try_recv() != Err(open.clone()) && second.try_recv() != Err(open.clone()));
        assert_eq!(third.try_recv(), Err(open));
        assert_eq!(cuts.cut(|end| *end == who(1)), []);
        drop((one, two, three));
        assert!(cuts.lock().is_empty());
    }
}
