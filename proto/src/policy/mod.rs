//! The policy language: an expression over a peer's attributes decides whether that peer may use a resource.
//!
//! There are two notations in one grammar, which [`parse`] reads: `a and not b` and `(= subject.a "true")`. Everything that can
//! be wrong with an expression is found when it is parsed, with its place; [`Expr::evaluate`] cannot fail. The language is
//! described in `docs/reference/policy-language.md`.

mod analyse;
mod check;
mod error;
mod evaluate;
mod expr;
mod lex;
mod parse;
mod print;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use analyse::Setting;
pub use error::{Fault, ParseError};
pub use evaluate::{Action, Decision, Fact, Facts, Had, Reason, Request, Term};
pub use expr::{Comparison, Name};

use expr::Node;

/// Longest text of an expression in bytes, as written and in its canonical form. Several hundred terms fit, and a log line or an
/// error that quotes one stays readable by machines.
pub const MAX_TEXT: usize = 8 * 1024;

/// Deepest tree, in operators from the root to a term. Parsing, printing and evaluation recurse once per level, so this bounds
/// the stack that an expression can use.
pub const MAX_DEPTH: usize = 32;

/// Deepest nesting of parentheses and `not` in a text: the canonical form of the deepest tree, where each level may be `(not `.
pub const MAX_NESTING: usize = 2 * MAX_DEPTH;

/// Most operators, values and names in an expression. It bounds the work of one decision, which is taken for every stream.
pub const MAX_NODES: usize = 1024;

/// Longest attribute name in bytes, as credentials limit it; a longer one could never be held by a peer.
pub const MAX_ATTRIBUTE_NAME: usize = 64;

/// A policy expression: parsed, checked, and within every limit.
///
/// Made by [`parse`]. `Display` writes the canonical prefix form, which parses back to an equal expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expr {
    root: Node,
}

/// Reads an expression in either notation.
///
/// # Errors
/// [`ParseError`] for a text that is malformed, compares what cannot be compared, or exceeds a limit of this module.
pub fn parse(text: &str) -> Result<Expr, ParseError> {
    parse::parse(text).map(|root| Expr { root })
}

impl Expr {
    /// `subject.has_credential`: what applies to a resource without a policy. Every member of the project passes.
    #[must_use]
    pub const fn members_only() -> Self {
        Self { root: Node::HasCredential }
    }

    /// `not` of this expression.
    #[must_use]
    pub fn negated(self) -> Self {
        Self { root: Node::Not(Box::new(self.root)) }
    }

    /// Whether this is [`Expr::members_only`], that is, open to every member.
    #[must_use]
    pub fn is_members_only(&self) -> bool {
        self.root == Node::HasCredential
    }

    /// Reads an expression that stands in a larger document, its first character at `line` and `column` (both from 1), so that
    /// the error tells the place in the document.
    ///
    /// # Errors
    /// Those of [`parse`].
    pub fn parse_at(text: &str, line: usize, column: usize) -> Result<Self, ParseError> {
        parse(text).map_err(|error| error.moved_to(line, column))
    }

    /// Decides `request`. Takes time proportional to the expression; only a refusal costs more, to explain it.
    pub fn evaluate(&self, request: &Request<'_>) -> Decision {
        evaluate::decide(&self.root, request)
    }
}

impl FromStr for Expr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print::canonical(&self.root))
    }
}

impl Serialize for Expr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // One line, because deserializers add their own place behind the message.
        parse(&String::deserialize(deserializer)?).map_err(|error| serde::de::Error::custom(error.summary()))
    }
}
