//! Tickets and their uses. Only SHA-256 of a ticket's secret is kept, so the database yields no usable ticket.

use postern_proto::authority::{Attributes, Bound, Refusal, RelayPermission, Role, TicketRequest, TicketRow, TicketUse};
use postern_proto::id::{Identifier, TicketId};
use postern_proto::secret::SecretBytes;
use postern_proto::time::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteRow;

use super::codec::{Columns, json, time};
use super::{Connection, StoreError, Write};

/// How many of the members that joined with a ticket its listing names: the first ones.
const LISTED_USES: u32 = 64;

/// A ticket to be recorded.
#[derive(Debug)]
pub struct NewTicket<'a> {
    pub id: TicketId,
    pub secret: &'a SecretBytes<32>,
    pub issued_by: Identifier,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub request: &'a TicketRequest,
}

/// What a ticket grants, once a use of it was taken.
#[derive(Debug, Clone)]
pub struct Taken {
    pub issued_by: Identifier,
    pub attributes: Attributes,
    pub relays: Vec<RelayPermission>,
    pub role: Role,
    pub bound: Option<Bound>,
    /// The project's epoch when it was issued.
    pub epoch: u64,
}

fn hash(secret: &SecretBytes<32>) -> Vec<u8> {
    Sha256::digest(secret.expose_secret()).to_vec()
}

fn row(row: &SqliteRow, uses_by: Vec<TicketUse>) -> Result<TicketRow, StoreError> {
    let row = Columns(row);
    Ok(TicketRow {
        id: TicketId::from_bytes(row.bytes("id")?),
        issued_by: Identifier::from_bytes(row.bytes("issued_by")?),
        issued_at: row.time("issued_at")?,
        expires_at: row.time("expires_at")?,
        uses: row.number("uses")?,
        max_uses: row.number("max_uses")?,
        revoked: row.flag("revoked")?,
        attributes: row.json("attributes")?,
        relays: row.json("relays")?,
        role: row.json("role")?,
        uses_by,
        bound: bound(&row)?,
    })
}

fn bound(row: &Columns<'_>) -> Result<Option<Bound>, StoreError> {
    match row.optional_text("bound")? {
        Some(_) => row.json("bound").map(Some),
        None => Ok(None),
    }
}

async fn uses_by(from: &mut impl Connection, ticket: TicketId) -> Result<Vec<TicketUse>, StoreError> {
    let rows = sqlx::query("SELECT member, at FROM ticket_uses WHERE ticket = ? ORDER BY at, member LIMIT ?")
        .bind(&ticket.as_bytes()[..])
        .bind(LISTED_USES)
        .fetch_all(from.connection())
        .await?;
    let row = |row: &SqliteRow| {
        let row = Columns(row);
        Ok(TicketUse { by: Identifier::from_bytes(row.bytes("member")?), at: row.time("at")? })
    };
    rows.iter().map(row).collect()
}

/// # Errors
/// What SQLite reports.
pub async fn find(from: &mut impl Connection, ticket: TicketId) -> Result<Option<TicketRow>, StoreError> {
    let found =
        sqlx::query("SELECT * FROM tickets WHERE id = ?").bind(&ticket.as_bytes()[..]).fetch_optional(from.connection()).await?;
    match found {
        Some(found) => Ok(Some(row(&found, uses_by(from, ticket).await?)?)),
        None => Ok(None),
    }
}

/// Up to `limit` tickets after one, in the order of their ids; of one issuer, if one is named.
///
/// # Errors
/// What SQLite reports.
pub async fn list(
    from: &mut impl Connection,
    issued_by: Option<Identifier>,
    after: Option<TicketId>,
    limit: u32,
) -> Result<Vec<TicketRow>, StoreError> {
    let found = sqlx::query("SELECT * FROM tickets WHERE id > ?1 AND (?2 IS NULL OR issued_by = ?2) ORDER BY id LIMIT ?3")
        .bind(after.map_or_else(Vec::new, |after| after.as_bytes().to_vec()))
        .bind(issued_by.map(|by| by.as_bytes().to_vec()))
        .bind(limit)
        .fetch_all(from.connection())
        .await?;
    let mut rows = Vec::with_capacity(found.len());
    for found in &found {
        let id = TicketId::from_bytes(Columns(found).bytes("id")?);
        rows.push(row(found, uses_by(from, id).await?)?);
    }
    Ok(rows)
}

/// How many tickets of an issuer can still be redeemed.
///
/// # Errors
/// What SQLite reports.
pub async fn count_open(from: &mut impl Connection, issued_by: Identifier, now: Timestamp) -> Result<u64, StoreError> {
    let row = sqlx::query(
        "SELECT count(*) AS number FROM tickets WHERE issued_by = ? AND uses < max_uses AND expires_at > ? AND revoked = 0",
    )
    .bind(&issued_by.as_bytes()[..])
    .bind(time(now))
    .fetch_one(from.connection())
    .await?;
    Columns(&row).number("number")
}

impl Write {
    /// # Errors
    /// What SQLite reports.
    pub async fn insert_ticket(&mut self, ticket: &NewTicket<'_>) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO tickets (id, secret_hash, issued_by, issued_at, expires_at, max_uses, attributes, relays, role, bound, epoch)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT epoch FROM project))",
        )
        .bind(&ticket.id.as_bytes()[..])
        .bind(hash(ticket.secret))
        .bind(&ticket.issued_by.as_bytes()[..])
        .bind(time(ticket.issued_at))
        .bind(time(ticket.expires_at))
        .bind(ticket.request.max_uses)
        .bind(json(&ticket.request.attributes)?)
        .bind(json(&ticket.request.relays)?)
        .bind(json(&ticket.request.role)?)
        .bind(ticket.request.bound.as_ref().map(json).transpose()?)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Takes one use of the ticket if it may still be used: one statement, so that no two redemptions can see the same last use.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn take_ticket(
        &mut self,
        ticket: TicketId,
        secret: &SecretBytes<32>,
        now: Timestamp,
    ) -> Result<Option<Taken>, StoreError> {
        let taken = sqlx::query(
            "UPDATE tickets SET uses = uses + 1
             WHERE id = ? AND secret_hash = ? AND uses < max_uses AND expires_at > ? AND revoked = 0
             RETURNING issued_by, attributes, relays, role, bound, epoch",
        )
        .bind(&ticket.as_bytes()[..])
        .bind(hash(secret))
        .bind(time(now))
        .fetch_optional(self.connection())
        .await?;
        taken
            .map(|row| {
                let row = Columns(&row);
                Ok(Taken {
                    issued_by: Identifier::from_bytes(row.bytes("issued_by")?),
                    attributes: row.json("attributes")?,
                    relays: row.json("relays")?,
                    role: row.json("role")?,
                    bound: bound(&row)?,
                    epoch: row.number("epoch")?,
                })
            })
            .transpose()
    }

    /// Why [`Write::take_ticket`] took none. Who holds the secret is told the state of the ticket; who does not learns nothing.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn why_not_taken(&mut self, ticket: TicketId, secret: &SecretBytes<32>) -> Result<Refusal, StoreError> {
        let found = sqlx::query("SELECT * FROM tickets WHERE id = ? AND secret_hash = ?")
            .bind(&ticket.as_bytes()[..])
            .bind(hash(secret))
            .fetch_optional(self.connection())
            .await?;
        let Some(found) = found else { return Ok(Refusal::TicketUnknown) };
        let columns = Columns(&found);
        if columns.flag("revoked")? {
            return Ok(Refusal::TicketRevoked);
        }
        // Before the expiry: who comes late must learn that somebody else was there first.
        if columns.number::<u64>("uses")? >= columns.number::<u64>("max_uses")? {
            let last = sqlx::query("SELECT member, at FROM ticket_uses WHERE ticket = ? ORDER BY at DESC LIMIT 1")
                .bind(&ticket.as_bytes()[..])
                .fetch_optional(self.connection())
                .await?
                .ok_or_else(|| StoreError::damaged("a used ticket without a use"))?;
            let last = Columns(&last);
            return Ok(Refusal::TicketUsedUp { at: last.time("at")?, by: Identifier::from_bytes(last.bytes("member")?) });
        }
        Ok(Refusal::TicketExpired { at: columns.time("expires_at")? })
    }

    /// Records who used the ticket. False where this identity used it before, as a member that was removed since.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn insert_use(&mut self, ticket: TicketId, member: Identifier, now: Timestamp) -> Result<bool, StoreError> {
        let inserted = sqlx::query("INSERT INTO ticket_uses (ticket, member, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(&ticket.as_bytes()[..])
            .bind(&member.as_bytes()[..])
            .bind(time(now))
            .execute(self.connection())
            .await?;
        Ok(inserted.rows_affected() == 1)
    }

    /// Whether that identity ever joined with the ticket.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn has_used(&mut self, ticket: TicketId, member: Identifier) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT 1 FROM ticket_uses WHERE ticket = ? AND member = ?")
            .bind(&ticket.as_bytes()[..])
            .bind(&member.as_bytes()[..])
            .fetch_optional(self.connection())
            .await?;
        Ok(found.is_some())
    }

    /// Revokes one ticket. True where it was not revoked yet.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn revoke_ticket(&mut self, ticket: TicketId) -> Result<bool, StoreError> {
        let changed = sqlx::query("UPDATE tickets SET revoked = 1 WHERE id = ? AND revoked = 0")
            .bind(&ticket.as_bytes()[..])
            .execute(self.connection())
            .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// Revokes every ticket that can still be redeemed and that `member` issued, or joined with and so may still hold; returns how many.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn revoke_tickets_of(&mut self, member: Identifier, now: Timestamp) -> Result<u64, StoreError> {
        let changed = sqlx::query(
            "UPDATE tickets SET revoked = 1
             WHERE (issued_by = ?1 OR id IN (SELECT ticket FROM ticket_uses WHERE member = ?1))
               AND uses < max_uses AND expires_at > ?2 AND revoked = 0",
        )
        .bind(&member.as_bytes()[..])
        .bind(time(now))
        .execute(self.connection())
        .await?;
        Ok(changed.rows_affected())
    }
}
