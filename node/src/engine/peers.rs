//! Finding peers and keeping one channel to each: inlets with the same peer share it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use postern_proto::address::HostPort;
use postern_proto::id::{ChannelId, Identifier, InstanceId, NodeId};
use postern_proto::name::RelayName;
use postern_proto::spec::PeerRoute;
use tokio::net::TcpStream;
use tracing::{debug, info};

use super::channel::{self, Channel, ChannelError};
use super::failure::{Failure, Step};
use super::link::Link;
use super::relay_link::RelayLink;
use super::shared::Shared;
use super::trust::PublishedPeer;

/// A run of a peer's node.
type PeerKey = (Identifier, NodeId, InstanceId);

/// How paths to a peer are made.
#[derive(Clone)]
enum Way {
    Relay { link: Arc<RelayLink>, identifier: Identifier, instance: InstanceId },
    Direct { address: HostPort },
}

struct Dialled {
    channel: Arc<Channel>,
    way: Way,
}

/// All channels of a node.
#[derive(Default)]
pub struct Peers {
    /// Channels that this node dialled, by peer. The lock is held while one is dialled, so that each peer is dialled once.
    dialled: Mutex<HashMap<PeerKey, Arc<tokio::sync::Mutex<Option<Dialled>>>>>,
    /// Channels on which peers may open streams.
    accepted: Mutex<HashMap<ChannelId, Arc<Channel>>>,
    turn: AtomicUsize,
}

impl Peers {
    /// A peer made a channel to this node.
    pub fn accepted(&self, channel: Arc<Channel>) {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.insert(channel.id(), channel);
    }

    /// A channel's control stream has ended. Streams that its peer has opened already go on.
    pub fn forget(&self, channel: &Channel) {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).remove(&channel.id());
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, slot| {
            // A slot that is locked is being dialled anew.
            slot.try_lock().map_or(true, |slot| slot.as_ref().is_none_or(|dialled| dialled.channel.id() != channel.id()))
        });
    }

    /// The channel that a peer names in an open.
    #[must_use]
    pub fn by_id(&self, id: ChannelId) -> Option<Arc<Channel>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// A channel to the peer of `route`: the one that is there, or a new one.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn channel(&self, shared: &Arc<Shared>, route: &PeerRoute) -> Result<Arc<Channel>, Failure> {
        if shared.trust.own().is_none() {
            return Err(Failure::new(Step::Credential, "NO_CREDENTIAL", shared.why_no_credential()));
        }
        match route {
            PeerRoute::Relay(name) => self.through_relay(shared, name).await,
            PeerRoute::Address(address) => self.directly(shared, address.clone(), None).await,
            PeerRoute::Node(node) => {
                let presence = shared.presence_of(node)?;
                self.directly(shared, presence.address, Some((presence.node_id, presence.instance))).await
            }
        }
    }

    async fn through_relay(&self, shared: &Arc<Shared>, name: &RelayName) -> Result<Arc<Channel>, Failure> {
        let mut found = shared.relays.instances(name).await?;
        // Instances take turns; one that fails is passed over for the next.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % found.len().max(1);
        found.rotate_left(turn);
        let mut last = None;
        for (link, instance) in found {
            let peer = match shared.trust.verify_published(&instance, Some(name)) {
                Ok(peer) => peer,
                Err(error) => {
                    last = Some(Failure::new(
                        Step::Peer,
                        "CREDENTIAL",
                        format!("the relay named a node that is not to be believed: {error}"),
                    ));
                    continue;
                }
            };
            let way = Way::Relay { link, identifier: peer.identifier, instance: peer.instance };
            match self.channel_by(shared, &peer, way).await {
                Ok(channel) => return Ok(channel),
                Err(failure) => last = Some(failure),
            }
        }
        Err(last.unwrap_or_else(|| {
            Failure::new(Step::Peer, "NO_PEER", format!("no node is registered under the relay name `{name}` now"))
        }))
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
        if expected.is_some_and(|expected| expected != (peer.node_id, peer.instance)) {
            return Err(Failure::new(Step::Peer, "OTHER_NODE", format!("another node answers at {address}")));
        }
        let slot = self.slot(&peer);
        let mut slot = slot.lock().await;
        self.fill(shared, &mut slot, &peer, way, Some(socket)).await
    }

    fn standing(&self, address: &HostPort, expected: Option<(NodeId, InstanceId)>) -> Option<Arc<Channel>> {
        let slots: Vec<_> = self.dialled.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        slots.iter().find_map(|slot| {
            let slot = slot.try_lock().ok()?;
            let dialled = slot.as_ref()?;
            let same = matches!(&dialled.way, Way::Direct { address: other } if other == address)
                && dialled.channel.is_fresh()
                && expected.is_none_or(|expected| expected == dialled.channel.peer_instance());
            same.then(|| Arc::clone(&dialled.channel))
        })
    }

    fn slot(&self, peer: &PublishedPeer) -> Arc<tokio::sync::Mutex<Option<Dialled>>> {
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
        slot: &mut Option<Dialled>,
        peer: &PublishedPeer,
        way: Way,
        socket: Option<TcpStream>,
    ) -> Result<Arc<Channel>, Failure> {
        if let Some(dialled) = slot.as_ref().filter(|dialled| dialled.channel.is_fresh()) {
            return Ok(Arc::clone(&dialled.channel));
        }
        let socket = match socket {
            Some(socket) => socket,
            None => path_by(shared, &way).await?.socket,
        };
        let (channel, control) =
            channel::dial(&shared.trust, peer, Link::new(socket)).await.map_err(|error| channel_failure(&error))?;
        info!(peer = %channel.peer(), channel = %channel.id(), "made a channel to a peer");
        if let Some(old) = slot.replace(Dialled { channel: Arc::clone(&channel), way }) {
            debug!(channel = %old.channel.id(), "a newer channel takes its place");
        }
        let (shared_too, running) = (Arc::clone(shared), Arc::clone(&channel));
        shared.spawn("channel control", async move { shared_too.run_control(running, control).await });
        Ok(channel)
    }

    /// A fresh path to the peer of a channel that this node dialled.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn path(&self, shared: &Arc<Shared>, channel: &Channel) -> Result<Link, Failure> {
        let slots: Vec<_> = self.dialled.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let mut way = None;
        for slot in slots {
            if let Some(dialled) = slot.lock().await.as_ref()
                && dialled.channel.id() == channel.id()
            {
                way = Some(dialled.way.clone());
            }
        }
        let way = way.ok_or_else(|| Failure::new(Step::Channel, "CLOSED", "the channel to the peer was closed; try again"))?;
        let link = path_by(shared, &way).await;
        if link.as_ref().is_err_and(|failure| failure.code == "NOT_CONNECTED") {
            // The run that this channel belongs to is gone; its successor needs another one.
            channel.close();
        }
        link
    }
}

async fn path_by(shared: &Arc<Shared>, way: &Way) -> Result<Link, Failure> {
    match way {
        Way::Relay { link, identifier, instance } => link.join(*identifier, *instance).await.map(Link::new),
        Way::Direct { address } => shared.direct.dial(&shared.trust, address).await.map(|(socket, _)| Link::new(socket)),
    }
}

fn channel_failure(error: &ChannelError) -> Failure {
    let code = match error {
        ChannelError::NoCredential => "NO_CREDENTIAL",
        ChannelError::Trust(_) => "CREDENTIAL",
        ChannelError::Mispaired { .. } => "MISPAIRED",
        ChannelError::Handshake(_) => "HANDSHAKE",
        ChannelError::Link(_)
        | ChannelError::Unexpected
        | ChannelError::Stream(_)
        | ChannelError::Message(_)
        | ChannelError::Closed => "PATH_LOST",
    };
    Failure::new(Step::Channel, code, format!("no channel to the peer's node: {error}"))
}
