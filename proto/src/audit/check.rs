//! Reads a log from its first row on and says which row is the first that is not as it was written.

use super::merkle::Tree;
use super::{AuditCheckpoint, AuditRow, NO_ROW};
use crate::id::TreeHash;

/// What is wrong, and with which row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLog {
    /// Row `seq` should come next.
    #[error("row {seq} is missing: row {found} stands in its place")]
    Missing { seq: u64, found: u64 },
    #[error("row {seq} stands behind row {after}: the rows are not in their order")]
    Order { seq: u64, after: u64 },
    #[error("row {seq} was changed: it does not have its hash")]
    Changed { seq: u64 },
    /// Both have their own hashes, so one of them was written again as a whole.
    #[error("row {seq} was written again: row {next} follows another row than it")]
    Rewritten { seq: u64, next: u64 },
    /// The rows fit each other, but not what was signed.
    #[error("row {first} or one behind it, up to row {last}, was written again: the rows are not those of the checkpoint")]
    NotSigned { first: u64, last: u64 },
    /// A checkpoint promises more rows than there are. Those behind the last one that a checkpoint confirms may be others, too.
    #[error("row {first} or one behind it is missing: the log ends with row {end}, and a checkpoint has {last}")]
    Cut { first: u64, end: u64, last: u64 },
}

impl BadLog {
    /// The first row that is not as it was written.
    #[must_use]
    pub const fn row(&self) -> u64 {
        match self {
            Self::Missing { seq, .. } | Self::Order { seq, .. } | Self::Changed { seq } | Self::Rewritten { seq, .. } => *seq,
            Self::NotSigned { first, .. } | Self::Cut { first, .. } => *first,
        }
    }
}

/// Takes rows in their order, and between them the checkpoints by size.
#[derive(Debug)]
pub struct Checker {
    tree: Tree,
    previous: TreeHash,
    /// So many rows are those of a checkpoint.
    confirmed: u64,
}

impl Default for Checker {
    fn default() -> Self {
        Self { tree: Tree::default(), previous: NO_ROW, confirmed: 0 }
    }
}

impl Checker {
    /// Takes the next row.
    ///
    /// # Errors
    /// [`BadLog`]; the log is not looked at any further then.
    pub fn row(&mut self, row: &AuditRow) -> Result<(), BadLog> {
        let seq = self.tree.size() + 1;
        if row.seq > seq {
            return Err(BadLog::Missing { seq, found: row.seq });
        }
        if row.seq < seq {
            return Err(BadLog::Order { seq: row.seq, after: seq - 1 });
        }
        let hash = row.compute_hash();
        if hash != row.hash {
            return Err(BadLog::Changed { seq });
        }
        if row.previous != self.previous {
            // The first row follows nothing: it is itself to blame.
            return Err(if seq == 1 { BadLog::Changed { seq } } else { BadLog::Rewritten { seq: seq - 1, next: seq } });
        }
        self.previous = hash;
        self.tree.push(hash);
        Ok(())
    }

    /// Takes a verified checkpoint of as many rows as were taken.
    ///
    /// # Errors
    /// [`BadLog::NotSigned`] where it is of other rows.
    pub fn checkpoint(&mut self, checkpoint: &AuditCheckpoint) -> Result<(), BadLog> {
        if checkpoint.size != self.size() || checkpoint.root != self.tree.root() {
            return Err(BadLog::NotSigned { first: self.confirmed + 1, last: checkpoint.size });
        }
        self.confirmed = checkpoint.size;
        Ok(())
    }

    /// The log has ended; `checkpoint` is of more rows.
    #[must_use]
    pub fn cut(&self, checkpoint: &AuditCheckpoint) -> BadLog {
        BadLog::Cut { first: self.confirmed + 1, end: self.size(), last: checkpoint.size }
    }

    /// How many rows were taken.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.tree.size()
    }

    /// How many of them a checkpoint has confirmed.
    #[must_use]
    pub const fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Root of the tree of the rows that were taken.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        self.tree.root()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, log};
    use super::*;
    use crate::id::ProjectId;
    use proptest::prelude::*;

    fn check(rows: &[AuditRow], checkpoints: &[AuditCheckpoint]) -> Result<(), BadLog> {
        let mut checker = Checker::default();
        for row in rows {
            checker.row(row)?;
            let size = checker.size();
            for checkpoint in checkpoints.iter().filter(|checkpoint| checkpoint.size == size) {
                checker.checkpoint(checkpoint)?;
            }
        }
        checkpoints.iter().find(|checkpoint| checkpoint.size > checker.size()).map_or(Ok(()), |cut| Err(checker.cut(cut)))
    }

    fn checkpoint(rows: &[AuditRow]) -> AuditCheckpoint {
        let mut tree = Tree::default();
        rows.iter().for_each(|row| tree.push(row.hash));
        AuditCheckpoint { project: ProjectId::from_bytes([1; 16]), size: tree.size(), root: tree.root(), time: NOW }
    }

    /// Hashes anew, from `seq` on, as somebody who can write the database can.
    fn cover_up(rows: &mut [AuditRow], seq: u64) {
        for index in seq as usize - 1..rows.len() {
            rows[index].previous = if index == 0 { NO_ROW } else { rows[index - 1].hash };
            rows[index].hash = rows[index].compute_hash();
        }
    }

    #[test]
    fn the_first_bad_row_is_named() {
        let (good, signed) = (log(10), [checkpoint(&log(3)), checkpoint(&log(6)), checkpoint(&log(10))]);
        assert_eq!(check(&good, &signed), Ok(()));
        let bad = |change: &dyn Fn(&mut Vec<AuditRow>)| {
            let mut rows = good.clone();
            change(&mut rows);
            check(&rows, &signed).unwrap_err()
        };
        assert_eq!(bad(&|rows| rows[4].actor.push('x')), BadLog::Changed { seq: 5 });
        assert_eq!(bad(&|rows| rows[4].before = Some(String::new())), BadLog::Changed { seq: 5 });
        assert_eq!(bad(&|rows| rows[0].previous = TreeHash::from_bytes([1; 32])), BadLog::Changed { seq: 1 });
        assert_eq!(bad(&|rows| drop(rows.remove(4))), BadLog::Missing { seq: 5, found: 6 });
        assert_eq!(bad(&|rows| rows.swap(4, 6)), BadLog::Missing { seq: 5, found: 7 });
        assert_eq!(bad(&|rows| rows.insert(4, rows[1].clone())), BadLog::Order { seq: 2, after: 4 });
        let renumber = |rows: &mut Vec<AuditRow>| {
            rows.swap(4, 6);
            (rows[4].seq, rows[6].seq) = (5, 7);
        };
        assert_eq!(bad(&renumber), BadLog::Changed { seq: 5 });
        let rewrite = |rows: &mut Vec<AuditRow>| {
            rows[4].actor.push('x');
            rows[4].hash = rows[4].compute_hash();
        };
        assert_eq!(bad(&rewrite), BadLog::Rewritten { seq: 5, next: 6 });
        let covered = |rows: &mut Vec<AuditRow>| {
            rows[4].actor.push('x');
            cover_up(rows, 5);
        };
        assert_eq!(bad(&covered), BadLog::NotSigned { first: 4, last: 6 });
        assert_eq!(bad(&|rows| rows.truncate(8)), BadLog::Cut { first: 7, end: 8, last: 10 });
        assert_eq!(bad(&|rows| rows.clear()), BadLog::Cut { first: 1, end: 0, last: 3 });
    }

    proptest! {
        /// Whoever cannot sign cannot hide any change of any row, however well the rest is made to fit.
        #[test]
        fn no_change_is_hidden(count in 1_u64..40, at in any::<prop::sample::Index>(), how in 0..4, covered in any::<bool>()) {
            let good = log(count);
            let signed = [checkpoint(&good)];
            let mut rows = good.clone();
            let index = at.index(rows.len());
            match how {
                0 => rows[index].reason = "another".to_owned(),
                1 => rows[index].at = Timestamp::from_unix(1),
                2 => { rows.remove(index); }
                _ => rows[index].after = None,
            }
            if covered {
                for (number, row) in rows.iter_mut().enumerate() {
                    row.seq = number as u64 + 1;
                }
                if !rows.is_empty() {
                    cover_up(&mut rows, 1);
                }
            }
            let bad = check(&rows, &signed).unwrap_err();
            prop_assert!(bad.row() <= index as u64 + 1);
            if !covered && how != 2 {
                prop_assert_eq!(bad.row(), index as u64 + 1);
            }
        }
    }

    use crate::time::Timestamp;
}
