//! A moment as people give it: a time, or how long ago.

use std::str::FromStr;
use std::time::Duration;

use postern_proto::time::{Timestamp, parse_duration, parse_timestamp};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    At(Timestamp),
    Ago(Duration),
}

impl When {
    /// The moment that is meant at `now`.
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.minus(ago),
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let day = format!("{text}T00:00:00Z");
        // A bare number is a duration in seconds, as everywhere on the command line.
        let duration = parse_duration(text).ok().map(Self::Ago);
        duration.or_else(|| parse_timestamp(text).or_else(|| parse_timestamp(&day)).map(Self::At)).ok_or_else(|| {
            "write a time like 2026-11-22T08:00:00Z or a day like 2026-11-22, both UTC, or how long ago, like 24h".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations() {
        let now = Timestamp::from_unix(1_795_305_600);
        let at = |text: &str| text.parse::<When>().unwrap().at(now);
        assert_eq!(at("24h"), now.minus(Duration::from_secs(86_400)));
        assert_eq!(at("2026-11-22T00:00:00Z"), now);
        assert_eq!(at("2026-11-22"), now);
        assert!("yesterday".parse::<When>().is_err());
    }
}
