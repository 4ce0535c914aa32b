//! The YAML test suite against the parser of configurations. `yaml_test_suite.json` holds, of each case of
//! <https://github.com/yaml/yaml-test-suite> (MIT licence; its notice stands in the file), its id, whether the suite calls it an error, and its
//! text. What a case means is not compared here.

use std::time::{Duration, Instant};

use super::tests::load_with;
use super::*;

#[derive(serde::Deserialize)]
struct Suite {
    cases: Vec<(String, bool, String)>,
}

/// How a problem with text that is no YAML begins; others are with YAML that a configuration may not use.
const NOT_YAML: &str = "this is not YAML: ";

fn suite() -> Suite {
    let suite: Suite = serde_json::from_str(include_str!("yaml_test_suite.json")).unwrap();
    assert!(suite.cases.len() > 400 && suite.cases.iter().filter(|(_, error, _)| *error).count() > 90, "the suite is there");
    suite
}

/// Without exception, both ways: our YAML library takes nothing for YAML that the suite calls an error, and refuses none that it calls right.
#[test]
fn what_the_suite_calls_an_error_is_one() {
    let suite = suite();
    let (mut accepted, mut refused, mut taken, mut syntax) = (Vec::new(), Vec::new(), 0, 0);
    for (id, error, text) in &suite.cases {
        let result = tree::parse(text);
        let not_yaml = result.as_ref().is_err_and(|problem| problem.message.starts_with(NOT_YAML));
        if *error && result.is_ok() {
            accepted.push(id);
        }
        if !error && not_yaml {
            refused.push(id);
        }
        taken += usize::from(result.is_ok());
        syntax += usize::from(not_yaml);
    }
    println!("{taken} are read, {syntax} are no YAML, the others are YAML that a configuration may not use");
    assert_eq!((accepted, refused), (Vec::new(), Vec::new()), "errors that are accepted, and YAML that is refused");
    assert!(taken > 100 && syntax > 70, "what is always refused proves nothing: {taken}, {syntax}");
}

/// No text makes the loader panic or takes it long, and each that is refused is refused at a place that it has.
#[test]
fn each_case_is_answered_at_once_and_with_a_place() {
    for (id, _, text) in &suite().cases {
        let started = Instant::now();
        let result = load_with(text, &["A=b"]);
        // An unoptimised build on a busy machine; it is far below a millisecond otherwise.
        assert!(started.elapsed() < Duration::from_secs(5), "{id}");
        let Err(problems) = result else { continue };
        let lines: Vec<_> = text.strip_prefix('\u{feff}').unwrap_or(text).split('\n').collect();
        for problem in problems.all() {
            let Position { line, column } = problem.place.start;
            let width = line.checked_sub(1).and_then(|above| lines.get(above)).map(|line| line.chars().count());
            assert!(width.is_some_and(|width| (1..=width + 1).contains(&column)), "{id} {line}:{column} {}", problem.message);
        }
        let Position { line, column } = problems.all()[0].place.start;
        assert!(problems.to_string().starts_with(&format!("node.yaml:{line}:{column}: ")), "{id}: {problems}");
    }
}
