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
    /// Opens what this side, which played `part` in the channel's handshake, has sealed for stream `id`: all its `count` data records, one
    /// behind the other.
    ///
    /// # Errors
    /// [`StreamError::Record`] where they are not that; [`StreamError::AckOfUnsent`] where some are missing, which the peer may have claimed to
    /// have.
    pub fn take_back(
        secret: &ChannelSecret,
        id: u64,
        part: channel::Side,
        mut sealed: Vec<u8>,
        count: u64,
    ) -> Result<Self, StreamError> {
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
        if opener.count() != count {
            return Err(StreamError::AckOfUnsent { received: count, sent: opener.count() });
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
    use super::super::{ControlKeys, INITIAL_CREDIT, Side, StreamKeys};
    use super::*;
    use crate::aead::Suite;
    use crate::id::RefusalId;
    use crate::path::{AttachHead, OpenHead};
    use crate::record::{Control, ControlSealer, Reject, RejectCode};
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
                let records = (count.div_ceil(MAX_BODY) + usize::from(finished)) as u64;
                let back = Early::take_back(&secret, 1, PART, first.clone(), records).unwrap();
                assert_eq!(back, early);
                let second = sealed(&secret, 3, &back);
                assert!(count == 0 && !finished || second != first, "another stream has other keys");
                assert_eq!(Early::take_back(&secret, 3, PART, second, records).unwrap(), early);
            }
        }
    }

    #[test]
    fn nothing_else_is_taken_back() {
        let secret = secret(Suite::AesGcm);
        let early = Early { bytes: b"hello".to_vec(), finished: false };
        let good = sealed(&secret, 1, &early);
        assert!(Early::take_back(&secret, 3, PART, good.clone(), 1).is_err(), "of another stream");
        assert!(Early::take_back(&secret, 1, PART.other(), good.clone(), 1).is_err(), "of the other direction");
        assert!(Early::take_back(&secret, 1, PART, Vec::new(), 1).is_err(), "a record is missing");
        assert!(Early::take_back(&secret, 1, PART, good.clone(), 2).is_err(), "the second record is missing");
        for cut in HEADER_LEN..good.len() {
            assert!(Early::take_back(&secret, 1, PART, good[..cut].to_vec(), 1).is_err(), "cut at {cut}");
        }
    }

    /// A peer that has opened some, and then says that nothing reached its target, would choose what the next one hears.
    #[test]
    fn who_says_that_it_has_some_rejects_nothing() {
        let secret = secret(Suite::AesGcm);
        for received in [0, 1] {
            let mut stream = opener(&secret, 1);
            let mut outbox = Outbox::<Vec<u8>>::default();
            Early { bytes: b"hello".to_vec(), finished: false }.seal(&mut stream, &mut outbox).unwrap();
            let head = OpenHead { channel: secret.id(), stream: 1 };
            let keys = |part| ControlKeys::derive(&secret, 1, part, 1);
            stream.seal_attach(&keys(PART), AttachHead { head, attach: 1 }, None, &mut Vec::new()).unwrap();
            let mut peer = ControlSealer::new(Suite::AesGcm, &keys(PART.other()).send);
            let mut says = |control| {
                let mut record = Vec::new();
                peer.seal(control, &mut record).unwrap();
                let header = Header::parse(*record.first_chunk().unwrap()).unwrap();
                stream.handle_record(header, &mut record).map(|said| format!("{said:?}"))
            };
            says(Control::Attached { received }).unwrap();
            let reject = Reject { code: RejectCode::TargetRefused, id: RefusalId::random(), reason: String::new() };
            let rejected = says(Control::Reject(Box::new(reject)));
            assert_eq!(rejected.is_ok(), received == 0, "{received}: {rejected:?}");
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
