//! Bytes that were sent with an open, for which there may be another one: where the peer rejects an open, no byte reached its target, so the
//! opener may say the same elsewhere.

use std::ops::Deref;

use super::{Outbox, Stream, StreamError};
use crate::channel::{self, ChannelSecret, KeyKind};
use crate::record::{DataOpener, DataType, HEADER_LEN, Header, MAX_BODY, OVERHEAD, PREFIX_LEN, RecordError};

/// What an application had written before the answer to an open; at most [`super::INITIAL_CREDIT`] bytes.
#[derive(Default, PartialEq, Eq)]
pub struct Early {
    bytes: Vec<u8>,
    /// The application had ended its direction behind them.
    finished: bool,
}

impl std::fmt::Debug for Early {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Early({} bytes, finished: {})", self.bytes.len(), self.finished)
    }
}

impl Early {
    /// Opens what this side, which played `part` in the channel's handshake, has sealed for stream `id`: all its data records, one behind the
    /// other from the first on.
    ///
    /// # Errors
    /// [`StreamError::Record`] where they are not that.
    pub fn take_back(secret: &ChannelSecret, id: u64, part: channel::Side, mut sealed: Vec<u8>) -> Result<Self, StreamError> {
        let mut opener = DataOpener::new(secret.suite(), secret.stream_key(id, part.sends(), KeyKind::Data));
        let mut early = Self::default();
        let mut rest = &mut sealed[..];
        while let Some(header) = rest.first_chunk::<HEADER_LEN>() {
            let length = HEADER_LEN + Header::parse(*header)?.length;
            let (record, behind) = rest.split_at_mut_checked(length).ok_or(RecordError::Length { length })?;
            match opener.open(record)? {
                (DataType::Data, body) => early.bytes.extend_from_slice(body),
                (DataType::Fin, _) => early.finished = true,
            }
            rest = behind;
        }
        Ok(early)
    }

    /// Whether the application had ended its direction: nothing more comes of it.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.finished
    }

    /// Seals it for another stream, as the first of what that sends.
    ///
    /// # Errors
    /// [`StreamError::NoBudget`] where the stream has sent something already.
    pub fn seal<B: Deref<Target = [u8]>>(&self, stream: &mut Stream, outbox: &mut Outbox<B>) -> Result<(), StreamError> {
        for body in self.bytes.chunks(MAX_BODY) {
            let mut record = vec![0; OVERHEAD + body.len()];
            record[PREFIX_LEN..PREFIX_LEN + body.len()].copy_from_slice(body);
            stream.seal_data(&mut record)?;
            outbox.push_copy(&record);
        }
        if self.finished {
            outbox.push_copy(&stream.seal_fin()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{INITIAL_CREDIT, Side, StreamKeys};
    use super::*;
    use crate::aead::Suite;
    use crate::secret::SecretBytes;

    const PART: channel::Side = channel::Side::Initiator;

    fn secret(suite: Suite) -> ChannelSecret {
        ChannelSecret::extract(suite, [7; 32], &SecretBytes::random(), &SecretBytes::random())
    }

    fn opener(secret: &ChannelSecret, id: u64) -> Stream {
        Stream::new(Side::Opener, StreamKeys::derive(secret, id, PART))
    }

    fn sealed(secret: &ChannelSecret, id: u64, early: &Early) -> Vec<u8> {
        let mut outbox = Outbox::<Vec<u8>>::default();
        early.seal(&mut opener(secret, id), &mut outbox).unwrap();
        outbox.into_sealed()
    }

    #[test]
    fn what_was_sealed_is_sealed_again_for_another_stream() {
        for suite in Suite::ALL {
            let secret = secret(suite);
            for (count, finished) in [(0, false), (0, true), (5, false), (MAX_BODY + 1, true), (INITIAL_CREDIT as usize, true)] {
                let early = Early { bytes: (0..count).map(|at| (at % 251) as u8).collect(), finished };
                let first = sealed(&secret, 1, &early);
                let back = Early::take_back(&secret, 1, PART, first.clone()).unwrap();
                assert_eq!(back, early);
                let second = sealed(&secret, 3, &back);
                assert!(count == 0 && !finished || second != first, "another stream has other keys");
                assert_eq!(Early::take_back(&secret, 3, PART, second).unwrap(), early);
            }
        }
    }

    #[test]
    fn nothing_else_is_taken_back() {
        let secret = secret(Suite::AesGcm);
        let early = Early { bytes: b"hello".to_vec(), finished: false };
        let good = sealed(&secret, 1, &early);
        assert!(Early::take_back(&secret, 3, PART, good.clone()).is_err(), "of another stream");
        assert!(Early::take_back(&secret, 1, PART.other(), good.clone()).is_err(), "of the other direction");
        for cut in HEADER_LEN..good.len() {
            assert!(Early::take_back(&secret, 1, PART, good[..cut].to_vec()).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_stream_that_has_begun_takes_no_more_than_its_credit() {
        let secret = secret(Suite::AesGcm);
        let early = Early { bytes: vec![7; INITIAL_CREDIT as usize], finished: true };
        let (mut stream, mut outbox) = (opener(&secret, 1), Outbox::<Vec<u8>>::default());
        Early { bytes: vec![1], finished: false }.seal(&mut stream, &mut outbox).unwrap();
        assert_eq!(early.seal(&mut stream, &mut outbox), Err(StreamError::NoBudget));
    }
}
