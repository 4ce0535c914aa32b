use super::*;
use crate::id::Identifier;

#[test]
fn a_name_means_that_the_attribute_is_true() {
    assert_eq!(parse("inlet-to-saas").unwrap().to_string(), r#"(= subject.inlet-to-saas "true")"#);
    assert!(allowed("inlet-to-saas", &[("inlet-to-saas", "true")]));
    assert!(!allowed("inlet-to-saas", &[("inlet-to-saas", "yes")]));
    assert!(!allowed("inlet-to-saas", &[]));
}

#[test]
fn the_canonical_form_is_prefix() {
    for (text, canonical) in [
        ("a or b", r#"(or (= subject.a "true") (= subject.b "true"))"#),
        ("a and b and c", r#"(and (= subject.a "true") (= subject.b "true") (= subject.c "true"))"#),
        ("a or b and not c", r#"(or (= subject.a "true") (and (= subject.b "true") (not (= subject.c "true"))))"#),
        ("(a or b) and not (c)", r#"(and (or (= subject.a "true") (= subject.b "true")) (not (= subject.c "true")))"#),
        (r#"role = "dev""#, r#"(= subject.role "dev")"#),
        (r#"role != "dev""#, r#"(!= subject.role "dev")"#),
        ("has_credential", "subject.has_credential"),
        ("subject.has_credential", "subject.has_credential"),
        (" \t\r\n( true )\n", "true"),
        (
            r#"(if (exists? subject.a resource.id) (< subject.n -5) false)"#,
            r#"(if (exists? subject.a resource.id) (< subject.n -5) false)"#,
        ),
        (r#"(member? subject.role ["dev""ops"])"#, r#"(member? subject.role ["dev" "ops"])"#),
        (r#"(= action.id "\u{1b}[31m\n\"'é")"#, r#"(= action.id "\u{1b}[31m\n\"'é")"#),
    ] {
        let expr = parse(text).unwrap();
        assert_eq!(expr.to_string(), canonical, "{text}");
        assert_eq!(parse(canonical).as_ref(), Ok(&expr), "{text}");
    }
}

#[test]
fn the_two_notations_mean_the_same() {
    for (infix, prefix) in [
        ("a", r#"(= subject.a "true")"#),
        ("not a", r#"(not (= subject.a "true"))"#),
        ("a and (b or c)", r#"(and (= subject.a "true") (or (= subject.b "true") (= subject.c "true")))"#),
        (r#"a = "x" and b != "y""#, r#"(and (= subject.a "x") (!= subject.b "y"))"#),
        (r#"identifier = "P1""#, r#"(= subject.identifier "P1")"#),
    ] {
        assert_eq!(parse(infix), parse(prefix), "{infix}");
    }
}

#[test]
fn a_form_is_an_atom_of_infix_and_a_name_an_argument_of_a_form() {
    assert_eq!(parse(r#"a and (< subject.level 5)"#), parse(r#"(and (= subject.a "true") (< subject.level 5))"#));
    assert_eq!(parse("(and a b)"), parse("a and b"));
    assert_eq!(parse("(not a and b)"), parse("(not a) and b"));
}

#[test]
fn and_binds_tighter_than_or_and_not_tighter_than_and() {
    assert_eq!(parse("a or b and c"), parse("a or (b and c)"));
    assert_eq!(parse("not a and b"), parse("(not a) and b"));
    assert_eq!(parse("not not a").unwrap().to_string(), r#"(not (not (= subject.a "true")))"#);
}

#[test]
fn keywords_are_whole_words() {
    for name in ["notary", "order", "android", "iffy", "not-a", "or.b", "falsehood", "trueish", "And", "NOT", "member", "exists"]
    {
        assert_eq!(parse(name).unwrap().to_string(), format!("(= subject.{name} \"true\")"), "{name}");
    }
    assert_eq!(parse("notary or order").unwrap(), parse("(notary)or(order)").unwrap());
}

#[test]
fn an_attribute_named_like_a_keyword_is_written_with_subject() {
    assert!(allowed("subject.and and subject.true", &[("and", "true"), ("true", "true")]));
}

#[test]
fn an_absent_attribute_makes_a_comparison_false() {
    for expression in [
        r#"(= subject.a "x")"#,
        r#"(!= subject.a "x")"#,
        r#"(< subject.a 5)"#,
        r#"(> subject.a 5)"#,
        r#"(= subject.a subject.a)"#,
        r#"(= subject.a subject.b)"#,
        r#"(!= subject.b subject.a)"#,
        r#"(member? subject.a ["x"])"#,
        r#"(member? "x" [subject.a])"#,
        r#"a != "x""#,
    ] {
        assert!(!allowed(expression, &[("b", "x")]), "{expression}");
    }
}

#[test]
fn or_admits_a_peer_with_only_one_of_the_attributes() {
    assert!(allowed("a or b", &[("b", "true")]));
    assert!(allowed("a or b", &[("a", "true")]));
    assert!(!allowed("a or b", &[]));
}

#[test]
fn not_banned_admits_a_peer_without_the_attribute() {
    assert!(allowed("not banned", &[]));
    assert!(allowed("not banned", &[("banned", "no")]));
    assert!(!allowed("not banned", &[("banned", "true")]));
}

#[test]
fn not_equal_wants_the_attribute_but_not_of_equal_does_not() {
    assert!(!allowed(r#"role != "dev""#, &[]));
    assert!(allowed(r#"not role = "dev""#, &[]));
    assert!(allowed(r#"role != "dev""#, &[("role", "ops")]));
}

#[test]
fn built_in_names_cannot_be_shadowed() {
    let (attributes, identifier) = (
        attributes(&[("identifier", "P1"), ("has_credential", "true"), ("resource.id", "x"), ("subject.has_credential", "true")]),
        Identifier::from_bytes([7; 32]),
    );
    let subject = Facts { identifier: Some(identifier), has_credential: false, attributes: &attributes };
    let request = Request { subject, resource: "db", action: Action::OpenStream };
    let holds = |text: &str| parse(text).unwrap().evaluate(&request).is_allowed();
    for text in ["has_credential", "subject.has_credential", "(= subject.has_credential true)"] {
        assert!(!holds(text), "{text}");
    }
    for text in [r#"identifier = "P1""#, r#"(= subject.identifier "P1")"#, r#"resource.id = "x""#] {
        assert!(!holds(text), "{text}");
    }
    assert!(holds(&format!("identifier = \"{identifier}\"")));
    let nobody = Request { subject: Facts { identifier: None, ..subject }, ..request };
    assert!(!parse(r#"(!= subject.identifier "P1")"#).unwrap().evaluate(&nobody).is_allowed());
    assert!(!parse(r#"(exists? identifier)"#).unwrap().evaluate(&nobody).is_allowed());
}

#[test]
fn has_credential_admits_every_member_and_nobody_else() {
    let attributes = Attributes::new();
    let request = |has_credential| Request {
        subject: Facts { identifier: None, has_credential, attributes: &attributes },
        resource: "db",
        action: Action::AcceptStream,
    };
    assert!(Expr::members_only().evaluate(&request(true)).is_allowed());
    assert!(!Expr::members_only().evaluate(&request(false)).is_allowed());
    assert!(parse("has_credential").unwrap().is_members_only());
    assert!(parse(&Expr::members_only().to_string()).unwrap().is_members_only());
    for other in ["true", "not has_credential", "has_credential and a", "(and has_credential)"] {
        assert!(!parse(other).unwrap().is_members_only(), "{other}");
    }
}

#[test]
fn an_attribute_compares_as_integer_with_an_integer() {
    for (value, less, equal, greater) in [
        ("9", true, false, false),
        ("10", false, true, false),
        ("010", false, true, false),
        ("11", false, false, true),
        ("-11", true, false, false),
        ("", false, false, false),
        ("ten", false, false, false),
        ("+10", false, false, false),
        (" 10", false, false, false),
        ("10.0", false, false, false),
        ("99999999999999999999", false, false, false),
    ] {
        let level = [("level", value)];
        assert_eq!(allowed("(< subject.level 10)", &level), less, "{value:?}");
        assert_eq!(allowed("(> 10 subject.level)", &level), less, "{value:?}");
        assert_eq!(allowed("(= subject.level 10)", &level), equal, "{value:?}");
        assert_eq!(allowed("(> subject.level 10)", &level), greater, "{value:?}");
        assert_eq!(allowed("(!= subject.level 10)", &level), less || greater, "{value:?}");
    }
    assert!(allowed("(> subject.n -9223372036854775808)", &[("n", "-9223372036854775807")]));
    assert!(allowed("(= subject.n 9223372036854775807)", &[("n", "9223372036854775807")]));
}

#[test]
fn an_attribute_orders_as_text_with_text() {
    assert!(allowed(r#"(< subject.joined "2026-02-01")"#, &[("joined", "2026-01-31")]));
    assert!(allowed(r#"(> subject.v "10")"#, &[("v", "9")]));
}

#[test]
fn an_attribute_compares_as_boolean_with_a_boolean() {
    for (value, is_true, is_not_true) in
        [("true", true, false), ("false", false, true), ("TRUE", false, false), ("1", false, false)]
    {
        assert_eq!(allowed("(= subject.a true)", &[("a", value)]), is_true, "{value}");
        assert_eq!(allowed("(!= subject.a true)", &[("a", value)]), is_not_true, "{value}");
    }
}

#[test]
fn text_compares_byte_by_byte() {
    assert!(allowed(r#"a = "é""#, &[("a", "\u{e9}")]));
    for other in ["e\u{301}", "É", "é ", "\u{202e}é", "é\0"] {
        assert!(!allowed(r#"a = "é""#, &[("a", other)]), "{other:?}");
    }
}

#[test]
fn literals_compare_with_each_other() {
    assert!(allowed(r#"(and (= 1 1) (< -1 0) (> "b" "a") (!= true false) (= "x" "x"))"#, &[]));
}

#[test]
fn member_looks_for_a_value_in_a_sequence() {
    assert!(allowed(r#"(member? subject.role ["dev" "ops"])"#, &[("role", "ops")]));
    assert!(!allowed(r#"(member? subject.role ["dev" "ops"])"#, &[("role", "op")]));
    assert!(allowed("(member? subject.level [1 2 3])", &[("level", "2")]));
    assert!(!allowed("(member? subject.level [])", &[("level", "2")]));
    assert!(allowed(r#"(member? resource.id ["db" subject.own])"#, &[]));
    assert!(allowed(r#"(member? resource.id [subject.own "x"])"#, &[("own", "db")]));
    assert!(allowed("(member? 2 [1 2])", &[]) && allowed("(member? true [subject.a])", &[("a", "true")]));
}

#[test]
fn exists_wants_all_of_its_names() {
    assert!(allowed("(exists? subject.a)", &[("a", "")]));
    assert!(!allowed("(exists? subject.a)", &[]));
    assert!(!allowed("(exists? subject.a subject.b)", &[("a", "1")]));
    assert!(allowed("(exists? resource.id action.id has_credential)", &[]));
}

#[test]
fn if_takes_one_branch() {
    let expression = r#"(if (exists? subject.team) (= subject.team "red") (= subject.level 3))"#;
    assert!(allowed(expression, &[("team", "red")]));
    assert!(!allowed(expression, &[("team", "blue"), ("level", "3")]));
    assert!(allowed(expression, &[("level", "3")]));
    assert!(!allowed(expression, &[]));
}

#[test]
fn resource_and_action_are_those_of_the_request() {
    assert!(allowed(r#"(= resource.id "db")"#, &[]));
    assert!(allowed(r#"action.id = "accept-stream""#, &[]));
    assert!(!allowed(r#"action.id = "open-stream""#, &[]));
    assert!(allowed("(= resource.id subject.own)", &[("own", "db")]));
}

#[test]
fn a_reason_names_the_term_the_attribute_and_what_the_peer_had() {
    let missing = reason("a and b", &[("a", "true")]);
    assert_eq!(missing.to_string(), r#"(= subject.b "true") is false: the peer has no attribute `b`"#);
    let other = reason(r#"role = "dev""#, &[("role", "o\"ps\x1b")]);
    assert_eq!(other.to_string(), r#"(= subject.role "dev") is false: the peer's `role` is "o\"ps\u{1b}""#);
    assert_eq!(
        other.terms,
        [Term {
            text: r#"(= subject.role "dev")"#.to_owned(),
            span: 0..22,
            was: false,
            facts: vec![Fact { name: Name::Attribute("role".to_owned()), had: Had::Text("o\"ps\x1b".to_owned()) }],
            equality: Some(("role".to_owned(), "dev".to_owned())),
        }]
    );
}

#[test]
fn a_reason_names_every_alternative_of_or() {
    assert_eq!(
        reason("a or b", &[("b", "no")]).to_string(),
        r#"(= subject.a "true") is false: the peer has no attribute `a`; (= subject.b "true") is false: the peer's `b` is "no""#
    );
}

#[test]
fn a_reason_names_what_not_forbids() {
    assert_eq!(
        reason("not banned", &[("banned", "true")]).to_string(),
        r#"(= subject.banned "true") is true: the peer's `banned` is "true""#
    );
    // Of what is under the `not`, only what made it true.
    let reason = reason("not (a or b)", &[("b", "true")]);
    assert_eq!(
        reason.terms.iter().map(|term| (&term.text[..], term.was)).collect::<Vec<_>>(),
        [(r#"(= subject.b "true")"#, true)]
    );
}

#[test]
fn a_reason_of_if_names_the_branch_or_else_the_condition() {
    assert_eq!(
        reason("(if a b c)", &[("a", "true")]).to_string(),
        r#"(= subject.b "true") is false: the peer has no attribute `b`"#
    );
    assert_eq!(reason("(if a b false)", &[]).to_string(), r#"(= subject.a "true") is false: the peer has no attribute `a`"#);
    assert_eq!(reason("false", &[]).to_string(), "false is false");
}

#[test]
fn reasons_about_built_in_names() {
    let attributes = Attributes::new();
    let subject = Facts { identifier: None, has_credential: false, attributes: &attributes };
    let request = Request { subject, resource: "db", action: Action::AcceptStream };
    let sentence = |text: &str, request: &Request<'_>| match parse(text).unwrap().evaluate(request) {
        Decision::Denied(reason) => reason.to_string(),
        Decision::Allowed => panic!("{text}"),
    };
    assert_eq!(sentence("has_credential", &request), "subject.has_credential is false: the peer has no valid credential");
    assert_eq!(sentence(r#"identifier = "P""#, &request), r#"(= subject.identifier "P") is false: the peer is not known"#);
    assert_eq!(
        sentence("(= resource.id subject.own)", &request),
        "(= resource.id subject.own) is false: `resource.id` is \"db\" and the peer has no attribute `own`"
    );
}

#[test]
fn a_reason_is_bounded() {
    let text = (0..40).map(|i| format!("a{i}")).collect::<Vec<_>>().join(" and ");
    let reason = reason(&text, &[]);
    assert_eq!((reason.terms.len(), reason.further), (8, 32));
    assert!(reason.to_string().ends_with("; and 32 more"));
}

#[test]
fn serde_carries_the_canonical_text() {
    let expr = parse("a or b").unwrap();
    let json = serde_json::to_string(&expr).unwrap();
    assert_eq!(json, r#""(or (= subject.a \"true\") (= subject.b \"true\"))""#);
    assert_eq!(serde_json::from_str::<Expr>(&json).unwrap(), expr);
    let error = serde_json::from_str::<Expr>(r#""a adn b""#).unwrap_err().to_string();
    assert!(error.starts_with("policy, line 1, column 3: unknown operator `adn`: did you mean `and`?"), "{error}");
}
