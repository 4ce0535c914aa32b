//! The audit: one row for every act and every refusal, written in the transaction of the act.

use std::fmt;

use postern_proto::authority::AuditRow;
use postern_proto::id::Identifier;
use postern_proto::time::Timestamp;

use super::codec::{Columns, time};
use super::{Connection, StoreError, Write};

/// What was done or tried. The text form is stable: scripts and people search for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    CreateProject,
    ChangeProject,
    RecoverProject,
    BootstrapAdministrator,
    AdmitRelay,
    AdvertiseRelay,
    IssueTicket,
    RevokeTicket,
    ListTickets,
    RedeemTicket,
    ListMembers,
    DeleteMember,
    ChangeIdentity,
    IssueCredentials,
    ClaimRelayName,
    ReleaseRelayName,
    SetPolicy,
    ListPolicies,
    ListAudit,
    ProjectInfo,
}

impl Action {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateProject => "create-project",
            Self::ChangeProject => "change-project",
            Self::RecoverProject => "recover-project",
            Self::BootstrapAdministrator => "bootstrap-administrator",
            Self::AdmitRelay => "admit-relay",
            Self::AdvertiseRelay => "advertise-relay",
            Self::IssueTicket => "issue-ticket",
            Self::RevokeTicket => "revoke-ticket",
            Self::ListTickets => "list-tickets",
            Self::RedeemTicket => "redeem-ticket",
            Self::ListMembers => "list-members",
            Self::DeleteMember => "delete-member",
            Self::ChangeIdentity => "change-identity",
            Self::IssueCredentials => "issue-credentials",
            Self::ClaimRelayName => "claim-relay-name",
            Self::ReleaseRelayName => "release-relay-name",
            Self::SetPolicy => "set-policy",
            Self::ListPolicies => "list-policies",
            Self::ListAudit => "list-audit",
            Self::ProjectInfo => "project-info",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Refused,
}

/// One row to be written.
#[derive(Debug, Clone)]
pub struct Entry {
    pub at: Timestamp,
    /// The authenticated identity; none for what the authority's own process does.
    pub actor: Option<Identifier>,
    pub action: Action,
    pub subject: String,
    pub outcome: Outcome,
    pub reason: String,
}

impl Entry {
    #[must_use]
    pub fn ok(at: Timestamp, actor: Option<Identifier>, action: Action, subject: impl fmt::Display) -> Self {
        Self { at, actor, action, subject: subject.to_string(), outcome: Outcome::Ok, reason: String::new() }
    }

    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }
}

impl Write {
    /// # Errors
    /// What SQLite reports.
    pub async fn audit(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let actor = entry.actor.map_or_else(|| "authority".to_owned(), |actor| actor.to_string());
        let result = match entry.outcome {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
        };
        sqlx::query("INSERT INTO audit (at, actor, action, subject, result, reason) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(time(entry.at))
            .bind(actor)
            .bind(entry.action.as_str())
            .bind(&entry.subject)
            .bind(result)
            .bind(&entry.reason)
            .execute(self.connection())
            .await?;
        Ok(())
    }
}

/// Up to `limit` rows with a larger `seq` than `after`, oldest first.
///
/// # Errors
/// What SQLite reports.
pub async fn list(from: &mut impl Connection, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
    let rows = sqlx::query("SELECT * FROM audit WHERE seq > ? ORDER BY seq LIMIT ?")
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
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
            })
        })
        .collect()
}
