//! What can be said of an expression without a peer: that it can never be true, or always is.
//!
//! Both are only said where they are certain. The expression becomes a list of alternatives, each of which needs some terms to be true
//! and others to be false; an alternative in which two of these exclude each other can be met by nobody. What takes too many
//! alternatives, or excludes itself in ways that are not looked for, counts as possible.

use super::Expr;
use super::evaluate::Action;
use super::expr::{Comparison, Name, Node, Operand};
use crate::id::Identifier;

/// Most alternatives that are looked at. Beyond it nothing is said of an expression.
const MAX_ALTERNATIVES: usize = 512;

/// What is asked for, as far as it is known beforehand.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    pub action: Action,
    /// The resource's name; `None` where the policy is for a whole type.
    pub resource: Option<&'a str>,
}

impl Expr {
    /// Whether no peer with a valid credential can meet this and `others` at once. Sound: where it says so, it is so.
    #[must_use]
    pub fn is_never_true(&self, others: &[&Self], setting: &Setting<'_>) -> bool {
        let mut all = vec![Vec::new()];
        for expression in std::iter::once(self).chain(others.iter().copied()) {
            let Some(next) = alternatives(&expression.root, true, setting) else { return false };
            match product(all, &next) {
                Some(joined) => all = joined,
                None => return false,
            }
        }
        all.iter().all(|terms| excludes_itself(terms))
    }

    /// Whether every peer with a valid credential meets it. Sound: where it says so, it is so.
    #[must_use]
    pub fn is_always_true(&self, setting: &Setting<'_>) -> bool {
        alternatives(&self.root, false, setting).is_some_and(|all| all.iter().all(|terms| excludes_itself(terms)))
    }
}

/// A term, and whether it is to be true.
type Wanted<'n> = (&'n Node, bool);

/// The ways in which `node` becomes `wanted`; `None` where they are too many. Terms whose value is known are decided here.
fn alternatives<'n>(node: &'n Node, wanted: bool, setting: &Setting<'_>) -> Option<Vec<Vec<Wanted<'n>>>> {
    let met = |met: bool| Some(if met { vec![Vec::new()] } else { Vec::new() });
    match node {
        Node::Literal(value) => met(*value == wanted),
        // Nobody without a valid credential gets as far as a policy.
        Node::HasCredential => met(wanted),
        Node::Not(inner) => alternatives(inner, !wanted, setting),
        Node::And(parts) if wanted => every(parts, wanted, setting),
        Node::Or(parts) if !wanted => every(parts, wanted, setting),
        Node::And(parts) | Node::Or(parts) => any(parts, wanted, setting),
        Node::If { condition, then, otherwise } => {
            let taken = product(alternatives(condition, true, setting)?, &alternatives(then, wanted, setting)?)?;
            let not = product(alternatives(condition, false, setting)?, &alternatives(otherwise, wanted, setting)?)?;
            bounded(taken.into_iter().chain(not).collect())
        }
        Node::Compare { .. } | Node::Member { .. } | Node::Exists(_) => match known(node, setting) {
            Some(value) => met(value == wanted),
            None => Some(vec![vec![(node, wanted)]]),
        },
    }
}

fn every<'n>(parts: &'n [Node], wanted: bool, setting: &Setting<'_>) -> Option<Vec<Vec<Wanted<'n>>>> {
    parts.iter().try_fold(vec![Vec::new()], |all, part| product(all, &alternatives(part, wanted, setting)?))
}

fn any<'n>(parts: &'n [Node], wanted: bool, setting: &Setting<'_>) -> Option<Vec<Vec<Wanted<'n>>>> {
    let mut all = Vec::new();
    for part in parts {
        all.extend(alternatives(part, wanted, setting)?);
        all = bounded(all)?;
    }
    Some(all)
}

fn product<'n>(left: Vec<Vec<Wanted<'n>>>, right: &[Vec<Wanted<'n>>]) -> Option<Vec<Vec<Wanted<'n>>>> {
    let mut all = Vec::new();
    for one in &left {
        for other in right {
            let joined: Vec<Wanted<'n>> = one.iter().chain(other).copied().collect();
            // What nobody can meet is dropped early, so that more alternatives fit.
            if !excludes_itself(&joined) {
                all.push(joined);
            }
        }
        all = bounded(all)?;
    }
    Some(all)
}

fn bounded<T>(all: Vec<T>) -> Option<Vec<T>> {
    (all.len() <= MAX_ALTERNATIVES).then_some(all)
}

/// The value of a term that depends on no peer, or that no peer can make true.
fn known(node: &Node, setting: &Setting<'_>) -> Option<bool> {
    let Node::Compare { comparison, left, right } = node else { return None };
    let constant = |operand: &Operand| match operand {
        Operand::Text(text) => Some(text.clone()),
        Operand::Name(Name::ActionId) => Some(setting.action.as_str().to_owned()),
        Operand::Name(Name::ResourceId) => setting.resource.map(str::to_owned),
        _ => None,
    };
    if let (Some(left), Some(right)) = (constant(left), constant(right)) {
        return Some(match comparison {
            Comparison::Equal => left == right,
            Comparison::NotEqual => left != right,
            Comparison::Less => left < right,
            Comparison::Greater => left > right,
        });
    }
    match (comparison, left, right) {
        (Comparison::Equal, Operand::Name(Name::Identifier), Operand::Text(text))
        | (Comparison::Equal, Operand::Text(text), Operand::Name(Name::Identifier))
            if text.parse::<Identifier>().map(|identifier| identifier.to_string()).as_ref() != Ok(text) =>
        {
            Some(false)
        }
        _ => None,
    }
}

/// Whether two of the terms cannot both be as they are wanted.
fn excludes_itself(terms: &[Wanted<'_>]) -> bool {
    let pairs = terms.iter().enumerate().flat_map(|(at, one)| terms[at + 1..].iter().map(move |other| (one, other)));
    pairs.into_iter().any(|(one, other)| exclude(*one, *other) || exclude(*other, *one))
}

fn exclude((one, wanted): Wanted<'_>, (other, other_wanted): Wanted<'_>) -> bool {
    if one == other {
        return wanted != other_wanted;
    }
    if !wanted {
        return false;
    }
    match (values(one), other_wanted) {
        // One of these values, and one of those: none is in both.
        (Some((name, texts)), true) => match values(other) {
            Some((same, others)) if same == name => texts.iter().all(|text| !others.contains(text)),
            _ => false,
        },
        // One of these values, and none of those, which are all of them.
        (Some((name, texts)), false) => match other {
            Node::Exists(names) => names.len() == 1 && names.first() == Some(name),
            _ => values(other).is_some_and(|(same, others)| same == name && texts.iter().all(|text| others.contains(text))),
        },
        (None, true) => match (bound(one), bound(other)) {
            // Above the one and below the other: no integer lies between.
            (Some((name, Comparison::Greater, low)), Some((same, Comparison::Less, high))) => {
                name == same && low.saturating_add(1) >= high
            }
            _ => false,
        },
        (None, false) => false,
    }
}

/// The one name that a term asks about, and the texts of which it must be one.
fn values(node: &Node) -> Option<(&Name, Vec<&str>)> {
    match node {
        Node::Compare { comparison: Comparison::Equal, left, right } => match (left, right) {
            (Operand::Name(name), Operand::Text(text)) | (Operand::Text(text), Operand::Name(name)) => {
                Some((name, vec![text.as_str()]))
            }
            _ => None,
        },
        Node::Member { value: Operand::Name(name), sequence } => {
            let text = |operand: &'_ Operand| matches!(operand, Operand::Text(_));
            sequence.iter().all(text).then(|| {
                let texts = sequence.iter().filter_map(|operand| match operand {
                    Operand::Text(text) => Some(text.as_str()),
                    _ => None,
                });
                (name, texts.collect())
            })
        }
        _ => None,
    }
}

/// An attribute that must be an integer above or below another one.
fn bound(node: &Node) -> Option<(&Name, Comparison, i64)> {
    let Node::Compare { comparison, left, right } = node else { return None };
    match (comparison, left, right) {
        (Comparison::Less | Comparison::Greater, Operand::Name(name @ Name::Attribute(_)), Operand::Integer(number)) => {
            Some((name, *comparison, *number))
        }
        (Comparison::Less, Operand::Integer(number), Operand::Name(name @ Name::Attribute(_))) => {
            Some((name, Comparison::Greater, *number))
        }
        (Comparison::Greater, Operand::Integer(number), Operand::Name(name @ Name::Attribute(_))) => {
            Some((name, Comparison::Less, *number))
        }
        _ => None,
    }
}
