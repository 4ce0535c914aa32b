//! What a handshake can be made with, and its numbers on the wire.

use std::fmt;

use crate::aead::Suite;

/// How the two sides agree on keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyExchange {
    /// X25519 alone, which a quantum computer would break, also in a recording.
    X25519,
    /// X25519 and ML-KEM-768 (FIPS 203): safe for as long as either is.
    Hybrid,
}

impl KeyExchange {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X25519 => "x25519",
            Self::Hybrid => "x25519+ml-kem-768",
        }
    }
}

impl fmt::Display for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One entry of an offer. A responder of version 1 accepts all of them; an initiator picks one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub exchange: KeyExchange,
    /// The cipher of the handshake, and of everything after it.
    pub suite: Suite,
}

impl Choice {
    /// By their numbers, from 1.
    pub const ALL: [Self; 4] = [
        Self { exchange: KeyExchange::X25519, suite: Suite::AesGcm },
        Self { exchange: KeyExchange::X25519, suite: Suite::ChaChaPoly },
        Self::hybrid(Suite::AesGcm),
        Self::hybrid(Suite::ChaChaPoly),
    ];

    #[must_use]
    pub const fn hybrid(suite: Suite) -> Self {
        Self { exchange: KeyExchange::Hybrid, suite }
    }

    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self.exchange {
            KeyExchange::X25519 => self.suite as u8,
            KeyExchange::Hybrid => self.suite as u8 + 2,
        }
    }

    /// The choice with this number on the wire.
    #[must_use]
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.number() == number)
    }

    /// The protocol name that Noise mixes in first.
    pub(super) const fn noise_name(self) -> &'static str {
        match (self.exchange, self.suite) {
            (KeyExchange::X25519, Suite::AesGcm) => "Noise_XK_25519_AESGCM_SHA256",
            (KeyExchange::X25519, Suite::ChaChaPoly) => "Noise_XK_25519_ChaChaPoly_SHA256",
            (KeyExchange::Hybrid, Suite::AesGcm) => "Noise_XKpsk3_25519_AESGCM_SHA256",
            (KeyExchange::Hybrid, Suite::ChaChaPoly) => "Noise_XKpsk3_25519_ChaChaPoly_SHA256",
        }
    }
}
