//! Every link and every path in the project's documents leads somewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The documents: those at the root, and everything below `docs/`.
fn documents() -> Vec<PathBuf> {
    let mut folders = vec![root().join("docs")];
    let mut found = markdown_of(&root());
    while let Some(folder) = folders.pop() {
        found.extend(markdown_of(&folder));
        folders.extend(std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()));
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

fn markdown_of(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The text without its fenced blocks.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What stands between each `open` and the next `close` of a line.
fn between<'a>(text: &'a str, open: &str, close: char) -> Vec<&'a str> {
    text.lines()
        .flat_map(|line| line.split(open).skip(1))
        .filter_map(|rest| rest.split_once(close))
        .map(|(inner, _)| inner)
        .collect()
}

/// The anchors that a renderer gives to the headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings
        .map(|heading| {
            let kept = heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
            kept.replace(' ', "-")
        })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for document in documents() {
        let text = prose(&std::fs::read_to_string(&document).unwrap());
        for link in between(&text, "](", ')') {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            let found = target.exists()
                && (anchor.is_empty() || anchors(&prose(&std::fs::read_to_string(&target).unwrap_or_default())).contains(anchor));
            if !found {
                dead.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn paths_exist() {
    const FOLDERS: [&str; 10] = ["proto", "node", "relay", "authority", "cli", "tests", "fuzz", "configs", "docs", "benches"];
    let mut missing = Vec::new();
    for document in documents() {
        let text = prose(&std::fs::read_to_string(&document).unwrap());
        // In a line, what stands in backticks is every second part.
        for code in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let is_path = code.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(&folder))
                && code.chars().all(|c| c.is_ascii_alphanumeric() || "/._-{},".contains(c));
            if !is_path {
                continue;
            }
            for path in alternatives(code) {
                // Some stand in a home, whose folders have names of their own (`relay/`, `authority/authority.db`).
                if !root().join(&path).exists() && (path.contains("/src") || path.ends_with(".rs")) {
                    missing.push(format!("{}: {path}", document.display()));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The threat model says which test holds what: a file in backticks, then the names of its tests.
#[test]
fn tests_that_are_named_exist() {
    let text = std::fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let (mut missing, mut named) = (Vec::new(), 0);
    for paragraph in text
        .split("\n\n")
        .flat_map(|paragraph| if paragraph.starts_with('|') { paragraph.split('\n').collect() } else { vec![paragraph] })
    {
        let mut file: Option<(&str, String)> = None;
        for code in paragraph.split('`').skip(1).step_by(2) {
            if code.ends_with(".rs") {
                file = Some((code, std::fs::read_to_string(root().join(code)).unwrap_or_default()));
            } else if let Some((path, source)) = &file
                && code.len() > 3
                && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            {
                named += 1;
                if !source.contains(&format!("fn {code}(")) {
                    missing.push(format!("{path}: {code}"));
                }
            }
        }
    }
    assert!(named > 50, "{named}");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Every code that a failing portal can show stands in the guide, in the row of its step.
#[test]
fn codes_of_portals_are_explained() {
    let guide = std::fs::read_to_string(root().join("docs/guides/troubleshooting.md")).unwrap();
    let (mut missing, mut found) = (Vec::new(), 0);
    for entry in std::fs::read_dir(root().join("node/src/engine")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(source) = std::fs::read_to_string(&path) else { continue };
        // As in `Failure::new(Step::Relay, code::RELAY_DOWN, …)`, on one line or several.
        for rest in source.split("Step::").skip(1) {
            let Some((step, code)) = rest.split_once(',') else { continue };
            let Some(code) = code.trim_start().strip_prefix("code::") else { continue };
            let code = code.split(|c: char| !c.is_ascii_uppercase() && c != '_').next().unwrap_or_default();
            if !step.bytes().all(|b| b.is_ascii_alphabetic()) {
                continue;
            }
            found += 1;
            let step = if step == "InletPolicy" { "inlet-policy".to_owned() } else { step.to_lowercase() };
            let row = guide.lines().find(|line| line.starts_with(&format!("| `{step}` |"))).unwrap_or_default();
            if !row.contains(&format!("`{code}`")) {
                missing.push(format!("{}: {step} {code}", path.display()));
            }
        }
    }
    assert!(found > 15, "{found}");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn alternatives(path: &str) -> Vec<String> {
    match path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (inner, after))) => inner.split(',').map(|one| format!("{before}{one}{after}")).collect(),
        None => vec![path.to_owned()],
    }
}
