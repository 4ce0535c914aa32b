//! Cases for policies: who asks for what, and what is to be decided. Beside `cases`, the file may hold the policies themselves, as a node's
//! configuration, or name the file that does.

use postern_proto::authority::Attributes;
use postern_proto::id::Identifier;
use postern_proto::policy::Facts;
use postern_proto::spec::ResourceType;

use super::problem::{Place, Problem, Problems};
use super::tree::{self, Node, Value};
use super::{NodeConfig, Variables, load_tree};
use crate::engine::{Denial, Policies, Resource};
use crate::store::Specs;

/// Most cases of a file.
const MAX_CASES: usize = 10_000;

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is called; else the line on which it stands.
    pub name: String,
    pub line: usize,
    pub target: Target,
    /// The attributes of the peer's credential.
    pub subject: Attributes,
    /// The peer's identifier, where a policy asks for it.
    pub identifier: Option<Identifier>,
    /// Whether it is to be allowed.
    pub allowed: bool,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Resource(String),
    /// Any resource of the type without a policy of its own.
    ResourceType(ResourceType),
}

/// A file of cases.
#[derive(Debug)]
pub struct Cases {
    /// The path of the configuration whose policies are meant.
    pub configuration: Option<String>,
    /// The policies of the file itself, where it holds some.
    pub config: Option<NodeConfig>,
    pub cases: Vec<Case>,
}

/// Reads and checks a file of cases.
///
/// # Errors
/// All problems, each with its place. Where the text is no YAML at all, the first.
pub fn load_cases(file: &str, text: &str, variables: &Variables) -> Result<Cases, Problems> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let fail = |problems: Vec<Problem>| Problems::new(file, text, problems);
    let mut root = tree::parse(text).map_err(|problem| fail(vec![problem]))?;
    let place = root.place;
    let Value::Map(entries) = &mut root.value else {
        return Err(fail(vec![Problem::new(place, "a file of cases is a map with `cases`")]));
    };
    let mut take = |key: &str| entries.iter().position(|(known, _)| known.text == key).map(|at| entries.remove(at).1);
    let (cases, configuration) = (take("cases"), take("configuration"));
    let is_empty = entries.is_empty();
    let mut reading = Reading { problems: Vec::new() };
    let configuration = configuration.and_then(|node| reading.text("configuration", &node));
    let cases = match cases {
        Some(node) => reading.cases(&node),
        None => {
            let problem = Problem::new(place, "`cases` is missing");
            reading.problems.push(
                problem.try_this("write `cases:` and a list, such as `- {resource: db, subject: {app: billing}, expect: allow}`"),
            );
            Vec::new()
        }
    };
    if configuration.is_some() && !is_empty {
        reading.problems.push(Problem::new(place, "the policies stand in this file or in `configuration`: keep one of them"));
    }
    if !reading.problems.is_empty() {
        return Err(fail(reading.problems));
    }
    let config = if is_empty { None } else { Some(load_tree(file, text, root, variables, None)?) };
    Ok(Cases { configuration, config, cases })
}

/// What the policies of `specs` decide in a case.
///
/// # Errors
/// `Err(None)` where there is no such resource; else why the peer is denied.
pub fn decide(specs: &Specs, case: &Case) -> Result<(), Option<Box<Denial>>> {
    let policies = Policies::default();
    policies.set(specs.policies.clone());
    let resource = match &case.target {
        Target::ResourceType(kind) => Resource::of_type(*kind),
        Target::Resource(name) => {
            let (resource_type, allow) = specs.resource(name).ok_or(None)?;
            Resource { resource_type, name, allow }
        }
    };
    let subject = Facts { identifier: case.identifier, has_credential: true, attributes: &case.subject };
    policies.decide(&resource, subject).map_err(Some)
}

struct Reading {
    problems: Vec<Problem>,
}

impl Reading {
    fn problem(&mut self, place: Place, message: impl Into<String>) {
        self.problems.push(Problem::new(place, message));
    }

    fn text(&mut self, key: &str, node: &Node) -> Option<String> {
        match &node.value {
            Value::Scalar(scalar) if !node.is_null() => Some(scalar.text.clone()),
            _ => {
                self.problem(node.place, format!("`{key}` takes one text"));
                None
            }
        }
    }

    fn cases(&mut self, node: &Node) -> Vec<Case> {
        let Value::List(items) = &node.value else {
            self.problem(node.place, "`cases` takes a list");
            return Vec::new();
        };
        if items.is_empty() || items.len() > MAX_CASES {
            self.problem(node.place, format!("`cases` has 1 to {MAX_CASES} entries"));
            return Vec::new();
        }
        items.iter().filter_map(|item| self.case(item)).collect()
    }

    fn case(&mut self, node: &Node) -> Option<Case> {
        let Value::Map(entries) = &node.value else {
            self.problem(node.place, "a case is a map: resource, subject, expect");
            return None;
        };
        let (mut name, mut subject, mut identifier) = (None, Attributes::new(), None);
        // Within these, `None` is what is wrong, and was told.
        let (mut expect, mut targets) = (None, Vec::new());
        for (key, value) in entries {
            match key.text.replace('_', "-").as_str() {
                "name" => name = self.text("name", value),
                "resource" => targets.push(self.text("resource", value).map(Target::Resource)),
                "resource-type" => targets.push(self.text("resource-type", value).and_then(|text| {
                    text.parse().map(Target::ResourceType).map_err(|error| self.problem(value.place, format!("{error}"))).ok()
                })),
                "subject" => subject = self.subject(value),
                "identifier" => {
                    let text = self.text("identifier", value)?;
                    identifier = text.parse().map_err(|error| self.problem(value.place, format!("{error}"))).ok();
                }
                "expect" => {
                    expect = Some(self.text("expect", value).and_then(|text| match text.as_str() {
                        "allow" => Some(true),
                        "deny" => Some(false),
                        _ => {
                            self.problem(value.place, "`expect` is allow or deny");
                            None
                        }
                    }));
                }
                _ => {
                    let problem = Problem::new(key.place, format!("unknown key `{}`", key.text));
                    self.problems
                        .push(problem.try_this("a case has name, resource or resource-type, subject, identifier, expect"));
                }
            }
        }
        let target = match targets.len() {
            1 => targets.pop().flatten(),
            _ => {
                self.problem(node.place, "a case is about one `resource`, or one `resource-type`");
                None
            }
        };
        if expect.is_none() {
            self.problem(node.place, "`expect` is missing: allow or deny");
        }
        let line = node.place.start.line;
        let name = name.unwrap_or_else(|| format!("line {line}"));
        Some(Case { name, line, target: target?, subject, identifier, allowed: expect?? })
    }

    /// A map of attributes, or a list of those that are `true`.
    fn subject(&mut self, node: &Node) -> Attributes {
        let mut attributes = Attributes::new();
        match &node.value {
            Value::Map(entries) => {
                for (key, value) in entries {
                    let text = self.text(&key.text, value);
                    attributes.extend(text.map(|text| (key.text.clone(), text)));
                }
            }
            Value::List(items) => {
                for item in items {
                    attributes.extend(self.text("subject", item).map(|name| (name, "true".to_owned())));
                }
            }
            Value::Scalar(_) if node.is_null() => {}
            Value::Scalar(_) => self.problem(node.place, "`subject` is a map of attributes, or a list of those that are `true`"),
        }
        attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Stored;

    const FILE: &str = "\
tcp-outlets: {db: {to: 5432, allow: app = \"billing\" and not staging}, open: {to: 1}}
policy: {resource-type: tcp-inlet, allow: trusted}
cases:
- {name: billing, resource: db, subject: {app: billing}, expect: allow}
- {resource: db, subject: {app: billing, staging: true}, expect: deny}
- {resource: open, expect: allow}
- {resource-type: tcp-inlet, subject: [trusted], expect: allow}
- {resource: missing, expect: deny}
";

    fn cases(text: &str) -> Result<Cases, Problems> {
        load_cases("f", text, &Variables::default())
    }

    #[test]
    fn cases_are_decided_as_streams_are() {
        let file = cases(FILE).unwrap();
        let specs = Stored::from_config(&file.config.unwrap(), "i".parse().unwrap()).specs;
        let decided: Vec<_> = file.cases.iter().map(|case| (case.name.as_str(), decide(&specs, case).is_ok())).collect();
        assert_eq!(decided, [("billing", true), ("line 5", false), ("line 6", true), ("line 7", true), ("line 8", false)]);
        assert!(matches!(decide(&specs, &file.cases[4]), Err(None)), "what is not there is told apart");
    }

    #[test]
    fn what_is_wrong_has_a_place() {
        for (text, place) in [
            ("a: 1", "f:1:1"),
            ("cases: []", "f:1:8"),
            ("cases: [{resource: db}]", "f:1:9"),
            ("cases:\n- {resource: db, expect: perhaps}", "f:2:"),
            ("cases:\n- {resource: db, expect: }", "f:2:"),
            ("cases:\n- {resource-type: outlets, expect: deny}", "f:2:"),
            ("cases:\n- {resource: [], expect: deny}", "f:2:"),
            ("cases:\n- {resource: db, resource-type: relay, expect: deny}", "f:2:"),
            ("configuration: x\nname: n\ncases:\n- {resource: db, expect: deny}", "f:1:1"),
        ] {
            let problems = cases(text).unwrap_err();
            assert!(problems.to_string().starts_with(place), "{text}: {problems}");
            assert_eq!(problems.all().len(), 1, "said once: {problems}");
        }
    }
}
