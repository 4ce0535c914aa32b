//! The project: its name, the authority's public keys and addresses, its relay servers, and the two numbers that never go back.

use postern_proto::address::HostPort;
use postern_proto::authority::{RelayRow, RingKey, VoidEntry};
use postern_proto::credential::MAX_LIFETIME;
use postern_proto::id::{Identifier, ProjectId, StaticPublic};
use postern_proto::name::ProjectName;
use postern_proto::time::{CLOCK_TOLERANCE, Timestamp};

use super::codec::{Columns, json, time};
use super::{Connection, StoreError, Write};

/// So many revocations are told to every newcomer for ever, against an authority that is set back to a time before them; of more, the
/// oldest are forgotten of which no credential can be alive. Half of what members remember ([`postern_proto::credential::MAX_VOIDED`]):
/// they must have room for all that they are told.
pub const MAX_KEPT: i64 = 32_768;

/// The project as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    pub id: ProjectId,
    pub name: ProjectName,
    pub authority: Identifier,
    pub static_key: StaticPublic,
    pub addresses: Vec<HostPort>,
    pub key_ring: Vec<RingKey>,
    /// Of the project information; rises with every change of it.
    pub sequence: u64,
    /// Of what was voided; rises with every voiding.
    pub epoch: u64,
    pub changed_at: Timestamp,
}

/// # Errors
/// What SQLite reports.
pub async fn load(from: &mut impl Connection) -> Result<Option<Project>, StoreError> {
    let row = sqlx::query("SELECT * FROM project").fetch_optional(from.connection()).await?;
    row.map(|row| {
        let row = Columns(&row);
        Ok(Project {
            id: ProjectId::from_bytes(row.bytes("id")?),
            name: row.parsed("name")?,
            authority: Identifier::from_bytes(row.bytes("authority")?),
            static_key: StaticPublic::from_bytes(row.bytes("static_key")?),
            addresses: row.json("addresses")?,
            key_ring: row.json("key_ring")?,
            sequence: row.number("sequence")?,
            epoch: row.number("epoch")?,
            changed_at: row.time("changed_at")?,
        })
    })
    .transpose()
}

/// The relay servers, in the order of their identifiers.
///
/// # Errors
/// What SQLite reports.
pub async fn relays(from: &mut impl Connection) -> Result<Vec<RelayRow>, StoreError> {
    let rows = sqlx::query("SELECT * FROM relays ORDER BY member").fetch_all(from.connection()).await?;
    rows.iter()
        .map(|row| {
            let row = Columns(row);
            Ok(RelayRow {
                identifier: Identifier::from_bytes(row.bytes("member")?),
                static_key: StaticPublic::from_bytes(row.bytes("static_key")?),
                address: row.parsed("address")?,
                next_static: row.optional_bytes("next_static")?.map(StaticPublic::from_bytes),
            })
        })
        .collect()
}

/// One entry of what was voided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Void {
    pub entry: VoidEntry,
    /// The epoch in which it was made.
    pub epoch: u64,
}

/// What was voided and may still matter, in the order in which it was.
///
/// # Errors
/// What SQLite reports.
pub async fn voided(from: &mut impl Connection) -> Result<Vec<Void>, StoreError> {
    let rows = sqlx::query("SELECT * FROM voided ORDER BY epoch, member").fetch_all(from.connection()).await?;
    rows.iter()
        .map(|row| {
            let row = Columns(row);
            let entry = VoidEntry { member: Identifier::from_bytes(row.bytes("member")?), not_before: row.time("not_before")? };
            Ok(Void { entry, epoch: row.number("epoch")? })
        })
        .collect()
}

/// The moment before which this identity's credentials are void, if there is one; [`VoidEntry::FOR_EVER`] where it was revoked.
///
/// # Errors
/// What SQLite reports.
pub async fn voided_before(from: &mut impl Connection, member: Identifier) -> Result<Option<Timestamp>, StoreError> {
    let row = sqlx::query("SELECT not_before FROM voided WHERE member = ?")
        .bind(&member.as_bytes()[..])
        .fetch_optional(from.connection())
        .await?;
    row.map(|row| Columns(&row).time("not_before")).transpose()
}

impl Write {
    /// Writes the project as it is first made.
    ///
    /// # Errors
    /// Where there is one, and what SQLite reports.
    pub async fn insert_project(&mut self, project: &Project) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO project (singleton, id, name, authority, static_key, addresses, key_ring, sequence, epoch, changed_at, created_at)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)",
        )
        .bind(&project.id.as_bytes()[..])
        .bind(project.name.as_str())
        .bind(&project.authority.as_bytes()[..])
        .bind(&project.static_key.as_bytes()[..])
        .bind(json(&project.addresses)?)
        .bind(json(&project.key_ring)?)
        .bind(i64::try_from(project.sequence).unwrap_or(i64::MAX))
        .bind(i64::try_from(project.epoch).unwrap_or(i64::MAX))
        .bind(time(project.changed_at))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Writes what can change of it: addresses and key ring.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn update_project(&mut self, addresses: &[HostPort], key_ring: &[RingKey]) -> Result<(), StoreError> {
        sqlx::query("UPDATE project SET addresses = ?, key_ring = ?")
            .bind(json(&addresses)?)
            .bind(json(&key_ring)?)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Raises the sequence of the project information. Never below the time: a database that was restored from a back-up goes on
    /// above everything that members saw since, and they need not refuse it as older.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn raise_sequence(&mut self, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE project SET sequence = max(sequence + 1, ?1), changed_at = ?1")
            .bind(time(now))
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Raises the epoch, which stands in the project information too. Never below the time, as [`Write::raise_sequence`].
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn raise_epoch(&mut self, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE project SET epoch = max(epoch + 1, ?)").bind(time(now)).execute(self.connection()).await?;
        self.raise_sequence(now).await
    }

    /// Voids the credentials of an identity from before a moment, in a new epoch, which it returns. Takes the place of what was said
    /// of it before. Forgotten once those credentials have expired by themselves; with `kept` only where [`MAX_KEPT`] newer ones are too.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn void(&mut self, void: VoidEntry, kept: bool, now: Timestamp) -> Result<u64, StoreError> {
        let forget = now.minus(MAX_LIFETIME + 2 * CLOCK_TOLERANCE);
        sqlx::query("DELETE FROM voided WHERE voided_at < ? AND kept = 0").bind(time(forget)).execute(self.connection()).await?;
        sqlx::query(
            "DELETE FROM voided WHERE voided_at < ?1 AND epoch <= (SELECT epoch FROM voided WHERE kept = 1 ORDER BY epoch DESC LIMIT 1 OFFSET ?2)",
        )
        .bind(time(forget))
        .bind(MAX_KEPT)
        .execute(self.connection())
        .await?;
        self.raise_epoch(now).await?;
        sqlx::query(
            "INSERT INTO voided (member, not_before, voided_at, kept, epoch) VALUES (?1, ?2, ?3, ?4, (SELECT epoch FROM project))
             ON CONFLICT (member) DO UPDATE SET not_before = ?2, voided_at = ?3, kept = max(kept, ?4), epoch = excluded.epoch",
        )
        .bind(&void.member.as_bytes()[..])
        .bind(time(void.not_before))
        .bind(time(now))
        .bind(kept)
        .execute(self.connection())
        .await?;
        let row = sqlx::query("SELECT epoch FROM project").fetch_one(self.connection()).await?;
        Columns(&row).number("epoch")
    }

    /// Changes the static keys that are listed of a relay server. True where something changed; also false where it is not listed.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn set_relay_statics(
        &mut self,
        member: Identifier,
        now: StaticPublic,
        next: StaticPublic,
    ) -> Result<bool, StoreError> {
        let changed = sqlx::query(
            "UPDATE relays SET static_key = ?2, next_static = ?3 WHERE member = ?1 AND (static_key <> ?2 OR next_static IS NOT ?3)",
        )
        .bind(&member.as_bytes()[..])
        .bind(&now.as_bytes()[..])
        .bind(&next.as_bytes()[..])
        .execute(self.connection())
        .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// Lists a relay server, or changes what is listed of it. True where something changed.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn set_relay(
        &mut self,
        member: Identifier,
        static_key: StaticPublic,
        address: &HostPort,
    ) -> Result<bool, StoreError> {
        let changed = sqlx::query(
            "INSERT INTO relays (member, static_key, address) VALUES (?1, ?2, ?3)
             ON CONFLICT (member) DO UPDATE SET static_key = ?2, address = ?3 WHERE static_key <> ?2 OR address <> ?3",
        )
        .bind(&member.as_bytes()[..])
        .bind(&static_key.as_bytes()[..])
        .bind(address.to_string())
        .execute(self.connection())
        .await?;
        Ok(changed.rows_affected() == 1)
    }
}
