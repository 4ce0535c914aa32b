//! Decisions, and why a request was refused.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

use super::expr::{Comparison, Name, Node, Operand};
use super::print;
use crate::authority::Attributes;
use crate::id::Identifier;

/// Terms that a [`Reason`] names. The first few say what is missing; an expression of hundreds would flood the log.
const MAX_REASON_TERMS: usize = 8;

/// What was proven about a peer. Taken from a verified credential, or empty for a peer that showed none.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub identifier: Option<Identifier>,
    pub has_credential: bool,
    pub attributes: &'a Attributes,
}

/// What a peer wants to do with what.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub subject: Facts<'a>,
    /// The outlet's name, the inlet's alias or the relay name.
    pub resource: &'a str,
    pub action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// An inlet sends a stream to the subject, the node of the outlet.
    OpenStream,
    /// An outlet takes a stream from the subject, the node of the inlet.
    AcceptStream,
    /// The subject claims a relay name.
    ClaimRelayName,
}

impl Action {
    /// As `action.id` gives it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenStream => "open-stream",
            Self::AcceptStream => "accept-stream",
            Self::ClaimRelayName => "claim-relay-name",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    Allowed,
    Denied(Reason),
}

impl Decision {
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed)
    }
}

/// Why a request was refused. It names attributes of the peer, so it belongs in the log and the status of the side that decided,
/// never in what the peer is told. `Display` is one sentence on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The terms that would have to differ; at least one.
    pub terms: Vec<Term>,
    /// How many more there are.
    pub further: usize,
}

/// A term of an expression that was not as the expression needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The term in canonical form.
    pub text: String,
    /// Its place in the canonical form of the whole expression, in bytes.
    pub span: Range<usize>,
    /// Whether it was true: so under a `not`.
    pub was: bool,
    /// What it looked at, in the order of the term. Empty for `true` and `false`.
    pub facts: Vec<Fact>,
    /// The attribute and the value that the term compares for equality, where it does no more than that.
    pub equality: Option<(String, String)>,
}

impl Term {
    /// What would make the term as the expression needs it, in a few words.
    #[must_use]
    pub fn remedy(&self) -> String {
        match (&self.equality, self.was) {
            (Some((name, value)), false) => format!("the attribute {name}={}", Quoted(value)),
            (Some((name, value)), true) => format!("another value of the attribute {name} than {}, or none", Quoted(value)),
            (None, was) => format!("what makes {} {}", self.text, !was),
        }
    }
}

/// A value as it is shown; one that steers a terminal is escaped.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print::quoted(self.0, f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub name: Name,
    pub had: Had,
}

/// What there was under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Had {
    Missing,
    Text(String),
    Boolean(bool),
}

pub(super) fn decide(root: &Node, request: &Request<'_>) -> Decision {
    if root.holds(request) {
        return Decision::Allowed;
    }
    let mut blamed = Vec::new();
    blame(root, request, &mut blamed);
    let further = blamed.len().saturating_sub(MAX_REASON_TERMS);
    blamed.truncate(MAX_REASON_TERMS);
    let (canonical, places) = print::canonical_with_places(root, &blamed);
    let terms = blamed.into_iter().zip(places).map(|(node, span)| Term {
        text: canonical.get(span.clone()).unwrap_or_default().to_owned(),
        span,
        was: node.holds(request),
        facts: node.names().into_iter().map(|name| Fact { had: request.had(name), name: name.clone() }).collect(),
        equality: node.equality(),
    });
    Decision::Denied(Reason { terms: terms.collect(), further })
}

/// Collects the terms because of which `node` is what it is.
fn blame<'n>(node: &'n Node, request: &Request<'_>, into: &mut Vec<&'n Node>) {
    match node {
        Node::And(all) | Node::Or(all) => {
            // A false `and` is so because of its false parts, a true one because of all, which are true; `or` likewise.
            let was = node.holds(request);
            for part in all.iter().filter(|part| part.holds(request) == was) {
                blame(part, request, into);
            }
        }
        Node::Not(inner) => blame(inner, request, into),
        Node::If { condition, then, otherwise } => {
            let taken = if condition.holds(request) { then } else { otherwise };
            // `false` as a branch says nothing; what led there does.
            blame(if matches!(**taken, Node::Literal(_)) { condition } else { taken }, request, into);
        }
        Node::Literal(_) | Node::HasCredential | Node::Compare { .. } | Node::Member { .. } | Node::Exists(_) => into.push(node),
    }
}

impl Node {
    fn holds(&self, request: &Request<'_>) -> bool {
        match self {
            Self::Literal(value) => *value,
            Self::HasCredential => request.subject.has_credential,
            Self::And(all) => all.iter().all(|part| part.holds(request)),
            Self::Or(all) => all.iter().any(|part| part.holds(request)),
            Self::Not(inner) => !inner.holds(request),
            Self::If { condition, then, otherwise } => {
                if condition.holds(request) {
                    then.holds(request)
                } else {
                    otherwise.holds(request)
                }
            }
            Self::Compare { comparison, left, right } => match (left.value(request), right.value(request)) {
                (Some(left), Some(right)) => compare(*comparison, &left, &right),
                _ => false,
            },
            Self::Member { value, sequence } => value.value(request).is_some_and(|value| {
                let found = |element: Value<'_>| compare(Comparison::Equal, &value, &element);
                sequence.iter().any(|element| element.value(request).is_some_and(found))
            }),
            Self::Exists(names) => names.iter().all(|name| request.value(name).is_some()),
        }
    }

    /// The attribute and the value of a term like `subject.a = "x"`.
    fn equality(&self) -> Option<(String, String)> {
        match self {
            Self::Compare { comparison: Comparison::Equal, left, right } => match (left, right) {
                (Operand::Name(Name::Attribute(name)), Operand::Text(value))
                | (Operand::Text(value), Operand::Name(Name::Attribute(name))) => Some((name.clone(), value.clone())),
                _ => None,
            },
            _ => None,
        }
    }

    /// The names that a term looks at.
    fn names(&self) -> Vec<&Name> {
        let operands: Vec<&Operand> = match self {
            Self::HasCredential => return vec![&Name::HasCredential],
            Self::Exists(names) => return names.iter().collect(),
            Self::Compare { left, right, .. } => vec![left, right],
            Self::Member { value, sequence } => std::iter::once(value).chain(sequence).collect(),
            _ => Vec::new(),
        };
        operands
            .into_iter()
            .filter_map(|operand| match operand {
                Operand::Name(name) => Some(name),
                _ => None,
            })
            .collect()
    }
}

/// A value at the time of a decision.
enum Value<'a> {
    Text(Cow<'a, str>),
    Integer(i64),
    Boolean(bool),
    Attribute(&'a str),
}

impl Operand {
    fn value<'a>(&'a self, request: &'a Request<'_>) -> Option<Value<'a>> {
        match self {
            Self::Text(text) => Some(Value::Text(Cow::Borrowed(text))),
            Self::Integer(number) => Some(Value::Integer(*number)),
            Self::Boolean(boolean) => Some(Value::Boolean(*boolean)),
            Self::Name(name) => request.value(name),
        }
    }
}

impl Request<'_> {
    fn value(&self, name: &Name) -> Option<Value<'_>> {
        match name {
            Name::Identifier => self.subject.identifier.map(|identifier| Value::Text(Cow::Owned(identifier.to_string()))),
            Name::HasCredential => Some(Value::Boolean(self.subject.has_credential)),
            Name::Attribute(name) => self.subject.attributes.get(name).map(|value| Value::Attribute(value)),
            Name::ResourceId => Some(Value::Text(Cow::Borrowed(self.resource))),
            Name::ActionId => Some(Value::Text(Cow::Borrowed(self.action.as_str()))),
        }
    }

    fn had(&self, name: &Name) -> Had {
        match self.value(name) {
            None => Had::Missing,
            Some(Value::Boolean(boolean)) => Had::Boolean(boolean),
            Some(Value::Text(text)) => Had::Text(text.into_owned()),
            Some(Value::Attribute(text)) => Had::Text(text.to_owned()),
            Some(Value::Integer(number)) => Had::Text(number.to_string()),
        }
    }
}

/// False where an attribute's text cannot be read as what it is compared with, also for `!=`.
fn compare(comparison: Comparison, left: &Value<'_>, right: &Value<'_>) -> bool {
    let Some(ordering) = ordering(left, right) else { return false };
    match comparison {
        Comparison::Equal => ordering == Ordering::Equal,
        Comparison::NotEqual => ordering != Ordering::Equal,
        Comparison::Less => ordering == Ordering::Less,
        Comparison::Greater => ordering == Ordering::Greater,
    }
}

fn ordering(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    match (left, right) {
        (Value::Integer(left), Value::Integer(right)) => Some(left.cmp(right)),
        (Value::Boolean(left), Value::Boolean(right)) => Some(left.cmp(right)),
        (Value::Attribute(left), Value::Integer(right)) => Some(integer(left)?.cmp(right)),
        (Value::Integer(left), Value::Attribute(right)) => Some(left.cmp(&integer(right)?)),
        (Value::Attribute(left), Value::Boolean(right)) => Some(boolean(left)?.cmp(right)),
        (Value::Boolean(left), Value::Attribute(right)) => Some(left.cmp(&boolean(right)?)),
        _ => Some(left.text()?.cmp(right.text()?)),
    }
}

impl Value<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Attribute(text) => Some(text),
            Self::Integer(_) | Self::Boolean(_) => None,
        }
    }
}

/// `-?[0-9]+` within 64 bits; nothing else that a library may take for a number.
fn integer(text: &str) -> Option<i64> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

fn boolean(text: &str) -> Option<bool> {
    text.parse().ok()
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            write!(f, "{}{term}", if i == 0 { "" } else { "; " })?;
        }
        match self.further {
            0 => Ok(()),
            further => write!(f, "; and {further} more"),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.text, self.was)?;
        for (i, fact) in self.facts.iter().enumerate() {
            write!(f, "{}{fact}", if i == 0 { ": " } else { " and " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, &self.had) {
            (Name::Attribute(name), Had::Missing) => write!(f, "the peer has no attribute `{name}`"),
            (Name::Attribute(name), Had::Text(text)) => {
                write!(f, "the peer's `{name}` is ")?;
                print::quoted(text, f)
            }
            (Name::Identifier, Had::Text(text)) => write!(f, "the peer is {text}"),
            (Name::Identifier, _) => f.write_str("the peer is not known"),
            (Name::HasCredential, Had::Boolean(true)) => f.write_str("the peer has a valid credential"),
            (Name::HasCredential, _) => f.write_str("the peer has no valid credential"),
            (name, Had::Text(text)) => {
                write!(f, "`{name}` is ")?;
                print::quoted(text, f)
            }
            (name, _) => write!(f, "`{name}` is missing"),
        }
    }
}
