//! What a node counts, and what it tells to monitoring systems.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use postern_proto::channel::Side as Part;
use postern_proto::id::RefusalId;
use postern_proto::record::{Kind as FrameKind, ResetCode};
use postern_proto::spec::ResourceType;
use postern_proto::stream::StreamError;
use postern_runtime::metrics::{Count, Counts, Exposition, Label};

use super::code;
use super::live::Through;
use super::pump::End;
use super::shared::Shared;
use super::status::RelayState;
use crate::code::Code;
use crate::stream_log::OpenStream;

const RESOURCE_TYPE: Label = Label { name: "resource_type", values: "`tcp-inlet` or `tcp-outlet`" };
const RESOURCE: Label = Label { name: "resource", values: "the alias of the inlet or the name of the outlet" };
const CAUSE: Label = Label { name: "cause", values: "[how it ended](#how-connections-end)" };
const CODE: Label = Label { name: "code", values: "[why not](errors.md#why-bytes-do-not-pass)" };
const LINK: Label = Label {
    name: "kind",
    values: "`control`, `parked` (waits at a relay for a peer), `joined` (to a peer's parked one), `direct` (without a relay, either way)",
};
const PART: Label = Label { name: "part", values: "`initiator` or `responder`" };
const RESULT: Label = Label { name: "result", values: "`ok` or `failed`" };
const INLET: Label = Label { name: "resource", values: "the inlet's alias" };
const RELAY_NAME: Label = Label { name: "relay_name", values: "a relay name of this node's own" };
const RELAY: Label = Label { name: "relay", values: "the address of a relay of the project; at most three are used" };

postern_runtime::metrics! {
    ALL;

    OPENED: Counter "postern_node_connections_opened_total" [RESOURCE_TYPE, RESOURCE], "Connections of applications: that an inlet accepted, and that an outlet made to its target.";
    CLOSED: Counter "postern_node_connections_closed_total" [RESOURCE_TYPE, RESOURCE, CAUSE], "Connections of applications that have ended, each once. What was opened and not closed is open now.";
    REFUSED: Counter "postern_node_connections_refused_total" [RESOURCE_TYPE, RESOURCE, CODE], "Connections that were not carried: of an inlet, those closed by the cause `refused`; of an outlet, what peers asked for and did not get, probes of `status` among them. Without a resource: an outlet that is not there was asked for.";
    SENT: Counter "postern_node_sent_bytes_total" [RESOURCE_TYPE, RESOURCE], "Bytes of applications that were sent to the peer, counted while they flow.";
    RECEIVED: Counter "postern_node_received_bytes_total" [RESOURCE_TYPE, RESOURCE], "Bytes for applications that were received from the peer, counted while they flow.";
    STREAMS: Gauge "postern_node_streams" [], "Streams that are open now, through inlets and outlets.";
    RESUMED: Counter "postern_node_streams_resumed_total" [], "Streams that lost their path and went on over another one.";
    INLET_UP: Gauge "postern_node_inlet_up" [INLET], "1 where the peer was found and the last connection, if there was one, was carried; else 0.";
    NAME_UP: Gauge "postern_node_relay_name_up" [RELAY_NAME], "1 where the relay name is registered; else 0.";
    RELAY_CONNECTED: Gauge "postern_node_relay_connected" [RELAY], "1 where the control link to the relay is up; else 0.";
    AUTHORITY_CONNECTED: Gauge "postern_node_authority_connected" [], "1 where the authority is connected; else 0. Absent in a home without a project.";
    EXPIRES: Gauge "postern_node_credential_expiry_timestamp_seconds" [], "When the node's credential expires, in Unix time. It is renewed every hour. Absent where the node has none.";
    AUDIT_FAULT: Gauge "postern_node_audit_fault" [], "1 where the authority's audit log is not the one that this node has seen; else 0. Absent in a home without a project.";
    LINES_LOST: Counter "postern_node_stream_lines_lost_total" [], "Lines of the log of streams that the disk did not take.";
    LINES_NOT_SENT: Counter "postern_node_syslog_lines_lost_total" [], "Lines of the log of streams that the syslog was not sent: it was away, or took too little. The file has them.";
    LINKS: Counter "postern_node_links_opened_total" [LINK], "Links that were opened.";
    PARKED: Gauge "postern_node_links_parked" [], "Links that wait at relays for a peer now.";
    CHANNELS: Gauge "postern_node_channels" [], "Channels with peers now, those that are about to be replaced among them.";
    IDLE: Gauge "postern_node_paths_idle" [], "Paths to peers that wait for the next stream now.";
    HANDSHAKES: Counter "postern_node_handshakes_total" [PART, RESULT], "Handshakes of channels with peers.";
}

/// How the connection of an application ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Clean,
    Refused,
    Application,
    PeerApplication,
    Policy,
    Credential,
    Deleted,
    Timeout,
    LinkLost,
    Protocol,
    ShuttingDown,
}

impl Cause {
    pub const ALL: [Self; 11] = [
        Self::Clean,
        Self::Refused,
        Self::Application,
        Self::PeerApplication,
        Self::Policy,
        Self::Credential,
        Self::Deleted,
        Self::Timeout,
        Self::LinkLost,
        Self::Protocol,
        Self::ShuttingDown,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Refused => "refused",
            Self::Application => "application",
            Self::PeerApplication => "peer-application",
            Self::Policy => "policy",
            Self::Credential => "credential",
            Self::Deleted => "deleted",
            Self::Timeout => "timeout",
            Self::LinkLost => "link-lost",
            Self::Protocol => "protocol",
            Self::ShuttingDown => "shutting-down",
        }
    }

    /// A sentence for the reference.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Clean => "Both directions ended in order",
            Self::Refused => "It was accepted by an inlet, but not carried: the peer, its node or this node's policy would not",
            Self::Application => "The application on this side broke it off",
            Self::PeerApplication => "The application on the peer's side broke it off",
            Self::Policy => "A policy was changed and no longer allows it, here or there",
            Self::Credential => "A credential expired or was voided while it lived",
            Self::Deleted => "The inlet or the outlet was deleted",
            Self::Timeout => "A time limit passed, such as the one of connections that are half closed",
            Self::LinkLost => "The way to the peer was lost for longer than it may be",
            Self::Protocol => "The peer broke the protocol",
            Self::ShuttingDown => "A node was stopped, and the time to finish was over",
        }
    }

    /// How a stream ended.
    #[must_use]
    pub fn of(end: &End) -> Self {
        match end {
            End::Clean => Self::Clean,
            End::Rejected(_) | End::NotOpened(_) | End::Protocol(StreamError::UnexpectedKind(FrameKind::NoChannel)) => {
                Self::Refused
            }
            End::ResetByPeer(ResetCode::Application) => Self::PeerApplication,
            End::Reset { code } | End::ResetByPeer(code) => match code {
                ResetCode::Application => Self::Application,
                ResetCode::Policy => Self::Policy,
                ResetCode::Credential => Self::Credential,
                ResetCode::Protocol => Self::Protocol,
                ResetCode::LinkLost => Self::LinkLost,
                ResetCode::Timeout => Self::Timeout,
                ResetCode::ShuttingDown => Self::ShuttingDown,
                ResetCode::Deleted => Self::Deleted,
            },
            End::PathLost { .. } => Self::LinkLost,
            End::Protocol(_) => Self::Protocol,
        }
    }
}

/// Room for the codes of [`code::ALL`]. A number of its own: the compiler cannot take the list's length for a type's, with optimisation.
const CODES: usize = 64;
const _: () = assert!(code::ALL.len() <= CODES);

/// What is counted of one inlet or outlet.
#[derive(Debug, Default)]
pub struct ResourceCounts {
    opened: Count,
    closed: Counts<{ Cause::ALL.len() }>,
    refused: Counts<CODES>,
    sent: Count,
    received: Count,
}

impl ResourceCounts {
    /// A connection begins. It is counted as closed when what is returned is dropped.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> Counted {
        self.opened.one();
        Counted { counts: Arc::clone(self), cause: Cause::ShuttingDown, moved: (0, 0), told: (0, 0), written: None }
    }

    /// A connection is not carried.
    pub fn refuse(&self, why: Code) {
        if let Some(number) = code::ALL.iter().position(|code| *code == why) {
            self.refused.one(number);
        }
    }
}

/// The connection of an application, while it lives.
#[derive(Debug)]
pub struct Counted {
    counts: Arc<ResourceCounts>,
    cause: Cause,
    /// What its stream has carried, sent and received.
    moved: (u64, u64),
    /// What is counted of it: of streams one after the other, the same bytes once.
    told: (u64, u64),
    /// What is written down of it when it is dropped.
    pub written: Option<Box<OpenStream>>,
}

impl Counted {
    /// What the stream has carried since it was opened, sent and received.
    pub fn moved(&mut self, (sent, received): (u64, u64)) {
        if sent > self.told.0 {
            self.counts.sent.add(sent - self.told.0);
            self.told.0 = sent;
        }
        if received > self.told.1 {
            self.counts.received.add(received - self.told.1);
            self.told.1 = received;
        }
        self.moved = (sent, received);
    }

    /// Why it is not carried.
    pub fn refused(&mut self, why: Code, id: Option<RefusalId>) {
        if let Some(written) = &mut self.written {
            written.refused(why.as_str(), id);
        }
    }

    /// The stream that was tried is refused, which is written down; there may be another one.
    pub fn attempt_refused(&mut self, why: Code, id: Option<RefusalId>) {
        self.refused(why, id);
        if let Some(written) = self.written.take() {
            written.ended(Cause::Refused.as_str(), self.moved);
        }
        self.moved = (0, 0);
    }

    /// How it ends; without this, it was cut with its task.
    pub fn ends(&mut self, cause: Cause) {
        self.cause = cause;
    }

    /// Its stream has ended, having carried `bytes`.
    pub fn ended(&mut self, end: &End, bytes: (u64, u64)) {
        self.moved(bytes);
        self.ends(Cause::of(end));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counts.closed.one(self.cause as usize);
        if let Some(mut written) = self.written.take() {
            if self.cause == Cause::Refused {
                written.refused_unless_said();
            }
            written.ended(self.cause.as_str(), self.moved);
        }
    }
}

/// Links by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    Control,
    Parked,
    Joined,
    Direct,
}

impl LinkKind {
    const ALL: [Self; 4] = [Self::Control, Self::Parked, Self::Joined, Self::Direct];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Parked => "parked",
            Self::Joined => "joined",
            Self::Direct => "direct",
        }
    }
}

/// All counts of a node.
#[derive(Debug, Default)]
pub struct Metrics {
    resources: Mutex<HashMap<Through, Arc<ResourceCounts>>>,
    /// What peers asked for that is not there.
    nowhere: ResourceCounts,
    links: Counts<{ LinkKind::ALL.len() }>,
    /// Handshakes, ok and failed.
    initiated: [Count; 2],
    responded: [Count; 2],
    /// Streams that went on over another path.
    pub resumes: Count,
}

impl Metrics {
    /// The counts of an inlet or outlet that is there.
    #[must_use]
    pub fn of(&self, through: Through) -> Arc<ResourceCounts> {
        Arc::clone(self.lock().entry(through).or_default())
    }

    /// A peer's open was refused: of the outlet `through`, or of one that is not there.
    pub fn refuse(&self, through: Option<Through>, why: Code) {
        match through {
            Some(through) => self.of(through).refuse(why),
            None => self.nowhere.refuse(why),
        }
    }

    pub fn link(&self, kind: LinkKind) {
        self.links.one(kind as usize);
    }

    pub fn handshake(&self, part: Part, ok: bool) {
        let counts = match part {
            Part::Initiator => &self.initiated,
            Part::Responder => &self.responded,
        };
        counts[usize::from(!ok)].one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Through, Arc<ResourceCounts>>> {
        self.resources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn resource_type(through: &Through) -> ResourceType {
    match through {
        Through::Inlet(_) => ResourceType::TcpInlet,
        Through::Outlet(_) => ResourceType::TcpOutlet,
    }
}

/// Adds everything of a node to `out`.
pub fn expose(shared: &Shared, out: &mut Exposition) {
    expose_resources(shared, out);
    let (status, metrics) = (super::status::status(shared), &shared.metrics);
    out.put(&STREAMS, &[], status.streams as u64);
    out.put(&RESUMED, &[], metrics.resumes.get());
    for inlet in &status.inlets {
        out.put(&INLET_UP, &[inlet.spec.alias.as_str()], u64::from(inlet.failure.is_none()));
    }
    for relay in &status.relays {
        out.put(&NAME_UP, &[relay.spec.name.as_str()], u64::from(relay.state == RelayState::Up));
    }
    let relays = shared.relays.all();
    for relay in &relays {
        out.put(&RELAY_CONNECTED, &[&relay.address().to_string()], u64::from(relay.is_up()));
    }
    if shared.membership.borrow().is_some() {
        out.put(&AUTHORITY_CONNECTED, &[], u64::from(status.authority_trouble.is_none()));
        out.put(&AUDIT_FAULT, &[], u64::from(status.audit_fault.is_some()));
    }
    out.put(&LINES_LOST, &[], shared.stream_log.lost());
    out.put(&LINES_NOT_SENT, &[], shared.stream_log.not_sent());
    if let Some(expires) = status.credential_expires {
        out.put(&EXPIRES, &[], expires.as_unix());
    }
    for (kind, count) in LinkKind::ALL.into_iter().zip(metrics.links.iter()) {
        out.put(&LINKS, &[kind.as_str()], count);
    }
    out.put(&PARKED, &[], relays.iter().map(|relay| relay.parked() as u64).sum());
    let (channels, idle) = shared.peers.counts();
    out.put(&CHANNELS, &[], channels as u64);
    out.put(&IDLE, &[], idle as u64);
    for (part, counts) in [("initiator", &metrics.initiated), ("responder", &metrics.responded)] {
        for (result, count) in ["ok", "failed"].into_iter().zip(counts) {
            out.put(&HANDSHAKES, &[part, result], count.get());
        }
    }
}

/// Of each inlet and outlet that is there now; what was counted of others is forgotten.
fn expose_resources(shared: &Shared, out: &mut Exposition) {
    let inlets = shared.inlets().keys().cloned().map(Through::Inlet).collect::<Vec<_>>();
    let outlets = shared.outlets().keys().cloned().map(Through::Outlet).collect::<Vec<_>>();
    let present: Vec<Through> = inlets.into_iter().chain(outlets).collect();
    shared.metrics.lock().retain(|through, _| present.contains(through));
    for through in present {
        let counts = shared.metrics.of(through.clone());
        let kind = resource_type(&through).to_string();
        let labels = [kind.as_str(), through.name()];
        // Closed before opened: what ends meanwhile must not make more closed ones than opened ones.
        for (cause, count) in Cause::ALL.into_iter().zip(counts.closed.iter()) {
            out.put(&CLOSED, &[labels[0], labels[1], cause.as_str()], count);
        }
        out.put(&OPENED, &labels, counts.opened.get());
        out.put(&SENT, &labels, counts.sent.get());
        out.put(&RECEIVED, &labels, counts.received.get());
        expose_refusals(&counts, labels, out);
    }
    expose_refusals(&shared.metrics.nowhere, ["tcp-outlet", ""], out);
}

/// There are many codes: those that were not given yet are left out.
fn expose_refusals(counts: &ResourceCounts, [kind, name]: [&str; 2], out: &mut Exposition) {
    for (code, count) in code::ALL.iter().zip(counts.refused.iter()).filter(|(_, count)| *count > 0) {
        out.put(&REFUSED, &[kind, name, code.as_str()], count);
    }
}
