//! How much of a refusal the refused side is told.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an outlet or inlet tells a peer that it refuses. This node's own log and `postern explain` always tell everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disclose {
    /// That it is not available, whatever the reason is, the target's among them; and the id of the refusal.
    Nothing,
    /// A code. A peer that may not use an outlet gets the same one as for an outlet that does not exist.
    #[default]
    Code,
    /// That the policy refuses, the term that failed, and what the peer had: it names attributes, and may tell one who is curious what
    /// to ask for.
    Reason,
}

/// Why a text is not a [`Disclose`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not what can be disclosed: use reason, code or nothing")]
pub struct InvalidDisclose(String);

impl Disclose {
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Code, Self::Reason];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Code => "code",
            Self::Reason => "reason",
        }
    }

    /// Whether nobody asked for another one; such a setting is not written.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Disclose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Disclose {
    type Err = InvalidDisclose;

    fn from_str(text: &str) -> Result<Self, InvalidDisclose> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or_else(|| InvalidDisclose(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for disclose in Disclose::ALL {
            assert_eq!(disclose.to_string().parse(), Ok(disclose));
            assert_eq!(serde_json::to_value(disclose).unwrap(), disclose.as_str());
        }
        assert_eq!(Disclose::default(), Disclose::Code);
        assert!("everything".parse::<Disclose>().is_err());
    }
}
