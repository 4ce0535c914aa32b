//! Names that people give to things. Each kind is a type of its own, made only by its parser.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes; all characters are ASCII.
pub const MAX_NAME: usize = 64;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {kind}: use 1 to {MAX_NAME} of the characters {allowed}")]
pub struct InvalidName {
    text: String,
    kind: &'static str,
    allowed: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $allowed:literal, $extra:pat) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, $extra);
                // Names become file names and route segments, where `.` and `..` mean something else.
                let fits = !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(allowed) && !matches!(text, "." | "..");
                if fits {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidName { text: text.chars().take(80).collect(), kind: $kind, allowed: $allowed })
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.0)?;
                Ok(())
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                d.str()?.parse().map_err(|_| minicbor::decode::Error::message(concat!("not ", $kind)))
            }
        }
    };
}

name!(
    /// A node of a home.
    NodeName, "a node name", "A-Z a-z 0-9 _ -", b'_' | b'-'
);
name!(
    /// An identity of a home.
    IdentityName, "an identity name", "A-Z a-z 0-9 _ -", b'_' | b'-'
);
name!(
    /// The alias of an inlet.
    Alias, "an alias", "A-Z a-z 0-9 _ -", b'_' | b'-'
);
name!(
    /// An outlet, as peers name it.
    OutletName, "an outlet name", "A-Z a-z 0-9 _ - .", b'_' | b'-' | b'.'
);
name!(
    /// The address under which a node can be found at the relays.
    RelayName, "a relay name", "A-Z a-z 0-9 _ - .", b'_' | b'-' | b'.'
);
name!(
    /// A project.
    ProjectName, "a project name", "A-Z a-z 0-9 _ -", b'_' | b'-'
);

/// Fewest characters of an identifier that are taken for its beginning.
const SHORTEST_BEGINNING: usize = 8;

/// Whether `text` has the form of the beginning of an [`Identifier`](crate::id::Identifier): `P` and 7 or more hexadecimal digits. People name
/// members so, and so no member may be called.
#[must_use]
pub fn is_beginning_of_identifier(text: &str) -> bool {
    let digits = text.strip_prefix('P');
    text.len() >= SHORTEST_BEGINNING && digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_of_identifiers() {
        for text in ["Pee2a607", "PEE2A6073", &format!("P{}", "ab".repeat(32))] {
            assert!(is_beginning_of_identifier(text), "{text}");
        }
        for text in ["", "P", "Pee2a60", "pee2a6073", "Pee2a607x", "Paddington", "ee2a60731"] {
            assert!(!is_beginning_of_identifier(text), "{text}");
        }
    }

    #[test]
    fn limits() {
        assert!("n1".parse::<NodeName>().is_ok());
        assert!("a.b".parse::<NodeName>().is_err());
        assert!("a.b".parse::<OutletName>().is_ok());
        assert!("x".repeat(64).parse::<NodeName>().is_ok());
        for bad in ["", "n!", "a/b", "..", ".", "é", "a b", "a\0"] {
            assert!(bad.parse::<OutletName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(65).parse::<NodeName>().is_err());
    }
}
