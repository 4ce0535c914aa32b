//! `docs/reference/configuration.md` against the code: its keys, its examples, its errors.

use std::collections::BTreeSet;

use super::{MAX_DEPTH, MAX_NODES, MAX_TEXT, Variables, keys, load};

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/configuration.md");
    std::fs::read_to_string(path).unwrap()
}

/// The part of the page under a heading, up to the next one of any level.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    &rest[..rest.find("\n#").unwrap_or(rest.len())]
}

/// What stands in backticks in the first column of the tables.
fn rows(section: &str) -> BTreeSet<&str> {
    let first = |line: &'_ str| line.strip_prefix("| `").map(str::len);
    section.lines().filter(|line| first(line).is_some()).filter_map(|line| line.split('`').nth(1)).collect()
}

/// The fenced blocks: what stands behind the backticks, and the text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut lines = page.lines();
    let mut blocks = Vec::new();
    while let Some(opening) = lines.by_ref().find_map(|line| line.strip_prefix("```")) {
        blocks.push((
            opening.to_owned(),
            lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect(),
        ));
    }
    blocks
}

#[test]
fn every_key_is_explained() {
    let page = page();
    let keys_section = section(&page, "## Keys");
    assert_eq!(rows(keys_section), keys::TOP.iter().map(|(key, _)| *key).collect());
    for (key, other) in keys::TOP.iter().filter(|(key, other)| key != other) {
        assert!(keys_section.contains(&format!("| `{key}` | `{other}` |")), "{other}");
    }
    for ignored in keys::IGNORED {
        assert!(keys_section.contains(&format!("`{ignored}`")), "{ignored}");
    }
    let kinds = [
        ("### Relay names", keys::RELAY),
        ("### Outlets", keys::OUTLET),
        ("### Inlets", keys::INLET),
        ("### Policies", keys::POLICY),
    ];
    for (heading, kind) in kinds {
        assert_eq!(rows(section(&page, heading)), kind.arguments.iter().copied().collect(), "{heading}");
    }
    assert!(page.contains(&format!("at most {MAX_TEXT} bytes, {MAX_NODES} values, and {MAX_DEPTH} levels")));
}

#[test]
fn every_example_is_read() {
    let mut read = 0;
    for (opening, text) in blocks(&page()) {
        let Some(variables) = opening.strip_prefix("yaml").filter(|rest| !rest.contains("wrong")) else { continue };
        let variables = Variables::new(variables.split_whitespace(), []).unwrap();
        let config = load("node.yaml", &text, &variables, None).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        read += 1;
    }
    assert!(read >= 10, "{read}");
}

#[test]
fn every_error_is_the_one_that_is_shown() {
    let blocks = blocks(&page());
    let mut shown = 0;
    for pair in blocks.windows(2).filter(|pair| pair[0].0 == "yaml wrong") {
        let problems = load("node.yaml", &pair[0].1, &Variables::default(), None).unwrap_err();
        assert_eq!(pair[1].0, "text");
        assert_eq!(pair[1].1, format!("{problems}\n"), "the error of\n{}is\n{problems}\n", pair[0].1);
        shown += 1;
    }
    assert!(shown > 0);
}
