//! What the audit says of an act or a refusal. [`super::audit_log`] writes it, in the transaction of the act.

use std::fmt;

use postern_proto::authority::{Attributes, RelayPermission, Role};
use postern_proto::id::Identifier;
use postern_proto::time::Timestamp;

/// What was done or tried. The text form is stable: scripts and people search for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    CreateProject,
    ChangeProject,
    RecoverProject,
    PrepareKey,
    ActivateKey,
    RetireKey,
    BootstrapAdministrator,
    AdmitRelay,
    AdvertiseRelay,
    IssueTicket,
    RevokeTicket,
    ListTickets,
    RedeemTicket,
    /// A ticket that is used up was shown again, by somebody who has not joined with it.
    ReuseTicket,
    ListMembers,
    DeleteMember,
    RevokeMember,
    UpdateMember,
    Acknowledge,
    ShowEnforcement,
    ChangeIdentity,
    IssueCredentials,
    ClaimRelayName,
    ReleaseRelayName,
    SetPolicy,
    ListPolicies,
    ListAudit,
    ProveAudit,
    ProjectInfo,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 29] = [
        Self::CreateProject,
        Self::ChangeProject,
        Self::RecoverProject,
        Self::PrepareKey,
        Self::ActivateKey,
        Self::RetireKey,
        Self::BootstrapAdministrator,
        Self::AdmitRelay,
        Self::AdvertiseRelay,
        Self::IssueTicket,
        Self::RevokeTicket,
        Self::ListTickets,
        Self::RedeemTicket,
        Self::ReuseTicket,
        Self::ListMembers,
        Self::DeleteMember,
        Self::RevokeMember,
        Self::UpdateMember,
        Self::Acknowledge,
        Self::ShowEnforcement,
        Self::ChangeIdentity,
        Self::IssueCredentials,
        Self::ClaimRelayName,
        Self::ReleaseRelayName,
        Self::SetPolicy,
        Self::ListPolicies,
        Self::ListAudit,
        Self::ProveAudit,
        Self::ProjectInfo,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateProject => "create-project",
            Self::ChangeProject => "change-project",
            Self::RecoverProject => "recover-project",
            Self::PrepareKey => "prepare-key",
            Self::ActivateKey => "activate-key",
            Self::RetireKey => "retire-key",
            Self::BootstrapAdministrator => "bootstrap-administrator",
            Self::AdmitRelay => "admit-relay",
            Self::AdvertiseRelay => "advertise-relay",
            Self::IssueTicket => "issue-ticket",
            Self::RevokeTicket => "revoke-ticket",
            Self::ListTickets => "list-tickets",
            Self::RedeemTicket => "redeem-ticket",
            Self::ReuseTicket => "reuse-ticket",
            Self::ListMembers => "list-members",
            Self::DeleteMember => "delete-member",
            Self::RevokeMember => "revoke-member",
            Self::UpdateMember => "update-member",
            Self::Acknowledge => "acknowledge",
            Self::ShowEnforcement => "show-enforcement",
            Self::ChangeIdentity => "change-identity",
            Self::IssueCredentials => "issue-credentials",
            Self::ClaimRelayName => "claim-relay-name",
            Self::ReleaseRelayName => "release-relay-name",
            Self::SetPolicy => "set-policy",
            Self::ListPolicies => "list-policies",
            Self::ListAudit => "list-audit",
            Self::ProveAudit => "prove-audit",
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
    /// What the act replaced or ended, and what holds since: as text, for people. Never a secret.
    pub before: Option<String>,
    pub after: Option<String>,
}

impl Entry {
    #[must_use]
    pub fn ok(at: Timestamp, actor: Option<Identifier>, action: Action, subject: impl fmt::Display) -> Self {
        Self {
            at,
            actor,
            action,
            subject: subject.to_string(),
            outcome: Outcome::Ok,
            reason: String::new(),
            before: None,
            after: None,
        }
    }

    #[must_use]
    pub fn refused(at: Timestamp, actor: Option<Identifier>, action: Action, subject: impl fmt::Display) -> Self {
        Self { outcome: Outcome::Refused, ..Self::ok(at, actor, action, subject) }
    }

    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// With what the act replaced or ended.
    #[must_use]
    pub fn before(mut self, before: impl fmt::Display) -> Self {
        self.before = Some(before.to_string());
        self
    }

    /// With what holds since the act.
    #[must_use]
    pub fn after(mut self, after: impl fmt::Display) -> Self {
        self.after = Some(after.to_string());
        self
    }
}

/// What somebody is granted, as a row tells it.
#[must_use]
pub fn grants(attributes: &Attributes, relays: &[RelayPermission], role: &Role) -> String {
    let grants = serde_json::json!({ "attributes": attributes, "relays": relays, "grants": role });
    grants.to_string()
}
