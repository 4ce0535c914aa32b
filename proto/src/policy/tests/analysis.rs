//! What is said of an expression without a peer, against peers.

use proptest::prelude::*;

use super::*;

const SETTING: Setting<'static> = Setting { action: Action::AcceptStream, resource: Some("db") };

fn never(expression: &str) -> bool {
    parse(expression).unwrap().is_never_true(&[], &SETTING)
}

fn always(expression: &str) -> bool {
    parse(expression).unwrap().is_always_true(&SETTING)
}

#[test]
fn what_nobody_can_meet() {
    for expression in [
        "a and not a",
        "app = \"x\" and app = \"y\"",
        "(and (= subject.app \"x\") (member? subject.app [\"y\" \"z\"]))",
        "(and (= subject.app \"x\") (not (member? subject.app [\"x\" \"z\"])))",
        "(and (= subject.app \"x\") (not (exists? subject.app)))",
        "(and (> subject.level 3) (< subject.level 4))",
        "(not subject.has_credential)",
        "(= subject.identifier \"alice\")",
        "(= action.id \"open-stream\")",
        "(= resource.id \"other\") and a",
        "(a and not a) or (b and not b)",
        "(if a (and b (not b)) (and c (not c)))",
    ] {
        assert!(never(expression), "{expression}");
        assert!(!always(expression), "{expression}");
    }
}

#[test]
fn what_somebody_may_meet() {
    for expression in [
        "a",
        "a and not b",
        "app = \"x\" or app = \"y\"",
        "(and (> subject.level 3) (< subject.level 5))",
        "(and (!= subject.app \"x\") (not (= subject.app \"x\")))",
        "(= resource.id \"db\")",
    ] {
        assert!(!never(expression), "{expression}");
    }
    // Of two attributes nothing is known.
    assert!(!never("(= subject.a subject.b) and a = \"x\" and b = \"y\""));
}

#[test]
fn what_every_member_meets() {
    for expression in ["subject.has_credential", "subject.has_credential or a", "a or not a", "(= resource.id \"db\")"] {
        assert!(always(expression), "{expression}");
    }
    for expression in ["a", "a and subject.has_credential", "not a"] {
        assert!(!always(expression), "{expression}");
    }
}

#[test]
fn two_that_exclude_each_other() {
    let (guardrail, local) = (parse("app = \"x\"").unwrap(), parse("app = \"y\" and a").unwrap());
    assert!(local.is_never_true(&[&guardrail], &SETTING));
    assert!(!local.is_never_true(&[], &SETTING));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is said never to be true is false for every peer, and what is said always to be true is true for every one.
    #[test]
    fn sound(
        expression in super::differential::texts(),
        values in super::differential::attributes_of_a_peer(),
    ) {
        let parsed = parse(&expression).unwrap();
        let subject = Facts { identifier: None, has_credential: true, attributes: &values };
        let held = parsed.evaluate(&Request { subject, resource: "db", action: Action::AcceptStream }).is_allowed();
        prop_assert!(!(parsed.is_never_true(&[], &SETTING) && held), "{parsed} is true for {values:?}");
        prop_assert!(!parsed.is_always_true(&SETTING) || held, "{parsed} is false for {values:?}");
    }
}
