//! Sealed data records on their way: kept, as they are, until the peer has said that it opened them.
//!
//! Bytes stand in *runs* of whole records. A run of a full read is the caller's own buffer; small records share one, so that an
//! application that writes a byte at a time does not make each byte cost a buffer.

use std::collections::VecDeque;
use std::ops::Deref;

use crate::record::{HEADER_LEN, Header};

/// Records up to this length are copied together.
pub const SMALL: usize = 16 * 1024;

/// A shared run takes no further records from here on, so that what was acknowledged is soon given back.
const SHARED_RUN: usize = 64 * 1024;

enum Bytes<B> {
    Own(B),
    Shared(Vec<u8>),
}

impl<B: Deref<Target = [u8]>> Deref for Bytes<B> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(buffer) => buffer,
            Self::Shared(bytes) => bytes,
        }
    }
}

struct Run<B> {
    bytes: Bytes<B>,
    /// Where its last record ends.
    end: usize,
    /// Number of its first record.
    first: u64,
    records: u64,
}

impl<B: Deref<Target = [u8]>> Run<B> {
    /// Length of the record that begins at `position`. Its header was written by this side's sealer.
    fn record_at(&self, position: usize) -> usize {
        let header = self.bytes.get(position..self.end).and_then(<[u8]>::first_chunk::<HEADER_LEN>);
        let length = header.and_then(|header| Header::parse(*header).ok()).map(|header| HEADER_LEN + header.length);
        length.filter(|length| position + length <= self.end).unwrap_or(self.end - position)
    }
}

/// What one side of a stream has sealed and the peer has not acknowledged, and how much of it the path has taken.
pub struct Outbox<B> {
    runs: VecDeque<Run<B>>,
    /// The run that is being written, and how much of it was.
    current: usize,
    position: usize,
    /// Where the record ends that `position` is in, or `position` where it is in none.
    boundary: usize,
    /// Number of the next record.
    next: u64,
    /// Bytes of all runs.
    kept: usize,
}

impl<B> Default for Outbox<B> {
    fn default() -> Self {
        Self { runs: VecDeque::new(), current: 0, position: 0, boundary: 0, next: 0, kept: 0 }
    }
}

impl<B: Deref<Target = [u8]>> Outbox<B> {
    /// Takes `records` sealed records, which stand one behind the other from the beginning of `buffer` to `end`.
    pub fn push(&mut self, buffer: B, end: usize, records: u64) {
        self.push_run(Run { bytes: Bytes::Own(buffer), end, first: self.next, records });
    }

    /// Takes one sealed record by copy.
    pub fn push_copy(&mut self, record: &[u8]) {
        if let Some(Run { bytes: Bytes::Shared(bytes), end, records, .. }) = self.runs.back_mut()
            && *end < SHARED_RUN
        {
            bytes.extend_from_slice(record);
            *end = bytes.len();
            *records += 1;
            (self.kept, self.next) = (self.kept + record.len(), self.next + 1);
            return;
        }
        self.push_run(Run { bytes: Bytes::Shared(record.to_vec()), end: record.len(), first: self.next, records: 1 });
    }

    fn push_run(&mut self, run: Run<B>) {
        // What is written stays current only until something follows.
        if self.current < self.runs.len() && self.is_written() {
            self.begin(self.runs.len(), 0);
        }
        (self.kept, self.next) = (self.kept + run.end, self.next + run.records);
        self.runs.push_back(run);
    }

    /// Whether the path has taken everything.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.runs.get(self.current).is_none_or(|run| self.position == run.end)
    }

    /// How much of [`Self::pending`] is the rest of a record that has begun to leave: until it is out, nothing else may be written.
    #[must_use]
    pub const fn rest_of_record(&self) -> usize {
        self.boundary - self.position
    }

    /// Bytes that are kept, written or not.
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.kept
    }

    /// What is to be written next: the rest of one run.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.runs.get(self.current).map_or(&[], |run| &run.bytes[self.position..run.end])
    }

    /// The path took `count` bytes of [`Self::pending`].
    pub fn advance(&mut self, count: usize) {
        let Some(run) = self.runs.get(self.current) else { return };
        self.position = run.end.min(self.position + count);
        while self.boundary < self.position {
            self.boundary += run.record_at(self.boundary);
        }
        // The last run stays current, because small records may still join it.
        if self.position == run.end && self.current + 1 < self.runs.len() {
            self.begin(self.current + 1, 0);
        }
    }

    /// Goes on with the record at `position` of run `current`.
    const fn begin(&mut self, current: usize, position: usize) {
        (self.current, self.position, self.boundary) = (current, position, position);
    }

    /// The peer has opened `received` records: runs that it has whole, and that are written, are given back.
    pub fn acknowledge(&mut self, received: u64) {
        while let Some(run) = self.runs.front() {
            let written = self.current > 0 || self.position == run.end;
            if !written || run.first + run.records > received {
                return;
            }
            self.kept -= run.end;
            self.runs.pop_front();
            match self.current.checked_sub(1) {
                Some(current) => self.current = current,
                None => self.begin(0, 0),
            }
        }
    }

    /// All records that are kept, one behind the other.
    #[must_use]
    pub fn into_sealed(self) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(self.kept);
        self.runs.iter().for_each(|run| sealed.extend_from_slice(&run.bytes[..run.end]));
        sealed
    }

    /// Begins again on another path, with record number `received`.
    pub fn rewind(&mut self, received: u64) {
        let whole = |run: &Run<B>| run.first + run.records <= received;
        let Some(current) = self.runs.iter().position(|run| !whole(run)) else {
            // All of it has arrived; only the acknowledgement was lost.
            self.runs.clear();
            self.kept = 0;
            return self.begin(0, 0);
        };
        let run = &self.runs[current];
        let position = (run.first..received).fold(0, |position, _| position + run.record_at(position));
        self.begin(current, position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(length: usize, fill: u8) -> Vec<u8> {
        let mut record = Header { kind: crate::record::Kind::Data, length }.to_bytes().to_vec();
        record.resize(HEADER_LEN + length, fill);
        record
    }

    fn drain(outbox: &mut Outbox<Vec<u8>>, step: usize) -> Vec<u8> {
        let (mut out, mut record) = (Vec::new(), 0);
        while !outbox.is_written() {
            let count = outbox.pending().len().min(step);
            out.extend_from_slice(&outbox.pending()[..count]);
            outbox.advance(count);
            // A record stands in one run, so what is left of it is to be written next.
            while record < out.len() {
                let seen = [&out[record..], outbox.pending()].concat();
                record += HEADER_LEN + Header::parse(*seen.first_chunk().unwrap()).unwrap().length;
            }
            assert_eq!(outbox.rest_of_record(), record - out.len());
        }
        out
    }

    #[test]
    fn what_was_not_received_is_said_again_as_it_was() {
        let records: Vec<Vec<u8>> = (0..12_u8).map(|n| record(20 + usize::from(n), n)).collect();
        for received in 0..=12_usize {
            let mut outbox = Outbox::default();
            // Two large runs with small records between and behind them.
            outbox.push(records[..3].concat(), records[..3].concat().len(), 3);
            records[3..6].iter().for_each(|record| outbox.push_copy(record));
            outbox.push(records[6..8].concat(), records[6..8].concat().len(), 2);
            records[8..].iter().for_each(|record| outbox.push_copy(record));
            assert_eq!(drain(&mut outbox, 7), records.concat());
            outbox.rewind(received as u64);
            assert_eq!(drain(&mut outbox, 11), records[received..].concat(), "from {received}");
            outbox.acknowledge(12);
            assert_eq!((outbox.kept(), outbox.runs.len()), (0, 0));
        }
    }

    #[test]
    fn only_what_is_written_and_received_whole_is_given_back() {
        let mut outbox = Outbox::default();
        let run = [record(30, 1), record(30, 2)].concat();
        outbox.push(run.clone(), run.len(), 2);
        outbox.acknowledge(2);
        assert_eq!(outbox.kept(), run.len(), "a peer that acknowledges what was not written changes nothing");
        outbox.advance(40);
        assert_eq!(outbox.rest_of_record(), 28, "of the second record");
        outbox.acknowledge(2);
        assert_eq!(outbox.pending(), &run[40..]);
        outbox.advance(28);
        assert!(outbox.is_written() && outbox.rest_of_record() == 0);
        outbox.acknowledge(1);
        assert_eq!(outbox.kept(), run.len());
        outbox.push_copy(&record(25, 3));
        outbox.acknowledge(2);
        assert_eq!(outbox.pending(), record(25, 3));
        outbox.advance(29);
        outbox.push_copy(&record(26, 4));
        assert_eq!(outbox.pending(), record(26, 4), "a small record joins the run before it");
        outbox.advance(30);
        let run = record(50, 5);
        outbox.push(run.clone(), run.len(), 1);
        assert_eq!(outbox.pending(), run, "what follows a written run is to be written");
        outbox.advance(run.len());
        outbox.acknowledge(5);
        assert_eq!(outbox.kept(), 0);
    }
}
