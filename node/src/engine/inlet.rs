//! Inlets: local listeners, each connection of which becomes a stream to the inlet's outlet.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_proto::handshake::KeyExchange;
use postern_proto::id::RefusalId;
use postern_proto::name::OutletName;
use postern_proto::path::{Open, OpenHead};
use postern_proto::record::{Kind, ResetCode};
use postern_proto::spec::{Disclose, InletSpec};
use postern_proto::stream::{Early, Received, Stream, StreamError};
use postern_runtime::net::Acceptor;
use postern_runtime::workers::adopt;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::attach::Opener;
use super::channel::Channel;
use super::code;
use super::failure::{Failure, Step};
use super::link::Link;
use super::live::Through;
use super::metrics::{Cause, Counted, ResourceCounts};
use super::policy::Resource;
use super::pump::{self, End, Outcome, Pump, reset_application};
use super::refusals::Refusal;
use super::shared::Shared;
use super::target::{Opened, Picked, Place, Targets, open};
use crate::stream_log::{OpenStream, Side};

/// How long the outlet's node may take to answer a probe: its dial's deadline, and the way there and back.
const PROBE_DEADLINE: Duration = Duration::from_secs(12);

/// Nodes and outlets that one connection is tried at, where its open is rejected: each may take as long as a dial.
const MOST_TRIED: usize = 3;

/// A running inlet.
pub struct Inlet {
    pub spec: InletSpec,
    pub bound: SocketAddr,
    pub stop: CancellationToken,
    pub targets: Targets,
    counts: Arc<ResourceCounts>,
    /// What the last attempt to open a stream or to find the peer came to.
    last: Mutex<Option<Failure>>,
}

impl Inlet {
    #[must_use]
    pub fn new(spec: InletSpec, bound: SocketAddr, stop: CancellationToken, counts: Arc<ResourceCounts>) -> Self {
        let targets = Targets::new(&spec.to);
        Self { spec, bound, stop, targets, counts, last: Mutex::default() }
    }

    /// Why the last stream was not opened; `None` after one that was.
    #[must_use]
    pub fn last_failure(&self) -> Option<Failure> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The names of its outlets, for what is written of a connection that came to none.
    fn outlets(&self, between: &str) -> String {
        let names: Vec<&str> = self.spec.to.iter().map(|to| to.outlet.as_str()).collect();
        names.join(between)
    }

    /// What is to be written down of an attempt to carry a connection.
    fn line(&self, shared: &Shared) -> Box<OpenStream> {
        shared.stream_log.open(Side::Inlet, self.spec.alias.as_str(), &self.outlets(","), shared.trust.identifier)
    }

    fn note(&self, failure: Option<Failure>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}

/// Takes connections until the inlet is stopped.
pub async fn run(shared: Arc<Shared>, inlet: Arc<Inlet>, acceptor: Acceptor) {
    let mut acceptor = match acceptor.adopted() {
        Ok(acceptor) => acceptor,
        Err(error) => return error!(inlet = %inlet.spec.alias, %error, "the inlet cannot accept connections"),
    };
    // Its peer is looked up before the first connection, so that that one need not wait.
    inlet.targets.relay_names().for_each(|name| shared.relays.watch(name));
    loop {
        let accepted = tokio::select! {
            () = inlet.stop.cancelled() => return,
            accepted = acceptor.accept() => accepted,
        };
        let place = tokio::select! {
            () = inlet.stop.cancelled() => return,
            place = shared.places.wait() => place,
        };
        let (shared_too, inlet) = (Arc::clone(&shared), Arc::clone(&inlet));
        shared.spawn_worker("inlet connection", async move {
            // A socket that no reactor takes is closed, which its application sees.
            if let Ok(application) = adopt(accepted.stream, accepted.home) {
                let owing = connection(shared_too, inlet, application).await;
                drop((accepted.permit, place));
                if let Some(channel) = owing {
                    channel.last_words().await;
                }
            }
        });
    }
}

/// A connection of an application, and what it has said already where it was tried.
struct Begun {
    application: TcpStream,
    early: Early,
    /// Where it was rejected.
    tried: Vec<Place>,
}

/// Carries a connection to its end, and gives the channel on which something is owed for it then.
pub(super) async fn connection(shared: Arc<Shared>, inlet: Arc<Inlet>, application: TcpStream) -> Option<Arc<Channel>> {
    let mut counted = inlet.counts.open();
    counted.written = Some(inlet.line(&shared));
    let mut begun = Begun { application, early: Early::default(), tried: Vec::new() };
    // In an allocation of its own: while bytes flow, or do not, nothing is held of how the path was found.
    let mut opened = match Box::pin(open(&shared, &inlet)).await {
        Ok(opened) => opened,
        Err(failure) => {
            counted.ends(Cause::Refused);
            refuse(&shared, &inlet, (None, None), &mut counted, failure);
            reset_application(begun.application);
            return None;
        }
    };
    loop {
        match carry(&shared, &inlet, opened, begun, &mut counted).await {
            Carried::Over => return None,
            Carried::Owing(channel) => return Some(channel),
            Carried::Elsewhere(elsewhere) => (opened, begun) = *elsewhere,
        }
    }
}

/// A stream was not opened for `failure`: whether there is another place to try, which is preferred from now on. A circle of portals has as many
/// ends as there are ways through it, and who is a part of it says how long it is: that tells nothing of the place.
fn passed_over(picked: &Picked, failure: &Failure, shared: &Arc<Shared>, inlet: &Arc<Inlet>) -> bool {
    failure.code != code::LOOP && picked.failed(shared, inlet)
}

/// What became of a connection.
enum Carried {
    Over,
    /// It is over, and its path is idle, with something still to say to the peer.
    Owing(Arc<Channel>),
    /// It was rejected, and goes to another place.
    Elsewhere(Box<(Opened, Begun)>),
}

/// Another place for a connection that was rejected where it was tried, if there is one: no byte of it has reached a target. Meanwhile it hears
/// that its application breaks off, or that its inlet stops; and whatever ends it, this task's end too, its application sees a reset, because
/// what it has said may be read already.
async fn elsewhere(shared: &Arc<Shared>, inlet: &Arc<Inlet>, application: &TcpStream, tried: &[Place]) -> Option<Opened> {
    let socket = SockRef::from(application);
    socket.set_linger(Some(Duration::ZERO)).ok()?;
    let opened = tokio::select! {
        biased;
        () = inlet.stop.cancelled() => None,
        () = broken_off(application) => None,
        opened = Box::pin(open(shared, inlet)) => opened.ok(),
    };
    // All others may be passed over, too.
    let opened = opened.filter(|opened| !tried.contains(&opened.picked.place()))?;
    socket.set_linger(None).ok()?;
    Some(opened)
}

/// Waits until the application has broken its connection off.
async fn broken_off(application: &TcpStream) {
    while application.ready(Interest::ERROR).await.is_ok() {
        if matches!(application.take_error(), Ok(Some(_)) | Err(_)) {
            return;
        }
        let _ = application.try_io(Interest::ERROR, || -> std::io::Result<()> { Err(std::io::ErrorKind::WouldBlock.into()) });
    }
}

/// Where something is refused: the channel, and which of the inlet's outlets, where it came so far.
type At<'a> = (Option<&'a Channel>, Option<&'a OutletName>);

fn at<'a>(channel: &'a Channel, picked: &'a Picked) -> At<'a> {
    (Some(channel), Some(picked.outlet()))
}

/// A connection of an application is not carried.
fn refuse(shared: &Shared, inlet: &Inlet, at: At<'_>, counted: &mut Counted, failure: Failure) {
    refused(inlet, counted, note_refusal(shared, inlet, at, failure));
}

/// A connection of an application is not carried, for a reason that is kept already.
fn refused(inlet: &Inlet, counted: &mut Counted, failure: Failure) {
    inlet.counts.refuse(failure.code);
    counted.refused(failure.code, failure.refusal);
    inlet.note(Some(failure));
}

/// Keeps why nothing was opened, under the id that whoever refused gave it, or a new one. What this node's policy refuses is kept where
/// that was decided.
fn note_refusal(shared: &Shared, inlet: &Inlet, (channel, outlet): At<'_>, mut failure: Failure) -> Failure {
    if failure.denial.is_some() && failure.refusal.is_some() {
        return failure;
    }
    let by = failure.by();
    let id = *failure.refusal.get_or_insert_with(RefusalId::random);
    // What this node's policy refuses, the peer's node is told, as far as the inlet discloses it: nothing else tells it.
    let told = match (&failure.denial, channel, inlet.spec.disclose) {
        (None, ..) | (_, None, _) | (.., Disclose::Nothing) => None,
        (Some(denial), Some(channel), disclose) => {
            channel.say_refused(id, None, (disclose == Disclose::Reason).then(|| denial.to_string()));
            Some(code::DENIED.as_str())
        }
    };
    shared.refusals.note(Refusal {
        id,
        at: shared.trust.now(),
        by,
        through: Some(Through::Inlet(inlet.spec.alias.clone())),
        outlet: Some(outlet.map_or_else(|| inlet.outlets(", "), ToString::to_string)),
        peer: channel.map(Channel::peer),
        code: failure.code,
        told,
        reason: failure.reason.clone(),
        denial: failure.denial.as_deref().cloned(),
    });
    failure
}

/// This node's decision about a stream to `outlet` of the peer of `channel`.
///
/// # Errors
/// Why not.
pub fn judge(shared: &Shared, inlet: &Inlet, channel: &Channel, outlet: &OutletName) -> Result<(), Failure> {
    let credential = channel.credential();
    shared.trust.recheck(&credential).map_err(|error| Failure::new(Step::Channel, error.code(), error.to_string()))?;
    let resource = Resource::inlet(inlet.spec.alias.as_str(), inlet.spec.allow.as_ref());
    shared
        .decide(&resource, &credential)
        .map_err(|denial| note_refusal(shared, inlet, (Some(channel), Some(outlet)), Failure::denied(denial)))
}

/// A new stream with the frame that opens it.
pub(super) fn begin(channel: &Channel, open: &Open) -> Result<(u64, Stream, Vec<u8>), StreamError> {
    let (id, mut stream) = channel.open_stream();
    let head = OpenHead { channel: channel.id(), stream: id }.to_bytes();
    let mut first = Vec::new();
    let mut text = Vec::new();
    // Writing to a vector does not fail.
    let _ = minicbor::encode(open, &mut text);
    stream.seal_open(&head, text, &mut first)?;
    Ok((id, stream, first))
}

/// Carries a connection to its end; or, where it is rejected and there is another place for it, until then.
async fn carry(
    shared: &Arc<Shared>,
    inlet: &Arc<Inlet>,
    Opened { channel, link, picked }: Opened,
    Begun { application, early, mut tried }: Begun,
    counted: &mut Counted,
) -> Carried {
    counted.ends(Cause::Refused);
    let mark = shared.dialled.taken(&application);
    let open = Open { outlet: picked.outlet().clone(), probe: false, hops: shared.dialled.hops(mark), mark };
    let (id, mut stream, first) = match begin(&channel, &open) {
        Ok(begun) => begun,
        Err(error) => {
            refuse(shared, inlet, at(&channel, &picked), counted, Failure::new(Step::Outlet, code::INTERNAL, error.to_string()));
            reset_application(application);
            return Carried::Over;
        }
    };
    let peer = channel.peer();
    if let Some(written) = &mut counted.written {
        written.with(channel.id(), id, peer);
        written.through(picked.outlet().as_str());
    }
    let live = shared.live.enter(&channel, id, Through::Inlet(inlet.spec.alias.clone()));
    // From here on a change reaches it; one that came while its path was made has not.
    if let Err(failure) = judge(shared, inlet, &channel, picked.outlet()) {
        refuse(shared, inlet, at(&channel, &picked), counted, failure);
        reset_application(application);
        return Carried::Over;
    }
    counted.ends(Cause::ShuttingDown);
    if inlet.stop.is_cancelled() {
        reset_application(application);
        return Carried::Over;
    }
    picked.count();
    let opener = Opener { shared: Arc::clone(shared), channel: Arc::clone(&channel), id, open, signal: Arc::clone(&live.signal) };
    let pump = Pump {
        stream: &mut stream,
        application: &application,
        link: link.take(),
        signal: &live.signal,
        resume: Some(&opener),
        patience: inlet.spec.resume_timeout.get(),
        resumed: &shared.metrics.resumes,
        counted,
        held: shared.holdings.of(peer),
        early,
    };
    let Outcome { end, path, sealed } = pump::run(pump, first).await;
    let (sent, received) = stream.bytes();
    counted.ended(&end, (sent, received));
    match end {
        End::Clean => {
            debug!(%peer, inlet = %inlet.spec.alias, stream = id, sent, received, "stream ended");
            inlet.note(None);
            let owes = path.is_some_and(|path| channel.give_idle(path));
            return if owes { Carried::Owing(channel) } else { Carried::Over };
        }
        End::Rejected(reject) => {
            let failure = Failure::rejected(&reject);
            let others = passed_over(&picked, &failure, shared, inlet);
            tried.push(picked.place());
            let may_go_on = others && tried.len() < MOST_TRIED;
            let early = if may_go_on { channel.take_back(id, sealed, stream.sent()).ok() } else { None };
            let Some(early) = early else {
                refuse(shared, inlet, at(&channel, &picked), counted, failure);
                reset_application(application);
                return Carried::Over;
            };
            // Nobody waits for the stream that is over: not whoever revokes its peer, nor a node that stops.
            drop((live, path));
            let failure = note_refusal(shared, inlet, at(&channel, &picked), failure);
            counted.attempt_refused(failure.code, failure.refusal);
            match elsewhere(shared, inlet, &application, &tried).await {
                Some(next) => {
                    picked.uncount();
                    counted.written = Some(inlet.line(shared));
                    return Carried::Elsewhere(Box::new((next, Begun { application, early, tried })));
                }
                None => refused(inlet, counted, failure),
            }
        }
        End::NotOpened(failure) => {
            picked.failed(shared, inlet);
            // The answer may be what got lost: the peer's node may have reached the target and would wait for another path.
            channel.say_reset(id, ResetCode::Timeout);
            refuse(shared, inlet, at(&channel, &picked), counted, *failure);
        }
        End::Protocol(StreamError::UnexpectedKind(Kind::NoChannel)) => {
            // The peer's node forgot the channel; the next connection makes a new one.
            channel.close();
            refuse(
                shared,
                inlet,
                at(&channel, &picked),
                counted,
                Failure::new(Step::Channel, code::NO_CHANNEL, "the peer's node no longer knows the channel; try again"),
            );
        }
        End::Reset { code } => {
            if matches!(code, ResetCode::Policy | ResetCode::Credential) {
                warn!(%peer, inlet = %inlet.spec.alias, stream = id, reason = %code, "a live stream was cut");
            }
            channel.say_reset(id, code);
        }
        End::ResetByPeer(code) if code != ResetCode::Application => {
            warn!(%peer, inlet = %inlet.spec.alias, stream = id, reason = %code, "the peer's node cut a live stream");
        }
        End::PathLost { error } => {
            warn!(%peer, inlet = %inlet.spec.alias, stream = id, sent, received, %error, "a stream lost its path, and there was no other one in time");
            channel.say_reset(id, ResetCode::LinkLost);
        }
        other => {
            debug!(%peer, inlet = %inlet.spec.alias, stream = id, sent, received, end = ?other, "stream broke");
            if matches!(other, End::Protocol(_)) {
                channel.say_reset(id, ResetCode::Protocol);
            }
        }
    }
    reset_application(application);
    Carried::Over
}

/// Whether a byte could pass now: opens a stream that asks only that, and where it is refused another one elsewhere, as for a connection. The
/// target is dialled and sent nothing. Tells how the keys with the peer's node were agreed on.
///
/// # Errors
/// The step that fails.
pub async fn probe(shared: &Arc<Shared>, inlet: &Arc<Inlet>) -> Result<KeyExchange, Failure> {
    let (mut tried, mut refused) = (Vec::new(), None);
    let checked = loop {
        let Opened { channel, link, picked } = match open(shared, inlet).await {
            Ok(opened) if !tried.contains(&opened.picked.place()) => opened,
            // How it was refused elsewhere says more than that there is no other place.
            none => {
                let nowhere = || Failure::new(Step::Peer, code::NO_PEER, "there is no outlet to try");
                break Err(refused.or(none.err()).unwrap_or_else(nowhere));
            }
        };
        let failure = match ask_again(shared, picked.outlet(), &channel, link.take()).await {
            Ok(()) => break Ok(channel.exchange()),
            Err(failure) => failure,
        };
        let others = passed_over(&picked, &failure, shared, inlet);
        tried.push(picked.place());
        let may_go_on = others && tried.len() < MOST_TRIED;
        let failure =
            if failure.refusal.is_some() { note_refusal(shared, inlet, at(&channel, &picked), failure) } else { failure };
        if !may_go_on {
            break Err(failure);
        }
        refused = Some(failure);
    };
    inlet.note(checked.clone().err());
    checked
}

/// As [`ask`]. A path that waited may have died unnoticed; a connection would be carried by another one, too.
async fn ask_again(shared: &Arc<Shared>, outlet: &OutletName, channel: &Arc<Channel>, link: Link) -> Result<(), Failure> {
    match ask(outlet, channel, link).await {
        Err(failure) if failure.code == code::PATH_LOST => ask(outlet, channel, shared.peers.path(shared, channel).await?).await,
        asked => asked,
    }
}

/// Asks the peer's node by a stream that carries nothing whether it would open `outlet`.
///
/// # Errors
/// The step that fails.
pub async fn ask(outlet: &OutletName, channel: &Channel, mut link: Link) -> Result<(), Failure> {
    let lost =
        |error: &dyn std::fmt::Display| Failure::new(Step::Outlet, code::PATH_LOST, format!("the probe got no answer: {error}"));
    let open = Open { outlet: outlet.clone(), probe: true, hops: 0, mark: None };
    let (_, mut stream, first) = begin(channel, &open).map_err(|error| lost(&error))?;
    link.write_all(&first, PROBE_DEADLINE).await.map_err(|error| lost(&error))?;
    let (header, mut record) = link.read_frame(PROBE_DEADLINE).await.map_err(|error| lost(&error))?;
    if header.kind == Kind::NoChannel {
        channel.close();
        return Err(Failure::new(Step::Channel, code::NO_CHANNEL, "the peer's node no longer knows the channel; try again"));
    }
    match stream.handle_record(header, &mut record).map_err(|error| lost(&error))? {
        Received::Accepted => Ok(()),
        Received::Rejected(reject) => Err(Failure::rejected(&reject)),
        _ => Err(lost(&"an answer that does not belong to a probe")),
    }
}
