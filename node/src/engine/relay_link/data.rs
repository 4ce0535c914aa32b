//! A relay's data links: those that this node dials to reach a peer, and those that it parks there for peers to be joined with.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postern_proto::channel::Side as Part;
use postern_proto::id::{Identifier, InstanceId};
use postern_proto::link::{Frame, LinkFrames, Refusal};
use postern_proto::preface::Service;
use postern_runtime::net::{SocketKind, dial};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::debug;

use super::super::code;
use super::super::failure::{Failure, Step};
use super::super::metrics::LinkKind;
use super::super::serve::{Path, serve_path};
use super::super::shared::Shared;
use super::{CONNECT_DEADLINE, RelayLink, Session, lock};

/// Links that wait at the relay while this node has a channel there.
pub(super) const PARKED_FLOOR: usize = 2;

/// Most links that wait at one relay.
const PARKED_MOST: usize = 64;

/// Parked links beyond the floor go away after so long without a join.
const PARKED_IDLE: Duration = Duration::from_secs(60);

/// Refuses a path to another run of a node than `wanted`; nothing was said on it.
fn asked_for(wanted: (Identifier, InstanceId), joined: (Identifier, InstanceId)) -> Result<(), Failure> {
    let reason = match joined {
        _ if joined == wanted => return Ok(()),
        (identifier, _) if identifier == wanted.0 => format!("the relay joined another run of a node of {identifier}"),
        (identifier, _) => format!("the relay joined {identifier}, and was asked for {}", wanted.0),
    };
    Err(Failure::new(Step::Channel, code::MISPAIRED, reason))
}

impl RelayLink {
    /// A path to that run of a peer's node.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn join(&self, identifier: Identifier, instance: InstanceId) -> Result<TcpStream, Failure> {
        let session = self.session()?;
        let lost = |error: &dyn std::fmt::Display| {
            Failure::new(Step::Relay, code::RELAY_LOST, format!("the relay at {} broke off a join: {error}", self.address()))
        };
        let join = async {
            let (mut socket, mut frames) = self.open_data_link(&session, &Frame::Join { identifier, instance }).await?;
            let mut sealed = [0; Frame::SEALED_LEN];
            socket.read_exact(&mut sealed).await.map_err(|error| lost(&error))?;
            match frames.open(sealed).map_err(|error| lost(&error))? {
                Frame::Joined { identifier: joined, instance: run } => {
                    asked_for((identifier, instance), (joined, run)).map(|()| socket)
                }
                Frame::Refused(refusal @ (Refusal::NotConnected | Refusal::NoLink)) => {
                    let code = if refusal == Refusal::NoLink { code::NO_LINK } else { code::NOT_CONNECTED };
                    Err(Failure::new(Step::Peer, code, format!("the peer's node is not there: {refusal}")))
                }
                Frame::Refused(refusal) => {
                    Err(Failure::new(Step::Relay, code::RELAY_REFUSED, format!("the relay refused: {refusal}")))
                }
                other => Err(lost(&format!("it answered {other:?}"))),
            }
        };
        let joined = tokio::time::timeout(CONNECT_DEADLINE, join).await.unwrap_or_else(|_| Err(lost(&"no answer in time")));
        // That a peer is not there is no fault of the relay's.
        let at_fault = joined.as_ref().is_err_and(|failure| failure.step == Step::Relay || failure.code == code::MISPAIRED);
        *lock(&self.failed) = at_fault.then(Instant::now);
        joined
    }

    async fn open_data_link(&self, session: &Session, first: &Frame) -> Result<(TcpStream, LinkFrames), Failure> {
        let address = &session.address;
        let lost = |error: &dyn std::fmt::Display| {
            Failure::new(Step::Relay, code::RELAY_DOWN, format!("the relay at {address} cannot be reached: {error}"))
        };
        let mut socket = dial(address, SocketKind::Link, CONNECT_DEADLINE).await.map_err(|error| lost(&error))?;
        let mut frames = LinkFrames::new(&session.link, session.counter.fetch_add(1, Ordering::Relaxed), Part::Initiator);
        let mut out = Service::RelayData.preface().to_vec();
        out.extend_from_slice(&frames.opening().encode());
        out.extend_from_slice(&frames.seal(first).map_err(|error| lost(&error))?);
        socket.write_all(&out).await.map_err(|error| lost(&error))?;
        Ok((socket, frames))
    }

    /// Parks one link, and serves it once it is joined.
    pub(in super::super) async fn park(self: Arc<Self>, shared: Arc<Shared>, session: Arc<Session>) {
        // What is over once the link is parked, and all of it once the link is joined, stands in allocations of its own.
        let parked = Box::pin(async {
            let (mut socket, mut frames) = Box::pin(self.open_data_link(&session, &Frame::Park)).await?;
            shared.metrics.link(LinkKind::Parked);
            let mut sealed = [0; Frame::SEALED_LEN];
            let surplus = session.parked.load(Ordering::Relaxed) > PARKED_FLOOR;
            let patience = if surplus { PARKED_IDLE } else { Duration::MAX };
            let read = tokio::time::timeout(patience, socket.read_exact(&mut sealed)).await;
            let lost = |what: &str| Failure::new(Step::Relay, code::PARKED_LINK, what.to_owned());
            read.map_err(|_| lost("nobody joined it"))?.map_err(|error| lost(&error.to_string()))?;
            match frames.open(sealed) {
                Ok(Frame::Joined { identifier, instance }) => Ok((socket, identifier, instance)),
                Ok(Frame::Refused(refusal)) => Err(lost(&refusal.to_string())),
                Ok(_) => Err(lost("an unexpected frame")),
                Err(error) => Err(lost(&error.to_string())),
            }
        });
        let joined = tokio::select! {
            () = session.ended.cancelled() => None,
            parked = parked => match parked {
                Ok(joined) => Some(joined),
                Err(failure) => {
                    debug!(relay = %self.address(), reason = %failure, "a parked link ended");
                    None
                }
            },
        };
        let left = session.parked.fetch_sub(1, Ordering::Relaxed) - 1;
        if let Some((socket, identifier, instance)) = joined {
            if left < PARKED_FLOOR {
                self.park_more(&shared, &session, PARKED_FLOOR - left);
            }
            serve_path(shared, Path::new(socket, Some((identifier, instance)), None)).await;
        }
    }

    pub(super) fn park_more(self: &Arc<Self>, shared: &Arc<Shared>, session: &Arc<Session>, count: usize) {
        for _ in 0..count {
            if session.parked.fetch_add(1, Ordering::Relaxed) >= PARKED_MOST {
                session.parked.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            shared.spawn_waiting(None, "parked link", Arc::clone(self).park(Arc::clone(shared), Arc::clone(session)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R3: a relay that says itself that it joined another node than it was asked for.
    #[test]
    fn only_who_was_asked_for_is_taken() {
        let [wanted, other] = [1, 2].map(|fill| Identifier::from_bytes([fill; 32]));
        let [run, later] = [InstanceId::from_bytes([3; 16]), InstanceId::from_bytes([4; 16])];
        assert_eq!(asked_for((wanted, run), (wanted, run)), Ok(()));
        for (joined, says) in [((other, run), other), ((other, later), other), ((wanted, later), wanted)] {
            let refused = asked_for((wanted, run), joined).unwrap_err();
            assert_eq!((refused.step, refused.code), (Step::Channel, code::MISPAIRED));
            assert!(refused.reason.contains(&says.to_string()), "{refused}");
        }
    }
}
