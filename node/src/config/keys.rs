//! The keys of a node's YAML. `-` and `_` are the same in them.

/// A kind of resource, as its arguments are written in YAML.
pub(super) struct Kind {
    /// The singular form of the key.
    pub key: &'static str,
    /// The arguments, which are the flags of its `create` command.
    pub arguments: &'static [&'static str],
    /// The argument that takes the key of a named map.
    pub name: &'static str,
}

pub(super) const OUTLET: Kind =
    Kind { key: "tcp-outlet", arguments: &["from", "to", "at", "allow", "resume-timeout", "disclose"], name: "from" };
pub(super) const INLET: Kind = Kind {
    key: "tcp-inlet",
    arguments: &["from", "via", "to", "at", "alias", "allow", "resume-timeout", "disclose"],
    name: "alias",
};
pub(super) const RELAY: Kind = Kind { key: "relay", arguments: &["name", "at", "to", "weight"], name: "name" };
pub(super) const POLICY: Kind =
    Kind { key: "policy", arguments: &["resource-type", "resource", "allow", "expression", "at"], name: "resource" };

/// Top-level keys in the order in which they are read, each with its other spelling.
pub(super) const TOP: [(&str, &str); 13] = [
    ("version", "version"),
    ("name", "name"),
    ("identity", "identity"),
    ("ticket", "ticket"),
    ("tcp-listener-address", "tcp-listener-address"),
    ("http-server-port", "http-server-port"),
    ("max-staleness", "max-staleness"),
    ("foreground", "foreground"),
    ("variables", "variables"),
    ("policy", "policies"),
    ("relay", "relays"),
    ("tcp-outlet", "tcp-outlets"),
    ("tcp-inlet", "tcp-inlets"),
];

/// Keys of other systems' files that have no meaning here.
pub(super) const IGNORED: [&str; 4] = ["skip-is-running-check", "exit-on-eof", "project", "opentelemetry-context"];

/// The canonical spelling of a top-level key.
pub(super) fn top(text: &str) -> Option<&'static str> {
    let text = text.replace('_', "-");
    TOP.into_iter().find(|(key, other)| text == *key || text == *other).map(|(key, _)| key)
}

/// Whether `text` is an argument of some kind, in its canonical spelling.
pub(super) fn is_argument(text: &str) -> bool {
    [&OUTLET, &INLET, &RELAY, &POLICY].iter().any(|kind| kind.arguments.contains(&text))
}
