//! What all parts of a running node share.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postern_proto::credential::VerifiedCredential;
use postern_proto::id::{ChannelId, Identifier, RefusalId};
use postern_proto::identity::Identity;
use postern_proto::name::{Alias, OutletName, RelayName};
use postern_proto::record::ResetCode;
use postern_proto::secret::SecretBytes;
use postern_proto::spec::{Disclose, MaxStaleness, OutletSpec, RelaySpec};
use postern_runtime::home::{Home, IdentityHome, NodeHome};
use postern_runtime::membership::Membership;
use postern_runtime::supervise::Supervisor;
use postern_runtime::workers::{Worker, Workers};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::channel::{Channel, Control, ControlEvent};
use super::circle::Dialled;
use super::code;
use super::credentials::{NameAnswers, Names};
use super::direct::Direct;
use super::held::Holdings;
use super::inlet::Inlet;
use super::live::{Enders, LiveStreams, Through};
use super::metrics::Metrics;
use super::outlet_target::LastFailures;
use super::peers::Peers;
use super::places::Places;
use super::policy::{Denial, Policies, Resource};
use super::refusals::{By, Refusal, Refusals};
use super::relays::RelayLinks;
use super::revocation::Revocation;
use super::trust::Trust;
use super::witness::Witness;
use crate::stream_log::StreamLog;

/// How late a stream may end after its peer's credential has.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(2);

/// Peers whose last credential is remembered, for `explain`. Beyond it all are forgotten, and seen again when they come back.
const MAX_SEEN: usize = 4_096;

pub struct Shared {
    pub home: Home,
    pub node_home: NodeHome,
    pub identity_home: IdentityHome,
    pub identity: Identity,
    pub trust: Trust,
    pub local_issuer: Option<SecretBytes<32>>,
    pub membership: watch::Sender<Option<Membership>>,
    /// The relay names that are wanted of the authority.
    pub names: watch::Sender<Names>,
    name_answers: Mutex<NameAnswers>,
    authority_trouble: Mutex<Option<String>>,
    /// The authority said that this node's identity is no member.
    not_a_member: AtomicBool,
    pub revocation: Revocation,
    /// This node's credentials are void: new ones are to be asked for.
    pub renew: Notify,
    pub max_staleness: MaxStaleness,
    pub policies: Policies,
    pub peers: Peers,
    pub relays: RelayLinks,
    pub direct: Direct,
    pub live: Arc<LiveStreams>,
    pub holdings: Holdings,
    pub dialled: Arc<Dialled>,
    pub places: Places,
    pub metrics: Metrics,
    pub witness: Witness,
    pub stream_log: StreamLog,
    outlets: Mutex<BTreeMap<OutletName, OutletSpec>>,
    /// The outlets whose target was not reached when it was dialled last.
    pub unreached: LastFailures,
    inlets: Mutex<BTreeMap<Alias, Arc<Inlet>>>,
    relay_specs: Mutex<BTreeMap<RelayName, RelaySpec>>,
    /// What was refused lately.
    pub refusals: Refusals,
    /// Held while the policies of the project are asked for and stored.
    pub guardrails_turn: tokio::sync::Mutex<()>,
    /// The credential that each peer showed last.
    seen: Mutex<HashMap<Identifier, VerifiedCredential>>,
    pub ticks: watch::Sender<u64>,
    /// This node stops: it opens no stream for peers any more.
    pub draining: AtomicBool,
    pub supervisor: Supervisor,
    pub(super) workers: Arc<Workers>,
    pub stop: CancellationToken,
}

impl Shared {
    #[must_use]
    pub fn new(settings: Settings, workers: Arc<Workers>, open_files: usize, stream_log: StreamLog, refusals: Refusals) -> Self {
        let trust = Trust::new(
            settings.identity.identifier(),
            settings.node_id,
            settings.statics,
            settings.clock,
            settings.max_staleness,
        );
        let stop = settings.supervisor.stopping().child_token();
        Self {
            home: settings.home,
            node_home: settings.node_home,
            identity_home: settings.identity_home,
            identity: settings.identity,
            trust,
            local_issuer: settings.local_issuer,
            membership: watch::Sender::new(settings.membership),
            names: watch::Sender::default(),
            name_answers: Mutex::default(),
            authority_trouble: Mutex::default(),
            not_a_member: AtomicBool::new(false),
            revocation: Revocation::default(),
            renew: Notify::new(),
            max_staleness: settings.max_staleness,
            policies: Policies::default(),
            peers: Peers::default(),
            relays: RelayLinks::default(),
            direct: Direct,
            live: Arc::default(),
            holdings: Holdings::default(),
            dialled: Arc::default(),
            places: Places::new(open_files),
            metrics: Metrics::default(),
            witness: Witness::default(),
            stream_log,
            outlets: Mutex::default(),
            unreached: LastFailures::default(),
            inlets: Mutex::default(),
            relay_specs: Mutex::default(),
            refusals,
            guardrails_turn: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
            ticks: watch::Sender::new(0),
            draining: AtomicBool::new(false),
            supervisor: settings.supervisor,
            workers,
            stop,
        }
    }

    /// Runs `task` until it ends or the engine stops. A panic in it ends it alone.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.supervisor.spawn_until(&self.stop, name, task);
    }

    /// As [`Self::spawn`], for what moves bytes: on one of the threads for that. Sockets from elsewhere are adopted there.
    pub fn spawn_worker(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.workers.spawn_until(&self.supervisor, &self.stop, name, task);
    }

    /// As [`Self::spawn_worker`], for what waits for work, on a thread that [`Workers::better`] named or the next one.
    pub fn spawn_waiting(&self, worker: Option<&Worker>, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let worker = worker.unwrap_or_else(|| self.workers.next());
        self.workers.wait_on(worker, &self.supervisor, &self.stop, name, task);
    }

    pub fn changed(&self) {
        self.ticks.send_modify(|tick| *tick = tick.wrapping_add(1));
    }

    pub fn outlets(&self) -> MutexGuard<'_, BTreeMap<OutletName, OutletSpec>> {
        lock(&self.outlets)
    }

    pub fn outlet(&self, name: &OutletName) -> Option<OutletSpec> {
        self.outlets().get(name).cloned()
    }

    pub fn inlets(&self) -> MutexGuard<'_, BTreeMap<Alias, Arc<Inlet>>> {
        lock(&self.inlets)
    }

    pub fn relay_specs(&self) -> MutexGuard<'_, BTreeMap<RelayName, RelaySpec>> {
        lock(&self.relay_specs)
    }

    #[must_use]
    pub fn wanted_names(&self) -> Names {
        self.relay_specs().keys().cloned().collect()
    }

    pub fn names_changed(&self) {
        let wanted = self.wanted_names();
        self.names.send_if_modified(|names| std::mem::replace(names, wanted.clone()) != wanted);
        self.relays.names_changed();
        self.changed();
    }

    pub fn set_name_answers(&self, answers: NameAnswers) {
        *lock(&self.name_answers) = answers;
    }

    /// What the authority said of a relay name, if it was asked.
    #[must_use]
    pub fn name_answer(&self, name: &RelayName) -> Option<Result<(), postern_proto::authority::Refusal>> {
        lock(&self.name_answers).get(name).cloned()
    }

    /// Whether this node's identity is no member of its project any more, as its authority has said.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.not_a_member.load(Ordering::Relaxed) || self.trust.is_revoked()
    }

    pub fn set_not_a_member(&self, is: bool) {
        self.not_a_member.store(is, Ordering::Relaxed);
    }

    /// Remembers why the authority is not connected; returns whether that is news.
    pub fn set_authority_trouble(&self, trouble: Option<String>) -> bool {
        std::mem::replace(&mut *lock(&self.authority_trouble), trouble.clone()) != trouble
    }

    #[must_use]
    pub fn authority_trouble(&self) -> Option<String> {
        lock(&self.authority_trouble).clone()
    }

    #[must_use]
    pub fn why_no_credential(&self) -> String {
        match self.authority_trouble() {
            Some(trouble) => format!("this node has no valid credential: {trouble}"),
            None => "this node has no credential yet: it is being enrolled, or waits for its authority".to_owned(),
        }
    }

    /// This node's decision about a peer at one of its resources: the same for new streams, for live ones and for `explain`.
    ///
    /// # Errors
    /// Which policy refuses, and why.
    pub fn decide(&self, resource: &Resource<'_>, credential: &VerifiedCredential) -> Result<(), Box<Denial>> {
        self.policies.decide(resource, credential.facts())
    }

    /// Remembers what a peer showed.
    fn saw(&self, credential: VerifiedCredential) {
        let mut seen = lock(&self.seen);
        if seen.len() >= MAX_SEEN && !seen.contains_key(&credential.subject()) {
            seen.clear();
        }
        seen.insert(credential.subject(), credential);
    }

    /// The credential that `peer` showed last, whether or not it is still good.
    #[must_use]
    pub fn seen(&self, peer: Identifier) -> Option<VerifiedCredential> {
        lock(&self.seen).get(&peer).cloned()
    }

    /// Judges every live stream again, by the policies and credentials of now. Streams of one channel through one resource share their
    /// verdict, and the id of their refusal. Returns those that end.
    pub fn review(&self) -> Enders {
        let mut verdicts: HashMap<(ChannelId, Through), Option<ResetCode>> = HashMap::new();
        self.live.review(|channel, stream, through| {
            *verdicts.entry((channel.id(), through.clone())).or_insert_with(|| self.verdict(channel, stream, through))
        })
    }

    /// Ends streams whose peer's credential has expired. A channel's control stream sees that too, as long as the peer keeps it.
    pub async fn watch_expiry(self: Arc<Self>) {
        let mut tick = tokio::time::interval(EXPIRY_INTERVAL);
        loop {
            tick.tick().await;
            self.live.review(|channel, _, _| channel.check(&self.trust).is_err().then_some(ResetCode::Credential));
            self.refusals.settle();
        }
    }

    /// Why the live streams of a channel through a resource may not go on; `None` where they may. `stream` is one of them.
    fn verdict(&self, channel: &Channel, stream: u64, through: &Through) -> Option<ResetCode> {
        // Whoever is no member any more has no streams; a peer that says so may have been cut off before it could.
        if self.is_revoked() {
            return Some(ResetCode::Credential);
        }
        let credential = channel.credential();
        let recheck = channel.check(&self.trust);
        let (disclose, decision) = match through {
            Through::Inlet(alias) => {
                let Some(inlet) = self.inlets().get(alias).cloned() else { return Some(ResetCode::Deleted) };
                let resource = Resource::inlet(alias.as_str(), inlet.spec.allow.as_ref());
                (inlet.spec.disclose, self.decide(&resource, &credential))
            }
            Through::Outlet(name) => {
                let Some(outlet) = self.outlet(name) else { return Some(ResetCode::Deleted) };
                (outlet.disclose, self.decide(&Resource::outlet(name.as_str(), outlet.allow.as_ref()), &credential))
            }
        };
        let (end, code, reason, denial) = match (recheck, decision) {
            (Err(error), _) => (ResetCode::Credential, error.code(), error.to_string(), None),
            (Ok(()), Ok(())) => return None,
            (Ok(()), Err(denial)) => (ResetCode::Policy, code::DENIED, denial.to_string(), Some(*denial)),
        };
        let id = RefusalId::random();
        if disclose != Disclose::Nothing {
            channel.say_refused(id, Some(stream), (disclose == Disclose::Reason).then(|| reason.clone()));
        }
        self.refusals.note(Refusal {
            id,
            at: self.trust.now(),
            by: By::Us,
            through: Some(through.clone()),
            outlet: matches!(through, Through::Outlet(_)).then(|| through.name().to_owned()),
            peer: Some(channel.peer()),
            code,
            told: Some(code.as_str()),
            reason: format!("live streams may not go on: {reason}"),
            denial,
        });
        Some(end)
    }

    /// The authority refused `what`, under an id that it logs too.
    pub fn refused_by_authority(&self, id: RefusalId, refusal: &postern_proto::authority::Refusal, what: &str) {
        self.refusals.told(
            By::Authority,
            id,
            self.trust.now(),
            refusal.code().0,
            format!("the authority refused {what}: {refusal}"),
        );
    }

    /// The peer of `channel` said that its policy refused this node.
    fn refused_by_peer(&self, channel: &Channel, id: RefusalId, stream: Option<u64>, reason: &str) {
        let what = match stream {
            Some(stream) => format!("the peer's node cut live streams, such as stream {stream}"),
            None => "an inlet of the peer's node may not send to this node".to_owned(),
        };
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        self.refusals.note(Refusal {
            id,
            at: self.trust.now(),
            by: By::Peer,
            through: stream.and_then(|stream| self.live.through(channel, stream)),
            outlet: None,
            peer: Some(channel.peer()),
            code: code::DENIED,
            told: None,
            reason: format!("{what}{why}"),
            denial: None,
        });
    }

    /// Runs a channel's control stream to its end.
    pub async fn run_control(self: &Arc<Self>, channel: Arc<Channel>, control: Control) {
        self.saw(channel.credential());
        let event = |event: ControlEvent| match event {
            ControlEvent::Renewed => {
                self.saw(channel.credential());
                self.review();
            }
            ControlEvent::Expired => drop(self.review()),
            ControlEvent::Refused { id, stream, reason } => self.refused_by_peer(&channel, id, stream, &reason),
        };
        // Why it ended is in the log already; its streams end by themselves.
        let _ = control.run(self, &channel, event).await;
        self.peers.forget(&channel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
