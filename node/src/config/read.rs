//! From the tree of a configuration to checked values. Every fault is noted with its place, and reading goes on.

use std::collections::BTreeMap;

use postern_proto::address::HostPort;
use postern_proto::name::NodeName;
use postern_proto::secret::SecretText;
use postern_proto::spec::ResourceType;

use super::keys::{self, Kind};
use super::problem::{Place, Position, Problem, Warning};
use super::resource::{self, ArgumentError, ArgumentFault};
use super::resources::{inlet_arguments, outlet_arguments, policy_arguments, relay_arguments};
use super::suggest::did_you_mean;
use super::tree::{Key, Node, Scalar, Value};
use super::{ExpressionFault, NodeConfig};

/// Most resources of one kind: far above what one process should serve, and it bounds what is compared with each other.
const MAX_RESOURCES: usize = 4096;

/// The arguments of one resource, checked to be texts under known keys.
pub(super) struct Arguments<'n> {
    /// Where to point when something is missing.
    pub(super) place: Place,
    given: BTreeMap<&'static str, (Place, &'n Scalar)>,
    /// The key of a named map, which is the argument [`Kind::name`] unless that is given.
    label: Option<&'n Key>,
    /// The outlets of an inlet, where `to` is a map of them, with the weight of each.
    shares: Option<(Place, Vec<(&'n Key, &'n Scalar)>)>,
}

impl Arguments<'_> {
    pub(super) fn get(&self, argument: &str) -> Option<&str> {
        self.given.get(argument).map(|(_, scalar)| scalar.text.as_str())
    }

    pub(super) fn name(&self, kind: &Kind) -> Option<&str> {
        self.get(kind.name).or(self.label.map(|label| label.text.as_str()))
    }

    /// The outlets of an inlet with their weights, where they are a map.
    pub(super) fn shares(&self) -> Option<Vec<(&str, Option<&str>)>> {
        let (_, shares) = self.shares.as_ref()?;
        Some(shares.iter().map(|(outlet, weight)| (outlet.text.as_str(), Some(weight.text.as_str()))).collect())
    }

    pub(super) fn place(&self, argument: &str) -> Place {
        let shares = self.shares.as_ref().filter(|_| argument == "to").map(|(place, _)| *place);
        self.given.get(argument).map(|(place, _)| *place).or(shares).unwrap_or(self.place)
    }
}

pub(super) fn read(file: &str, source: &str, root: Node, name: Option<&NodeName>, problems: &mut Vec<Problem>) -> NodeConfig {
    // It wins over the file's, and stands where the file has none.
    let config = NodeConfig { name: name.cloned(), ..NodeConfig::default() };
    let mut reader = Reader { file, source, problems, config, names: Vec::new(), listens: Vec::new() };
    reader.names.extend(name.cloned());
    let place = root.place;
    match root.value {
        Value::Map(entries) => reader.top(entries, name),
        Value::Scalar(_) | Value::List(_) => reader.problems.push(
            Problem::new(place, "a node's configuration is a map of keys").try_this("write `key: value` on lines of their own"),
        ),
    }
    reader.config
}

pub(super) struct Reader<'a> {
    file: &'a str,
    source: &'a str,
    pub(super) problems: &'a mut Vec<Problem>,
    pub(super) config: NodeConfig,
    /// What the node may be called in `at:`.
    names: Vec<NodeName>,
    /// Addresses that this node will listen on, with how each is called.
    pub(super) listens: Vec<(HostPort, Place, String)>,
}

impl Reader<'_> {
    pub(super) fn problem(&mut self, place: Place, message: impl Into<String>) {
        self.problems.push(Problem::new(place, message));
    }

    pub(super) fn warn(&mut self, position: Position, message: String) {
        self.config.warnings.push(Warning { file: self.file.to_owned(), position, message });
    }

    fn top(&mut self, entries: Vec<(Key, Node)>, name: Option<&NodeName>) {
        let mut known: BTreeMap<&'static str, (Key, Node)> = BTreeMap::new();
        for (key, node) in entries {
            match keys::top(&key.text) {
                Some(canonical) => match known.get(canonical) {
                    Some((first, _)) => {
                        let line = first.place.start.line;
                        let message = if first.text == key.text {
                            format!("`{}` stands twice in this file, first on line {line}", key.text)
                        } else {
                            format!("`{}` and `{}` (line {line}) are the same key", key.text, first.text)
                        };
                        self.problems.push(Problem::new(key.place, message).try_this("put both into one list"));
                    }
                    None => {
                        if !matches!(canonical, "ticket" | "variables" | "version") {
                            self.config.fingerprint.add(canonical, &node);
                        }
                        known.insert(canonical, (key, node));
                    }
                },
                None if keys::IGNORED.contains(&key.text.replace('_', "-").as_str()) => {
                    self.warn(key.place.start, format!("`{}` has no meaning here and is ignored", key.text));
                }
                None => self.unknown_key(&key, keys::TOP.into_iter().flat_map(|(key, plural)| [key, plural])),
            }
        }
        for (canonical, _) in keys::TOP {
            if let Some((key, node)) = known.get(canonical) {
                self.entry(canonical, key, node, name);
            }
        }
        self.refuse_equal_listens();
    }

    fn entry(&mut self, canonical: &'static str, key: &Key, node: &Node, name: Option<&NodeName>) {
        let plural = key.text.replace('_', "-") != canonical;
        match canonical {
            "version" => {
                if let Some(scalar) = self.text(canonical, node)
                    && !matches!(scalar.text.as_str(), "1" | "1.0" | "v1")
                {
                    self.warn(node.place.start, format!("version `{}` is not known; the file is read as version 1", scalar.text));
                }
            }
            "name" => {
                let in_file: Option<NodeName> = self.parse(canonical, node);
                self.names.extend(in_file.clone());
                self.config.name = name.cloned().or(in_file);
            }
            "identity" => self.config.identity = self.parse(canonical, node),
            "ticket" => self.config.ticket = self.text(canonical, node).map(|scalar| SecretText::new(scalar.text.clone())),
            "tcp-listener-address" => {
                self.config.tcp_listener_address = self.parse(canonical, node);
                if let Some(address) = self.config.tcp_listener_address.clone() {
                    self.listens.push((address, node.place, format!("`{canonical}`")));
                }
            }
            "http-server-port" => self.http_port(canonical, node),
            "max-staleness" => self.config.max_staleness = self.parse(canonical, node).unwrap_or_default(),
            "foreground" => self.config.foreground = self.boolean(canonical, node),
            "policy" => self.policies(node, plural),
            "relay" => self.relays(node, plural),
            "tcp-outlet" => self.outlets(node, plural),
            "tcp-inlet" => self.inlets(node, plural),
            _ => {}
        }
    }

    // ---- scalars

    fn unknown_key<'k>(&mut self, key: &Key, known: impl Iterator<Item = &'k str>) {
        let problem = Problem::new(key.place, format!("unknown key `{}`", key.text));
        let problem = if key.text == "<<" {
            problem.try_this("merge keys are not supported: write the keys out")
        } else {
            problem.try_maybe(did_you_mean(&key.text.replace('_', "-"), known))
        };
        self.problems.push(problem);
    }

    /// The text under `key`, which must be there and a single printable value.
    fn text<'n>(&mut self, key: &str, node: &'n Node) -> Option<&'n Scalar> {
        let message = match &node.value {
            Value::List(_) | Value::Map(_) => format!("`{key}` takes one text, not a {}", noun(node)),
            Value::Scalar(scalar) if node.is_null() || scalar.text.is_empty() => format!("`{key}` has no value"),
            Value::Scalar(scalar) if scalar.text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) => {
                format!("`{key}` holds a control character")
            }
            Value::Scalar(scalar) => return Some(scalar),
        };
        self.problem(node.place, message);
        None
    }

    fn parse<T>(&mut self, key: &str, node: &Node) -> Option<T>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        let text = &self.text(key, node)?.text;
        text.parse().map_err(|error: T::Err| self.problem(node.place, format!("`{key}`: {error}"))).ok()
    }

    fn boolean(&mut self, key: &str, node: &Node) -> Option<bool> {
        match self.text(key, node)?.text.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            other => {
                let message = format!("`{key}` is true or false, not `{other}`");
                self.problem(node.place, message);
                None
            }
        }
    }

    fn http_port(&mut self, key: &str, node: &Node) {
        let Some(scalar) = self.text(key, node) else { return };
        // Only digits: `parse` alone would take a sign.
        let port = scalar.text.parse::<u16>().ok().filter(|_| scalar.text.bytes().all(|b| b.is_ascii_digit()));
        match port {
            Some(port) => {
                self.config.http_server_port = Some(port);
                let address = HostPort::from(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
                self.listens.push((address, node.place, format!("`{key}`")));
            }
            None => {
                let message = format!("`{key}`: `{}` is not a port: ports are numbers from 0 to 65535", scalar.text);
                self.problem(node.place, message);
            }
        }
    }

    // ---- shapes

    /// Every resource of `kind` under its key: one map of arguments, a named map, or a list of these.
    pub(super) fn resources<'n>(&mut self, kind: &Kind, node: &'n Node, plural: bool) -> Vec<Arguments<'n>> {
        let mut all = Vec::new();
        self.collect(kind, node, plural, true, &mut all);
        if all.len() > MAX_RESOURCES {
            self.problem(node.place, format!("more than {MAX_RESOURCES} of `{}`", kind.key));
            all.truncate(MAX_RESOURCES);
        }
        all
    }

    fn collect<'n>(&mut self, kind: &Kind, node: &'n Node, plural: bool, outermost: bool, all: &mut Vec<Arguments<'n>>) {
        match &node.value {
            Value::List(items) if outermost => {
                if items.is_empty() {
                    self.warn(node.place.start, format!("`{}` is an empty list", kind.key));
                }
                for item in items {
                    self.collect(kind, item, false, false, all);
                }
            }
            Value::Map(entries) if entries.is_empty() && plural => {}
            Value::Map(entries) if kind.key != keys::POLICY.key && is_named(kind, entries) => {
                let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
                for (label, value) in entries {
                    if let Some(first) = seen.insert(&label.text, label.place) {
                        self.problem(label.place, format!("`{}` stands twice, first on line {}", label.text, first.start.line));
                        continue;
                    }
                    let arguments = match &value.value {
                        Value::Map(entries) => self.arguments(kind, label.place, entries, Some(label)),
                        _ => Some(Arguments { place: label.place, given: BTreeMap::new(), label: Some(label), shares: None }),
                    };
                    all.extend(arguments);
                }
            }
            Value::Map(entries) => all.extend(self.arguments(kind, node.place, entries, None)),
            Value::Scalar(_) if node.is_null() && outermost => {
                self.warn(node.place.start, format!("`{}` has no value and makes nothing", kind.key));
            }
            // A relay is its name; a list of them may hold maps too.
            Value::Scalar(scalar) if kind.key == keys::RELAY.key => {
                if self.text(kind.key, node).is_some() {
                    all.push(Arguments {
                        place: node.place,
                        given: BTreeMap::from([("name", (node.place, scalar))]),
                        label: None,
                        shares: None,
                    });
                }
            }
            Value::Scalar(_) | Value::List(_) => {
                let problem = Problem::new(node.place, format!("`{}` takes a map of arguments, not a {}", kind.key, noun(node)));
                self.problems.push(problem.try_this(format!("its arguments are {}", listed(kind.arguments))));
            }
        }
    }

    /// One map of arguments. `None` where nothing more can be said about it.
    fn arguments<'n>(
        &mut self,
        kind: &Kind,
        place: Place,
        entries: &'n [(Key, Node)],
        label: Option<&'n Key>,
    ) -> Option<Arguments<'n>> {
        let mut given = BTreeMap::new();
        let mut first: BTreeMap<&str, &Key> = BTreeMap::new();
        let mut whole = true;
        let mut shares = None;
        for (key, value) in entries {
            let spelt = key.text.replace('_', "-");
            let Some(argument) = kind.arguments.iter().find(|argument| **argument == spelt) else {
                self.unknown_key(key, kind.arguments.iter().copied());
                whole = false;
                continue;
            };
            if let Some(first) = first.insert(argument, key) {
                self.problem(key.place, format!("`{argument}` stands twice, first on line {}", first.place.start.line));
                whole = false;
                continue;
            }
            if let (Value::Map(entries), "tcp-inlet", "to") = (&value.value, kind.key, *argument) {
                match self.shares(value, entries) {
                    Some(read) => shares = Some((value.place, read)),
                    None => whole = false,
                }
                continue;
            }
            match self.text(argument, value) {
                Some(scalar) => {
                    given.insert(*argument, (value.place, scalar));
                }
                None => whole = false,
            }
        }
        let arguments = Arguments { place, given, label, shares };
        if let (Some(label), Some(name)) = (label, arguments.get(kind.name))
            && label.text != name
        {
            self.warn(label.place.start, format!("`{}` is only a label here: the {} is named `{name}`", label.text, kind.key));
        }
        self.check_at(kind, &arguments);
        // A missing argument may be the one that was misspelt: telling it twice would only confuse.
        if !whole {
            self.check_what_is_there(kind, &arguments);
            return None;
        }
        Some(arguments)
    }

    /// A map of outlets to weights.
    fn shares<'n>(&mut self, node: &Node, entries: &'n [(Key, Node)]) -> Option<Vec<(&'n Key, &'n Scalar)>> {
        if entries.is_empty() {
            self.problem(node.place, "`to` is an empty map: name the outlets, each with its weight");
            return None;
        }
        let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
        let mut shares = Vec::new();
        for (outlet, weight) in entries {
            if let Some(first) = seen.insert(&outlet.text, outlet.place) {
                self.problem(outlet.place, format!("`{}` stands twice, first on line {}", outlet.text, first.start.line));
                continue;
            }
            shares.extend(self.text(&outlet.text, weight).map(|weight| (outlet, weight)));
        }
        (shares.len() == entries.len()).then_some(shares)
    }

    /// The faults of arguments that are given, where others could not be read.
    fn check_what_is_there(&mut self, kind: &Kind, arguments: &Arguments<'_>) {
        let errors = match kind.key {
            "tcp-outlet" => resource::outlet(outlet_arguments(arguments)).err(),
            "tcp-inlet" => resource::inlet(inlet_arguments(arguments)).err(),
            "relay" => resource::relay(relay_arguments(arguments)).err(),
            _ => resource::policy(policy_arguments(arguments)).err(),
        };
        let errors = errors.into_iter().flatten().filter(|error| !matches!(error.fault, ArgumentFault::Missing(..))).collect();
        self.argument_errors(arguments, errors);
    }

    /// `at` (and `to` of a relay) may only name this node: everything in the file is about it.
    fn check_at(&mut self, kind: &Kind, arguments: &Arguments<'_>) {
        let argument = if kind.key == keys::RELAY.key { "to" } else { "at" };
        let Some(text) = arguments.get(argument) else { return };
        let place = arguments.place(argument);
        match resource::node_name(text) {
            Err(error) => self.problem(place, format!("`{argument}`: {error}")),
            Ok(node) if self.names.contains(&node) => {}
            Ok(node) => {
                let suggestion = match self.names.first() {
                    Some(name) => format!("this node is `{name}`; leave `{argument}` out"),
                    None => format!("leave it out, or add `name: {node}`"),
                };
                self.problems.push(
                    Problem::new(place, format!("`{argument}` may only name this node, not `{node}`")).try_this(suggestion),
                );
            }
        }
    }

    pub(super) fn argument_errors(&mut self, arguments: &Arguments<'_>, errors: Vec<ArgumentError>) {
        for ArgumentError { argument, fault } in errors {
            let given = arguments.given.get(argument).copied();
            let label = arguments.label.map(|label| label.place);
            let shares = arguments.shares.as_ref().filter(|_| argument == "to").map(|(place, _)| *place);
            let place = given.map(|(place, _)| place).or(shares).or(label).unwrap_or(arguments.place);
            let problem = match (&fault, given) {
                (ArgumentFault::Expression(inner), Some((place, scalar))) => {
                    Problem::new(self.place_within(place, scalar, inner), fault.to_string()).try_maybe(inner.help.clone())
                }
                (ArgumentFault::ResourceType(_), Some((_, scalar))) => {
                    let kinds = ResourceType::ALL.map(ResourceType::as_str);
                    Problem::new(place, fault.to_string()).try_maybe(did_you_mean(&scalar.text, kinds))
                }
                (
                    ArgumentFault::Missing(..)
                    | ArgumentFault::Both(..)
                    | ArgumentFault::RouteInVia
                    | ArgumentFault::ViaBesideRoute,
                    _,
                ) => Problem::new(place, fault.to_string()),
                _ => Problem::new(place, format!("`{argument}`: {fault}")),
            };
            self.problems.push(problem);
        }
    }

    /// The place in the file of a fault within an expression: exact where the expression stands there as it was parsed.
    fn place_within(&self, place: Place, scalar: &Scalar, fault: &ExpressionFault) -> Place {
        // Finding a line walks the text, which must not be done for thousands of problems that nobody sees.
        if scalar.substituted || self.problems.len() > 64 {
            return place;
        }
        let line = place.start.line + fault.line.saturating_sub(1);
        let (Some(source), Some(expression)) =
            (self.source.split('\n').nth(line - 1), scalar.text.split('\n').nth(fault.line.saturating_sub(1)))
        else {
            return place;
        };
        // On the first line, nothing before the scalar can be meant.
        let skip = if line == place.start.line { place.start.column - 1 } else { 0 };
        let tail_at = source.char_indices().nth(skip).map_or(source.len(), |(at, _)| at);
        match source[tail_at..].find(expression) {
            Some(at) if !expression.is_empty() => {
                let before = source[..tail_at + at].chars().count();
                Place { start: Position { line, column: before + fault.column.max(1) }, width: fault.width.max(1) }
            }
            _ => place,
        }
    }
}

/// Whether a map names resources (`{db: {to: 5432}}`) rather than being the arguments of one.
fn is_named(kind: &Kind, entries: &[(Key, Node)]) -> bool {
    let is_argument = |key: &Key| kind.arguments.contains(&key.text.replace('_', "-").as_str());
    // `to: {v1: 90, v2: 10}` are the outlets of one inlet, not an inlet called `to`.
    let is_shares = |(key, value): &(Key, Node)| match &value.value {
        Value::Map(entries) => {
            key.text == "to"
                && !entries.is_empty()
                && entries.iter().all(|(key, value)| !is_argument(key) && matches!(value.value, Value::Scalar(_)))
        }
        _ => false,
    };
    if kind.key == keys::INLET.key && entries.iter().any(is_shares) {
        return false;
    }
    !entries.is_empty()
        && entries.iter().all(|(_, value)| matches!(value.value, Value::Map(_)) || value.is_null())
        && entries.iter().any(|(key, value)| matches!(value.value, Value::Map(_)) || !is_argument(key))
}

fn noun(node: &Node) -> &'static str {
    match node.value {
        Value::Scalar(_) => "text",
        Value::List(_) => "list",
        Value::Map(_) => "map",
    }
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
