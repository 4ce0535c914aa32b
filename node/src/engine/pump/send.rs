//! application → path, and what else the peer is to be told.

use std::io::{self, IoSlice, IoSliceMut};

use postern_proto::record::{MAX_BODY, MAX_RECORD, OVERHEAD, PREFIX_LEN, ResetCode};
use postern_proto::stream::{INITIAL_CREDIT, SMALL};
use tokio::time::Instant;

use super::{End, Resume, State};
use crate::engine::buffers::{Buffer, MOST_RECORDS, Size};
use crate::engine::link::read;

/// Small unacknowledged records may take this much more room than their bytes, which the credit bounds.
const MAX_KEPT: usize = 8 * 1024 * 1024;

/// Control records that wait for their path to take them: behind so many bytes none is added. What there is to say is then said once, and not
/// as often as a peer asks that does not read.
pub(super) const MAX_SMALL: usize = 8 * 1024;

impl State<'_> {
    pub(super) fn may_read_application(&self) -> bool {
        !self.application_ended && self.lost.is_none() && self.outbox.is_written() && self.room() > 0
    }

    /// How many bytes of the application there is room for.
    fn room(&self) -> usize {
        let most = if self.held.is_scarce() { INITIAL_CREDIT as usize } else { MAX_KEPT };
        let budget = usize::try_from(self.stream.budget()).unwrap_or(usize::MAX);
        budget.min(most.saturating_sub(self.outbox.kept()))
    }

    /// application → path: several records with one read, sealed where they were read to.
    pub(super) fn read_application(&mut self) -> Result<bool, End> {
        if !self.may_read_application() {
            return Ok(false);
        }
        let room = self.room();
        let mut left = room;
        let size = self.reads.min(Size::of_bodies(room));
        let mut buffer = Buffer::take(size);
        let mut slots = buffer.chunks_exact_mut(MAX_RECORD);
        let mut targets = [(); MOST_RECORDS].map(|()| {
            let body = slots.next().map_or(&mut [][..], |slot| &mut slot[PREFIX_LEN..PREFIX_LEN + MAX_BODY]);
            let length = body.len().min(left);
            left -= length;
            IoSliceMut::new(&mut body[..length])
        });
        let count = match read(self.application, &mut targets[..size.records()]) {
            Ok(0) => {
                (self.application_ended, self.idle_since) = (true, Instant::now());
                self.outbox.push_copy(&self.stream.seal_fin().map_err(End::Protocol)?);
                return Ok(true);
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(_) => return Err(self.give_up(ResetCode::Application)),
        };
        // One that was short because there was no room for more says nothing of the next.
        if count < room || size == self.reads && count == size.records() * MAX_BODY {
            self.reads = self.reads.after(count);
        }
        // All slots but the last were filled, so the records stand one behind the other.
        let (mut end, mut records) = (0, 0);
        for (slot, at) in (0..count).step_by(MAX_BODY).enumerate() {
            let start = slot * MAX_RECORD;
            end = start + OVERHEAD + (count - at).min(MAX_BODY);
            self.stream.seal_data(&mut buffer[start..end]).map_err(End::Protocol)?;
            records += 1;
        }
        if end <= SMALL {
            self.outbox.push_copy(&buffer[..end]);
        } else {
            self.outbox.push(buffer, end, records);
        }
        if self.is_half_closed() {
            self.idle_since = Instant::now();
        }
        Ok(true)
    }

    /// Acknowledgements and the like.
    pub(super) fn control(&mut self) -> Result<bool, End> {
        if self.link.is_none() || self.answer_waits() {
            return Ok(false);
        }
        if self.told_end
            && self.stream.has_only_last_word()
            && !self.has_pending()
            && self.resume.is_some_and(Resume::is_followed)
        {
            // It costs every hop a wake-up, and goes with the next stream's open for nothing.
            let Some(link) = &mut self.link else { return Ok(false) };
            return self.stream.poll_transmit(&mut link.owed).map_err(End::Protocol);
        }
        if self.small_position == self.small.len() {
            self.small.clear();
            self.small_position = 0;
        } else if self.small.len() >= MAX_SMALL {
            return Ok(false);
        }
        self.stream.poll_transmit(&mut self.small).map_err(End::Protocol)
    }

    /// Whether there is nothing to send but the accept, which has time.
    fn answer_waits(&mut self) -> bool {
        let waits = self.answer_by.is_some_and(|by| {
            let alone = self.stream.has_only_answer() && self.outbox.is_written();
            alone && Instant::now() < by
        });
        if !waits {
            self.answer_by = None;
        }
        waits
    }

    /// Whether something waits to be written to the path.
    pub(super) fn has_pending(&self) -> bool {
        let data = !self.stream.is_attaching() && !self.outbox.is_written();
        self.link.is_some() && (data || self.small_position < self.small.len())
    }

    /// Control records go first, behind the rest of a record that has begun to leave: no record is ever cut by another.
    pub(super) fn write_link(&mut self) -> Result<bool, End> {
        let mut moved = false;
        while self.has_pending() {
            let Some(link) = &self.link else { break };
            let small = &self.small[self.small_position..];
            let data = if self.stream.is_attaching() { &[][..] } else { self.outbox.pending() };
            let (rest, data) = data.split_at(self.outbox.rest_of_record().min(data.len()));
            let slices = [rest, small, data].map(IoSlice::new);
            match link.socket.try_write_vectored(&slices) {
                Ok(count) => {
                    let of_small = count.saturating_sub(rest.len()).min(small.len());
                    self.small_position += of_small;
                    self.outbox.advance(count - of_small);
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return self.path_lost(error).map(|()| true),
            }
        }
        Ok(moved)
    }
}
