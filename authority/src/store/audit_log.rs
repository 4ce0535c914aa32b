//! The audit as a log that only grows: its rows, the Merkle tree over them, and the signed checkpoints of it. A row and its part of the
//! tree are written in the transaction of the act.

use std::ops::Range;

use postern_proto::audit::merkle::{self, Subtree, Tree};
use postern_proto::audit::{AuditRow, NO_ROW, plain};
use postern_proto::id::TreeHash;
use postern_proto::time::Timestamp;
use sqlx::sqlite::SqliteQueryResult;

use super::audit::{Entry, Outcome};
use super::codec::{Columns, time};
use super::{Connection, StoreError, Write};

/// Longest subject of a row: an identifier, an address or a name, with room.
const MAX_SUBJECT: usize = 320;

/// Longest reason: what a person reads in a line or two.
const MAX_REASON: usize = 1_024;

/// Rows that are read at once where only their hashes are needed.
const PAGE: u32 = 4_096;

/// Longest text of what was before or is after an act: the attributes of a member, with room for their escapes.
const MAX_STATE: usize = 8_192;

impl Write {
    /// Appends a row to the log.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where the log's end is not where it was left or the row was not kept, so that nothing is done that could not be proven; and
    /// what SQLite reports.
    pub async fn audit(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let (last, previous) = end(self).await?;
        let mut row = AuditRow {
            seq: last + 1,
            at: entry.at,
            actor: entry.actor.map_or_else(|| "authority".to_owned(), |actor| actor.to_string()),
            action: entry.action.as_str().to_owned(),
            subject: plain(&entry.subject, MAX_SUBJECT),
            result: match entry.outcome {
                Outcome::Ok => "ok",
                Outcome::Refused => "refused",
            }
            .to_owned(),
            reason: plain(&entry.reason, MAX_REASON),
            before: entry.before.as_deref().map(|text| plain(text, MAX_STATE)),
            after: entry.after.as_deref().map(|text| plain(text, MAX_STATE)),
            previous,
            hash: NO_ROW,
        };
        row.hash = row.compute_hash();
        self.insert_row(&row).await?;
        self.grow_tree(&row).await?;
        self.appended = row.seq;
        Ok(())
    }

    async fn insert_row(&mut self, row: &AuditRow) -> Result<(), StoreError> {
        let done = sqlx::query(
            "INSERT INTO audit (seq, at, actor, action, subject, result, reason, before, after, previous, hash)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(signed(row.seq))
        .bind(time(row.at))
        .bind(&row.actor)
        .bind(&row.action)
        .bind(&row.subject)
        .bind(&row.result)
        .bind(&row.reason)
        .bind(&row.before)
        .bind(&row.after)
        .bind(&row.previous.as_bytes()[..])
        .bind(&row.hash.as_bytes()[..])
        .execute(self.connection())
        .await?;
        written(&done, "a row")
    }

    /// Writes every subtree that became complete with this leaf: one a row on average.
    async fn grow_tree(&mut self, row: &AuditRow) -> Result<(), StoreError> {
        let (mut hash, leaf) = (row.hash, row.seq - 1);
        for level in 0..leaf.trailing_ones() as u8 {
            let index = leaf >> level;
            let left = subtree(self, Subtree { level, index: index - 1 }).await?;
            hash = merkle::node(&left, &hash);
            let done = sqlx::query("INSERT INTO audit_nodes (level, position, hash) VALUES (?, ?, ?)")
                .bind(i64::from(level) + 1)
                .bind(signed(index >> 1))
                .bind(&hash.as_bytes()[..])
                .execute(self.connection())
                .await?;
            written(&done, "a hash of the tree")?;
        }
        Ok(())
    }

    /// Keeps a signed checkpoint of `size` rows.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where it was not kept; what SQLite reports.
    pub async fn insert_checkpoint(&mut self, size: u64, at: Timestamp, statement: &[u8]) -> Result<(), StoreError> {
        let done = sqlx::query("INSERT INTO audit_checkpoints (size, at, statement) VALUES (?, ?, ?)")
            .bind(signed(size))
            .bind(time(at))
            .bind(statement)
            .execute(self.connection())
            .await?;
        written(&done, "a checkpoint")
    }
}

/// That a statement wrote the one row that it is for: a trigger that somebody added can take it away without an error. The act goes with
/// it, as its transaction is not committed.
///
/// # Errors
/// [`StoreError::Damaged`] where it did not.
fn written(done: &SqliteQueryResult, what: &str) -> Result<(), StoreError> {
    if done.rows_affected() == 1 {
        return Ok(());
    }
    Err(StoreError::damaged(format!("it takes {what} of the audit log and does not keep it")))
}

/// Number and hash of the last row; 0 and [`NO_ROW`] where there is none.
///
/// # Errors
/// [`StoreError::Damaged`] where rows were cut off.
async fn end(from: &mut impl Connection) -> Result<(u64, TreeHash), StoreError> {
    let row = sqlx::query("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetch_optional(from.connection()).await?;
    let last = match &row {
        Some(row) => (Columns(row).number("seq")?, TreeHash::from_bytes(Columns(row).bytes("hash")?)),
        None => (0, NO_ROW),
    };
    let given: Option<i64> =
        sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").fetch_optional(from.connection()).await?;
    if given.unwrap_or(0) != signed(last.0) {
        return Err(StoreError::damaged(format!(
            "the audit log ends with row {} and had {}: rows were cut off (`postern audit verify` says more)",
            last.0,
            given.unwrap_or(0)
        )));
    }
    Ok(last)
}

/// How many rows there are.
///
/// # Errors
/// What SQLite reports.
pub async fn size(from: &mut impl Connection) -> Result<u64, StoreError> {
    let last: Option<i64> = sqlx::query_scalar("SELECT MAX(seq) FROM audit").fetch_one(from.connection()).await?;
    u64::try_from(last.unwrap_or(0)).map_err(|_| StoreError::damaged("the number of an audit row".to_owned()))
}

/// Up to `limit` rows with a larger `seq` than `after`, oldest first.
///
/// # Errors
/// What SQLite reports.
pub async fn list(from: &mut impl Connection, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
    let rows = sqlx::query("SELECT * FROM audit WHERE seq > ? ORDER BY seq LIMIT ?")
        .bind(signed(after))
        .bind(limit)
        .fetch_all(from.connection())
        .await?;
    rows.iter()
        .map(|row| {
            let row = Columns(row);
            Ok(AuditRow {
                seq: row.number("seq")?,
                at: row.time("at")?,
                actor: row.text("actor")?,
                action: row.text("action")?,
                subject: row.text("subject")?,
                result: row.text("result")?,
                reason: row.text("reason")?,
                before: row.optional_text("before")?,
                after: row.optional_text("after")?,
                previous: TreeHash::from_bytes(row.bytes("previous")?),
                hash: TreeHash::from_bytes(row.bytes("hash")?),
            })
        })
        .collect()
}

/// Up to `limit` signed checkpoints of more than `after` rows, the smallest first.
///
/// # Errors
/// What SQLite reports.
pub async fn checkpoints(from: &mut impl Connection, after: u64, limit: u32) -> Result<Vec<Vec<u8>>, StoreError> {
    let found = sqlx::query_scalar("SELECT statement FROM audit_checkpoints WHERE size > ? ORDER BY size LIMIT ?");
    Ok(found.bind(signed(after)).bind(limit).fetch_all(from.connection()).await?)
}

/// Size and statement of the newest checkpoint.
///
/// # Errors
/// What SQLite reports.
pub async fn newest_checkpoint(from: &mut impl Connection) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
    let newest = sqlx::query("SELECT size, statement FROM audit_checkpoints ORDER BY size DESC LIMIT 1");
    let row = newest.fetch_optional(from.connection()).await?;
    row.map(|row| Ok((Columns(&row).number("size")?, Columns(&row).blob("statement")?))).transpose()
}

/// The root of the tree of these rows' hashes. `leaves` begins at 0, or is a part that a proof asks for.
///
/// # Errors
/// [`StoreError::Damaged`] where a hash is missing; what SQLite reports.
pub async fn root(from: &mut impl Connection, leaves: &Range<u64>) -> Result<TreeHash, StoreError> {
    let mut hashes = Vec::new();
    for part in merkle::subtrees(leaves) {
        hashes.push(subtree(from, part).await?);
    }
    Ok(merkle::root(&hashes))
}

/// The root of the tree of `size` rows, where that tree is the one that was signed last (how many rows, and the root), grown by the rows
/// since. Whatever else stands in the table of its hashes is somebody's who can write the file, and is not to be signed.
///
/// # Errors
/// [`StoreError::Damaged`] where it is another, or a hash is missing; what SQLite reports.
pub async fn grown_root(from: &mut impl Connection, last: (u64, Option<TreeHash>), size: u64) -> Result<TreeHash, StoreError> {
    let other = |why: String| StoreError::damaged(format!("the hashes of the audit log's tree are not those of its rows: {why}"));
    let (known, signed_root) = last;
    let mut hashes = Vec::new();
    for part in merkle::subtrees(&(0..known)) {
        hashes.push(subtree(from, part).await?);
    }
    let mut tree = Tree::of(known, hashes).unwrap_or_default();
    if signed_root.is_some_and(|signed| signed != tree.root()) {
        return Err(other(format!("the first {known} have another root than was signed")));
    }
    while tree.size() < size {
        let page = "SELECT seq, hash FROM audit WHERE seq > ? ORDER BY seq LIMIT ?";
        let page = sqlx::query(page).bind(signed(tree.size())).bind(PAGE).fetch_all(from.connection()).await?;
        for row in &page {
            if Columns(row).number::<u64>("seq")? != tree.size() + 1 {
                return Err(other(format!("row {} is missing", tree.size() + 1)));
            }
            tree.push(TreeHash::from_bytes(Columns(row).bytes("hash")?));
        }
        if page.is_empty() {
            return Err(other(format!("row {} is missing", tree.size() + 1)));
        }
    }
    let kept = root(from, &(0..size)).await?;
    if kept == tree.root() { Ok(kept) } else { Err(other(format!("those behind row {known}"))) }
}

/// The hashes of a proof, for what [`merkle::inclusion`] or [`merkle::consistency`] say that it consists of.
///
/// # Errors
/// As [`root`].
pub async fn proof(from: &mut impl Connection, ranges: &[Range<u64>]) -> Result<Vec<TreeHash>, StoreError> {
    let mut hashes = Vec::new();
    for range in ranges {
        hashes.push(root(from, range).await?);
    }
    Ok(hashes)
}

async fn subtree(from: &mut impl Connection, Subtree { level, index }: Subtree) -> Result<TreeHash, StoreError> {
    let found = if level == 0 {
        sqlx::query("SELECT hash FROM audit WHERE seq = ?").bind(signed(index + 1))
    } else {
        sqlx::query("SELECT hash FROM audit_nodes WHERE level = ? AND position = ?").bind(i64::from(level)).bind(signed(index))
    };
    let row = found.fetch_optional(from.connection()).await?;
    let row = row.ok_or_else(|| StoreError::damaged(format!("a hash of the audit log is missing (level {level}, {index})")))?;
    Ok(TreeHash::from_bytes(Columns(&row).bytes("hash")?))
}

/// SQLite's integers are signed; no log has so many rows.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
