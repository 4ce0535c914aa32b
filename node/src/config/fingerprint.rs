//! What a configuration says, for telling whether a file that is given again is the one that made a node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tree::{Node, Value};

/// The text of a configuration after variables: every value by the path of its key. What only leads to the same node is not part of it:
/// comments, the order of keys, spelling such as `tcp_outlets` for `tcp-outlet`, the ticket, and the variables themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(BTreeMap<String, String>);

impl Fingerprint {
    /// Takes in what stands under one key of the file; `key` is in its canonical spelling.
    pub(super) fn add(&mut self, key: &str, node: &Node) {
        match &node.value {
            Value::Scalar(scalar) => {
                self.0.insert(key.to_owned(), scalar.text.clone());
            }
            Value::List(items) => items.iter().enumerate().for_each(|(index, item)| self.add(&format!("{key}[{index}]"), item)),
            Value::Map(entries) => {
                for (inner, value) in entries {
                    let spelt = inner.text.replace('_', "-");
                    // Other keys are names, in which `_` and `-` differ.
                    let inner = if super::keys::is_argument(&spelt) { &spelt } else { &inner.text };
                    self.add(&format!("{key}.{inner}"), value);
                }
            }
        }
    }

    /// The keys whose values differ, each as `key: was …, is …`; empty where both say the same.
    #[must_use]
    pub fn differences(&self, new: &Self) -> Vec<String> {
        let was = self.0.iter().filter(|(key, value)| new.0.get(*key) != Some(value)).map(|(key, value)| {
            let now = new.0.get(key).map_or_else(|| "is gone".to_owned(), |now| format!("is `{now}`"));
            format!("{key}: was `{value}`, {now}")
        });
        let added =
            new.0.iter().filter(|(key, _)| !self.0.contains_key(*key)).map(|(key, value)| format!("{key}: is new, `{value}`"));
        was.chain(added).collect()
    }
}
