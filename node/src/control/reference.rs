//! `docs/reference/json.md`: the examples of a node's documents are read into the types that they are printed from.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::document::{
    InletDocument, NodeDocument, NodeStatusDocument, OutletDocument, PolicyDocument, PortalDocument, RelayDocument,
};

/// Reads `value`, and requires that nothing of it is lost.
#[track_caller]
fn read<T: DeserializeOwned + Serialize>(value: &Value) {
    let document: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value:#}"));
    assert_eq!(serde_json::to_value(document).unwrap(), *value);
}

#[test]
fn every_example_is_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/json.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut read_examples = 0;
    for example in page.split("```json postern ").skip(1) {
        let (command, rest) = example.split_once('\n').unwrap();
        let value: Value = serde_json::from_str(rest.split_once("\n```\n").unwrap().0).unwrap();
        match command.split(' ').collect::<Vec<_>>()[..] {
            ["node", "show"] => read::<NodeDocument>(&value),
            ["tcp-inlet", "show", _] => read::<InletDocument>(&value),
            ["tcp-outlet", "show", _] => read::<OutletDocument>(&value),
            ["relay", "show", _] => read::<RelayDocument>(&value),
            ["policy", "show", _] => read::<PolicyDocument>(&value),
            ["status"] => {
                value["nodes"].as_array().unwrap().iter().for_each(read::<NodeStatusDocument>);
                value["portals"].as_array().unwrap().iter().for_each(read::<PortalDocument>);
            }
            _ => continue,
        }
        read_examples += 1;
    }
    assert!(read_examples >= 9, "{read_examples}");
}
