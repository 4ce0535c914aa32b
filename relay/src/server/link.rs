//! A connection with what it holds of the process, and its bytes.

use std::io;
use std::thread;
use std::time::Duration;

use postern_proto::link::{Frame, LinkFrames, Refusal};
use postern_runtime::net::Accepted;
use postern_runtime::workers::adopt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::descriptors::Descriptor;
use crate::registry::Whom;

/// How long a peer may take to take what it is told.
pub(super) const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// A connection, counted for as long as it lives.
pub(super) struct Link {
    pub(super) accepted: Accepted,
    pub(super) counted: Descriptor,
}

impl Link {
    /// The link, for the calling thread.
    ///
    /// # Errors
    /// Whatever the operating system says; the link is closed then.
    pub(super) fn adopted(self) -> io::Result<Self> {
        let Self { accepted: Accepted { stream, home, peer, permit }, counted } = self;
        let accepted = Accepted { stream: adopt(stream, home)?, home: thread::current().id(), peer, permit };
        Ok(Self { accepted, counted })
    }

    pub(super) const fn stream(&self) -> &TcpStream {
        &self.accepted.stream
    }
}

/// What becomes of a data link.
pub(super) enum Verdict {
    Refused(Refusal),
    /// Joined: the dialler's task takes it from here.
    HandOver(oneshot::Sender<Opened>),
    Join {
        parked: oneshot::Receiver<Opened>,
        dialled_by: Whom,
        parked_by: Whom,
    },
}

/// The registry's hold on a data link. Dropped without a verdict, the link is closed.
pub(super) type LinkHandle = oneshot::Sender<Verdict>;

/// A data link whose first frame was authentic.
pub(super) struct Opened {
    pub(super) link: Link,
    pub(super) frames: LinkFrames,
}

impl Opened {
    /// Seals `frame` and sends it.
    pub(super) async fn say(&mut self, frame: &Frame) -> io::Result<()> {
        let sealed = self.frames.seal(frame).map_err(io::Error::other)?;
        write_all(self.link.stream(), &sealed).await
    }
}

/// Writes all of `bytes` within [`WRITE_DEADLINE`].
pub(super) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let write = async {
        while !bytes.is_empty() {
            stream.writable().await?;
            match stream.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    timeout(WRITE_DEADLINE, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
