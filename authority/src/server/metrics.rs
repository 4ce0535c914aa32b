//! What an authority counts, and what it tells to monitoring systems.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use postern_proto::authority::{Answer, KeyState, Refusal};
use postern_runtime::metrics::{Count, Counts, Exposition, Label};

use super::session::End;
use crate::Authority;
use crate::store::{Action, StoreError, audit_log};

const RESULT: Label = Label { name: "result", values: "`ok` or `failed`" };
const CAUSE: Label = Label {
    name: "cause",
    values: "`closed` (by the member), `removed` (the member was, or the key that its session began with), `failed` (the connection broke, or the member the protocol), `stopping` (the authority was stopped)",
};
const REQUEST: Label =
    Label { name: "request", values: "what was asked for, as the audit calls it: `issue-credentials`, `redeem-ticket`, …" };
const ANSWER: Label = Label { name: "result", values: "`ok` or `refused`" };
const REASON: Label = Label { name: "reason", values: "[why](#why-an-authority-refuses)" };

postern_runtime::metrics! {
    ALL;

    MEMBERS: Gauge "postern_authority_members" [], "Members of the project.";
    SESSIONS: Gauge "postern_authority_sessions" [], "Members that are connected now: each node and each relay, and commands for as long as they run.";
    OPENED: Counter "postern_authority_sessions_opened_total" [], "Sessions of members that began.";
    CLOSED: Counter "postern_authority_sessions_closed_total" [CAUSE], "Sessions of members that have ended, each once.";
    HANDSHAKES: Counter "postern_authority_handshakes_total" [RESULT], "Handshakes of whoever connects.";
    REQUESTS: Counter "postern_authority_requests_total" [REQUEST, ANSWER], "Requests that were answered. Those that were never made are left out.";
    REFUSED: Counter "postern_authority_refusals_total" [REASON], "Refusals that were told: of requests, and of connections that were not let in.";
    EPOCH: Gauge "postern_authority_epoch" [], "The number of the newest revocation or change of a member.";
    AUDIT_ROWS: Gauge "postern_authority_audit_rows" [], "Rows of the audit log.";
    AUDIT_SIGNED: Gauge "postern_authority_audit_signed_rows" [], "Rows of the audit log that a signed checkpoint has. The rest is signed within 10 s.";
    KEY_EXPIRES: Gauge "postern_authority_signing_key_expiry_timestamp_seconds" [], "When the key that signs credentials expires, in Unix time. `postern project key` replaces it.";
}

/// How sessions end, in the order of their counts.
const CAUSES: [&str; 4] = ["closed", "removed", "failed", "stopping"];

#[derive(Debug, Default)]
pub struct Metrics {
    sessions_opened: Count,
    sessions_closed: Counts<{ CAUSES.len() }>,
    handshakes: [Count; 2],
    /// By what was asked, and whether it was granted. Requests are rare; each is a transaction.
    requests: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    refused: Counts<{ Refusal::NAMES.len() }>,
}

impl Metrics {
    pub(super) fn handshake(&self, ok: bool) {
        self.handshakes[usize::from(!ok)].one();
    }

    /// A session begins. It is counted as ended when what is returned is dropped.
    pub(super) fn session(&self) -> CountedSession<'_> {
        self.sessions_opened.one();
        CountedSession { metrics: self, cause: 3 }
    }

    /// A request was answered.
    pub(super) fn answered(&self, action: Action, answer: &Answer) {
        match answer {
            Answer::Refused(refusal) => {
                self.requested(action, "refused");
                self.refused(refusal);
            }
            _ => self.requested(action, "ok"),
        }
    }

    /// A ticket was shown. What was refused is counted where it is told.
    pub(super) fn redeemed(&self, ok: bool) {
        self.requested(Action::RedeemTicket, if ok { "ok" } else { "refused" });
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        if let Some(number) = Refusal::NAMES.iter().position(|name| *name == refusal.as_str()) {
            self.refused.one(number);
        }
    }

    fn requested(&self, action: Action, result: &'static str) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((action.as_str(), result)).or_default() += 1;
    }
}

/// A session, while it lives.
pub(super) struct CountedSession<'a> {
    metrics: &'a Metrics,
    cause: usize,
}

impl CountedSession<'_> {
    /// How it ends; without this, it was cut with its task.
    pub(super) fn ended(&mut self, end: &End) {
        self.cause = match end {
            End::Closed => 0,
            End::Removed | End::Rekeyed => 1,
            End::NotTaken | End::Number | End::Session(_) => 2,
            End::Stopping => 3,
        };
    }
}

impl Drop for CountedSession<'_> {
    fn drop(&mut self) {
        self.metrics.sessions_closed.one(self.cause);
    }
}

impl Authority {
    /// Adds everything of the authority to `out`.
    ///
    /// # Errors
    /// What the database reports.
    pub async fn expose(&self, out: &mut Exposition) -> Result<(), StoreError> {
        let status = self.status().await?;
        let metrics = &self.server().0.metrics;
        out.put(&MEMBERS, &[], status.members);
        out.put(&SESSIONS, &[], status.sessions as u64);
        // Closed before opened: what ends meanwhile must not make more closed ones than opened ones.
        for (cause, count) in CAUSES.into_iter().zip(metrics.sessions_closed.iter()) {
            out.put(&CLOSED, &[cause], count);
        }
        out.put(&OPENED, &[], metrics.sessions_opened.get());
        for (result, count) in ["ok", "failed"].into_iter().zip(&metrics.handshakes) {
            out.put(&HANDSHAKES, &[result], count.get());
        }
        for ((request, result), count) in metrics.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            out.put(&REQUESTS, &[request, result], *count);
        }
        for (reason, count) in Refusal::NAMES.into_iter().zip(metrics.refused.iter()) {
            out.put(&REFUSED, &[reason], count);
        }
        out.put(&EPOCH, &[], status.epoch);
        let rows = audit_log::size(&mut self.service().store().read().await?).await?;
        out.put(&AUDIT_ROWS, &[], rows);
        out.put(&AUDIT_SIGNED, &[], self.service().checkpoints().borrow().as_ref().map_or(0, |known| known.size));
        let published = self.service().published().borrow().clone();
        if let Some(key) = published.info().key_ring.iter().find(|key| key.state == KeyState::Active) {
            out.put(&KEY_EXPIRES, &[], key.not_after.as_unix());
        }
        Ok(())
    }
}
