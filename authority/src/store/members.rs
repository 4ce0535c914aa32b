//! Members.

use postern_proto::authority::{Attributes, MemberRow, RelayPermission, Role};
use postern_proto::id::{Identifier, StaticPublic};
use postern_proto::name::IdentityName;
use postern_proto::time::{CLOCK_TOLERANCE, Timestamp};
use sqlx::sqlite::SqliteRow;

use super::codec::{Columns, json, time};
use super::{Connection, StoreError, Write};

/// A member as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub identifier: Identifier,
    /// The identity's name in its home when it joined.
    pub name: IdentityName,
    pub attributes: Attributes,
    pub relays: Vec<RelayPermission>,
    pub role: Role,
    /// Who issued the ticket that it joined with.
    pub attested_by: Identifier,
    pub added_at: Timestamp,
    /// Its change history with the highest sequence seen, encoded.
    pub history: Vec<u8>,
}

impl Member {
    fn from_row(row: &SqliteRow) -> Result<Self, StoreError> {
        let row = Columns(row);
        Ok(Self {
            identifier: Identifier::from_bytes(row.bytes("identifier")?),
            name: row.parsed("name")?,
            attributes: row.json("attributes")?,
            relays: row.json("relays")?,
            role: row.json("role")?,
            attested_by: Identifier::from_bytes(row.bytes("attested_by")?),
            added_at: row.time("added_at")?,
            history: row.blob("history")?,
        })
    }
}

/// # Errors
/// What SQLite reports.
pub async fn find(from: &mut impl Connection, identifier: Identifier) -> Result<Option<Member>, StoreError> {
    sqlx::query("SELECT * FROM members WHERE identifier = ?")
        .bind(&identifier.as_bytes()[..])
        .fetch_optional(from.connection())
        .await?
        .map(|row| Member::from_row(&row))
        .transpose()
}

/// A member whose membership was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// As it was.
    pub member: Member,
    pub revoked_at: Timestamp,
    /// The epoch from which on its credentials are void.
    pub epoch: u64,
    /// It was deleted, and is not listed.
    pub hidden: bool,
}

/// # Errors
/// What SQLite reports.
pub async fn find_revoked(from: &mut impl Connection, identifier: Identifier) -> Result<Option<Revoked>, StoreError> {
    sqlx::query("SELECT * FROM revoked_members WHERE identifier = ?")
        .bind(&identifier.as_bytes()[..])
        .fetch_optional(from.connection())
        .await?
        .map(|row| {
            let member = Member::from_row(&row)?;
            let row = Columns(&row);
            let (revoked_at, epoch) = (row.time("revoked_at")?, row.number("epoch")?);
            Ok(Revoked { member, revoked_at, epoch, hidden: row.flag("hidden")? })
        })
        .transpose()
}

/// Up to `limit` members after one, revoked ones too, in the order of their identifiers; of one attestor, if one is named.
///
/// # Errors
/// What SQLite reports.
pub async fn list(
    from: &mut impl Connection,
    attested_by: Option<Identifier>,
    after: Option<Identifier>,
    limit: u32,
) -> Result<Vec<MemberRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM (
             SELECT identifier, name, attributes, relays, role, attested_by, added_at, history, NULL AS revoked_at,
                    (SELECT max(expires_at) FROM credentials WHERE credentials.member = identifier) AS credential_until
             FROM members
             UNION ALL
             SELECT identifier, name, attributes, relays, role, attested_by, added_at, history, revoked_at, NULL
             FROM revoked_members WHERE hidden = 0
         )
         WHERE identifier > ?1 AND (?2 IS NULL OR attested_by = ?2) ORDER BY identifier LIMIT ?3",
    )
    .bind(after.map_or_else(Vec::new, |after| after.as_bytes().to_vec()))
    .bind(attested_by.map(|by| by.as_bytes().to_vec()))
    .bind(limit)
    .fetch_all(from.connection())
    .await?;
    rows.iter()
        .map(|row| {
            let Member { identifier, name, attributes, relays, role, attested_by, added_at, history: _ } = Member::from_row(row)?;
            let expires_at = Columns(row).optional_time("credential_until")?;
            let revoked_at = Columns(row).optional_time("revoked_at")?;
            Ok(MemberRow { identifier, name, attributes, relays, role, attested_by, added_at, expires_at, revoked_at })
        })
        .collect()
}

/// A node or a relay that is to enforce what is voided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforcer {
    pub member: Identifier,
    pub name: IdentityName,
    pub static_key: StaticPublic,
    pub relay: bool,
}

/// The nodes that have credentials which somebody still takes, by a clock that is as late as one may be, and the relays.
///
/// # Errors
/// What SQLite reports.
pub async fn enforcers(from: &mut impl Connection, now: Timestamp) -> Result<Vec<Enforcer>, StoreError> {
    let rows = sqlx::query(
        "SELECT DISTINCT members.identifier, members.name, credentials.static_key, 0 AS relay
         FROM credentials JOIN members ON members.identifier = credentials.member
         WHERE credentials.expires_at > ? AND credentials.audience = 'relay'
         UNION ALL
         SELECT members.identifier, members.name, relays.static_key, 1 FROM relays JOIN members ON members.identifier = relays.member",
    )
    .bind(time(now.minus(CLOCK_TOLERANCE)))
    .fetch_all(from.connection())
    .await?;
    rows.iter()
        .map(|row| {
            let row = Columns(row);
            Ok(Enforcer {
                member: Identifier::from_bytes(row.bytes("identifier")?),
                name: row.parsed("name")?,
                static_key: StaticPublic::from_bytes(row.bytes("static_key")?),
                relay: row.flag("relay")?,
            })
        })
        .collect()
}

/// # Errors
/// What SQLite reports.
pub async fn count(from: &mut impl Connection) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT count(*) AS number FROM members").fetch_one(from.connection()).await?;
    Columns(&row).number("number")
}

/// # Errors
/// What SQLite reports.
pub async fn count_administrators(from: &mut impl Connection) -> Result<u64, StoreError> {
    let row =
        sqlx::query("SELECT count(*) AS number FROM members WHERE is_administrator = 1").fetch_one(from.connection()).await?;
    Columns(&row).number("number")
}

impl Write {
    /// # Errors
    /// Where the identity is a member already, and what SQLite reports.
    pub async fn insert_member(&mut self, member: &Member) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO members (identifier, name, attributes, relays, role, is_administrator, attested_by, added_at, history)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&member.identifier.as_bytes()[..])
        .bind(member.name.as_str())
        .bind(json(&member.attributes)?)
        .bind(json(&member.relays)?)
        .bind(json(&member.role)?)
        .bind(member.role == Role::Administrator)
        .bind(&member.attested_by.as_bytes()[..])
        .bind(time(member.added_at))
        .bind(&member.history[..])
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// # Errors
    /// What SQLite reports.
    pub async fn set_history(&mut self, member: Identifier, history: &[u8]) -> Result<(), StoreError> {
        sqlx::query("UPDATE members SET history = ? WHERE identifier = ?")
            .bind(history)
            .bind(&member.as_bytes()[..])
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// # Errors
    /// What SQLite reports.
    pub async fn set_role(&mut self, member: Identifier, role: &Role) -> Result<(), StoreError> {
        sqlx::query("UPDATE members SET role = ?, is_administrator = ? WHERE identifier = ?")
            .bind(json(role)?)
            .bind(*role == Role::Administrator)
            .bind(&member.as_bytes()[..])
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Ends a membership: the member goes, with its relay names, its relay entry and the record of its credentials, and stands among the
    /// revoked. Its uses of tickets stay.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn revoke_member(
        &mut self,
        member: Identifier,
        epoch: u64,
        hidden: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT OR REPLACE INTO revoked_members
             SELECT identifier, name, attributes, relays, role, attested_by, added_at, history, ?2, ?3, ?4
             FROM members WHERE identifier = ?1",
        )
        .bind(&member.as_bytes()[..])
        .bind(time(now))
        .bind(i64::try_from(epoch).unwrap_or(i64::MAX))
        .bind(hidden)
        .execute(self.connection())
        .await?;
        sqlx::query("DELETE FROM members WHERE identifier = ?").bind(&member.as_bytes()[..]).execute(self.connection()).await?;
        Ok(())
    }

    /// Takes a revoked member out of the list.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn hide_revoked(&mut self, member: Identifier) -> Result<(), StoreError> {
        sqlx::query("UPDATE revoked_members SET hidden = 1 WHERE identifier = ?")
            .bind(&member.as_bytes()[..])
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// The identity is admitted again.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn forget_revoked(&mut self, member: Identifier) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM revoked_members WHERE identifier = ?")
            .bind(&member.as_bytes()[..])
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// # Errors
    /// What SQLite reports.
    pub async fn set_attributes(&mut self, member: Identifier, attributes: &Attributes) -> Result<(), StoreError> {
        sqlx::query("UPDATE members SET attributes = ? WHERE identifier = ?")
            .bind(json(attributes)?)
            .bind(&member.as_bytes()[..])
            .execute(self.connection())
            .await?;
        Ok(())
    }
}
