//! The tree of an expression.

use std::fmt;

use super::print;

/// A condition: true or false for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Literal(bool),
    HasCredential,
    /// At least one.
    And(Vec<Node>),
    /// At least one.
    Or(Vec<Node>),
    Not(Box<Node>),
    If {
        condition: Box<Node>,
        then: Box<Node>,
        otherwise: Box<Node>,
    },
    Compare {
        comparison: Comparison,
        left: Operand,
        right: Operand,
    },
    Member {
        value: Operand,
        sequence: Vec<Operand>,
    },
    /// At least one.
    Exists(Vec<Name>),
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operand {
    Text(String),
    Integer(i64),
    Boolean(bool),
    Name(Name),
}

/// What an expression can ask about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Name {
    /// `subject.identifier`: the peer's identifier, as text. An attribute of this name is never looked at.
    Identifier,
    /// `subject.has_credential`: whether the peer showed a valid credential. An attribute of this name is never looked at.
    HasCredential,
    /// `subject.NAME`: an attribute of the peer's credential.
    Attribute(String),
    /// `resource.id`: the outlet, inlet or relay name that is asked for.
    ResourceId,
    /// `action.id`: what is asked of it.
    ActionId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    Greater,
}

impl Comparison {
    pub(super) const ALL: [Self; 4] = [Self::Equal, Self::NotEqual, Self::Less, Self::Greater];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::Greater => ">",
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identifier => f.write_str("subject.identifier"),
            Self::HasCredential => f.write_str("subject.has_credential"),
            Self::Attribute(name) => write!(f, "subject.{name}"),
            Self::ResourceId => f.write_str("resource.id"),
            Self::ActionId => f.write_str("action.id"),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => print::quoted(text, f),
            Self::Integer(number) => number.fmt(f),
            Self::Boolean(boolean) => boolean.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Node {
    /// Operators from here down to the deepest term: the nesting of parentheses in the canonical form.
    pub(super) fn depth(&self) -> usize {
        let children = match self {
            Self::Literal(_) | Self::HasCredential => return 0,
            Self::Compare { .. } | Self::Member { .. } | Self::Exists(_) => return 1,
            Self::And(all) | Self::Or(all) => all.iter().map(Self::depth).max().unwrap_or(0),
            Self::Not(inner) => inner.depth(),
            Self::If { condition, then, otherwise } => condition.depth().max(then.depth()).max(otherwise.depth()),
        };
        children + 1
    }

    /// Operators, values and names, as the canonical form writes them.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Literal(_) | Self::HasCredential => 1,
            Self::And(all) | Self::Or(all) => 1 + all.iter().map(Self::size).sum::<usize>(),
            Self::Not(inner) => 1 + inner.size(),
            Self::If { condition, then, otherwise } => 1 + condition.size() + then.size() + otherwise.size(),
            Self::Compare { .. } => 3,
            Self::Member { sequence, .. } => 2 + sequence.len(),
            Self::Exists(names) => 1 + names.len(),
        }
    }
}
