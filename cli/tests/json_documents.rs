//! `docs/reference/json.md`: the command beside each example is run, and prints the same fields with the same types.

use std::collections::BTreeSet;

use postern_test_support::{HttpServer, PATIENCE, Project, Reserved, TestHome, Value, eventually};
use serde_json::Map;

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/json.md");
    std::fs::read_to_string(path).unwrap()
}

/// The examples: a command, what it prints, and the text up to the next example.
fn examples(page: &str) -> Vec<(String, Value, String)> {
    let mut found = Vec::new();
    for part in page.split("```json postern ").skip(1) {
        let (command, rest) = part.split_once('\n').unwrap();
        let (json, prose) = rest.split_once("\n```\n").unwrap();
        let document = parsed(json, command);
        found.push((command.to_owned(), document, prose.to_owned()));
    }
    assert!(found.len() > 12, "{}", found.len());
    found
}

#[track_caller]
fn parsed(json: &str, command: &str) -> Value {
    json.parse().unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// Where `real` has other fields or types than `page`. What is free (attributes) or absent (null) on either side is not compared.
fn differences(place: &str, page: &Value, real: &Value, found: &mut Vec<String>) {
    match (page, real) {
        (Value::Null, _) | (_, Value::Null) => {}
        (Value::Object(page), Value::Object(real)) => {
            let names = |map: &Map<String, Value>| map.keys().cloned().collect::<BTreeSet<_>>();
            for name in names(page).symmetric_difference(&names(real)) {
                let side = if real.contains_key(name) { "only the program has" } else { "only the page has" };
                found.push(format!("{place}: {side} `{name}`"));
            }
            for (name, value) in page.iter().filter(|(name, _)| *name != "attributes") {
                if let Some(real) = real.get(name) {
                    differences(&format!("{place}.{name}"), value, real, found);
                }
            }
        }
        (Value::Array(page), Value::Array(real)) => {
            // Elements of one array may be of several shapes: each has to have one that it is like, on both sides.
            let alike = |one: &Value, others: &[Value], swap: bool| {
                others.iter().any(|other| {
                    let mut none = Vec::new();
                    let (page, real) = if swap { (other, one) } else { (one, other) };
                    differences("", page, real, &mut none);
                    none.is_empty()
                })
            };
            if !page.is_empty() && !real.is_empty() {
                found.extend(
                    page.iter().filter(|one| !alike(one, real, false)).map(|one| format!("{place}: nothing is like {one}")),
                );
                found.extend(
                    real.iter()
                        .filter(|one| !alike(one, page, true))
                        .map(|one| format!("{place}: the page has nothing like {one}")),
                );
            }
        }
        (Value::String(_), Value::String(_)) | (Value::Number(_), Value::Number(_)) | (Value::Bool(_), Value::Bool(_)) => {}
        _ => found.push(format!("{place}: {page} on the page is {real}")),
    }
}

/// Every name of a field in `document`.
fn fields(document: &Value, found: &mut BTreeSet<String>) {
    match document {
        Value::Object(map) => {
            for (name, value) in map {
                found.insert(name.clone());
                if name != "attributes" {
                    fields(value, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, found)),
        _ => {}
    }
}

/// A project with everything that the page shows.
fn set_up(home: &TestHome, service: &HttpServer) {
    let listener = Reserved::new().release();
    let configuration = format!(
        "{{name: n1, tcp-listener-address: '127.0.0.1:{listener}', http-server-port: 0, relay: r1, \
         tcp-outlet: {{from: db, to: '{}', allow: trusted}}, tcp-inlet: {{alias: web, from: '127.0.0.1:0', via: r1, to: db}}, \
         policy: {{resource-type: tcp-inlet, allow: app}}}}",
        service.address()
    );
    home.ok(&["node", "create", "--configuration", &configuration]);
    home.ok(&["project", "ticket", "--attribute", "app=billing", "--relay", "acme"]);
    eventually(PATIENCE, "the relay name is registered", || {
        (home.json(&["relay", "show", "r1"])["connection_status"] == "Up").then_some(())
    });
}

#[test]
fn every_document_is_as_the_page_says() {
    let project = Project::new(env!("CARGO_BIN_EXE_postern"));
    let home: &TestHome = &project;
    let service = HttpServer::start("hello");
    set_up(home, &service);
    let mut found = Vec::new();
    for (command, page, _) in examples(&page()) {
        let ran = home.run(&command.split_whitespace().collect::<Vec<_>>());
        let text = if ran.stdout.is_empty() { &ran.stderr } else { &ran.stdout };
        let real = parsed(text, &command);
        differences(&command, &page, &real, &mut found);
    }
    assert!(found.is_empty(), "docs/reference/json.md:\n{}", found.join("\n"));
}

#[test]
fn every_field_is_explained() {
    let page = page();
    let (mut names, mut prose) = (BTreeSet::new(), page.split("```json").next().unwrap().to_owned());
    for (_, document, text) in examples(&page) {
        fields(&document, &mut names);
        prose.push_str(&text);
    }
    assert!(names.len() > 40, "{}", names.len());
    names.retain(|name| !prose.contains(&format!("`{name}`")));
    assert!(names.is_empty(), "docs/reference/json.md says nothing of {names:?}");
}
