//! What members may ask, and how it is answered. A caller is who the handshake proved it to be; its role is read from the
//! database in the transaction that does what it asks.

mod audit;
mod burst;
mod credentials;
mod enforcement;
mod keys;
mod members;
mod policies;
mod project;
mod tickets;
mod writes;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_proto::authority::{Answer, Refusal, Request, Role, VoidEntry};
use postern_proto::credential::MAX_LIFETIME;
use postern_proto::id::{Identifier, StaticPublic};
use postern_proto::identity::{History, Order};
use postern_proto::secret::SecretBytes;
use postern_proto::statement::StatementError;
use postern_proto::time::{CLOCK_TOLERANCE, Timestamp};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use self::burst::Bursts;
use self::writes::Writes;
use crate::ActError;
use crate::clock::Clock;
use crate::enrol::{self, Newcomer, Redeemed};
use crate::keys::Keys;
use crate::store::{Action, Connection, Entry, Member, Store, StoreError, members as stored, project as kept};

pub use self::audit::SignedCheckpoint;
pub(crate) use self::audit::is_damaged;
pub use self::enforcement::{Enforcement, Presence};
pub(crate) use self::keys::{SIGNING_KEY_LIFETIME, replaced, signed_until};
pub use self::project::Published;

/// How far back a credential's validity begins, for peers whose clock is behind.
pub const BACKDATE: Duration = CLOCK_TOLERANCE;

/// Longest life of a credential that can be set: with [`BACKDATE`], what verifiers accept.
pub const MAX_CREDENTIAL_LIFETIME: Duration = MAX_LIFETIME.saturating_sub(BACKDATE);

/// Rows of a list that are read at once; of these, as many are sent as fit [`PAGE_BYTES`].
const PAGE_ROWS: u32 = 256;

/// Longest encoded rows of one answer: half of a message, which leaves room for whatever else it says.
const PAGE_BYTES: usize = postern_proto::authority::MAX_MESSAGE / 2;

/// How soon is published what could not be published at once: as often as every session hears the time and the epoch.
pub(crate) const PUBLISH_AGAIN: Duration = Duration::from_secs(10);

/// How many removals a session may be late to notice; one that is later looks at the database itself.
const REMOVALS: usize = 256;

/// Who asks: proven by the handshake and the identity's attestation of its static key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub identifier: Identifier,
    /// The static key of the handshake, which credentials are bound to.
    pub static_key: StaticPublic,
    /// Number of the newest change of its identity, as its session began.
    pub sequence: u64,
}

/// Whose sessions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Out {
    /// It is no member any more.
    Removed(Identifier),
    /// A key of it is in other hands: sessions that began before its change of this number.
    Rekeyed { identifier: Identifier, sequence: u64 },
}

/// The authority without its network.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    store: Store,
    keys: Keys,
    clock: Clock,
    credential_lifetime: Duration,
    published: watch::Sender<Arc<Published>>,
    checkpoint: watch::Sender<Option<Arc<SignedCheckpoint>>>,
    removed: broadcast::Sender<Out>,
    enforcement: Enforcement,
    bursts: Mutex<Bursts>,
    writes: Mutex<Writes>,
    /// Whether the log was found not to be what may be signed, and that it was said.
    unsigned: AtomicBool,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the key files are of another authority than the database: restore both from the same back-up")]
    OtherKeys,
    #[error("the project information cannot be signed")]
    Statement(#[from] StatementError),
}

impl Service {
    pub(crate) async fn start(
        store: Store,
        keys: Keys,
        clock: Clock,
        credential_lifetime: Duration,
    ) -> Result<Self, ServiceError> {
        let published = project::publish(&store, &keys, None).await?;
        Ok(Self(Arc::new(Inner {
            store,
            keys,
            clock,
            credential_lifetime: credential_lifetime.clamp(Duration::from_secs(1), MAX_CREDENTIAL_LIFETIME),
            published: watch::Sender::new(Arc::new(published)),
            checkpoint: watch::Sender::new(None),
            removed: broadcast::Sender::new(REMOVALS),
            enforcement: Enforcement::default(),
            bursts: Mutex::default(),
            writes: Mutex::new(writes::writes()),
            unsigned: AtomicBool::new(false),
        })))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// The authority's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// The newest signed statements; the receiver is told of every change.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.0.published.subscribe()
    }

    /// Who enforces what was voided.
    #[must_use]
    pub fn enforcement(&self) -> &Enforcement {
        &self.0.enforcement
    }

    /// Tells whose sessions end.
    pub(crate) fn removals(&self) -> broadcast::Receiver<Out> {
        self.0.removed.subscribe()
    }

    /// Answers a request of `caller`. Never fails: what goes wrong is an answer too.
    pub async fn answer(&self, caller: &Caller, request: Request) -> Answer {
        let (action, subject) = describe(&request);
        let done = match request {
            Request::ProjectInfo => self.project_info(caller).await,
            Request::Credentials { relay_names } => self.credentials(caller, &relay_names).await,
            Request::ClaimRelayName { name } => self.claim(caller, &name).await,
            Request::ReleaseRelayName { name } => self.release(caller, &name).await,
            Request::IssueTicket(ticket) => self.issue_ticket(caller, &ticket).await,
            Request::ListTickets { after } => self.list_tickets(caller, after).await,
            Request::RevokeTicket { ticket } => self.revoke_ticket(caller, ticket).await,
            Request::ListMembers { after } => self.list_members(caller, after).await,
            Request::DeleteMember { member } => self.delete_member(caller, member).await,
            Request::AdvertiseRelay { address } => self.advertise_relay(caller, &address).await,
            Request::ListAudit { after } => self.list_audit(caller, after).await,
            Request::SetProjectPolicy { resource_type, expression, applies_to } => {
                self.set_policy(caller, &resource_type, (expression.as_deref(), applies_to.as_deref())).await
            }
            Request::Guardrails => self.guardrails(caller).await,
            Request::ListProjectPolicies => self.list_policies(caller).await,
            Request::AuditCheckpoints { after } => self.list_checkpoints(caller, after).await,
            Request::AuditConsistency { from, to } => self.audit_consistency(caller, from, to).await,
            Request::AuditInclusion { seq, size } => self.audit_inclusion(caller, seq, size).await,
            Request::RevokeMember { member } => self.revoke_member(caller, member).await,
            Request::UpdateMember { member, attributes } => self.update_member(caller, member, &attributes).await,
            Request::Acknowledge { epoch } => self.acknowledge(caller, epoch),
            Request::Enforcement { epoch } => self.show_enforcement(caller, epoch).await,
            Request::CredentialBefore { attestation } => self.credential_before(caller, &attestation).await,
            Request::AnnounceStatic { next } => self.announce_static(caller, &next).await,
            Request::PrepareKey => self.prepare_key(caller).await,
            Request::ActivateKey => self.activate_key(caller).await,
            Request::RetireKey { force } => self.retire_key(caller, force).await,
        };
        match done {
            Ok(answer) => answer,
            Err(error) => Answer::Refused(self.refuse(Some(caller.identifier), action, subject, error).await),
        }
    }

    /// Admits a newcomer by ticket, or finds that it is a member.
    ///
    /// # Errors
    /// The refusal to send; it was audited.
    pub async fn redeem(
        &self,
        newcomer: &Newcomer,
        ticket: postern_proto::id::TicketId,
        secret: &SecretBytes<32>,
    ) -> Result<Redeemed, Refusal> {
        let redeemed = async {
            let redeemed = enrol::redeem(&self.0.store, newcomer, ticket, secret, self.now()).await?;
            if let Redeemed::Joined(member) = &redeemed {
                tracing::info!(member = %member.identifier, name = %member.name, %ticket, "a member joined");
            }
            // One that was revoked is admitted again: everybody is told, or its new credentials would be void. It asks again where that
            // failed.
            let relay = matches!(&redeemed, Redeemed::Joined(member) if matches!(member.role, Role::RelayServer { .. }));
            if relay || self.has_voided().await? {
                self.republish().await?;
            }
            Ok(redeemed)
        };
        match redeemed.await {
            Ok(redeemed) => Ok(redeemed),
            Err(error) => {
                let actor = Some(newcomer.identifier);
                // Whoever comes after the last use has got hold of a ticket that was meant for another.
                let action = if let ActError::Refused(Refusal::TicketUsedUp { .. }) = &error {
                    tracing::warn!(%ticket, identifier = %newcomer.identifier, name = %newcomer.name, "a used-up ticket was tried again");
                    Action::ReuseTicket
                } else {
                    Action::RedeemTicket
                };
                Err(self.refuse(actor, action, ticket.to_string(), error).await)
            }
        }
    }

    /// Whether an identity is a member now.
    ///
    /// # Errors
    /// [`Refusal::Busy`] and [`Refusal::Internal`] where the database does not say.
    pub async fn is_member(&self, identifier: Identifier) -> Result<bool, Refusal> {
        let found = async { Ok(stored::find(&mut self.0.store.read().await?, identifier).await?.is_some()) };
        match found.await {
            Ok(found) => Ok(found),
            Err(error) => Err(self.refuse(Some(identifier), Action::ProjectInfo, String::new(), error).await),
        }
    }

    /// Number of the newest change of a member's identity; `None` where it is no member.
    pub(crate) async fn changes_of(&self, identifier: Identifier) -> Result<Option<u64>, StoreError> {
        let Some(member) = stored::find(&mut self.0.store.read().await?, identifier).await? else { return Ok(None) };
        Ok(History::decode(&member.history).ok().map(|history| history.sequence()))
    }

    /// The member that calls, with its change history compared to the one that is known of it.
    ///
    /// # Errors
    /// [`Refusal::NotAMember`]; [`Refusal::NotPermitted`] where the history went back or was forked.
    pub async fn recognise(&self, identifier: Identifier, history: &History) -> Result<Member, Refusal> {
        match self.recognise_or_fail(identifier, history).await {
            Ok(member) => Ok(member),
            // No act, and whoever knows the authority's address can do it: it is not worth a row, nor a line of each.
            Err(ActError::Refused(refusal @ Refusal::NotAMember)) => {
                tracing::debug!(%identifier, "an identity that is no member called");
                Err(refusal)
            }
            Err(error) => {
                let subject = identifier.to_string();
                Err(self.refuse(Some(identifier), Action::ChangeIdentity, subject, error).await)
            }
        }
    }

    async fn recognise_or_fail(&self, identifier: Identifier, history: &History) -> Result<Member, ActError> {
        let known = member(&mut self.0.store.read().await?, identifier).await?;
        let encoded = history.encode();
        if known.history == encoded {
            // Said again, in case it was not told when it was decided. Who called is a member all the same.
            if self.has_voided().await? {
                self.republish_or_later().await;
            }
            return Ok(known);
        }
        let mut write = self.0.store.write().await?;
        let mut known = member(&mut write, identifier).await?;
        let seen = history_of(&known)?;
        match history.succeeds(&seen) {
            Ok(Order::Same) => {}
            Ok(Order::Newer) => {
                write.set_history(identifier, &encoded).await?;
                let change = |history: &History| format!("change {}", history.sequence());
                let now = self.now();
                let entry = Entry::ok(now, Some(identifier), Action::ChangeIdentity, identifier);
                let stolen = history.compromised_since(&seen);
                let (mut epoch, mut reason) = (None, "renewed".to_owned());
                if stolen {
                    // Whoever had the key may have got credentials by it, and let others in.
                    let tickets = write.revoke_tickets_of(identifier, now).await?;
                    reason = format!("compromised; {tickets} of its tickets revoked");
                    let voided = kept::voided_before(&mut write, identifier).await?.unwrap_or(known.added_at);
                    let not_before = voided.max(now).plus(Duration::from_secs(1));
                    epoch = Some(write.void(VoidEntry { member: identifier, not_before }, false, now).await?);
                }
                write.audit(&entry.because(reason.clone()).before(change(&seen)).after(change(history))).await?;
                write.commit().await?;
                known.history = encoded;
                tracing::info!(%identifier, change = history.sequence(), reason, "a member's identity has another key");
                if let Some(epoch) = epoch {
                    self.0.enforcement.begin(epoch);
                    // First of all: the sessions of whoever has the key end, also where nothing can be published. None of them hears it
                    // where nobody is connected.
                    let _ = self.0.removed.send(Out::Rekeyed { identifier, sequence: history.sequence() });
                    self.republish_or_later().await;
                }
            }
            Err(error) => return Err(Refusal::NotPermitted { reason: error.to_string() }.into()),
        }
        Ok(known)
    }

    /// Turns a failure into what the caller may know of it, and writes it to the audit or the log.
    async fn refuse(&self, actor: Option<Identifier>, action: Action, subject: String, error: ActError) -> Refusal {
        match error {
            ActError::Store(error) if error.is_transient() => {
                if let Some(unsaid) = self.0.store.says(&error) {
                    tracing::warn!(%action, %error, unsaid, "the database is busy");
                }
                Refusal::Busy { after: 1 }
            }
            ActError::Store(error) => {
                if let Some(unsaid) = self.0.store.says(&error) {
                    tracing::error!(%action, error = &error as &dyn std::error::Error, unsaid, "the database failed");
                }
                Refusal::Internal
            }
            ActError::Publish(error) => {
                tracing::error!(%action, error = &error as &dyn std::error::Error, "done, but it could not be published");
                Refusal::Internal
            }
            ActError::Refused(refusal) => {
                self.audit_refusal(actor, action, subject, &refusal).await;
                refusal
            }
        }
    }

    async fn audit_refusal(&self, actor: Option<Identifier>, action: Action, subject: String, refusal: &Refusal) {
        let at = self.now();
        let noted = self.0.bursts.lock().unwrap_or_else(PoisonError::into_inner).note(actor, action, at);
        let Some(left_out) = noted else { return };
        let mut reason = refusal.to_string();
        // No line where there is no row: whoever is refused again and again does not fill the log.
        tracing::info!(actor = actor.map(tracing::field::display), %action, subject, %reason, left_out, "refused");
        if left_out > 0 {
            reason.push_str(&format!(" (and {left_out} more since the last row)"));
        }
        let entry = Entry::refused(at, actor, action, subject).because(reason);
        let written = async {
            let mut write = self.0.store.write().await?;
            write.audit(&entry).await?;
            write.commit().await
        };
        if let Err(error) = written.await
            && self.0.store.says(&error).is_some()
        {
            tracing::error!(%action, error = &error as &dyn std::error::Error, "a refusal could not be written to the audit");
        }
    }

    /// Whether what failed by itself is to be said in the log: [`Store::says`].
    fn says(&self, error: &ServiceError) -> bool {
        match error {
            ServiceError::Store(error) => self.0.store.says(error).is_some(),
            _ => true,
        }
    }

    /// Whether something was voided since what is published.
    async fn has_voided(&self) -> Result<bool, ActError> {
        let known = kept::load(&mut self.0.store.read().await?).await?.ok_or_else(tickets::no_project)?;
        Ok(known.epoch > self.0.published.borrow().info().epoch)
    }

    /// As [`Self::republish`], where the act is done whether or not it can be told now: [`Self::keep_published`] tries again.
    async fn republish_or_later(&self) {
        if let Err(error) = self.republish().await
            && self.says(&error)
        {
            tracing::error!(error = &error as &dyn std::error::Error, "what was changed could not be published; trying again");
        }
    }

    /// Publishes until `stop` what was committed and could not be published when it was: a key that was retired and a member that was
    /// revoked must not stay good because a disk was full for a moment, or because whoever asked for it went away.
    pub(crate) async fn keep_published(&self, every: Duration, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            match self.is_published().await {
                Ok(true) => {}
                Ok(false) => self.republish_or_later().await,
                Err(error) => tracing::debug!(%error, "it is not known whether all is published"),
            }
        }
    }

    /// Whether what is published is all that the database says.
    async fn is_published(&self) -> Result<bool, ActError> {
        let known = kept::load(&mut self.0.store.read().await?).await?.ok_or_else(tickets::no_project)?;
        // Every change that is published raises it.
        Ok(known.sequence <= self.0.published.borrow().info().sequence)
    }

    /// Signs the project information again if it changed, and tells every session.
    async fn republish(&self) -> Result<(), ServiceError> {
        let known = Arc::clone(&self.0.published.borrow());
        let newest = project::publish(&self.0.store, &self.0.keys, Some(&known)).await?;
        self.0.published.send_if_modified(|published| {
            // Acts finish in any order; what was read last is not always what is newest.
            let newer = newest.is_newer_than(published);
            if newer {
                *published = Arc::new(newest);
            }
            newer
        });
        Ok(())
    }
}

/// The caller as a member.
async fn member(from: &mut impl Connection, identifier: Identifier) -> Result<Member, ActError> {
    stored::find(from, identifier).await?.ok_or(ActError::Refused(Refusal::NotAMember))
}

/// Who asks, as a member. A session that began before its identity said that a key is in other hands asks nothing any more, however far its
/// request had come when that was said.
async fn calling(from: &mut impl Connection, caller: &Caller) -> Result<Member, ActError> {
    let found = member(from, caller.identifier).await?;
    if history_of(&found)?.compromised_after(caller.sequence) {
        let reason = "the key of this session is in other hands, its identity says: connect with the one that it has now";
        return Err(Refusal::NotPermitted { reason: reason.to_owned() }.into());
    }
    Ok(found)
}

/// The changes of a member's identity, as far as they are known here.
fn history_of(member: &Member) -> Result<History, StoreError> {
    History::decode(&member.history)
        .map_err(|error| StoreError::Damaged { what: format!("the history of {}: {error}", member.identifier) })
}

/// Cuts rows to what fits an answer. True where there may be more.
fn page<T: minicbor::Encode<()>>(rows: Vec<T>) -> (Vec<T>, bool) {
    page_of(rows, PAGE_ROWS)
}

/// As [`page`], of at most `most` rows that were read.
fn page_of<T: minicbor::Encode<()>>(mut rows: Vec<T>, most: u32) -> (Vec<T>, bool) {
    let full = rows.len() as u64 == u64::from(most);
    let mut bytes = 0;
    let fitting = rows
        .iter()
        .take_while(|row| {
            bytes += minicbor::to_vec(row).map_or(0, |encoded| encoded.len());
            bytes <= PAGE_BYTES
        })
        .count();
    let cut = fitting < rows.len();
    rows.truncate(fitting);
    (rows, full || cut)
}

/// What the audit calls a request, and what it is about.
pub(crate) fn describe(request: &Request) -> (Action, String) {
    match request {
        Request::ProjectInfo => (Action::ProjectInfo, String::new()),
        Request::Credentials { .. } | Request::CredentialBefore { .. } => (Action::IssueCredentials, String::new()),
        Request::ClaimRelayName { name } => (Action::ClaimRelayName, name.to_string()),
        Request::ReleaseRelayName { name } => (Action::ReleaseRelayName, name.to_string()),
        Request::IssueTicket(_) => (Action::IssueTicket, String::new()),
        Request::ListTickets { .. } => (Action::ListTickets, String::new()),
        Request::RevokeTicket { ticket } => (Action::RevokeTicket, ticket.to_string()),
        Request::ListMembers { .. } => (Action::ListMembers, String::new()),
        Request::DeleteMember { member } => (Action::DeleteMember, member.to_string()),
        Request::AdvertiseRelay { address } => (Action::AdvertiseRelay, address.to_string()),
        Request::ListAudit { .. } => (Action::ListAudit, String::new()),
        Request::SetProjectPolicy { resource_type, .. } => (Action::SetPolicy, resource_type.chars().take(80).collect()),
        Request::ListProjectPolicies | Request::Guardrails => (Action::ListPolicies, String::new()),
        Request::AuditCheckpoints { .. } | Request::AuditConsistency { .. } | Request::AuditInclusion { .. } => {
            (Action::ProveAudit, String::new())
        }
        Request::RevokeMember { member } => (Action::RevokeMember, member.to_string()),
        Request::UpdateMember { member, .. } => (Action::UpdateMember, member.to_string()),
        Request::Acknowledge { .. } => (Action::Acknowledge, String::new()),
        Request::Enforcement { .. } => (Action::ShowEnforcement, String::new()),
        Request::AnnounceStatic { .. } => (Action::AdvertiseRelay, String::new()),
        Request::PrepareKey => (Action::PrepareKey, String::new()),
        Request::ActivateKey => (Action::ActivateKey, String::new()),
        Request::RetireKey { .. } => (Action::RetireKey, String::new()),
    }
}

#[cfg(test)]
mod key_tests;
#[cfg(test)]
mod revocation_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod theft_tests;
