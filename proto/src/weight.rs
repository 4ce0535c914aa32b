//! The share that one of several gets: of a relay name's nodes, of an inlet's outlets.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Decoder, Encode, Encoder};
use serde::{Deserialize, Serialize};

/// A weight: what has twice the weight of another one gets twice as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
pub struct Weight(u16);

/// Why a number or text is not a weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a weight: weights are numbers from 1 to {max}", max = Weight::MOST.0)]
pub struct InvalidWeight(String);

impl Weight {
    /// The weight of what is given none.
    pub const ONE: Self = Self(1);
    /// The largest: with it beside [`Self::ONE`], one of a thousand goes to the other.
    pub const MOST: Self = Self(1000);

    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Whether it is that of what is given none.
    #[must_use]
    pub fn is_one(&self) -> bool {
        *self == Self::ONE
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Weight> for u16 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

impl TryFrom<u16> for Weight {
    type Error = InvalidWeight;

    fn try_from(number: u16) -> Result<Self, InvalidWeight> {
        if (Self::ONE.0..=Self::MOST.0).contains(&number) { Ok(Self(number)) } else { Err(InvalidWeight(number.to_string())) }
    }
}

impl FromStr for Weight {
    type Err = InvalidWeight;

    fn from_str(text: &str) -> Result<Self, InvalidWeight> {
        let invalid = || InvalidWeight(text.chars().take(20).collect());
        // Only digits: `parse` alone would take a sign.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits).and_then(|number| number.try_into().ok()).ok_or_else(invalid)
    }
}

impl<C> Encode<C> for Weight {
    fn encode<W: minicbor::encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u16(self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Weight {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let position = d.position();
        d.u16()?.try_into().map_err(|error: InvalidWeight| minicbor::decode::Error::message(error.to_string()).at(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_weight_is() {
        for (text, weight) in [("1", 1), ("90", 90), ("1000", 1000)] {
            let parsed: Weight = text.parse().unwrap();
            assert_eq!((parsed.get(), parsed.to_string()), (weight, text.to_owned()));
            assert_eq!(minicbor::decode::<Weight>(&minicbor::to_vec(parsed).unwrap()).unwrap(), parsed);
        }
        for bad in ["", "0", "1001", "-1", "+1", "1.5", "x", "65537"] {
            assert!(bad.parse::<Weight>().is_err(), "{bad}");
        }
        for bad in [0_u16, 1001, u16::MAX] {
            assert!(minicbor::decode::<Weight>(&minicbor::to_vec(bad).unwrap()).is_err(), "{bad}");
            assert!(serde_json::from_str::<Weight>(&bad.to_string()).is_err(), "{bad}");
        }
    }
}
