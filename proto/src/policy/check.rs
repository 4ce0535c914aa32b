//! The types of the language. They are checked while an expression is parsed, so that evaluation cannot fail.

use std::fmt;

use super::error::Fault;
use super::expr::{Comparison, Name, Operand};

/// What kind of value an expression yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Boolean,
    /// Text in the credential; read as the kind of what it is compared with.
    Attribute,
    Sequence,
    /// A condition in parentheses.
    Condition,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Integer => "an integer",
            Self::Boolean => "a boolean",
            Self::Attribute => "an attribute",
            Self::Sequence => "a sequence",
            Self::Condition => "a condition",
        })
    }
}

impl Operand {
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Text(_) | Self::Name(Name::Identifier | Name::ResourceId | Name::ActionId) => Kind::Text,
            Self::Integer(_) => Kind::Integer,
            Self::Boolean(_) | Self::Name(Name::HasCredential) => Kind::Boolean,
            Self::Name(Name::Attribute(_)) => Kind::Attribute,
        }
    }
}

/// Whether `left` and `right` can be compared.
pub(super) fn comparable(comparison: Comparison, left: Kind, right: Kind) -> Result<(), Fault> {
    let orders = matches!(comparison, Comparison::Less | Comparison::Greater);
    match (left, right) {
        (Kind::Attribute, Kind::Attribute) if orders => Err(Fault::OrderUnknown(comparison)),
        (Kind::Boolean, _) | (_, Kind::Boolean) if orders => Err(Fault::NotComparable { comparison, left, right }),
        _ if left == right || left == Kind::Attribute || right == Kind::Attribute => Ok(()),
        _ => Err(Fault::NotComparable { comparison, left, right }),
    }
}

/// Whether `element` may stand in a sequence in which `value` is looked for, beside elements of kind `others`.
pub(super) fn element(value: Kind, others: Option<Kind>, element: Kind) -> Result<(), Fault> {
    match others {
        Some(others) if element != Kind::Attribute && others != element => Err(Fault::MixedSequence(others, element)),
        _ => comparable(Comparison::Equal, value, element),
    }
}
