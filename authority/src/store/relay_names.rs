//! Which member holds which relay name.

use postern_proto::id::Identifier;
use postern_proto::name::RelayName;
use postern_proto::time::Timestamp;

use super::codec::{Columns, time};
use super::{Connection, StoreError, Write};

/// A member that may register a relay name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub member: Identifier,
    /// Who enrolled it.
    pub attested_by: Identifier,
    /// Whether nobody else may register the name.
    pub exclusive: bool,
}

/// # Errors
/// What SQLite reports.
pub async fn holders(from: &mut impl Connection, name: &RelayName) -> Result<Vec<Holder>, StoreError> {
    let rows = sqlx::query(
        "SELECT member, attested_by, exclusive FROM relay_names JOIN members ON identifier = member WHERE relay_names.name = ?",
    )
    .bind(name.as_str())
    .fetch_all(from.connection())
    .await?;
    rows.iter()
        .map(|row| {
            let row = Columns(row);
            Ok(Holder {
                member: Identifier::from_bytes(row.bytes("member")?),
                attested_by: Identifier::from_bytes(row.bytes("attested_by")?),
                exclusive: row.flag("exclusive")?,
            })
        })
        .collect()
}

/// How many names a member holds.
///
/// # Errors
/// What SQLite reports.
pub async fn count(from: &mut impl Connection, member: Identifier) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT count(*) AS number FROM relay_names WHERE member = ?")
        .bind(&member.as_bytes()[..])
        .fetch_one(from.connection())
        .await?;
    Columns(&row).number("number")
}

impl Write {
    /// Records that `member` holds `name`. The caller made sure that nobody else's hold contradicts it.
    ///
    /// # Errors
    /// Where another member holds the name alone, and what else SQLite reports.
    pub async fn grant_name(
        &mut self,
        name: &RelayName,
        member: Identifier,
        exclusive: bool,
        claimed: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO relay_names (name, member, exclusive, claimed, granted_at) VALUES (?, ?, ?, ?, ?)")
            .bind(name.as_str())
            .bind(&member.as_bytes()[..])
            .bind(exclusive)
            .bind(claimed)
            .bind(time(now))
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Gives up a name that was claimed; one that the member's ticket grants stays its own. True where one was given up.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn release_name(&mut self, name: &RelayName, member: Identifier) -> Result<bool, StoreError> {
        let changed = sqlx::query("DELETE FROM relay_names WHERE name = ? AND member = ? AND claimed = 1")
            .bind(name.as_str())
            .bind(&member.as_bytes()[..])
            .execute(self.connection())
            .await?;
        Ok(changed.rows_affected() == 1)
    }
}
