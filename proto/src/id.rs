//! Fixed-length identifiers. Each is a type of its own, so that one can never stand where another is meant.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {kind}: it must be {form}")]
pub struct InvalidId {
    text: String,
    kind: &'static str,
    form: String,
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, minicbor::Encode, minicbor::Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Takes the bytes as they are; this proves nothing about them.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let mut bytes = [0; $len];
                text.strip_prefix($prefix)
                    .filter(|digits| hex::decode_to_slice(digits, &mut bytes).is_ok())
                    .map(|_| Self(bytes))
                    .ok_or_else(|| InvalidId {
                        text: text.chars().take(80).collect(),
                        kind: $kind,
                        form: format!("{}{} hexadecimal digits", if $prefix.is_empty() { String::new() } else { format!("`{}` and ", $prefix) }, $len * 2),
                    })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! random_id {
    ($name:ident, $len:literal) => {
        impl $name {
            /// A new identifier from the operating system's random source.
            #[must_use]
            pub fn random() -> Self {
                Self(crate::secret::random_array::<$len>())
            }
        }
    };
}

byte_id!(
    /// An identity: SHA-256 of its first change record. Written `P` and 64 hexadecimal digits.
    Identifier, 32, "P", "an identifier"
);
byte_id!(
    /// A project, named by its authority when it is made.
    ProjectId, 16, "", "a project id"
);
byte_id!(
    /// A node, for as long as its directory exists.
    NodeId, 16, "", "a node id"
);
byte_id!(
    /// One run of a node.
    InstanceId, 16, "", "an instance id"
);
byte_id!(
    /// An X25519 public key that a handshake authenticates.
    StaticPublic, 32, "", "a static public key"
);
byte_id!(
    /// An Ed25519 public key as it is carried; [`crate::sign::PublicKey`] is one that was checked.
    SigningPublic, 32, "", "a signing public key"
);
byte_id!(
    /// One control link's session with a relay; names it on data links.
    SessionId, 16, "", "a session id"
);
byte_id!(
    /// One generation of a channel between two nodes.
    ChannelId, 16, "", "a channel id"
);
byte_id!(
    /// A ticket; not secret.
    TicketId, 16, "", "a ticket id"
);
byte_id!(
    /// One credential (`cti`).
    CredentialId, 16, "", "a credential id"
);
byte_id!(
    /// A key of an authority's key ring: the first 8 bytes of SHA-256 of the public key.
    KeyId, 8, "", "a key id"
);
byte_id!(
    /// A hash of the audit's tree: of a row, or of the rows up to one.
    TreeHash, 32, "", "a hash of the audit"
);
byte_id!(
    /// One refusal: what both sides log of it, and `postern explain` finds it by. Written `R` and 16 hexadecimal digits.
    RefusalId, 8, "R", "the id of a refusal"
);
byte_id!(
    /// A connection that an inlet has taken, to whom it is known anyway: a node of the same machine that made it.
    ConnectionMark, 16, "", "the mark of a connection"
);
random_id!(ProjectId, 16);
random_id!(NodeId, 16);
random_id!(InstanceId, 16);
random_id!(TicketId, 16);
random_id!(CredentialId, 16);
random_id!(RefusalId, 8);

impl RefusalId {
    /// The id of a refusal that both ends of a session know without telling it: `session` names the session at both its ends, `number` that of the request which was refused (`docs/protocol/links.md`, `docs/protocol/authority.md`).
    #[must_use]
    pub fn of_request(session: &[u8], number: u32) -> Self {
        use sha2::Digest;
        let hash = sha2::Sha256::new()
            .chain_update(b"postern refusal")
            .chain_update(session)
            .chain_update(number.to_be_bytes())
            .finalize();
        let mut id = [0; Self::LEN];
        id.copy_from_slice(&hash[..Self::LEN]);
        Self::from_bytes(id)
    }
}

impl ConnectionMark {
    /// The mark of the connection from `from` to `to` on a machine that `machine` names: the beginning of a hash, from which nobody learns an
    /// address who does not know all of `machine` (`docs/protocol/streams.md`).
    #[must_use]
    pub fn of(machine: &[u8], from: SocketAddr, to: SocketAddr) -> Self {
        use sha2::Digest;
        let mut hash = sha2::Sha256::new().chain_update(b"postern connection").chain_update((machine.len() as u64).to_be_bytes());
        hash.update(machine);
        for address in [from, to] {
            // As an IPv6 address, so that both ends see the same whatever their sockets are.
            let ip = match address.ip().to_canonical() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            hash.update(ip.octets());
            hash.update(address.port().to_be_bytes());
        }
        let mut mark = [0; Self::LEN];
        mark.copy_from_slice(&hash.finalize()[..Self::LEN]);
        Self(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_one_mark_at_both_ends_and_on_one_machine() {
        let address = |text: &str| text.parse().unwrap();
        let (from, to) = (address("127.0.0.1:40000"), address("127.0.0.1:80"));
        let mark = ConnectionMark::of(b"machine", from, to);
        assert_eq!(mark.to_string(), "61eaf36228c5d8a04df89b332a219767");
        assert_eq!(mark, ConnectionMark::of(b"machine", address("[::ffff:127.0.0.1]:40000"), to), "a socket of both families");
        for (machine, from, to) in [("another", from, to), ("machine", to, from), ("machine", from, address("127.0.0.1:81"))] {
            assert_ne!(mark, ConnectionMark::of(machine.as_bytes(), from, to));
        }
    }

    #[test]
    fn a_refusal_has_an_id_that_both_ends_know() {
        assert_eq!(RefusalId::of_request(&[7; 16], 1).to_string(), "R1e3a37c76cc8902b");
        assert_ne!(RefusalId::of_request(&[7; 16], 1), RefusalId::of_request(&[7; 16], 2));
        assert_ne!(RefusalId::of_request(&[7; 16], 1), RefusalId::of_request(&[8; 16], 1));
    }

    #[test]
    fn text_form_round_trips() {
        let id = Identifier::from_bytes([0xab; 32]);
        assert_eq!(id.to_string(), format!("P{}", "ab".repeat(32)));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("Pab".parse::<Identifier>().is_err());
        assert!("ab".repeat(32).parse::<Identifier>().is_err(), "the prefix is part of the form");
    }
}
