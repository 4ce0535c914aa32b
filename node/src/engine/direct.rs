//! Paths without a relay: a node that listens itself, and nodes of one home.
//!
//! The dialler shows its `relay` credential behind the preface, so that a stranger who only knocks learns nothing; the listener
//! answers with its own, which names the static key that the channel's handshake must prove. Then path frames follow, as on a
//! joined link. Specified in `docs/protocol/links.md`.

use std::sync::Arc;
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::link::Instance;
use postern_proto::preface::Service;
use postern_runtime::net::{Acceptor, DialError, HalfOpen, SocketKind, dial, read_preface};
use postern_runtime::workers::adopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::code;
use super::failure::{Failure, Step};
use super::metrics::LinkKind;
use super::serve::{Path, serve_path};
use super::shared::Shared;
use super::trust::{PublishedPeer, Trust};

/// How long the exchange of credentials may take, on either side.
const KNOCK_DEADLINE: Duration = Duration::from_secs(5);

/// Dials peers that listen themselves.
#[derive(Debug, Default)]
pub struct Direct;

impl Direct {
    /// A path to the node that listens at `address`, and who it says that it is: its credential is verified, its key not proven yet.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn dial(&self, trust: &Trust, address: &HostPort) -> Result<(TcpStream, PublishedPeer), Failure> {
        let unreached = |error: &dyn std::fmt::Display| {
            Failure::new(Step::Peer, code::UNREACHABLE, format!("the peer's node at {address} cannot be reached: {error}"))
        };
        let mut socket = dial(address, SocketKind::Link, KNOCK_DEADLINE).await.map_err(|error| match error {
            DialError::Refused { .. } => {
                Failure::new(Step::Peer, code::NOT_LISTENING, format!("no node listens at {address}: {error}"))
            }
            error => unreached(&error),
        })?;
        let knock = own_instance(trust)
            .ok_or_else(|| Failure::new(Step::Credential, code::NO_CREDENTIAL, "this node has no credential yet"))?;
        let mut out = Service::Peer.preface().to_vec();
        out.extend(knock.knock());
        let exchange = async {
            socket.write_all(&out).await?;
            read_instance(&mut socket).await
        };
        let answer = match tokio::time::timeout(KNOCK_DEADLINE, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                return Err(Failure::new(
                    Step::Peer,
                    code::REFUSED,
                    format!(
                        "the node at {address} did not answer this node's credential (it may belong to another project or home): {error}"
                    ),
                ));
            }
            Err(_) => return Err(unreached(&"no answer in time")),
        };
        let peer = trust.verify_published(&answer, None).map_err(|error| {
            Failure::new(Step::Peer, code::CREDENTIAL, format!("the node at {address} is not to be believed: {error}"))
        })?;
        Ok((socket, peer))
    }
}

fn own_instance(trust: &Trust) -> Option<Instance> {
    let own = trust.own()?;
    Some(Instance {
        identifier: trust.identifier,
        node_id: trust.node_id,
        instance: trust.instance,
        credential: own.relay.bytes().to_vec(),
        weight: None,
    })
}

async fn read_instance(socket: &mut TcpStream) -> std::io::Result<Instance> {
    let mut first = [0; 2];
    socket.read_exact(&mut first).await?;
    let length = Instance::knock_length(first).ok_or(std::io::ErrorKind::InvalidData)?;
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await?;
    Instance::of_knock(&body).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// Takes paths from peers until the node stops.
pub async fn listen(shared: Arc<Shared>, acceptor: Acceptor, stop: CancellationToken) {
    let mut acceptor = match acceptor.adopted() {
        Ok(acceptor) => acceptor,
        Err(error) => return error!(%error, "the listener for peers cannot accept connections"),
    };
    // Without credentials there is nothing to answer a knock with, nor to judge it by; until then knocks wait in the kernel's queue.
    let mut own = shared.trust.watch_own();
    tokio::select! {
        () = stop.cancelled() => return,
        // The sender is a part of `shared`.
        _ = own.wait_for(Option::is_some) => {}
    }
    let half_open = Arc::new(HalfOpen::new(MAX_HALF_OPEN, MAX_HALF_OPEN_PER_SOURCE));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = acceptor.accept() => accepted,
        };
        let (shared_too, half_open) = (Arc::clone(&shared), Arc::clone(&half_open));
        let worker = shared.workers.next();
        let load = shared.workers.begin_on(worker);
        shared.spawn_waiting(Some(worker), "direct path", async move {
            // A socket that no reactor takes is closed, which its peer sees.
            let Ok(mut socket) = adopt(accepted.stream, accepted.home) else { return };
            let guard = half_open.enter(accepted.peer.ip());
            let knock = answer_knock(&shared_too.trust, &mut socket);
            // In an allocation of its own: the path holds nothing of it afterwards.
            let knock = Box::pin(guard.run(tokio::time::timeout(KNOCK_DEADLINE, knock))).await;
            drop((guard, load));
            match knock {
                Ok(Ok(Some(()))) => {
                    shared_too.metrics.link(LinkKind::Direct);
                    return serve_path(shared_too, Path::new(socket, None, Some(accepted.permit))).await;
                }
                Ok(Ok(None)) => {
                    debug!(peer = %accepted.peer, "a knock without a credential of this domain; closed without an answer")
                }
                Ok(Err(_)) | Err(_) => debug!(peer = %accepted.peer, "a knock that was not finished"),
            }
            drop(accepted.permit);
        });
    }
}

/// Half-open direct paths that are held at once; each is a socket and at most 4 KiB.
const MAX_HALF_OPEN: usize = 256;

/// Of which one source may have so many.
const MAX_HALF_OPEN_PER_SOURCE: usize = 64;

async fn answer_knock(trust: &Trust, socket: &mut TcpStream) -> Option<()> {
    if read_preface(socket).await.ok()? != Service::Peer {
        return None;
    }
    let knock = read_instance(socket).await.ok()?;
    trust.verify_published(&knock, None).ok()?;
    socket.write_all(&own_instance(trust)?.knock()).await.ok()
}
