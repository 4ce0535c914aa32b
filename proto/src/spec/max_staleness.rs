//! How old the newest word of the authority may be, as a node is told to.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{InvalidDuration, parse_duration};

/// How long a node goes on without hearing of its authority: past this age of the newest heartbeat, it opens no stream and ends those that
/// live, since anybody may have been revoked since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MaxStaleness(Duration);

/// Why a text is no such time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMaxStaleness {
    #[error(transparent)]
    Duration(#[from] InvalidDuration),
    #[error("`{0}` is shorter than 15s: the authority is heard every 10 s")]
    TooShort(String),
    #[error("`{0}` is longer than 24h: credentials expire by then anyway")]
    TooLong(String),
}

impl MaxStaleness {
    /// Where nothing else is said, and the longest: as long as credentials live.
    pub const MAX: Self = Self(Duration::from_secs(24 * 3600));

    /// The shortest: a heartbeat comes every 10 s, and may come a little late.
    pub const MIN: Self = Self(Duration::from_secs(15));

    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whether nobody asked for another one; such a setting is not written.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for MaxStaleness {
    fn default() -> Self {
        Self::MAX
    }
}

impl FromStr for MaxStaleness {
    type Err = InvalidMaxStaleness;

    fn from_str(text: &str) -> Result<Self, InvalidMaxStaleness> {
        let time = Self(parse_duration(text)?);
        let shown = || text.chars().take(40).collect();
        if time < Self::MIN {
            return Err(InvalidMaxStaleness::TooShort(shown()));
        }
        if time > Self::MAX { Err(InvalidMaxStaleness::TooLong(shown())) } else { Ok(time) }
    }
}

impl fmt::Display for MaxStaleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_secs(), self.0.subsec_millis()) {
            (seconds, 0) => write!(f, "{seconds}s"),
            _ => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

impl From<MaxStaleness> for String {
    fn from(time: MaxStaleness) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for MaxStaleness {
    type Error = InvalidMaxStaleness;

    fn try_from(text: String) -> Result<Self, InvalidMaxStaleness> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_without_the_authority() {
        for (text, shown) in [("15", "15s"), ("1h", "3600s"), ("24h", "86400s"), ("20500ms", "20500ms")] {
            let time: MaxStaleness = text.parse().unwrap();
            assert_eq!(time.to_string(), shown);
            assert_eq!(shown.parse(), Ok(time));
        }
        assert!("1d".parse::<MaxStaleness>().unwrap().is_default());
        assert!(matches!("14s".parse::<MaxStaleness>(), Err(InvalidMaxStaleness::TooShort(_))));
        assert!(matches!("25h".parse::<MaxStaleness>(), Err(InvalidMaxStaleness::TooLong(_))));
        assert!(matches!("long".parse::<MaxStaleness>(), Err(InvalidMaxStaleness::Duration(_))));
    }
}
