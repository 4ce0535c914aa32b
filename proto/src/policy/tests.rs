//! Tests of the language: `semantics` one per rule, `errors` one per fault, `differential` against an independent evaluator.

mod analysis;
mod differential;
mod errors;
mod semantics;

use super::*;
use crate::authority::Attributes;

fn attributes(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Decides for a peer with a credential of these attributes that asks for the outlet `db`.
fn decide(expression: &str, pairs: &[(&str, &str)]) -> Decision {
    let attributes = attributes(pairs);
    let subject = Facts { identifier: None, has_credential: true, attributes: &attributes };
    let request = Request { subject, resource: "db", action: Action::AcceptStream };
    parse(expression).unwrap().evaluate(&request)
}

fn allowed(expression: &str, pairs: &[(&str, &str)]) -> bool {
    decide(expression, pairs).is_allowed()
}

fn reason(expression: &str, pairs: &[(&str, &str)]) -> Reason {
    match decide(expression, pairs) {
        Decision::Denied(reason) => reason,
        Decision::Allowed => panic!("{expression} allows {pairs:?}"),
    }
}
