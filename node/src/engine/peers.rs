//! Finding peers and keeping one channel to each: inlets with the same peer share it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::channel::Side as Part;
use postern_proto::id::{ChannelId, Identifier, InstanceId, NodeId};
use postern_proto::spec::PeerRoute;
use postern_proto::weight::Weight;
use tokio::net::TcpStream;
use tracing::{debug, info};

use super::channel::{self, Channel, ChannelError};
use super::code;
use super::failure::{Failure, Step};
use super::link::Link;
use super::metrics::LinkKind;
use super::relays::{Gone, Patience};
use super::shared::Shared;
use super::target::NodeKey;
use super::trust::PublishedPeer;

/// How long a new connection waits for the credential of a node that was just made.
const FIRST_CREDENTIAL: Duration = Duration::from_secs(3);

/// A run of a peer's node.
type PeerKey = (Identifier, NodeId, InstanceId);

/// Most channels that one identity may have made to this node: its nodes, each with the channel of this hour and of the last. A
/// further one takes the place of the oldest, whose live streams go on.
const MAX_CHANNELS_OF_PEER: usize = 256;

/// How paths to a peer are made.
#[derive(Clone)]
enum Way {
    /// Through any relay at which it is registered.
    Relay {
        identifier: Identifier,
        instance: InstanceId,
    },
    Direct {
        address: HostPort,
    },
}

/// A node that may be a route's peer.
#[derive(Debug, Clone)]
pub enum Candidate {
    /// A run of a node that is registered under the route's relay name, with the share that it asks for.
    Registered(PublishedPeer, Weight),
    /// Whoever listens there; where it is a node of this home, that run of it.
    Direct { address: HostPort, expected: Option<(NodeId, InstanceId)> },
}

impl Candidate {
    #[must_use]
    pub const fn key(&self) -> NodeKey {
        match self {
            Self::Registered(peer, _) => Some((peer.identifier, peer.instance)),
            Self::Direct { .. } => None,
        }
    }

    #[must_use]
    pub const fn weight(&self) -> Weight {
        match self {
            Self::Registered(_, weight) => *weight,
            Self::Direct { .. } => Weight::ONE,
        }
    }
}

/// The channel to one run of a peer's node, if there is one. The lock is held while it is dialled, so that each peer is dialled
/// once and all who want it wait for the same channel.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Channel>>>>;

/// All channels of a node.
#[derive(Default)]
pub struct Peers {
    /// Channels that this node dialled, by peer.
    dialled: Mutex<HashMap<PeerKey, Slot>>,
    /// How further paths are made for the channels that this node dialled.
    ways: Mutex<HashMap<ChannelId, (Way, Arc<Channel>)>>,
    /// Channels on which peers may open streams.
    accepted: Mutex<HashMap<ChannelId, Arc<Channel>>>,
}

impl Peers {
    /// A peer made a channel to this node.
    pub fn accepted(&self, channel: Arc<Channel>) {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = || accepted.values().filter(|other| other.peer() == channel.peer());
        if of_peer().count() >= MAX_CHANNELS_OF_PEER
            && let Some(oldest) = of_peer().min_by_key(|other| other.created()).map(|oldest| oldest.id())
            && let Some(oldest) = accepted.remove(&oldest)
        {
            debug!(peer = %channel.peer(), channel = %oldest.id(), "a peer makes too many channels: its oldest is closed");
            oldest.close();
        }
        accepted.insert(channel.id(), channel);
    }

    /// A channel's control stream has ended. Streams that its peer has opened already go on.
    pub fn forget(&self, channel: &Channel) {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).remove(&channel.id());
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, slot| {
            // A slot that is locked is being dialled anew.
            slot.try_lock().map_or(true, |slot| slot.as_ref().is_some_and(|dialled| dialled.id() != channel.id()))
        });
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).remove(&channel.id());
    }

    /// Channels, and the paths of theirs that wait for a stream.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner).len();
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        (accepted + ways.len(), ways.values().map(|(_, channel)| channel.idle_paths()).sum())
    }

    /// All channels, by whichever side made them.
    #[must_use]
    pub fn channels(&self) -> Vec<Arc<Channel>> {
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.values().chain(ways.values().map(|(_, channel)| channel)).cloned().collect()
    }

    /// Whether peers have channels to this node.
    #[must_use]
    pub fn has_accepted(&self) -> bool {
        !self.accepted.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The channel that a peer names in an open.
    #[must_use]
    pub fn by_id(&self, id: ChannelId) -> Option<Arc<Channel>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The nodes that may be the peer of `route`; those in `gone` are passed over. Waits for an answer of the
    /// relays where one is about to come.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn candidates(
        &self,
        shared: &Arc<Shared>,
        route: &PeerRoute,
        gone: &Gone,
        patience: &mut Patience,
    ) -> Result<Vec<Candidate>, Failure> {
        first_credential(shared).await?;
        let name = match route {
            PeerRoute::Relay(name) => name,
            PeerRoute::Address(address) => return Ok(vec![Candidate::Direct { address: address.clone(), expected: None }]),
            PeerRoute::Node(node) => {
                let presence = shared.presence_of(node)?;
                let expected = Some((presence.node_id, presence.instance));
                return Ok(vec![Candidate::Direct { address: presence.address, expected }]);
            }
        };
        let mut candidates = Vec::new();
        let mut failure = None;
        for instance in shared.relays.instances(shared, name, gone, patience).await? {
            match shared.trust.verify_published(&instance, Some(name)) {
                Ok(peer) => candidates.push(Candidate::Registered(peer, instance.weight.unwrap_or_default())),
                Err(error) => {
                    let reason = format!("the relay named a node that is not to be believed: {error}");
                    failure = Some(Failure::new(Step::Peer, error.code(), reason));
                }
            }
        }
        if candidates.is_empty() {
            return Err(failure.unwrap_or_else(|| {
                Failure::new(Step::Peer, code::NO_PEER, format!("no node is registered under the relay name `{name}` now"))
            }));
        }
        Ok(candidates)
    }

    /// A channel to that node: the one that is there, or a new one.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn channel(&self, shared: &Arc<Shared>, candidate: &Candidate) -> Result<Arc<Channel>, Failure> {
        match candidate {
            Candidate::Registered(peer, _) => {
                let way = Way::Relay { identifier: peer.identifier, instance: peer.instance };
                self.channel_by(shared, peer, way).await
            }
            Candidate::Direct { address, expected } => self.directly(shared, address.clone(), *expected).await,
        }
    }

    async fn directly(
        &self,
        shared: &Arc<Shared>,
        address: HostPort,
        expected: Option<(NodeId, InstanceId)>,
    ) -> Result<Arc<Channel>, Failure> {
        // A channel that stands needs no question who is there.
        let way = Way::Direct { address: address.clone() };
        if let Some(channel) = self.standing(&address, expected) {
            return Ok(channel);
        }
        let (socket, peer) = shared.direct.dial(&shared.trust, &address).await?;
        shared.metrics.link(LinkKind::Direct);
        if expected.is_some_and(|expected| expected != (peer.node_id, peer.instance)) {
            return Err(Failure::new(Step::Peer, code::OTHER_NODE, format!("another node answers at {address}")));
        }
        let slot = self.slot(&peer);
        let mut slot = slot.lock().await;
        self.fill(shared, &mut slot, &peer, way, Some(socket)).await
    }

    fn standing(&self, address: &HostPort, expected: Option<(NodeId, InstanceId)>) -> Option<Arc<Channel>> {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |way: &Way, channel: &Channel| {
            matches!(way, Way::Direct { address: other } if other == address)
                && channel.is_fresh()
                && expected.is_none_or(|expected| expected == channel.peer_instance())
        };
        ways.values().find(|(way, channel)| same(way, channel)).map(|(_, channel)| Arc::clone(channel))
    }

    fn slot(&self, peer: &PublishedPeer) -> Slot {
        let key = (peer.identifier, peer.node_id, peer.instance);
        Arc::clone(self.dialled.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
    }

    async fn channel_by(&self, shared: &Arc<Shared>, peer: &PublishedPeer, way: Way) -> Result<Arc<Channel>, Failure> {
        let slot = self.slot(peer);
        // The handshake's own deadlines bound how long others wait here.
        let mut slot = slot.lock().await;
        self.fill(shared, &mut slot, peer, way, None).await
    }

    async fn fill(
        &self,
        shared: &Arc<Shared>,
        slot: &mut Option<Arc<Channel>>,
        peer: &PublishedPeer,
        way: Way,
        socket: Option<TcpStream>,
    ) -> Result<Arc<Channel>, Failure> {
        if let Some(channel) = slot.as_ref().filter(|channel| channel.is_fresh()) {
            return Ok(Arc::clone(channel));
        }
        let socket = match socket {
            Some(socket) => socket,
            None => path_by(shared, &way).await?.socket,
        };
        let made = channel::dial(&shared.trust, peer, Link::new(socket), matches!(way, Way::Relay { .. })).await;
        shared.metrics.handshake(Part::Initiator, made.is_ok());
        let (channel, control) = made.map_err(|error| channel_failure(&error))?;
        info!(peer = %channel.peer(), channel = %channel.id(), "made a channel to a peer");
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).insert(channel.id(), (way, Arc::clone(&channel)));
        if let Some(old) = slot.replace(Arc::clone(&channel)) {
            debug!(channel = %old.id(), "a newer channel takes its place");
        }
        let (shared_too, running) = (Arc::clone(shared), Arc::clone(&channel));
        shared.spawn("channel control", async move { shared_too.run_control(running, control).await });
        Ok(channel)
    }

    /// A fresh path to the peer of a channel that this node dialled, through any relay at which that run of the peer's node is registered.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn path(&self, shared: &Arc<Shared>, channel: &Channel) -> Result<Link, Failure> {
        let way = self.ways.lock().unwrap_or_else(PoisonError::into_inner).get(&channel.id()).map(|(way, _)| way.clone());
        let way =
            way.ok_or_else(|| Failure::new(Step::Channel, code::CLOSED, "the channel to the peer was closed; try again"))?;
        match &way {
            Way::Relay { .. } => path_by(shared, &way).await,
            Way::Direct { address } => {
                let (socket, peer) = shared.direct.dial(&shared.trust, address).await?;
                shared.metrics.link(LinkKind::Direct);
                if (peer.node_id, peer.instance) != channel.peer_instance() {
                    // The run that this channel belongs to is gone; its successor needs another one.
                    channel.close();
                    return Err(Failure::new(Step::Peer, code::OTHER_NODE, format!("another node answers at {address}")));
                }
                Ok(Link::new(socket))
            }
        }
    }
}

/// Waits for this node's first credential where it is about to come, and not where it is known why there is none.
async fn first_credential(shared: &Shared) -> Result<(), Failure> {
    if shared.is_revoked() {
        let reason = "this node's identity is no member of the project any more: it was revoked or deleted";
        return Err(Failure::new(Step::Credential, code::NOT_A_MEMBER, reason));
    }
    let mut ticks = shared.ticks.subscribe();
    let wait = async {
        while shared.trust.own().is_none() && shared.authority_trouble().is_none() {
            // The sender is a part of `shared`.
            let _ = ticks.changed().await;
        }
    };
    // Late or not, what counts is whether it is there now.
    let _ = tokio::time::timeout(FIRST_CREDENTIAL, wait).await;
    match shared.trust.own() {
        Some(_) => Ok(()),
        None => Err(Failure::new(Step::Credential, code::NO_CREDENTIAL, shared.why_no_credential())),
    }
}

async fn path_by(shared: &Arc<Shared>, way: &Way) -> Result<Link, Failure> {
    let (kind, socket) = match way {
        Way::Relay { identifier, instance } => (LinkKind::Joined, shared.relays.join(*identifier, *instance).await?),
        Way::Direct { address } => (LinkKind::Direct, shared.direct.dial(&shared.trust, address).await?.0),
    };
    shared.metrics.link(kind);
    Ok(Link::new(socket))
}

fn channel_failure(error: &ChannelError) -> Failure {
    let code = match error {
        ChannelError::NoCredential => code::NO_CREDENTIAL,
        ChannelError::Trust(error) => error.code(),
        ChannelError::Mispaired { .. } | ChannelError::OtherRun(_) | ChannelError::NotAskedFor => code::MISPAIRED,
        ChannelError::Handshake(_) => code::HANDSHAKE,
        ChannelError::Link(_)
        | ChannelError::Unexpected
        | ChannelError::Stream(_)
        | ChannelError::Message(_)
        | ChannelError::TooManyMessages
        | ChannelError::Closed => code::PATH_LOST,
    };
    Failure::new(Step::Channel, code, format!("no channel to the peer's node: {error}"))
}
