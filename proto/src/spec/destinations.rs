//! The outlets that an inlet leads to, each with its share of the connections.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Destination;
use crate::weight::Weight;

/// Most outlets of one inlet.
pub const MAX_DESTINATIONS: usize = 16;

/// One or several outlets, each once. Written as its route where it is one, as a list where there are several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Destinations(Vec<Share>);

/// An outlet with its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    pub to: Destination,
    #[serde(default)]
    pub weight: Weight,
}

/// Why these are no destinations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDestinations {
    #[error("an inlet leads to an outlet, and none is named")]
    None,
    #[error("an inlet leads to at most {MAX_DESTINATIONS} outlets")]
    TooMany,
    #[error("the outlet {0} is named twice")]
    Twice(String),
}

impl Destinations {
    /// # Errors
    /// [`InvalidDestinations`].
    pub fn new(shares: Vec<Share>) -> Result<Self, InvalidDestinations> {
        if shares.is_empty() {
            return Err(InvalidDestinations::None);
        }
        if shares.len() > MAX_DESTINATIONS {
            return Err(InvalidDestinations::TooMany);
        }
        let mut seen = HashSet::new();
        match shares.iter().find(|share| !seen.insert(&share.to)) {
            Some(twice) => Err(InvalidDestinations::Twice(twice.to.to_string())),
            None => Ok(Self(shares)),
        }
    }

    /// All of them, in the order in which they were written.
    #[must_use]
    pub fn shares(&self) -> &[Share] {
        &self.0
    }

    /// The one that was written first.
    #[must_use]
    pub fn first(&self) -> &Destination {
        // Never empty.
        &self.0[0].to
    }

    pub fn iter(&self) -> impl Iterator<Item = &Destination> {
        self.0.iter().map(|share| &share.to)
    }
}

impl From<Destination> for Destinations {
    fn from(to: Destination) -> Self {
        Self(vec![Share { to, weight: Weight::ONE }])
    }
}

impl fmt::Display for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [one] = self.0.as_slice() {
            return one.to.fmt(f);
        }
        for (number, share) in self.0.iter().enumerate() {
            write!(f, "{}{}={}", if number == 0 { "" } else { ", " }, share.to, share.weight)?;
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    One(Destination),
    Several(Vec<Share>),
}

impl From<Destinations> for Written {
    fn from(mut destinations: Destinations) -> Self {
        match destinations.0.len() {
            1 => Self::One(destinations.0.swap_remove(0).to),
            _ => Self::Several(destinations.0),
        }
    }
}

impl TryFrom<Written> for Destinations {
    type Error = InvalidDestinations;

    fn try_from(written: Written) -> Result<Self, InvalidDestinations> {
        match written {
            Written::One(to) => Ok(to.into()),
            Written::Several(shares) => Self::new(shares),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_a_route_and_several_are_a_list() {
        let one = r#""/node/n1/secure/api/service/db""#;
        let several =
            r#"[{"to":"/node/n1/secure/api/service/v1","weight":90},{"to":"/node/n1/secure/api/service/v2","weight":10}]"#;
        for text in [one, several] {
            let read: Destinations = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
        let read: Destinations = serde_json::from_str(several).unwrap();
        assert_eq!(read.to_string(), "/node/n1/secure/api/service/v1=90, /node/n1/secure/api/service/v2=10");
        let share = r#"{"to":"/node/n1/service/v1"}"#;
        let many = |count: usize| format!("[{}]", vec![share; count].join(","));
        for bad in [many(0), many(2), many(MAX_DESTINATIONS + 1), r#""db""#.to_owned()] {
            assert!(serde_json::from_str::<Destinations>(&bad).is_err(), "{bad}");
        }
        let alone: Destinations = serde_json::from_str(&many(1)).unwrap();
        assert_eq!(alone.shares()[0].weight, Weight::ONE);
    }
}
