//! How long a stream may be without a path, as a portal is told to.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{InvalidDuration, parse_duration};

/// How long a stream of an inlet or outlet waits for another path when it has lost its own, before it is reset. Each end of a
/// portal has its own, and the shorter one decides. Zero: it does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ResumeTimeout(Duration);

/// Why a text is not a resume timeout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResumeTimeout {
    #[error(transparent)]
    Duration(#[from] InvalidDuration),
    #[error("`{0}` is longer than an hour, the longest that a stream waits for a path")]
    TooLong(String),
}

impl ResumeTimeout {
    /// Where a portal says nothing: longer than a restart or a change of networks takes, shorter than most applications' patience.
    pub const DEFAULT: Self = Self(Duration::from_secs(60));

    /// The longest: a waiting stream holds its socket and up to 8 MiB of sealed records, and an application that has heard
    /// nothing for an hour is rarely still there.
    pub const MAX: Self = Self(Duration::from_secs(3_600));

    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whether nobody asked for another one; such a setting is not written.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::DEFAULT
    }
}

impl Default for ResumeTimeout {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for ResumeTimeout {
    type Err = InvalidResumeTimeout;

    fn from_str(text: &str) -> Result<Self, InvalidResumeTimeout> {
        let timeout = Self(parse_duration(text)?);
        if timeout > Self::MAX { Err(InvalidResumeTimeout::TooLong(text.chars().take(40).collect())) } else { Ok(timeout) }
    }
}

impl fmt::Display for ResumeTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_secs(), self.0.subsec_millis()) {
            (seconds, 0) => write!(f, "{seconds}s"),
            _ => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

impl From<ResumeTimeout> for String {
    fn from(timeout: ResumeTimeout) -> Self {
        timeout.to_string()
    }
}

impl TryFrom<String> for ResumeTimeout {
    type Error = InvalidResumeTimeout;

    fn try_from(text: String) -> Result<Self, InvalidResumeTimeout> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resume_timeouts() {
        for (text, shown) in [("60", "60s"), ("0", "0s"), ("1h", "3600s"), ("5m", "300s"), ("500ms", "500ms")] {
            let timeout: ResumeTimeout = text.parse().unwrap();
            assert_eq!(timeout.to_string(), shown);
            assert_eq!(shown.parse(), Ok(timeout));
        }
        assert_eq!("1m".parse(), Ok(ResumeTimeout::DEFAULT));
        assert!(matches!("3601".parse::<ResumeTimeout>(), Err(InvalidResumeTimeout::TooLong(_))));
        assert!(matches!("long".parse::<ResumeTimeout>(), Err(InvalidResumeTimeout::Duration(_))));
    }
}
