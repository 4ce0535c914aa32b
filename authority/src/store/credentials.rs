//! What was issued to whom: ids and times, never the credentials themselves.

use postern_proto::id::{CredentialId, Identifier, KeyId, StaticPublic};
use postern_proto::time::{CLOCK_TOLERANCE, Timestamp};

use super::codec::{Columns, time};
use super::{Connection, StoreError, Write};

/// Who a credential is shown to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownTo {
    Members,
    Relays,
}

/// A credential that was issued.
#[derive(Debug, Clone, Copy)]
pub struct Issued {
    pub id: CredentialId,
    pub member: Identifier,
    pub static_key: StaticPublic,
    pub shown_to: ShownTo,
    pub at: Timestamp,
    pub expires: Timestamp,
    /// The key that signed it.
    pub signing_key: KeyId,
}

/// When the last credential that `key` signed expires; `None` where it signed none that is known.
///
/// # Errors
/// What SQLite reports.
pub async fn last_expiry(from: &mut impl Connection, key: KeyId) -> Result<Option<Timestamp>, StoreError> {
    let row = sqlx::query("SELECT max(expires_at) AS last FROM credentials WHERE signing_key = ?")
        .bind(&key.as_bytes()[..])
        .fetch_one(from.connection())
        .await?;
    Columns(&row).optional_time("last")
}

/// How many nodes have credentials by `key` that somebody still takes, and none by `other`, which stays. They are told apart by their static
/// keys.
///
/// # Errors
/// What SQLite reports.
pub async fn nodes_with_only(from: &mut impl Connection, key: KeyId, other: KeyId, now: Timestamp) -> Result<u64, StoreError> {
    let row = sqlx::query(
        "SELECT count(*) AS nodes FROM (
             SELECT member, static_key FROM credentials WHERE signing_key = ?1 AND expires_at > ?2
             EXCEPT SELECT member, static_key FROM credentials WHERE signing_key = ?3 AND expires_at > ?2)",
    )
    .bind(&key.as_bytes()[..])
    .bind(time(now.minus(CLOCK_TOLERANCE)))
    .bind(&other.as_bytes()[..])
    .fetch_one(from.connection())
    .await?;
    Columns(&row).number("nodes")
}

impl Write {
    /// # Errors
    /// What SQLite reports.
    pub async fn insert_credential(&mut self, issued: &Issued) -> Result<(), StoreError> {
        let audience = match issued.shown_to {
            ShownTo::Members => "member",
            ShownTo::Relays => "relay",
        };
        sqlx::query(
            "INSERT INTO credentials (id, member, static_key, audience, issued_at, expires_at, signing_key) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&issued.id.as_bytes()[..])
        .bind(&issued.member.as_bytes()[..])
        .bind(&issued.static_key.as_bytes()[..])
        .bind(audience)
        .bind(time(issued.at))
        .bind(time(issued.expires))
        .bind(&issued.signing_key.as_bytes()[..])
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// What was issued to a member's node under the static key `from` is recorded under `to`: the node has another one.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn move_credentials(&mut self, member: Identifier, from: StaticPublic, to: StaticPublic) -> Result<(), StoreError> {
        sqlx::query("UPDATE credentials SET static_key = ?3 WHERE member = ?1 AND static_key = ?2")
            .bind(&member.as_bytes()[..])
            .bind(&from.as_bytes()[..])
            .bind(&to.as_bytes()[..])
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Forgets the credentials of a member that nobody takes any more, so that the table does not grow with every renewal.
    ///
    /// # Errors
    /// What SQLite reports.
    pub async fn forget_credentials(&mut self, member: Identifier, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM credentials WHERE member = ? AND expires_at < ?")
            .bind(&member.as_bytes()[..])
            .bind(time(now.minus(CLOCK_TOLERANCE)))
            .execute(self.connection())
            .await?;
        Ok(())
    }
}
