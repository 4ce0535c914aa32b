use super::*;

/// The rendering of the error of each text, which is the whole contract: place, line, caret, help.
#[test]
fn faults_are_shown_with_their_place_and_remedy() {
    for (text, rendered) in [
        ("", "line 1, column 1: the expression is empty\n  \n  ^\n  `subject.has_credential` admits every member"),
        (" \n ", "line 1, column 1: the expression is empty\n  \n  ^\n  `subject.has_credential` admits every member"),
        ("a adn b", "line 1, column 3: unknown operator `adn`\n  a adn b\n    ^^^\n  did you mean `and`?"),
        ("a AND b", "line 1, column 3: unknown operator `AND`\n  a AND b\n    ^^^\n  did you mean `and`?"),
        ("a && b", "line 1, column 3: unknown operator `&&`\n  a && b\n    ^^\n  write `and`"),
        ("a || b", "line 1, column 3: unknown operator `||`\n  a || b\n    ^^\n  write `or`"),
        ("!a", "line 1, column 1: unknown operator `!`\n  !a\n  ^\n  write `not`"),
        ("a == \"x\"", "line 1, column 3: unknown operator `==`\n  a == \"x\"\n    ^^\n  write `=`"),
        ("(>= subject.a 5)", "line 1, column 2: unknown operator `>=`\n  (>= subject.a 5)\n   ^^\n  write `(not (< …))`"),
        ("nto banned", "line 1, column 1: unknown operator `nto`\n  nto banned\n  ^^^\n  did you mean `not`?"),
        ("NOT (a or b)", "line 1, column 1: unknown operator `NOT`\n  NOT (a or b)\n  ^^^\n  did you mean `not`?"),
        ("(xor a b)", "line 1, column 2: unknown operator `xor`\n  (xor a b)\n   ^^^\n  did you mean `or`?"),
        (
            "(equals a \"x\")",
            "line 1, column 2: unknown operator `equals`\n  (equals a \"x\")\n   ^^^^^^\n  the operators are `and` `or` `not` `if` `=` `!=` `<` `>` `member?` `exists?`",
        ),
        (
            "(member subject.a [\"x\"])",
            "line 1, column 2: unknown operator `member`\n  (member subject.a [\"x\"])\n   ^^^^^^\n  did you mean `member?`?",
        ),
        (
            "(exist? subject.a)",
            "line 1, column 2: unknown operator `exist?`\n  (exist? subject.a)\n   ^^^^^^\n  did you mean `exists?`?",
        ),
        ("a b", "line 1, column 3: expected `and`, `or` or the end, found `b`\n  a b\n    ^"),
        ("a not b", "line 1, column 3: expected `and` or `or`, found `not`\n  a not b\n    ^^^\n  write `and not`"),
        ("a and", "line 1, column 6: expected a condition, found the end\n  a and\n       ^"),
        (
            "or a",
            "line 1, column 1: expected a condition, found `or`\n  or a\n  ^^\n  put parentheses around it, or add what stands on its left",
        ),
        ("()", "line 1, column 2: expected a condition, found `)`\n  ()\n   ^"),
        ("(a or b", "line 1, column 1: this `(` is not closed\n  (a or b\n  ^\n  add `)`"),
        ("(and (= subject.a \"x\"", "line 1, column 6: this `(` is not closed\n  (and (= subject.a \"x\"\n       ^\n  add `)`"),
        ("a or b)", "line 1, column 7: this `)` closes nothing\n  a or b)\n        ^\n  remove it, or add the `(` it belongs to"),
        ("(member? a [\"x\")", "line 1, column 16: expected a value, found `)`\n  (member? a [\"x\")\n                 ^"),
        ("(member? a [\"x\"", "line 1, column 12: this `[` is not closed\n  (member? a [\"x\"\n             ^\n  add `]`"),
        (
            "(member? a [\"x\", \"y\"])",
            "line 1, column 16: unexpected character ','\n  (member? a [\"x\", \"y\"])\n                 ^\n  the elements of a sequence are separated by spaces",
        ),
        ("a =", "line 1, column 3: `=` needs a string in double quotes on its right\n  a =\n    ^\n  write `a = \"text\"`"),
        ("a = b", "line 1, column 5: `=` needs a string in double quotes on its right\n  a = b\n      ^\n  write `a = \"b\"`"),
        (
            "a != 5",
            "line 1, column 6: `!=` needs a string in double quotes on its right\n  a != 5\n       ^\n  write `a != \"5\"` or `(!= subject.a 5)`",
        ),
        ("a < 5", "line 1, column 3: expected `=` or `!=`, found `<`\n  a < 5\n    ^\n  write `(< subject.a 5)`"),
        (
            "= \"x\"",
            "line 1, column 1: expected a condition, found `=`\n  = \"x\"\n  ^\n  write `name = \"text\"` or `(= subject.name \"text\")`",
        ),
        (
            "a = 'x'",
            "line 1, column 5: unexpected character '\\''\n  a = 'x'\n      ^\n  strings stand in double quotes: `\"text\"`",
        ),
        ("a = \"x", "line 1, column 5: this string is not closed\n  a = \"x\n      ^^\n  put `\"` behind its last character"),
        (
            "é",
            "line 1, column 1: unexpected character 'é'\n  é\n  ^\n  names consist of A-Z a-z 0-9 . _ -, and any other text stands in double quotes",
        ),
        (
            "a = \"é\" ?",
            "line 1, column 9: unexpected character '?'\n  a = \"é\" ?\n          ^\n  the operators that end in `?` are `member?` and `exists?`",
        ),
        (
            "(= a \"\\q\")",
            "line 1, column 7: unknown escape in a string\n  (= a \"\\q\")\n        ^^\n  the escapes are `\\\"` `\\\\` `\\n` `\\r` `\\t` `\\0` `\\u{…}`",
        ),
        (
            "(= a \"\x07\")",
            "line 1, column 7: a string cannot contain '\\u{7}' as it is\n  (= a \" \")\n        ^\n  write `\\u{7}`",
        ),
        (
            "9lives",
            "line 1, column 1: `9lives` is not a name: a name begins with a letter or `_`\n  9lives\n  ^^^^^^\n  an attribute of this name is `subject.9lives`",
        ),
        (
            "(< a 9223372036854775808)",
            "line 1, column 6: `9223372036854775808` is not an integer of 64 bits\n  (< a 9223372036854775808)\n       ^^^^^^^^^^^^^^^^^^^",
        ),
        (
            "(= subject.identifier 5)",
            "line 1, column 2: `=` cannot compare text with an integer\n  (= subject.identifier 5)\n   ^\n  write the number as text: `\"5\"`",
        ),
        (
            "(< 1 \"1\")",
            "line 1, column 2: `<` cannot compare an integer with text\n  (< 1 \"1\")\n   ^\n  write both alike: `1` is a number, `\"1\"` is text",
        ),
        (
            "has_credential = \"true\"",
            "line 1, column 16: `=` cannot compare a boolean with text\n  has_credential = \"true\"\n                 ^\n  `subject.has_credential` is a condition by itself",
        ),
        ("(< true false)", "line 1, column 2: `<` cannot compare a boolean with a boolean\n  (< true false)\n   ^"),
        (
            "(< subject.a subject.b)",
            "line 1, column 2: `<` cannot order two attributes: whether they are numbers or text is not known\n  (< subject.a subject.b)\n   ^\n  compare each with a literal",
        ),
        (
            "(and \"a\" b)",
            "line 1, column 6: text is not a condition\n  (and \"a\" b)\n       ^^^\n  compare it with an attribute: `name = \"text\"`",
        ),
        (
            "a and 5",
            "line 1, column 7: an integer is not a condition\n  a and 5\n        ^\n  compare it with an attribute: `(= subject.name 5)`",
        ),
        (
            "(or [\"a\"])",
            "line 1, column 5: a sequence is not a condition\n  (or [\"a\"])\n      ^\n  write `(member? subject.name [\"one\" \"two\"])`",
        ),
        (
            "not identifier",
            "line 1, column 5: text is not a condition\n  not identifier\n      ^^^^^^^^^^\n  compare it: `identifier = \"…\"`",
        ),
        (
            "(= (and a b) true)",
            "line 1, column 4: expected a value, found `(`\n  (= (and a b) true)\n     ^\n  values are strings, integers, `true`, `false` and names; conditions cannot be compared",
        ),
        ("(and)", "line 1, column 5: `and` takes one or more conditions\n  (and)\n      ^"),
        ("(= subject.a)", "line 1, column 13: `=` takes two values\n  (= subject.a)\n              ^"),
        ("(= a \"x\" \"y\")", "line 1, column 10: `=` takes two values\n  (= a \"x\" \"y\")\n           ^^^"),
        (
            "(not a \"x\")",
            "line 1, column 8: `not` takes one condition\n  (not a \"x\")\n         ^^^\n  join conditions with `and` or `or`",
        ),
        (
            "(if a b)",
            "line 1, column 2: `if` takes three conditions: what is asked, what holds if it is true, and what holds if not\n  (if a b)\n   ^^",
        ),
        (
            "(member? \"x\" subject.list)",
            "line 1, column 14: expected a sequence, found `subject.list`\n  (member? \"x\" subject.list)\n               ^^^^^^^^^^^^\n  a sequence is written `[\"one\" \"two\"]`; attributes are text, never sequences",
        ),
        (
            "(member? a [\"x\" 1])",
            "line 1, column 17: a sequence cannot hold both text and an integer\n  (member? a [\"x\" 1])\n                  ^",
        ),
        (
            "(member? 1 [\"x\"])",
            "line 1, column 13: `=` cannot compare an integer with text\n  (member? 1 [\"x\"])\n              ^^^",
        ),
        (
            "(exists? \"a\")",
            "line 1, column 10: expected a name, found a string\n  (exists? \"a\")\n           ^^^\n  `(exists? subject.role)` asks whether the peer has `role`",
        ),
        (
            "resource.name = \"x\"",
            "line 1, column 1: unknown name `resource.name`\n  resource.name = \"x\"\n  ^^^^^^^^^^^^^\n  a resource has only `resource.id`",
        ),
        (
            "subject. = \"x\"",
            "line 1, column 1: unknown name `subject.`\n  subject. = \"x\"\n  ^^^^^^^^\n  write the attribute's name behind `subject.`",
        ),
    ] {
        assert_eq!(parse(text).expect_err(text).to_string(), rendered, "{text}");
    }
}

#[test]
fn a_place_has_line_column_offset_and_length() {
    let error = parse("a = \"é\" and\n  b adn c").unwrap_err();
    assert_eq!((error.line(), error.column(), error.offset(), error.span()), (2, 5, 17, 17..20));
    assert_eq!(error.fault(), &Fault::UnknownOperator("adn".to_owned()));
    assert_eq!(error.help(), Some("did you mean `and`?"));
    assert_eq!(error.summary(), "policy, line 2, column 5: unknown operator `adn`: did you mean `and`?");
}

#[test]
fn a_place_can_be_that_in_a_larger_document() {
    let error = Expr::parse_at("a adn b", 7, 12).unwrap_err();
    assert_eq!((error.line(), error.column(), error.offset()), (7, 14, 2));
    let error = Expr::parse_at("a and\n adn b c", 7, 12).unwrap_err();
    assert_eq!((error.line(), error.column()), (8, 6), "only the first line begins behind something else");
}

#[test]
fn a_long_line_is_shown_around_the_place() {
    let text = format!("{} adn b", vec!["a"; 500].join(" and "));
    let rendered = parse(&text).unwrap_err().to_string();
    let lines: Vec<&str> = rendered.lines().collect();
    assert!(lines[1].len() <= 98 && lines[2].len() <= 98, "{rendered}");
    let caret = lines[2].find('^').unwrap();
    assert_eq!(&lines[1][caret..caret + 3], "adn");
}

fn fault(text: &str) -> Fault {
    parse(text).expect_err(&text.chars().take(40).collect::<String>()).fault().clone()
}

#[test]
fn the_text_is_bounded() {
    assert_eq!(fault(&" ".repeat(MAX_TEXT + 1)), Fault::TooLong(MAX_TEXT + 1));
    assert!(parse(&format!("a{}", " ".repeat(MAX_TEXT - 1))).is_ok());
    let wide = vec!["a"; 500].join(" or ");
    assert!(matches!(fault(&wide), Fault::TooManyNodes(1501)));
    let long = vec!["abcdefghij"; 320].join(" or ");
    assert!(long.len() < MAX_TEXT);
    assert!(matches!(fault(&long), Fault::CanonicalTooLong(_)));
}

#[test]
fn the_depth_is_bounded() {
    let nots = |n: usize| format!("{}true", "not ".repeat(n));
    assert!(parse(&nots(MAX_DEPTH)).is_ok());
    assert_eq!(fault(&nots(MAX_DEPTH + 1)), Fault::TooDeep(MAX_DEPTH + 1));
    let deepest = parse(&nots(MAX_DEPTH)).unwrap();
    assert_eq!(parse(&deepest.to_string()), Ok(deepest));
    let parentheses = |n: usize| format!("{}a{}", "(".repeat(n), ")".repeat(n));
    assert!(parse(&parentheses(MAX_NESTING)).is_ok());
    assert_eq!(fault(&parentheses(MAX_NESTING + 1)), Fault::NestedTooDeep);
    for endless in ["(", "not ", "(not ", "(and ", "(if ", "(a or "] {
        assert_eq!(fault(&endless.repeat(MAX_TEXT / endless.len())), Fault::NestedTooDeep, "{endless}");
    }
}

#[test]
fn attribute_names_are_bounded() {
    let name = "x".repeat(MAX_ATTRIBUTE_NAME);
    assert!(parse(&name).is_ok() && parse(&format!("subject.{name}")).is_ok());
    assert_eq!(fault(&format!("{name}x")), Fault::NameTooLong);
    assert_eq!(fault(&format!("(exists? subject.{name}x)")), Fault::NameTooLong);
}
