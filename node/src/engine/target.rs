//! The outlets that an inlet leads to: which of them a connection goes to, and to which node. Those that fail are passed over, and asked
//! again in the background until they work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_proto::id::{Identifier, InstanceId};
use postern_proto::name::{OutletName, RelayName};
use postern_proto::spec::{Destinations, PeerRoute, Share};
use postern_proto::weight::Weight;
use tokio::time::Instant;
use tracing::{debug, info};

use super::balance::{Balance, Rule};
use super::channel::Channel;
use super::code;
use super::failure::{Failure, Step};
use super::inlet::{Inlet, ask, judge};
use super::link::Prepared;
use super::peers::Candidate;
use super::relay_link::lock;
use super::relays::{Gone, Patience};
use super::shared::Shared;

/// A run of a node; `None` for whoever is reached directly, who is one.
pub type NodeKey = Option<(Identifier, InstanceId)>;

/// The outlets of an inlet.
pub struct Targets {
    all: Vec<Arc<Target>>,
    turns: Mutex<Balance<usize>>,
}

/// One of them.
pub struct Target {
    place: usize,
    pub share: Share,
    nodes: Mutex<Balance<NodeKey>>,
    connections: AtomicU64,
}

/// How an outlet of an inlet is, and what it got.
#[derive(Debug, Clone)]
pub struct ShareStatus {
    pub share: Share,
    /// Connections that went there since the inlet was made.
    pub connections: u64,
    /// Those of them that are open.
    pub open: u32,
    pub failing: bool,
}

/// A way to an outlet for one stream.
pub struct Opened {
    pub channel: Arc<Channel>,
    pub link: Prepared,
    pub picked: Picked,
}

/// An outlet of an inlet, at a node.
pub type Place = (usize, NodeKey);

/// The node and outlet that a connection went to; counted as long as this lives.
pub struct Picked {
    pub target: Arc<Target>,
    node: NodeKey,
    /// Other nodes could have been taken.
    others: bool,
}

impl Targets {
    #[must_use]
    pub fn new(destinations: &Destinations) -> Self {
        let target = |(place, share): (usize, &Share)| {
            let nodes = Mutex::new(Balance::new(Rule::FewestStreams));
            Arc::new(Target { place, share: share.clone(), nodes, connections: AtomicU64::new(0) })
        };
        let all = destinations.shares().iter().enumerate().map(target).collect();
        Self { all, turns: Mutex::new(Balance::new(Rule::Shares)) }
    }

    #[must_use]
    pub fn status(&self) -> Vec<ShareStatus> {
        let (now, turns) = (Instant::now(), lock(&self.turns));
        let status = |target: &Arc<Target>| ShareStatus {
            share: target.share.clone(),
            connections: target.connections.load(Ordering::Relaxed),
            open: lock(&target.nodes).live(),
            failing: turns.is_failing(&target.place, now),
        };
        self.all.iter().map(status).collect()
    }

    /// The relay names under which the outlets' nodes are found.
    pub fn relay_names(&self) -> impl Iterator<Item = &RelayName> {
        self.all.iter().filter_map(|target| match &target.share.to.peer {
            PeerRoute::Relay(name) => Some(name),
            PeerRoute::Node(_) | PeerRoute::Address(_) => None,
        })
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The outlets in the order to try for one more connection.
    fn turn(&self) -> Vec<Arc<Target>> {
        let weights: Vec<(usize, Weight)> = self.all.iter().map(|target| (target.place, target.share.weight)).collect();
        let order = lock(&self.turns).turn(&weights, Instant::now());
        order.into_iter().filter_map(|place| self.all.get(place).cloned()).collect()
    }
}

/// Finds an outlet and a node that has it, a channel, this node's decision, and a path. What fails is passed over for the next; where all
/// nodes have just gone, their return is waited for, but not long.
///
/// # Errors
/// The step that failed, at the outlet whose turn it was.
pub async fn open(shared: &Arc<Shared>, inlet: &Arc<Inlet>) -> Result<Opened, Failure> {
    let order = inlet.targets.turn();
    let several = order.len() > 1;
    let mut first = None;
    let mut patience = Patience::default();
    // Nobody waits for the return of one outlet's nodes while another one is there.
    for returns in if several { &[false, true][..] } else { &[true][..] } {
        patience.returns = *returns;
        for target in &order {
            match target.open(shared, inlet, &mut patience).await {
                Ok(opened) => return Ok(opened),
                Err(failure) => {
                    if several {
                        target.failed(shared, inlet, Part::Whole);
                    }
                    first.get_or_insert(failure);
                }
            }
        }
    }
    Err(first.unwrap_or_else(|| Failure::new(Step::Peer, code::NO_PEER, "there is no outlet to try")))
}

/// What of a target fails.
#[derive(Debug, Clone, Copy)]
enum Part {
    Node(NodeKey),
    Whole,
}

impl Part {
    /// The member whose node it is, where it is one node that relays know.
    fn node(self) -> Option<impl tracing::Value> {
        match self {
            Self::Node(Some((identifier, _))) => Some(tracing::field::display(identifier)),
            Self::Node(None) | Self::Whole => None,
        }
    }
}

impl Target {
    async fn open(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        inlet: &Arc<Inlet>,
        patience: &mut Patience,
    ) -> Result<Opened, Failure> {
        let mut gone = Gone::default();
        let mut last = None;
        loop {
            let candidates = match shared.peers.candidates(shared, &self.share.to.peer, &gone, patience).await {
                Ok(candidates) => candidates,
                Err(failure) => return Err(last.unwrap_or(failure)),
            };
            let keys: Vec<(NodeKey, Weight)> = candidates.iter().map(|one| (one.key(), one.weight())).collect();
            let order = lock(&self.nodes).turn(&keys, Instant::now());
            let others = candidates.len() > 1;
            let mut again = false;
            for candidate in order.into_iter().filter_map(|place| candidates.get(place)) {
                match reach(shared, inlet, self, candidate).await {
                    Ok((channel, link)) => {
                        let picked = Picked::new(Arc::clone(self), candidate.key(), others);
                        return Ok(Opened { channel, link, picked });
                    }
                    Err(failure) => {
                        match candidate.key() {
                            Some((identifier, instance))
                                if failure.code == code::NOT_CONNECTED || failure.code == code::NO_LINK =>
                            {
                                gone.add(identifier, instance);
                                again = true;
                            }
                            node if others => self.failed(shared, inlet, Part::Node(node)),
                            _ => {}
                        }
                        last = Some(failure);
                    }
                }
            }
            if !again {
                return Err(last.unwrap_or_else(|| Failure::new(Step::Peer, code::NO_PEER, "there is no node to try")));
            }
        }
    }

    /// It did not serve: others are preferred, until it answers a probe.
    fn failed(self: &Arc<Self>, shared: &Arc<Shared>, inlet: &Arc<Inlet>, part: Part) {
        let now = Instant::now();
        let delay = match part {
            Part::Node(node) => lock(&self.nodes).failed(&node, now),
            Part::Whole => lock(&inlet.targets.turns).failed(&self.place, now),
        };
        if let Some(delay) = delay {
            info!(inlet = %inlet.spec.alias, to = %self.share.to, at = part.node(), "passed over until it works again");
            shared.spawn("probe of what failed", probe(Arc::clone(shared), Arc::clone(inlet), Arc::clone(self), part, delay));
        }
    }

    /// Asks whether a stream would be opened. `None`: there is nothing to ask any more.
    async fn works(&self, shared: &Arc<Shared>, inlet: &Inlet, part: Part) -> Option<Result<(), Failure>> {
        let mut candidates =
            match shared.peers.candidates(shared, &self.share.to.peer, &Gone::default(), &mut Patience::default()).await {
                Ok(candidates) => candidates,
                Err(failure) => return matches!(part, Part::Whole).then_some(Err(failure)),
            };
        if let Part::Node(node) = part {
            candidates.retain(|candidate| candidate.key() == node);
        }
        let mut last = None;
        for candidate in &candidates {
            let asked = match reach(shared, inlet, self, candidate).await {
                Ok((channel, link)) => ask(&self.share.to.outlet, &channel, link.take()).await,
                Err(failure) => Err(failure),
            };
            match asked {
                Ok(()) => {
                    // No connection is to meet one that fails before it.
                    lock(&self.nodes).served(&candidate.key());
                    return Some(Ok(()));
                }
                Err(failure) => last = Some(Err(failure)),
            }
        }
        last
    }
}

/// Asks what failed, in growing intervals, until it works, is gone, or the inlet is.
async fn probe(shared: Arc<Shared>, inlet: Arc<Inlet>, target: Arc<Target>, part: Part, mut delay: Duration) {
    loop {
        tokio::select! {
            () = inlet.stop.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
        let works = target.works(&shared, &inlet, part).await;
        let failed = match &works {
            Some(Ok(())) | None => false,
            Some(Err(failure)) => {
                debug!(inlet = %inlet.spec.alias, to = %target.share.to, reason = %failure, "it fails still");
                true
            }
        };
        let now = Instant::now();
        delay = match (part, failed) {
            (Part::Node(node), true) => lock(&target.nodes).fails_still(&node, now),
            (Part::Whole, true) => lock(&inlet.targets.turns).fails_still(&target.place, now),
            (Part::Node(node), false) => {
                if works.is_some() {
                    // A node that serves is enough for the outlet.
                    lock(&inlet.targets.turns).served(&target.place);
                }
                return lock(&target.nodes).probed(&node);
            }
            (Part::Whole, false) => return lock(&inlet.targets.turns).probed(&target.place),
        };
    }
}

/// A channel with one node, this node's decision about it, and a path to it.
async fn reach(
    shared: &Arc<Shared>,
    inlet: &Inlet,
    target: &Target,
    candidate: &Candidate,
) -> Result<(Arc<Channel>, Prepared), Failure> {
    let channel = shared.peers.channel(shared, candidate).await?;
    channel.settled().await;
    judge(shared, inlet, &channel, &target.share.to.outlet)?;
    let link = match channel.take_idle() {
        Some(link) => link,
        None => shared.peers.path(shared, &channel).await?,
    };
    Ok((channel, Prepared::new(link)))
}

impl Picked {
    fn new(target: Arc<Target>, node: NodeKey, others: bool) -> Self {
        lock(&target.nodes).began(&node);
        Self { target, node, others }
    }

    /// A connection of an application goes there.
    pub fn count(&self) {
        self.target.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// It did not stay there.
    pub fn uncount(&self) {
        self.target.connections.fetch_sub(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn outlet(&self) -> &OutletName {
        &self.target.share.to.outlet
    }

    #[must_use]
    pub fn place(&self) -> Place {
        (self.target.place, self.node)
    }

    /// The stream was not opened there: others are preferred from now on, and other outlets where it fails at all nodes. Returns whether there
    /// are any.
    pub fn failed(&self, shared: &Arc<Shared>, inlet: &Arc<Inlet>) -> bool {
        if self.others {
            self.target.failed(shared, inlet, Part::Node(self.node));
        }
        let several = inlet.targets.len() > 1;
        if several && (!self.others || lock(&self.target.nodes).all_fail(Instant::now())) {
            self.target.failed(shared, inlet, Part::Whole);
        }
        several || self.others
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        lock(&self.target.nodes).ended(&self.node);
    }
}
