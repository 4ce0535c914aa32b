//! The authority's audit log, as others verify it: rows that name the hash of the row before them, a Merkle tree over their hashes,
//! and signed checkpoints of it. The format is specified in `docs/protocol/audit.md`.

pub mod check;
pub mod merkle;
pub mod witness;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::id::{ProjectId, TreeHash};
use crate::time::Timestamp;

/// What the first row names as the row before it.
pub const NO_ROW: TreeHash = TreeHash::from_bytes([0; TreeHash::LEN]);

/// One act at the authority, or one that it refused.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(map)]
pub struct AuditRow {
    /// From 1 on, without gaps: the row is leaf `seq - 1` of the tree.
    #[n(0)]
    pub seq: u64,
    #[n(1)]
    pub at: Timestamp,
    /// The identifier of who asked; `authority` for what the authority's own process does.
    #[n(2)]
    pub actor: String,
    #[n(3)]
    pub action: String,
    /// What it was done to.
    #[n(4)]
    pub subject: String,
    /// `ok` or `refused`.
    #[n(5)]
    pub result: String,
    /// Why it was refused, or more of what was done.
    #[n(6)]
    pub reason: String,
    /// What the act replaced or ended; absent where it did neither.
    #[n(7)]
    pub before: Option<String>,
    /// What holds since the act.
    #[n(8)]
    pub after: Option<String>,
    /// Hash of the row before, [`NO_ROW`] for the first.
    #[n(9)]
    pub previous: TreeHash,
    /// As the authority keeps it; [`Self::compute_hash`] tells whether it is this row's.
    #[n(10)]
    pub hash: TreeHash,
}

/// What is hashed: everything but the hash.
#[derive(Encode)]
#[cbor(map)]
struct Leaf<'a> {
    #[n(0)]
    seq: u64,
    #[n(1)]
    at: Timestamp,
    #[n(2)]
    actor: &'a str,
    #[n(3)]
    action: &'a str,
    #[n(4)]
    subject: &'a str,
    #[n(5)]
    result: &'a str,
    #[n(6)]
    reason: &'a str,
    #[n(7)]
    before: Option<&'a str>,
    #[n(8)]
    after: Option<&'a str>,
    #[n(9)]
    previous: TreeHash,
}

impl AuditRow {
    /// The bytes of the row that are hashed: its CBOR map without the hash.
    ///
    /// # Panics
    /// Never: writing to memory does not fail.
    #[must_use]
    pub fn leaf(&self) -> Vec<u8> {
        let leaf = Leaf {
            seq: self.seq,
            at: self.at,
            actor: &self.actor,
            action: &self.action,
            subject: &self.subject,
            result: &self.result,
            reason: &self.reason,
            before: self.before.as_deref(),
            after: self.after.as_deref(),
            previous: self.previous,
        };
        minicbor::to_vec(leaf).expect("writing to memory")
    }

    /// The leaf hash of what the row says now.
    #[must_use]
    pub fn compute_hash(&self) -> TreeHash {
        merkle::leaf(&self.leaf())
    }
}

/// What the authority promises of its log: that it had these rows then, and will always begin with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AuditCheckpoint {
    #[n(0)]
    pub project: ProjectId,
    /// How many rows: the last one's `seq`.
    #[n(1)]
    pub size: u64,
    /// Root of the tree of their hashes.
    #[n(2)]
    pub root: TreeHash,
    #[n(3)]
    pub time: Timestamp,
}

/// `text` as a row or a line of a log can hold it: without control characters and those that change how text is read (line and
/// paragraph separators, bidirectional overrides, invisible ones), which stand escaped, and of `max` bytes at most.
#[must_use]
pub fn plain(text: &str, max: usize) -> String {
    const CUT: &str = "…";
    let mut plain = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let hidden = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}');
        let before = plain.len();
        if hidden {
            plain.extend(c.escape_unicode());
        } else {
            plain.push(c);
        }
        if plain.len() > max {
            plain.truncate(before);
            while plain.len() + CUT.len() > max {
                if plain.pop().is_none() {
                    return plain;
                }
            }
            plain.push_str(CUT);
            return plain;
        }
    }
    plain
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

    /// A log of `count` rows.
    pub fn log(count: u64) -> Vec<AuditRow> {
        let mut rows: Vec<AuditRow> = Vec::new();
        for seq in 1..=count {
            let mut row = AuditRow {
                seq,
                at: NOW,
                actor: "authority".to_owned(),
                action: "issue-ticket".to_owned(),
                subject: format!("subject {seq}"),
                result: "ok".to_owned(),
                reason: String::new(),
                before: None,
                after: Some("member".to_owned()),
                previous: rows.last().map_or(NO_ROW, |row| row.hash),
                hash: NO_ROW,
            };
            row.hash = row.compute_hash();
            rows.push(row);
        }
        rows
    }

    /// What may be kept and sent is what is hashed, with the hash behind it.
    #[test]
    fn a_row_is_its_leaf_and_its_hash() {
        let row = log(1).remove(0);
        let (sent, leaf) = (minicbor::to_vec(&row).unwrap(), row.leaf());
        assert_eq!(leaf[0] + 1, sent[0]);
        assert_eq!(sent[1..leaf.len()], leaf[1..]);
        assert_eq!(minicbor::decode::<AuditRow>(&sent).unwrap(), row);
    }

    #[test]
    fn what_strangers_write_is_one_line() {
        assert_eq!(plain("a\nb\u{202e}c\u{0}\u{9b}\u{200b}", 100), r"a\u{a}b\u{202e}c\u{0}\u{9b}\u{200b}");
        assert_eq!(plain("ü\u{e000}ok", 100), "ü\u{e000}ok");
        assert_eq!(plain("äöü", 6), "äöü");
        assert_eq!(plain("äöüß", 7), "äö…");
        assert_eq!(plain("\n\n\n", 8), r"\u{a}…");
        assert_eq!(plain("abc", 0), "");
    }

    proptest! {
        #[test]
        fn nothing_longer_and_nothing_hidden(text in any::<String>(), max in 0_usize..64) {
            let plain = plain(&text, max);
            prop_assert!(plain.len() <= max);
            prop_assert!(!plain.chars().any(char::is_control));
        }
    }
}
