//! A node's configuration: YAML or JSON text, variables and environment → a checked [`NodeConfig`], or all of its problems.
//!
//! Nothing happens before a whole configuration is right: [`load`] does no input or output, and what it returns holds only checked values.

pub mod cases;
mod expression;
mod fingerprint;
mod keys;
mod problem;
mod read;
#[cfg(test)]
mod reference;
pub mod resource;
mod resources;
mod suggest;
mod tree;
mod variables;

use postern_proto::address::HostPort;
use postern_proto::name::{IdentityName, NodeName};
use postern_proto::secret::SecretText;
use postern_proto::spec::{InletSpec, MaxStaleness, OutletSpec, PolicySpec, RelaySpec};

pub use expression::{ExpressionFault, parse_expression};
pub use fingerprint::Fingerprint;
pub use problem::{Place, Position, Problem, Problems, Warning};
pub use tree::{MAX_DEPTH, MAX_NODES, MAX_TEXT};
pub use variables::{VariableError, Variables};

use problem::Problem as P;
use variables::Substitution;

/// Everything that a configuration says of a node.
#[derive(Debug, Clone, Default)]
pub struct NodeConfig {
    /// Absent where the file leaves it to the command or to chance.
    pub name: Option<NodeName>,
    pub identity: Option<IdentityName>,
    /// A ticket argument: the path or URL of a ticket, or its text. Relative paths are relative to the working directory.
    pub ticket: Option<SecretText>,
    pub tcp_listener_address: Option<HostPort>,
    /// 0 is a free port.
    pub http_server_port: Option<u16>,
    pub max_staleness: MaxStaleness,
    pub foreground: Option<bool>,
    pub relays: Vec<RelaySpec>,
    pub outlets: Vec<OutletSpec>,
    pub inlets: Vec<InletSpec>,
    pub policies: Vec<PolicySpec>,
    pub fingerprint: Fingerprint,
    /// What its author should know although it is accepted.
    pub warnings: Vec<Warning>,
}

/// Reads and checks a configuration.
///
/// `file` is how it is called in problems; `name` is the node's name where the command says it, which wins over the file's.
///
/// # Errors
/// All problems, each with its place. Where the text is no YAML at all, the first.
pub fn load(file: &str, text: &str, variables: &Variables, name: Option<&NodeName>) -> Result<NodeConfig, Problems> {
    // Editors of some systems begin every file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let fail = |problems: Vec<P>| Problems::new(file, text, problems);
    let root = tree::parse(text).map_err(|problem| fail(vec![problem]))?;
    load_tree(file, text, root, variables, name)
}

/// As [`load`], behind the parser.
fn load_tree(
    file: &str,
    text: &str,
    mut root: tree::Node,
    variables: &Variables,
    name: Option<&NodeName>,
) -> Result<NodeConfig, Problems> {
    let fail = |problems: Vec<P>| Problems::new(file, text, problems);
    let mut problems = Vec::new();
    let mut substitution = Substitution::new(variables);
    if let tree::Value::Map(entries) = &mut root.value {
        // `variables` is what the rest is read with, so it is taken by its literal key, before anything is put in.
        if let Some((_, node)) = entries.iter().find(|(key, _)| key.text == "variables") {
            substitution.define(node, &mut problems);
        }
        for (key, node) in entries.iter_mut().filter(|(key, _)| key.text != "variables") {
            substitution.apply_entry(key, node, &mut problems);
        }
    }
    // A value whose variable is not known is wrong in no other way.
    let unknown: std::collections::BTreeSet<Position> = problems.iter().map(|problem| problem.place.start).collect();
    let mut found = Vec::new();
    let mut config = read::read(file, text, root, name, &mut found);
    problems.extend(found.into_iter().filter(|problem| !unknown.contains(&problem.place.start)));
    if problems.is_empty() {
        let start = Position { line: 1, column: 1 };
        config.warnings.extend(substitution.unused().map(|message| Warning { file: file.to_owned(), position: start, message }));
        config.warnings.sort_by_key(|warning| warning.position);
        Ok(config)
    } else {
        Err(fail(problems))
    }
}

/// Bytes as the text of a configuration.
///
/// # Errors
/// Where they are too many, or not UTF-8, with the place of the first byte that is wrong.
pub fn text(file: &str, bytes: &[u8]) -> Result<String, Problems> {
    let start = Position { line: 1, column: 1 };
    if bytes.len() > MAX_TEXT {
        let message = format!("the configuration is longer than {MAX_TEXT} bytes");
        return Err(Problems::new(file, "", vec![P::new(Place { start, width: 1 }, message)]));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned();
            let line = valid.matches('\n').count() + 1;
            let column = valid.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
            let place = Place { start: Position { line, column }, width: 1 };
            Err(Problems::new(file, &valid, vec![P::new(place, "this is not UTF-8 text").try_this("save the file as UTF-8")]))
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod yaml_test_suite;
