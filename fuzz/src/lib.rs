//! What the fuzz targets check: a function per target, from any bytes. `proto/tests/corpus.rs` includes this file and runs the same
//! functions over the committed corpus.

use std::collections::BTreeMap;

use postern_proto::policy::{self, Action, Decision, Facts, Request};

/// Any text parses or is refused with a place in it. What parses prints to a form that parses back, and decides alike; a refusal
/// names terms of that form.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let expr = match policy::parse(text) {
        Ok(expr) => expr,
        Err(error) => {
            assert!(text.get(error.span()).is_some(), "the place {:?} is not in the text", error.span());
            assert!(error.to_string().contains('^'));
            return;
        }
    };
    let canonical = expr.to_string();
    let again = policy::parse(&canonical).expect("the canonical form parses");
    assert_eq!(again, expr);
    let attributes = BTreeMap::from([("a", "true"), ("b", "5"), ("identifier", "x")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    for has_credential in [false, true] {
        let subject = Facts { identifier: None, has_credential, attributes: &attributes };
        let request = Request { subject, resource: "db", action: Action::AcceptStream };
        if let Decision::Denied(reason) = expr.evaluate(&request) {
            assert!(!reason.terms.is_empty());
            assert!(reason.terms.iter().all(|term| canonical.get(term.span.clone()) == Some(&term.text)));
            assert!(!reason.to_string().contains(char::is_control));
        }
    }
}
