//! A data link or direct link as a sequence of frames: what was read and not yet used stays with the link, because a path
//! carries one stream after another.

use std::io::{self, IoSliceMut};
use std::thread::{self, ThreadId};
use std::time::Duration;

use postern_proto::record::{HEADER_LEN, Header, MAX_RECORD, RecordError};
use postern_runtime::workers::adopt;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use super::buffers::{Buffer, Size};

/// A joined path between two nodes.
#[derive(Debug)]
pub struct Link {
    pub(super) socket: TcpStream,
    /// What was read: `buffer[start..end]`. No buffer is held while nothing is there, and no large one while nothing comes.
    pub(super) buffer: Option<Buffer>,
    pub(super) start: usize,
    pub(super) end: usize,
    /// The last read brought much, so the next one may.
    flows: bool,
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
        Self { socket, buffer: None, start: 0, end: 0, flows: false, owed: Vec::new(), thread: thread::current().id() }
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

    /// Moves what is unread to the front, so that a whole frame fits behind it.
    fn compact(&mut self) {
        if self.start > 0
            && let Some(buffer) = &mut self.buffer
        {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Reads what has come behind what is unread, which is less than a frame: into a large buffer while much comes, else into the one that is there.
    /// Returns how much; 0 at the end.
    ///
    /// # Errors
    /// `WouldBlock` where nothing has come; whatever else the operating system says.
    pub(super) fn fill(&mut self) -> io::Result<usize> {
        // Asked first, so that a look for what has not come moves nothing between buffers.
        self.socket.try_io(Interest::READABLE, || Ok(()))?;
        let size = if self.flows { Size::LARGEST } else { Size::SMALLEST };
        match &self.buffer {
            Some(buffer) if buffer.size() >= size => self.compact(),
            _ => self.move_to(size),
        }
        let Some(buffer) = &mut self.buffer else { return Err(io::ErrorKind::WouldBlock.into()) };
        let room = &mut buffer[self.end..];
        let whole = room.len();
        let count = read(&self.socket, &mut [IoSliceMut::new(room)])?;
        self.flows = count == whole || count >= MAX_RECORD;
        self.end += count;
        Ok(count)
    }

    /// Gives the buffer back where nothing is in it, and a large one where a smaller one has room for the rest: the next stream reads into what is
    /// still in the CPU's cache, and many streams hold little.
    pub(super) fn release(&mut self) {
        let size = Size::of(self.end - self.start);
        if self.start == self.end {
            self.buffer = None;
            (self.start, self.end) = (0, 0);
        } else if self.buffer.as_ref().is_some_and(|buffer| buffer.size() > size) {
            self.move_to(size);
        }
    }

    fn move_to(&mut self, size: Size) {
        let mut buffer = Buffer::take(size);
        let unread = self.unread();
        buffer[..unread.len()].copy_from_slice(unread);
        (self.start, self.end) = (0, unread.len());
        self.buffer = Some(buffer);
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
                self.release();
                if self.buffer.is_none() {
                    // No buffer while nothing comes: an idle path costs its socket and no more.
                    self.socket.readable().await?;
                }
                self.compact();
                let end = self.end;
                let buffer = self.buffer.get_or_insert_with(|| Buffer::take(Size::SMALLEST));
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

/// Reads what has arrived. A read that does not fill the buffers has emptied the socket, so its readiness is cleared in the same
/// step and the next attempt costs no system call; what arrives in between raises it again, because it is edge-triggered.
pub(super) fn read(socket: &TcpStream, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let room: usize = buffers.iter().map(|buffer| buffer.len()).sum();
    let mut short = None;
    let read = socket.try_io(Interest::READABLE, || match rustix::io::readv(socket, buffers)? {
        count if count > 0 && count < room => {
            short = Some(count);
            Err(io::ErrorKind::WouldBlock.into())
        }
        count => Ok(count),
    });
    match short {
        Some(count) => Ok(count),
        None => read,
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

#[cfg(test)]
mod tests {
    use postern_proto::record::Kind;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_waits_holds_a_small_buffer_and_loses_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut link = Link::new(listener.accept().await.unwrap().0);
        let header = Header { kind: Kind::Data, length: MAX_RECORD - HEADER_LEN };
        let frame = |fill: u8| [&header.to_bytes()[..], &vec![fill; header.length]].concat();
        let said: Vec<u8> = (0..9).flat_map(frame).collect();
        let mut handled = 0;
        let mut read = 0;
        let mut sizes = Vec::new();
        // A whole frame and a part of one, many frames and a part, and the rest.
        for until in [MAX_RECORD * 4 / 3, MAX_RECORD * 25 / 3, said.len()] {
            let more = said[read..until].to_vec();
            let saying = tokio::spawn(async move {
                far.write_all(&more).await.unwrap();
                far
            });
            while read < until {
                link.socket.readable().await.unwrap();
                match link.fill() {
                    Ok(count) => {
                        read += count;
                        sizes.extend(link.buffer.as_ref().map(Buffer::size));
                    }
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
                while let Some(header) = link.next_frame().unwrap() {
                    assert_eq!(link.unread()[..HEADER_LEN + header.length], frame(handled));
                    link.start += HEADER_LEN + header.length;
                    handled += 1;
                }
            }
            far = saying.await.unwrap();
            link.release();
            assert_eq!(link.unread(), &said[read - read % MAX_RECORD..read]);
            let size = (read % MAX_RECORD > 0).then_some(Size::SMALLEST);
            assert_eq!(link.buffer.as_ref().map(Buffer::size), size, "no more room than for what waits");
        }
        assert_eq!(handled, 9);
        assert_eq!((sizes.first(), sizes.iter().max()), (Some(&Size::SMALLEST), Some(&Size::LARGEST)), "large while much comes");
    }
}
