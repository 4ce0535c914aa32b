//! Records: what a stream's bytes and its control messages look like on a path.
//!
//! A record is a header of [`HEADER_LEN`] bytes (`u8` kind, `u24` length of what follows, big-endian), which is the AAD, and
//! `AEAD(type ‖ body)`. Each (kind, direction) of a stream has a key and a counter of its own. The format is specified in
//! `docs/protocol/streams.md`.

mod control;

use aws_lc_rs::aead::LessSafeKey;

pub use self::control::{Control, ControlOpener, ControlSealer, MAX_REASON, Reject, RejectCode, ResetCode, bounded_reason};
use crate::aead::{self, AeadError, KEY_LEN, Suite, TAG_LEN};
use crate::channel::next_epoch;
use crate::secret::SecretBytes;

/// Length of a record's header.
pub const HEADER_LEN: usize = 4;

/// What stands before the body in a sealed record: header and type.
pub const PREFIX_LEN: usize = HEADER_LEN + 1;

/// How much longer a record is than its body.
pub const OVERHEAD: usize = PREFIX_LEN + TAG_LEN;

/// Longest body of a record; the sealed part is then 64 KiB.
pub const MAX_BODY: usize = 65_536 - 1 - TAG_LEN;

/// Longest record of any kind.
pub const MAX_RECORD: usize = HEADER_LEN + 65_536;

/// Longest body of a control record, so that nobody has to buffer much for one.
pub const MAX_CONTROL_BODY: usize = 512;

/// After 2¹⁹ records (at most 32 GiB) the data key is replaced by one derived from it. Far below the limits of AES-GCM.
pub const EPOCH_BITS: u32 = 19;

/// What a frame on a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A data record of the current stream.
    Data = 0,
    /// A control record of the current stream.
    Control = 1,
    /// Opens a stream on this path.
    Open = 2,
    /// Attaches a stream to this path.
    Attach = 3,
    /// A handshake message of a new channel.
    Handshake = 4,
    /// The channel that an open or attach named is not known here. Not authenticated: a hint to make a new one.
    NoChannel = 5,
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    /// Length of what follows the header.
    pub length: usize,
}

/// Why bytes are not a record that may stand here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame of {length} bytes, which its kind does not allow")]
    Length { length: usize },
    #[error("a record of unknown type {0}")]
    UnknownType(u8),
    #[error(transparent)]
    Aead(#[from] AeadError),
}

/// Longest frame that opens a stream or a channel; below the 4 KiB that a stranger may make us hold.
pub const MAX_OPEN: usize = 4096;

impl Header {
    /// Reads a header and checks its length against what its kind allows, before anything is allocated for it.
    ///
    /// # Errors
    /// [`RecordError::UnknownKind`], [`RecordError::Length`].
    pub const fn parse(bytes: [u8; HEADER_LEN]) -> Result<Self, RecordError> {
        let length = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]) as usize;
        let (kind, least, most) = match bytes[0] {
            0 => (Kind::Data, 1 + TAG_LEN, 1 + MAX_BODY + TAG_LEN),
            1 => (Kind::Control, 1 + TAG_LEN, 1 + MAX_CONTROL_BODY + TAG_LEN),
            2 => (Kind::Open, 1, MAX_OPEN),
            3 => (Kind::Attach, 1, MAX_OPEN),
            4 => (Kind::Handshake, 1, MAX_OPEN),
            5 => (Kind::NoChannel, 0, 0),
            other => return Err(RecordError::UnknownKind(other)),
        };
        if length < least || length > most {
            return Err(RecordError::Length { length });
        }
        Ok(Self { kind, length })
    }

    /// The header of a frame whose `length` the caller knows to be allowed.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        [self.kind as u8, a, b, c]
    }
}

/// What a data record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum DataType {
    Data = 0,
    /// The last data record of its direction, without a body: a clean end.
    Fin = 1,
}

/// The data key of one direction of a stream: counts records and ratchets itself forward.
struct DataKey {
    suite: Suite,
    secret: SecretBytes<KEY_LEN>,
    key: LessSafeKey,
    /// Number of the next record.
    counter: u64,
    /// Which epoch `secret` and `key` are of.
    epoch: u64,
}

impl DataKey {
    fn new(suite: Suite, secret: SecretBytes<KEY_LEN>) -> Self {
        Self { suite, key: suite.key(&secret), secret, counter: 0, epoch: 0 }
    }

    /// The next record's number, with the key of its epoch in place. It is used up by [`Self::counted`].
    fn next(&mut self) -> Result<u64, AeadError> {
        if self.counter == u64::MAX {
            return Err(AeadError::Exhausted);
        }
        if self.counter >> EPOCH_BITS != self.epoch {
            self.epoch = self.counter >> EPOCH_BITS;
            self.secret = next_epoch(&self.secret);
            self.key = self.suite.key(&self.secret);
        }
        Ok(self.counter)
    }

    const fn counted(&mut self) {
        self.counter += 1;
    }
}

/// Seals the data records of one direction of a stream.
pub struct DataSealer(DataKey);

impl DataSealer {
    #[must_use]
    pub fn new(suite: Suite, secret: SecretBytes<KEY_LEN>) -> Self {
        Self(DataKey::new(suite, secret))
    }

    /// How many records have been sealed.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.0.counter
    }

    /// Seals `record` in place. Its body stands already at [`PREFIX_LEN`]`..len - `[`TAG_LEN`]; header, type and tag are written.
    ///
    /// # Errors
    /// [`RecordError::Length`] where the body is too long; [`RecordError::Aead`] where the counter is used up.
    pub fn seal(&mut self, data_type: DataType, record: &mut [u8]) -> Result<(), RecordError> {
        let body = record.len().checked_sub(OVERHEAD).ok_or(RecordError::Length { length: record.len() })?;
        if body > MAX_BODY {
            return Err(RecordError::Length { length: body });
        }
        let header = Header { kind: Kind::Data, length: record.len() - HEADER_LEN }.to_bytes();
        let number = self.0.next()?;
        self.0.counted();
        record[..HEADER_LEN].copy_from_slice(&header);
        record[HEADER_LEN] = data_type as u8;
        let (text, tag) = record[HEADER_LEN..].split_at_mut(1 + body);
        tag.copy_from_slice(&aead::seal_at(&self.0.key, number, &header, text)?);
        Ok(())
    }
}

/// Opens the data records of one direction of a stream, in order.
pub struct DataOpener(DataKey);

impl DataOpener {
    #[must_use]
    pub fn new(suite: Suite, secret: SecretBytes<KEY_LEN>) -> Self {
        Self(DataKey::new(suite, secret))
    }

    /// How many records have been opened.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.0.counter
    }

    /// Opens a whole record (header included) in place and returns its type and body.
    ///
    /// # Errors
    /// [`RecordError::Aead`] where it is not the next record of this stream and direction: final for the path that brought it. It
    /// counts for nothing, so the record may still arrive on another path.
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<(DataType, &'a mut [u8]), RecordError> {
        let number = self.0.next()?;
        let (header, sealed) = split(record)?;
        let plain = aead::open_at(&self.0.key, number, &header, sealed)?;
        self.0.counted();
        let (data_type, body) = plain.split_first_mut().ok_or(RecordError::Length { length: 0 })?;
        match *data_type {
            0 => Ok((DataType::Data, body)),
            1 if body.is_empty() => Ok((DataType::Fin, body)),
            1 => Err(RecordError::Length { length: body.len() }),
            other => Err(RecordError::UnknownType(other)),
        }
    }
}

fn split(record: &mut [u8]) -> Result<([u8; HEADER_LEN], &mut [u8]), RecordError> {
    let length = record.len();
    let (header, sealed) = record.split_first_chunk_mut::<HEADER_LEN>().ok_or(RecordError::Length { length })?;
    Ok((*header, sealed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: &[u8]) -> Vec<u8> {
        let mut record = vec![0; OVERHEAD + body.len()];
        record[PREFIX_LEN..PREFIX_LEN + body.len()].copy_from_slice(body);
        record
    }

    #[test]
    fn data_round_trips_across_an_epoch() {
        for suite in Suite::ALL {
            let secret = SecretBytes::random();
            let (mut sealer, mut opener) = (DataSealer::new(suite, secret.clone()), DataOpener::new(suite, secret));
            let edge = (1 << EPOCH_BITS) - 1;
            (sealer.0.counter, opener.0.counter) = (edge, edge);
            let before = *sealer.0.secret.expose_secret();
            for body in [&b"last of epoch 0"[..], b"first of epoch 1", b""] {
                let mut record = record(body);
                sealer.seal(DataType::Data, &mut record).unwrap();
                let header = Header::parse(record[..4].try_into().unwrap()).unwrap();
                assert_eq!((header.kind, header.length), (Kind::Data, record.len() - 4));
                assert_eq!(opener.open(&mut record).unwrap(), (DataType::Data, &mut body.to_vec()[..]));
            }
            assert_ne!(*sealer.0.secret.expose_secret(), before, "the key of epoch 0 is gone");
        }
    }

    /// Across an epoch, either way: a record opens in its own place only, and under the key of its own epoch only.
    #[test]
    fn records_of_another_epoch_do_not_open() {
        for suite in Suite::ALL {
            let secret = SecretBytes::random();
            let edge = (1 << EPOCH_BITS) - 1;
            let at = |number| {
                let mut key = DataKey::new(suite, secret.clone());
                key.counter = number;
                key
            };
            let (mut sealer, mut opener) = (DataSealer(at(edge)), DataOpener(at(edge)));
            let sealed = [&b"last"[..], b"first", b"second"].map(|body| {
                let mut record = record(body);
                sealer.seal(DataType::Data, &mut record).unwrap();
                record
            });
            let [last, first, second] = sealed;
            let refused = Err(RecordError::Aead(AeadError::NotAuthentic));
            assert_eq!(opener.open(&mut first.clone()), refused, "a record of the epoch to come");
            assert!(opener.open(&mut last.clone()).is_ok());
            assert_eq!(opener.open(&mut last.clone()), refused, "a record of the epoch before");
            assert_eq!(opener.open(&mut second.clone()), refused, "another record of the same epoch");
            assert!(opener.open(&mut first.clone()).is_ok());
            // The same number under the key of the epoch before, as if it had not been replaced.
            let mut stale = DataKey::new(suite, secret.clone());
            (stale.counter, stale.epoch) = (edge + 1, 1);
            assert_eq!(DataOpener(stale).open(&mut first.clone()), refused, "under the key of epoch 0");
        }
    }

    /// The last record that is ever sealed under a key chain has the number 2⁶⁴ − 2. Behind it nothing is sealed or opened, and no number
    /// wraps.
    #[test]
    fn the_counter_never_wraps() {
        for suite in Suite::ALL {
            let secret = SecretBytes::random();
            let (mut sealer, mut opener) = (DataSealer::new(suite, secret.clone()), DataOpener::new(suite, secret));
            (sealer.0.counter, opener.0.counter) = (u64::MAX - 1, u64::MAX - 1);
            let mut last = record(b"last");
            sealer.seal(DataType::Data, &mut last).unwrap();
            assert_eq!(opener.open(&mut last.clone()).unwrap().1, b"last");
            let exhausted = RecordError::Aead(AeadError::Exhausted);
            for _ in 0..2 {
                assert_eq!(sealer.seal(DataType::Data, &mut record(b"more")), Err(exhausted));
                assert_eq!(sealer.seal(DataType::Fin, &mut record(b"")), Err(exhausted));
                assert_eq!(opener.open(&mut last.clone()), Err(exhausted));
            }
            assert_eq!((sealer.count(), opener.count()), (u64::MAX, u64::MAX));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let secret = SecretBytes::random();
        let mut sealed = record(b"abc");
        DataSealer::new(Suite::AesGcm, secret.clone()).seal(DataType::Data, &mut sealed).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(DataOpener::new(Suite::AesGcm, secret.clone()).open(&mut changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_allocated() {
        assert!(Header::parse([0, 0xff, 0xff, 0xff]).is_err());
        assert!(Header::parse([0, 1, 0, 0]).is_ok());
        assert!(Header::parse([0, 1, 0, 1]).is_err());
        assert!(Header::parse([1, 0, 2, 18]).is_err());
        assert!(Header::parse([0, 0, 0, 16]).is_err());
        assert!(Header::parse([6, 0, 0, 20]).is_err());
    }
}
