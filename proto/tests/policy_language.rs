//! `docs/reference/policy-language.md` says what the language does: its examples are run, and its limits compared.

use std::collections::BTreeMap;

use postern_proto::policy::{self, Action, Decision, Facts, Request};

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/policy-language.md");
    std::fs::read_to_string(path).unwrap()
}

/// The fenced blocks of this kind; there are some.
fn blocks(page: &str, kind: &str) -> Vec<String> {
    let opening = format!("```{kind}");
    let mut lines = page.lines();
    let mut blocks = Vec::new();
    while lines.by_ref().any(|line| line == opening) {
        blocks.push(lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect());
    }
    assert!(!blocks.is_empty(), "no {kind}");
    blocks
}

#[test]
fn every_canonical_form_is_what_is_printed() {
    for block in blocks(&page(), "canonical") {
        let lines: Vec<&str> = block.lines().collect();
        for pair in lines.chunks(2) {
            let [text, canonical] = pair else { panic!("a line is missing: {pair:?}") };
            let canonical = canonical.strip_prefix("→ ").unwrap();
            let expr = policy::parse(text).unwrap();
            assert_eq!(expr.to_string(), canonical);
            assert_eq!(policy::parse(canonical).unwrap(), expr);
        }
    }
}

#[test]
fn every_decision_is_what_is_decided() {
    for block in blocks(&page(), "decisions") {
        let mut expr = None;
        let mut decisions = 0;
        for line in block.lines() {
            let Some(case) = line.strip_prefix("  ") else {
                expr = Some(policy::parse(line).unwrap());
                continue;
            };
            let (peer, expected) = case.split_once("→ ").unwrap();
            let attributes: BTreeMap<String, String> = peer
                .split_whitespace()
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap();
                    (name.to_owned(), value.trim_matches('"').to_owned())
                })
                .collect();
            let subject = Facts { identifier: None, has_credential: true, attributes: &attributes };
            let request = Request { subject, resource: "db", action: Action::AcceptStream };
            let decision = match expr.as_ref().unwrap().evaluate(&request) {
                Decision::Allowed => "allowed".to_owned(),
                Decision::Denied(reason) => format!("denied: {reason}"),
            };
            assert_eq!(decision, expected, "{line}");
            decisions += 1;
        }
        assert!(decisions > 0, "{block}");
    }
}

#[test]
fn every_error_is_what_is_shown() {
    for block in blocks(&page(), "error") {
        let (text, shown) = block.split_once("\n→\n").unwrap();
        assert_eq!(policy::parse(text).unwrap_err().to_string(), shown.trim_end());
    }
}

#[test]
fn the_limits_are_those_of_the_code() {
    let page = page();
    for (what, value) in [
        ("text of an expression, as written and in its canonical form", format!("{} bytes", policy::MAX_TEXT)),
        ("depth: operators inside each other", policy::MAX_DEPTH.to_string()),
        ("nesting of parentheses and `not` in a text", policy::MAX_NESTING.to_string()),
        ("operators, values and names in an expression", policy::MAX_NODES.to_string()),
        ("name of an attribute", format!("{} bytes", policy::MAX_ATTRIBUTE_NAME)),
    ] {
        let row = format!("| {what} | {value} |");
        assert!(page.contains(&row), "{row}");
    }
}

#[test]
fn every_action_is_named() {
    let page = page();
    for action in [Action::OpenStream, Action::AcceptStream, Action::ClaimRelayName] {
        assert!(page.contains(&format!("`{}`", action.as_str())), "{action:?}");
    }
}
