//! A data link or direct link as a sequence of frames: what was read and not yet used stays with the link, because a path
//! carries one stream after another.

use std::io;
use std::thread::{self, ThreadId};
use std::time::Duration;

use postern_proto::record::{HEADER_LEN, Header, RecordError};
use postern_runtime::workers::adopt;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::buffers::Buffer;

/// A joined path between two nodes.
#[derive(Debug)]
pub struct Link {
    pub(super) socket: TcpStream,
    /// What was read: `buffer[start..end]`. No buffer is held while nothing is there.
    pub(super) buffer: Option<Buffer>,
    pub(super) start: usize,
    pub(super) end: usize,
    /// What the stream that it carried last has still to say. It goes with the next one's first word, where one comes soon.
    pub(super) owed: Vec<u8>,
    /// Whose reactor the socket belongs to.
    thread: ThreadId,
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the link was closed")]
    Closed,
    #[error("the link failed: {0}")]
    Io(#[from] io::Error),
    #[error("no frame in time")]
    Timeout,
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Link {
    #[must_use]
    pub fn new(socket: TcpStream) -> Self {
        Self { socket, buffer: None, start: 0, end: 0, owed: Vec::new(), thread: thread::current().id() }
    }

    /// Whether the calling thread's reactor has the socket.
    #[must_use]
    pub fn is_at_home(&self) -> bool {
        self.thread == thread::current().id()
    }

    /// The link, for the calling thread.
    ///
    /// # Errors
    /// Whatever the operating system says; the link is closed then.
    pub fn adopted(self) -> io::Result<Self> {
        Ok(Self { socket: adopt(self.socket, self.thread)?, thread: thread::current().id(), ..self })
    }

    /// The bytes that were read and not yet used.
    pub(super) fn unread(&self) -> &[u8] {
        self.buffer.as_deref().map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    /// The header of the next frame, where all of the frame was read.
    pub(super) fn next_frame(&self) -> Result<Option<Header>, RecordError> {
        let unread = self.unread();
        let Some(header) = unread.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let header = Header::parse(*header)?;
        Ok((unread.len() >= HEADER_LEN + header.length).then_some(header))
    }

    /// Moves what is unread to the front, so that a whole frame fits behind it; gives an empty buffer back.
    pub(super) fn compact(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0
            && let Some(buffer) = &mut self.buffer
        {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Gives the buffer back where nothing is in it.
    pub(super) fn release(&mut self) {
        if self.start == self.end {
            self.buffer = None;
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads one whole frame (header included) within `deadline`.
    ///
    /// # Errors
    /// [`LinkError`]; the link is of no use afterwards.
    pub async fn read_frame(&mut self, deadline: Duration) -> Result<(Header, Vec<u8>), LinkError> {
        let read = async {
            loop {
                if let Some(header) = self.next_frame()? {
                    let frame = self.unread()[..HEADER_LEN + header.length].to_vec();
                    self.start += frame.len();
                    self.release();
                    return Ok((header, frame));
                }
                if self.buffer.is_none() {
                    // No buffer while nothing comes: an idle path costs its socket and no more.
                    self.socket.readable().await?;
                }
                self.compact();
                let end = self.end;
                let buffer = self.buffer.get_or_insert_with(Buffer::take);
                match self.socket.read(&mut buffer[end..]).await? {
                    0 => return Err(LinkError::Closed),
                    count => self.end += count,
                }
            }
        };
        tokio::time::timeout(deadline, read).await.unwrap_or(Err(LinkError::Timeout))
    }

    /// Writes all of `bytes` within `deadline`, behind what is owed.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn write_all(&mut self, bytes: &[u8], deadline: Duration) -> Result<(), LinkError> {
        let mut whole = std::mem::take(&mut self.owed);
        let bytes = if whole.is_empty() {
            bytes
        } else {
            whole.extend_from_slice(bytes);
            &whole
        };
        match tokio::time::timeout(deadline, self.socket.write_all(bytes)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(LinkError::Timeout),
        }
    }

    /// Says that nothing more will be sent: whoever is at the other end takes it for the end of the path.
    pub async fn close(&mut self) {
        // One that is closed already needs nothing.
        let _ = self.socket.shutdown().await;
    }

    /// Whether [`Self::owed`] is anything.
    #[must_use]
    pub const fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Says what is owed, without waiting: on a path that carries nothing there is room for it. Returns false where there is none, and the path
    /// is of no use any more.
    pub fn settle(&mut self) -> bool {
        let owed = std::mem::take(&mut self.owed);
        // Not by the reactor: of a socket that has just come to another one it does not know yet that there is room.
        owed.is_empty() || SockRef::from(&self.socket).send(&owed).is_ok_and(|count| count == owed.len())
    }

    /// Whether an idle path can still carry a stream: open, and nothing arrived on it unasked.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let mut probe = [0];
        self.start == self.end
            && matches!(self.socket.try_read(&mut probe), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A path for the next stream; where none comes to use it, what is owed is said.
pub struct Prepared(Option<Link>);

impl Prepared {
    #[must_use]
    pub const fn new(link: Link) -> Self {
        Self(Some(link))
    }

    /// For whoever says something on it now.
    #[must_use]
    pub fn take(mut self) -> Link {
        let Some(link) = self.0.take() else { unreachable!("taken once, by value") };
        link
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(link) = &mut self.0 {
            link.settle();
        }
    }
}
