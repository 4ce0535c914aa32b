//! Random expressions over random peers, against an evaluator that shares nothing with the real one: it works on the model that
//! the text was written from, by the words of the reference page.

use std::fmt::Write as _;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::id::Identifier;

#[derive(Debug, Clone)]
enum Model {
    Const(bool),
    Credential,
    Has(&'static str),
    Compare(&'static str, Leaf, Leaf),
    Member(Leaf, Vec<Leaf>),
    Exists(Vec<&'static str>),
    Not(Box<Model>),
    All(Vec<Model>),
    Any(Vec<Model>),
    If(Box<[Model; 3]>),
}

#[derive(Debug, Clone, PartialEq)]
enum Leaf {
    Text(String),
    Number(i64),
    Bool(bool),
    Attribute(&'static str),
    Own(&'static str),
}

#[derive(Debug)]
struct Peer {
    attributes: Attributes,
    identifier: Option<Identifier>,
    has_credential: bool,
}

const NAMES: [&str; 5] = ["a", "b", "level", "identifier2", "not-a"];
const OWN: [&str; 3] = ["subject.identifier", "resource.id", "action.id"];

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("db".to_owned()),
        Just("accept-stream".to_owned()),
        (-3i64..12).prop_map(|n| n.to_string()),
        Just("99999999999999999999".to_owned()),
        "[ -~é\"\\\\\u{202e}\u{7}]{0,4}",
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    let attributes = btree_map(prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned), value(), 0..5);
    (attributes, any::<bool>(), any::<bool>()).prop_map(|(mut attributes, known, has_credential)| {
        // What tries to pass for a built-in name.
        attributes.insert("identifier".to_owned(), "db".to_owned());
        attributes.insert("has_credential".to_owned(), "true".to_owned());
        Peer { attributes, identifier: known.then(|| Identifier::from_bytes([1; 32])), has_credential }
    })
}

fn attribute() -> impl Strategy<Value = Leaf> {
    prop::sample::select(NAMES.to_vec()).prop_map(Leaf::Attribute)
}

fn textual() -> impl Strategy<Value = Leaf> {
    prop_oneof![value().prop_map(Leaf::Text), attribute(), prop::sample::select(OWN.to_vec()).prop_map(Leaf::Own)]
}

fn numeric() -> impl Strategy<Value = Leaf> {
    prop_oneof![(-3i64..12).prop_map(Leaf::Number), attribute()]
}

fn boolean() -> impl Strategy<Value = Leaf> {
    prop_oneof![any::<bool>().prop_map(Leaf::Bool), attribute(), Just(Leaf::Own("subject.has_credential"))]
}

fn term() -> impl Strategy<Value = Model> {
    let equal = || prop::sample::select(vec!["=", "!="]);
    let order = || prop::sample::select(vec!["<", ">", "=", "!="]);
    let orderable = |(op, l, r): &(&str, Leaf, Leaf)| {
        !(matches!(*op, "<" | ">") && matches!((l, r), (Leaf::Attribute(_), Leaf::Attribute(_))))
    };
    prop_oneof![
        any::<bool>().prop_map(Model::Const),
        Just(Model::Credential),
        prop::sample::select(NAMES.to_vec()).prop_map(Model::Has),
        (order(), textual(), textual()).prop_filter("order", orderable).prop_map(|(op, l, r)| Model::Compare(op, l, r)),
        (order(), numeric(), numeric()).prop_filter("order", orderable).prop_map(|(op, l, r)| Model::Compare(op, l, r)),
        (equal(), boolean(), boolean()).prop_map(|(op, l, r)| Model::Compare(op, l, r)),
        (textual(), vec(textual(), 0..4)).prop_map(|(v, all)| Model::Member(v, all)),
        (numeric(), vec(numeric(), 0..4)).prop_map(|(v, all)| Model::Member(v, all)),
        vec(prop::sample::select([&NAMES[..], &OWN[..]].concat()), 1..3).prop_map(Model::Exists),
    ]
}

fn model() -> impl Strategy<Value = Model> {
    term().prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|m| Model::Not(Box::new(m))),
            vec(inner.clone(), 1..4).prop_map(Model::All),
            vec(inner.clone(), 1..4).prop_map(Model::Any),
            [inner.clone(), inner.clone(), inner].prop_map(|all| Model::If(Box::new(all))),
        ]
    })
}

/// Texts of expressions of every kind.
pub(super) fn texts() -> impl Strategy<Value = String> {
    model().prop_map(|model| write_model(&model, true))
}

pub(super) fn attributes_of_a_peer() -> impl Strategy<Value = Attributes> {
    btree_map(prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned), value(), 0..5)
}

fn write_leaf(leaf: &Leaf) -> String {
    match leaf {
        Leaf::Text(text) => {
            let mut out = String::from('"');
            for c in text.chars() {
                match c {
                    '"' | '\\' => out.extend(['\\', c]),
                    c if c.is_control() => write!(out, "\\u{{{:x}}}", u32::from(c)).unwrap(),
                    c => out.push(c),
                }
            }
            out + "\""
        }
        Leaf::Number(number) => number.to_string(),
        Leaf::Bool(value) => value.to_string(),
        Leaf::Attribute(name) => format!("subject.{name}"),
        Leaf::Own(name) => (*name).to_owned(),
    }
}

/// The model as text, infix wherever `infix` says so.
fn write_model(model: &Model, infix: bool) -> String {
    let all = |operator: &str, parts: &[Model]| {
        let parts: Vec<String> = parts.iter().map(|part| write_model(part, infix)).collect();
        match &parts[..] {
            [_, _, ..] if infix => format!("({})", parts.join(&format!(" {operator} "))),
            _ => format!("({operator} {})", parts.join(" ")),
        }
    };
    match model {
        Model::Const(value) => value.to_string(),
        Model::Credential => if infix { "has_credential" } else { "subject.has_credential" }.to_owned(),
        Model::Has(name) if infix => (*name).to_owned(),
        Model::Has(name) => format!("(= subject.{name} \"true\")"),
        Model::Compare(op @ ("=" | "!="), Leaf::Attribute(name), text @ Leaf::Text(_)) if infix => {
            format!("{name} {op} {}", write_leaf(text))
        }
        Model::Compare(op, left, right) => format!("({op} {} {})", write_leaf(left), write_leaf(right)),
        Model::Member(value, elements) => {
            format!("(member? {} [{}])", write_leaf(value), elements.iter().map(write_leaf).collect::<Vec<_>>().join(" "))
        }
        Model::Exists(names) => {
            let names: Vec<String> = names
                .iter()
                .map(|name| if OWN.contains(name) { (*name).to_owned() } else { format!("subject.{name}") })
                .collect();
            format!("(exists? {})", names.join(" "))
        }
        Model::Not(inner) => format!("(not {})", write_model(inner, infix)),
        Model::All(parts) => all("and", parts),
        Model::Any(parts) => all("or", parts),
        Model::If(parts) => format!("(if {})", parts.iter().map(|part| write_model(part, infix)).collect::<Vec<_>>().join(" ")),
    }
}

/// The text of a leaf, however it is meant; absent if the peer lacks it.
fn text_of(leaf: &Leaf, peer: &Peer) -> Option<String> {
    match leaf {
        Leaf::Text(text) => Some(text.clone()),
        Leaf::Number(number) => Some(number.to_string()),
        Leaf::Bool(value) => Some(value.to_string()),
        Leaf::Attribute(name) => peer.attributes.get(*name).cloned(),
        Leaf::Own("subject.identifier") => peer.identifier.map(|id| id.to_string()),
        Leaf::Own("subject.has_credential") => Some(peer.has_credential.to_string()),
        Leaf::Own("resource.id") => Some("db".to_owned()),
        Leaf::Own(_) => Some("accept-stream".to_owned()),
    }
}

fn naive_compare(op: &str, left: &Leaf, right: &Leaf, peer: &Peer) -> bool {
    let (Some(l), Some(r)) = (text_of(left, peer), text_of(right, peer)) else { return false };
    let any = |test: fn(&Leaf) -> bool| test(left) || test(right);
    if any(|leaf| matches!(leaf, Leaf::Number(_))) {
        let number = |text: &str| text.parse::<i128>().ok().filter(|n| i64::try_from(*n).is_ok() && !text.starts_with('+'));
        let (Some(l), Some(r)) = (number(&l), number(&r)) else { return false };
        return matches!((op, l < r, l > r), ("=", false, false) | ("!=" | "<", true, _) | ("!=" | ">", _, true));
    }
    if any(|leaf| matches!(leaf, Leaf::Bool(_) | Leaf::Own("subject.has_credential"))) {
        let known = |text: &str| text == "true" || text == "false";
        return known(&l) && known(&r) && (l == r) == (op == "=");
    }
    match op {
        "=" => l == r,
        "!=" => l != r,
        "<" => l.as_bytes() < r.as_bytes(),
        _ => l.as_bytes() > r.as_bytes(),
    }
}

fn naive(model: &Model, peer: &Peer) -> bool {
    match model {
        Model::Const(value) => *value,
        Model::Credential => peer.has_credential,
        Model::Has(name) => peer.attributes.get(*name).is_some_and(|value| value == "true"),
        Model::Compare(op, left, right) => naive_compare(op, left, right, peer),
        Model::Member(value, elements) => elements.iter().any(|element| naive_compare("=", value, element, peer)),
        Model::Exists(names) => names.iter().all(|name| match *name {
            "subject.identifier" => peer.identifier.is_some(),
            name => OWN.contains(&name) || peer.attributes.contains_key(name),
        }),
        Model::Not(inner) => !naive(inner, peer),
        Model::All(parts) => parts.iter().all(|part| naive(part, peer)),
        Model::Any(parts) => parts.iter().any(|part| naive(part, peer)),
        Model::If(parts) => naive(&parts[if naive(&parts[0], peer) { 1 } else { 2 }], peer),
    }
}

fn decide_for(expr: &Expr, peer: &Peer) -> Decision {
    let subject = Facts { identifier: peer.identifier, has_credential: peer.has_credential, attributes: &peer.attributes };
    expr.evaluate(&Request { subject, resource: "db", action: Action::AcceptStream })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decisions_agree_with_a_naive_evaluator(model in model(), peer in peer()) {
        let text = write_model(&model, false);
        let expr = parse(&text).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let decision = decide_for(&expr, &peer);
        prop_assert_eq!(decision.is_allowed(), naive(&model, &peer), "{}", text);
        if let Decision::Denied(reason) = decision {
            let canonical = expr.to_string();
            prop_assert!(!reason.terms.is_empty());
            for term in &reason.terms {
                prop_assert_eq!(&canonical[term.span.clone()], &term.text);
            }
            prop_assert!(!reason.to_string().contains(|c: char| c.is_control()));
        }
    }

    #[test]
    fn both_notations_parse_to_one_expression_that_prints_and_parses_back(model in model()) {
        let infix = write_model(&model, true);
        let expr = parse(&infix).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&expr, &parse(&write_model(&model, false)).unwrap(), "{}", infix);
        prop_assert_eq!(parse(&expr.to_string()), Ok(expr));
    }

    #[test]
    fn a_further_denial_admits_nobody_new(model in model(), denial in model(), peer in peer()) {
        let (text, denial) = (write_model(&model, false), write_model(&denial, false));
        let narrowed = parse(&format!("(and {text} (not {denial}))")).unwrap();
        if decide_for(&narrowed, &peer).is_allowed() {
            prop_assert!(decide_for(&parse(&text).unwrap(), &peer).is_allowed());
            prop_assert!(!decide_for(&parse(&denial).unwrap(), &peer).is_allowed());
        }
    }

    #[test]
    fn no_text_panics_and_every_error_has_a_place(text in prop_oneof![
        any::<String>(),
        vec(prop::sample::select(vec![
            "(", ")", "[", "]", "and", "or", "not", "if", "=", "!=", "<", ">", "member?", "exists?", "a", "subject.a", "\"x\"",
            "5", "true", "identifier", "has_credential", "resource.id", "resource.x", "adn", "é", "\n", "\t",
        ]), 0..14).prop_map(|words| words.join(" ")),
    ]) {
        match parse(&text) {
            Ok(expr) => prop_assert_eq!(parse(&expr.to_string()), Ok(expr)),
            Err(error) => {
                let span = error.span();
                prop_assert!(text.get(span.clone()).is_some());
                prop_assert_eq!(error.line(), 1 + text[..span.start].matches('\n').count());
                prop_assert!(error.to_string().contains('^'));
            }
        }
    }
}
