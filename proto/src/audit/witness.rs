//! What somebody who has seen a checkpoint makes of another one: a log only grows.

use super::AuditCheckpoint;
use super::merkle::verify_consistency;
use crate::id::TreeHash;

/// Why a checkpoint is not believed: somebody replaced the log by another one, or the database by an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogFault {
    #[error("the audit log has {got} rows now, and had {known}: rows are gone")]
    Shrank { known: u64, got: u64 },
    #[error("the audit log of {got} rows is another one than that of {known} rows that was seen before: rows were changed")]
    Forked { known: u64, got: u64 },
}

/// What a checkpoint is beside one that was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Succession {
    Same,
    /// It has all that was seen, and more.
    Grown,
    /// It says that it has more rows; a proof must show that it begins with those that were seen.
    Unproven,
}

/// Compares `new` with `known`; both were verified, and are of one project. `proof` is what somebody gave as the proof of consistency
/// between the two, if anything.
///
/// # Errors
/// [`LogFault`] where `new` does not have all that `known` had.
pub fn succeeds(new: &AuditCheckpoint, known: &AuditCheckpoint, proof: Option<&[TreeHash]>) -> Result<Succession, LogFault> {
    let (known_size, got) = (known.size, new.size);
    if got < known_size {
        return Err(LogFault::Shrank { known: known_size, got });
    }
    let forked = LogFault::Forked { known: known_size, got };
    if got == known_size {
        return if new.root == known.root { Ok(Succession::Same) } else { Err(forked) };
    }
    match proof {
        None => Ok(Succession::Unproven),
        Some(proof) if verify_consistency(known_size, &known.root, got, &new.root, proof) => Ok(Succession::Grown),
        Some(_) => Err(forked),
    }
}

#[cfg(test)]
mod tests {
    use super::super::merkle::{Tree, leaf};
    use super::super::tests::NOW;
    use super::*;
    use crate::id::ProjectId;

    fn checkpoint(rows: &[&str]) -> AuditCheckpoint {
        let mut tree = Tree::default();
        rows.iter().for_each(|row| tree.push(leaf(row.as_bytes())));
        AuditCheckpoint { project: ProjectId::from_bytes([1; 16]), size: tree.size(), root: tree.root(), time: NOW }
    }

    #[test]
    fn a_log_only_grows() {
        let (one, two) = (checkpoint(&["a"]), checkpoint(&["a", "b"]));
        let (other, other_two) = (checkpoint(&["x"]), checkpoint(&["x", "b"]));
        let proof = [leaf(b"b")];
        assert_eq!(succeeds(&one, &one, None), Ok(Succession::Same));
        assert_eq!(succeeds(&two, &one, None), Ok(Succession::Unproven));
        assert_eq!(succeeds(&two, &one, Some(&proof)), Ok(Succession::Grown));
        assert_eq!(succeeds(&one, &two, Some(&proof)), Err(LogFault::Shrank { known: 2, got: 1 }));
        assert_eq!(succeeds(&other, &one, None), Err(LogFault::Forked { known: 1, got: 1 }));
        assert_eq!(succeeds(&other_two, &one, Some(&proof)), Err(LogFault::Forked { known: 1, got: 2 }));
        assert_eq!(succeeds(&two, &one, Some(&[])), Err(LogFault::Forked { known: 1, got: 2 }));
    }
}
