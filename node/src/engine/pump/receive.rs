//! path → application.

use std::io::{self, IoSlice};
use std::net::Shutdown;

use postern_proto::record::{HEADER_LEN, Kind, PREFIX_LEN, ResetCode};
use postern_proto::stream::{Received, StreamError};
use rustix::io::Errno;
use socket2::SockRef;
use tokio::time::Instant;
use tracing::debug;

use super::{End, State};
use crate::engine::buffers::MOST_RECORDS;

/// Records of a path that are opened in one round: most of one read, and what is left over from the read before.
const RECORDS_PER_ROUND: usize = MOST_RECORDS * 4;

impl State<'_> {
    /// Whether the path is read: a finished stream leaves what follows to the next one.
    pub(super) fn reads_path(&self) -> bool {
        self.link.is_some() && !self.stream.is_finished()
    }

    /// path → application: reads, opens in place, and writes at once what the application takes.
    pub(super) fn read_link(&mut self) -> Result<bool, End> {
        if !self.reads_path() {
            return Ok(false);
        }
        let Some(link) = &mut self.link else { return Ok(false) };
        let mut moved = false;
        // What was read is handled first: an end of the path may come behind it.
        let filled = match link.next_frame() {
            Ok(None) => link.fill(),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        };
        match filled {
            Ok(0) => return self.path_lost(io::ErrorKind::UnexpectedEof.into()).map(|()| true),
            Ok(_) => (moved, self.heard) = (true, true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return self.path_lost(error).map(|()| true),
        }
        let mut pieces = [(0, 0); RECORDS_PER_ROUND];
        let mut count = 0;
        for _ in 0..RECORDS_PER_ROUND {
            if !self.reads_path() {
                break;
            }
            let Some(link) = &mut self.link else { break };
            let header = match link.next_frame() {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(error) => {
                    self.deliver(&pieces[..count])?;
                    return self.corrupted(error.into()).map(|()| true);
                }
            };
            let (start, length) = (link.start, HEADER_LEN + header.length);
            link.start += length;
            let Some(buffer) = &mut link.buffer else { break };
            let record = &mut buffer[start..start + length];
            moved = true;
            match self.stream.handle_record(header, record) {
                Ok(Received::Data(body)) => {
                    pieces[count] = (start + PREFIX_LEN, start + PREFIX_LEN + body.len());
                    count += 1;
                }
                Ok(Received::Accepted) => self.asked = None,
                Ok(Received::Progress) => self.outbox.acknowledge(self.stream.acknowledged()),
                Ok(Received::Fin) => {}
                Ok(Received::Attached { received }) => {
                    debug!(received, "attached the stream to another path");
                    self.outbox.rewind(received);
                    self.resumed.add(1);
                    (self.lost, self.asked) = (None, None);
                }
                Ok(Received::Finished) => {
                    self.outbox.rewind(self.stream.acknowledged());
                    (self.lost, self.asked) = (None, None);
                }
                Ok(Received::Rejected(reject)) => return Err(End::Rejected(reject)),
                Ok(Received::Reset(code)) => return Err(End::ResetByPeer(code)),
                // Not authenticated, so it ends nothing that lives: whether the stream is known, another path may tell.
                Err(StreamError::UnexpectedKind(Kind::NoChannel)) if self.stream.is_accepted() => {
                    self.deliver(&pieces[..count])?;
                    return self.path_lost(io::ErrorKind::NotFound.into()).map(|()| true);
                }
                Err(error @ StreamError::UnexpectedKind(Kind::NoChannel)) => return Err(End::Protocol(error)),
                Err(error) if error.may_be_the_path() => {
                    self.deliver(&pieces[..count])?;
                    return self.corrupted(error).map(|()| true);
                }
                Err(error) => return Err(self.protocol(error)),
            }
        }
        self.deliver(&pieces[..count])?;
        Ok(moved)
    }

    /// Writes opened bytes to the application; what it does not take goes to the backlog.
    fn deliver(&mut self, pieces: &[(usize, usize)]) -> Result<(), End> {
        let Some(buffer) = self.link.as_ref().and_then(|link| link.buffer.as_ref()) else { return Ok(()) };
        let mut written = 0;
        if self.backlog.is_empty() && !pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); RECORDS_PER_ROUND];
            for (slice, (start, end)) in slices.iter_mut().zip(pieces) {
                *slice = IoSlice::new(&buffer[*start..*end]);
            }
            // Not by the reactor: of a socket that has just been connected it does not know yet that there is room.
            match rustix::io::writev(self.application, &slices[..pieces.len()]) {
                Ok(count) => written = count,
                Err(Errno::AGAIN) => {}
                Err(_) => return Err(self.give_up(ResetCode::Application)),
            }
        }
        self.stream.consumed(written as u64);
        for (start, end) in pieces {
            let taken = written.min(end - start);
            written -= taken;
            if start + taken < *end {
                self.backlog.push(&buffer[start + taken..*end]);
            }
        }
        if self.is_half_closed() && !pieces.is_empty() {
            self.idle_since = Instant::now();
        }
        Ok(())
    }

    /// backlog → application, and the end of the peer's direction behind it.
    pub(super) fn write_application(&mut self) -> Result<bool, End> {
        let mut moved = false;
        while let Some(first) = self.backlog.front() {
            match self.application.try_write(first) {
                Ok(count) => {
                    self.backlog.advance(count);
                    self.stream.consumed(count as u64);
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(moved),
                Err(_) => return Err(self.give_up(ResetCode::Application)),
            }
        }
        if self.stream.peer_finished() && !self.told_end {
            (self.told_end, self.idle_since) = (true, Instant::now());
            // Where the application has closed already, there is nobody to tell.
            let _ = SockRef::from(self.application).shutdown(Shutdown::Write);
            moved = true;
        }
        Ok(moved)
    }
}
