//! Checked constructors of everything a node can be told to run. YAML and command-line flags both end here: an argument is the flag
//! of the matching `create` command without `--`.

use std::str::FromStr;

use postern_proto::address::{HostPort, InvalidAddress};
use postern_proto::name::{Alias, InvalidName, NodeName, OutletName, RelayName};
use postern_proto::policy::Expr;
use postern_proto::secret::random_array;
use postern_proto::spec::OutletSpec;
use postern_proto::spec::{
    Destination, Destinations, Disclose, InletSpec, InvalidDestinations, InvalidDisclose, InvalidResourceType,
    InvalidResumeTimeout, InvalidRoute, PeerRoute, PolicySpec, PolicyTarget, RelayAt, RelaySpec, ResourceType, ResumeTimeout,
    Route, Share,
};
use postern_proto::weight::{InvalidWeight, Weight};
use serde::{Deserialize, Serialize};

use super::expression::{ExpressionFault, parse_expression};

/// The relay name where none is given.
pub const DEFAULT_RELAY: &str = "default";
/// The name of the first outlet that is not given one, and the outlet an inlet reaches where none is given.
pub const DEFAULT_OUTLET: &str = "outlet";

/// Arguments of `tcp-outlet create`.
#[derive(Debug, Clone, Copy, Default)]
pub struct OutletArguments<'a> {
    pub from: Option<&'a str>,
    pub to: Option<&'a str>,
    pub allow: Option<&'a str>,
    pub resume_timeout: Option<&'a str>,
    pub disclose: Option<&'a str>,
}

/// Arguments of `tcp-inlet create`.
#[derive(Debug, Clone, Default)]
pub struct InletArguments<'a> {
    pub from: Option<&'a str>,
    pub via: Option<&'a str>,
    /// The outlets, each with its weight where one was given.
    pub to: Vec<(&'a str, Option<&'a str>)>,
    pub alias: Option<&'a str>,
    pub allow: Option<&'a str>,
    pub resume_timeout: Option<&'a str>,
    pub disclose: Option<&'a str>,
}

/// Arguments of `relay create`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RelayArguments<'a> {
    pub name: Option<&'a str>,
    pub at: Option<&'a str>,
    pub weight: Option<&'a str>,
}

/// Arguments of `policy create`; `expression` is the same as `allow`.
#[derive(Debug, Clone, Copy, Default)]
pub struct PolicyArguments<'a> {
    pub resource: Option<&'a str>,
    pub resource_type: Option<&'a str>,
    pub allow: Option<&'a str>,
    pub expression: Option<&'a str>,
}

/// One argument that is wrong. On the command line its name has `--` before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct ArgumentError {
    pub argument: &'static str,
    pub fault: ArgumentFault,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentFault {
    /// `0` is missing from what `1` needs.
    #[error("`{0}` is missing: {1}")]
    Missing(&'static str, &'static str),
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    #[error(transparent)]
    Route(#[from] InvalidRoute),
    #[error(transparent)]
    ResourceType(#[from] InvalidResourceType),
    #[error(transparent)]
    ResumeTimeout(#[from] InvalidResumeTimeout),
    #[error(transparent)]
    Disclose(#[from] InvalidDisclose),
    #[error("the policy expression is wrong: {0}")]
    Expression(#[from] ExpressionFault),
    #[error("`via` takes a relay name, not a route: give the route as `to`, without `via`")]
    RouteInVia,
    #[error("`to` is a full route, which says by itself how the peer is found: leave `via` out")]
    ViaBesideRoute,
    #[error(transparent)]
    Weight(#[from] InvalidWeight),
    #[error(transparent)]
    Destinations(#[from] InvalidDestinations),
    #[error("`{0}` and `{1}` exclude each other: give one of them")]
    Both(&'static str, &'static str),
}

impl ArgumentError {
    fn new(argument: &'static str, fault: impl Into<ArgumentFault>) -> Self {
        Self { argument, fault: fault.into() }
    }
}

/// An outlet as it was asked for. What was not named is named by the node, which knows what names it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutletRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<OutletName>,
    pub to: HostPort,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Expr>,
    #[serde(default, skip_serializing_if = "ResumeTimeout::is_default")]
    pub resume_timeout: ResumeTimeout,
    #[serde(default, skip_serializing_if = "Disclose::is_default")]
    pub disclose: Disclose,
}

impl OutletRequest {
    /// The outlet, with a name: its own, else `outlet` where that is free, else a random one.
    #[must_use]
    pub fn named(self, taken: impl Fn(&str) -> bool) -> OutletSpec {
        let Self { name, to, allow, resume_timeout, disclose } = self;
        let name = name.unwrap_or_else(|| {
            if taken(DEFAULT_OUTLET) { random_name_that(|name| !taken(name)) } else { constant(DEFAULT_OUTLET) }
        });
        OutletSpec { name, to, allow, resume_timeout, disclose }
    }
}

/// Collects what is wrong, so that all of it can be told at once.
struct Check(Vec<ArgumentError>);

impl Check {
    fn parse<T>(&mut self, argument: &'static str, text: Option<&str>) -> Option<T>
    where
        T: FromStr,
        ArgumentFault: From<T::Err>,
    {
        text?.parse().map_err(|fault: T::Err| self.0.push(ArgumentError::new(argument, fault))).ok()
    }

    fn expression(&mut self, argument: &'static str, text: Option<&str>) -> Option<Expr> {
        parse_expression(text?).map_err(|fault| self.0.push(ArgumentError::new(argument, fault))).ok()
    }

    /// The default where it is wrong too, which is told then.
    fn resume_timeout(&mut self, text: Option<&str>) -> ResumeTimeout {
        self.parse("resume-timeout", text).unwrap_or_default()
    }

    fn fault(&mut self, argument: &'static str, fault: ArgumentFault) {
        self.0.push(ArgumentError::new(argument, fault));
    }

    fn done<T>(self, value: Option<T>) -> Result<T, Vec<ArgumentError>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.0),
        }
    }
}

/// The outlet that `arguments` ask for.
///
/// # Errors
/// Every argument that is wrong.
pub fn outlet(arguments: OutletArguments<'_>) -> Result<OutletRequest, Vec<ArgumentError>> {
    let mut check = Check(Vec::new());
    let name = check.parse::<OutletName>("from", arguments.from.map(without_service));
    let allow = check.expression("allow", arguments.allow);
    let resume_timeout = check.resume_timeout(arguments.resume_timeout);
    let disclose = check.parse("disclose", arguments.disclose).unwrap_or_default();
    let to = match arguments.to {
        None => {
            check.fault("to", ArgumentFault::Missing("to", "name the HOST:PORT that the outlet connects to"));
            None
        }
        Some(_) => check
            .parse::<HostPort>("to", arguments.to)
            .and_then(|to| to.dialable().map_err(|fault| check.fault("to", fault.into())).ok()),
    };
    check.done(to.map(|to| OutletRequest { name, to, allow, resume_timeout, disclose }))
}

/// The inlet that `arguments` ask for. Without `from` it listens on a free port of 127.0.0.1, without `alias` it gets a random one, and
/// without anything that says how the peer is found it is looked for at the relays under the name `default`.
///
/// # Errors
/// Every argument that is wrong.
pub fn inlet(arguments: InletArguments<'_>) -> Result<InletSpec, Vec<ArgumentError>> {
    let mut check = Check(Vec::new());
    let from = match arguments.from {
        None => Some(HostPort::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))),
        from => check.parse::<HostPort>("from", from),
    };
    let alias = match arguments.alias {
        None => Some(random_name_that(|_| true)),
        alias => check.parse::<Alias>("alias", alias),
    };
    let allow = check.expression("allow", arguments.allow);
    let resume_timeout = check.resume_timeout(arguments.resume_timeout);
    let disclose = check.parse("disclose", arguments.disclose).unwrap_or_default();
    let mut routes = Vec::new();
    for (route, weight) in &arguments.to {
        let weight = weight.map_or(Some(Weight::ONE), |weight| check.parse("to", Some(weight)));
        routes.extend(check.parse::<Route>("to", Some(route)).zip(weight));
    }
    if arguments.to.is_empty() {
        routes.push((Route { project: None, peer: None, outlet: constant(DEFAULT_OUTLET) }, Weight::ONE));
    }
    let via = match arguments.via {
        Some(via) if via.contains('/') => {
            check.fault("via", ArgumentFault::RouteInVia);
            None
        }
        via => check.parse::<RelayName>("via", via),
    };
    if arguments.via.is_some() && routes.iter().any(|(route, _)| route.peer.is_some()) {
        check.fault("via", ArgumentFault::ViaBesideRoute);
    }
    let relay = PeerRoute::Relay(via.unwrap_or_else(|| constant(DEFAULT_RELAY)));
    let share = |(route, weight): (Route, Weight)| Share {
        to: Destination { peer: route.peer.unwrap_or_else(|| relay.clone()), outlet: route.outlet },
        weight,
    };
    // Those that could not be read are said to be wrong already.
    let to = match routes.is_empty() {
        true => None,
        false => Destinations::new(routes.into_iter().map(share).collect()).map_err(|fault| check.fault("to", fault.into())).ok(),
    };
    let spec = alias.zip(from).zip(to).map(|((alias, from), to)| InletSpec { alias, from, to, allow, resume_timeout, disclose });
    check.done(spec)
}

/// The relay name that `arguments` ask for; `default` at all relays of the project where they say nothing.
///
/// # Errors
/// Every argument that is wrong.
pub fn relay(arguments: RelayArguments<'_>) -> Result<RelaySpec, Vec<ArgumentError>> {
    let mut check = Check(Vec::new());
    let name = match arguments.name {
        None => Some(constant(DEFAULT_RELAY)),
        name => check.parse::<RelayName>("name", name),
    };
    let at = match arguments.at {
        None => Some(RelayAt::Project),
        at => check.parse::<RelayAt>("at", at),
    };
    let weight = match arguments.weight {
        None => Some(Weight::ONE),
        weight => check.parse::<Weight>("weight", weight),
    };
    check.done(name.zip(at).zip(weight).map(|((name, at), weight)| RelaySpec { name, at, weight }))
}

/// The policy that `arguments` ask for.
///
/// # Errors
/// Every argument that is wrong.
pub fn policy(arguments: PolicyArguments<'_>) -> Result<PolicySpec, Vec<ArgumentError>> {
    let mut check = Check(Vec::new());
    let target = match (arguments.resource, arguments.resource_type) {
        (Some(_), Some(_)) => {
            check.fault("resource", ArgumentFault::Both("resource", "resource-type"));
            None
        }
        (Some(resource), None) => check_target(&mut check, resource),
        (None, Some(kind)) => {
            check.parse::<ResourceType>("resource-type", Some(&kind.replace('_', "-"))).map(PolicyTarget::ResourceType)
        }
        (None, None) => {
            let fault = ArgumentFault::Missing(
                "resource-type",
                "say what the policy is for: tcp-inlet, tcp-outlet or relay, or one `resource`",
            );
            check.fault("resource-type", fault);
            None
        }
    };
    let expression = match (arguments.allow, arguments.expression) {
        (Some(_), Some(_)) => {
            check.fault("expression", ArgumentFault::Both("allow", "expression"));
            None
        }
        (Some(_), None) => check.expression("allow", arguments.allow),
        (None, Some(_)) => check.expression("expression", arguments.expression),
        (None, None) => {
            check.fault("allow", ArgumentFault::Missing("allow", "say which peers are allowed, such as `allow: some-attribute`"));
            None
        }
    };
    check.done(target.zip(expression).map(|(target, expression)| PolicySpec { target, expression }))
}

fn check_target(check: &mut Check, resource: &str) -> Option<PolicyTarget> {
    if let Ok(kind) = resource.parse() {
        return Some(PolicyTarget::ResourceType(kind));
    }
    // Outlets have the widest of the names that a resource can have.
    check
        .parse::<OutletName>("resource", Some(without_service(resource)))
        .map(|name| PolicyTarget::Resource(name.as_str().to_owned()))
}

/// What a policy is for, as `policy show` and `policy delete` take it: the name of a type means the type.
///
/// # Errors
/// Where `resource` is neither a type nor a name.
pub fn policy_target(resource: &str) -> Result<PolicyTarget, ArgumentError> {
    let mut check = Check(Vec::new());
    let target = check_target(&mut check, resource);
    check.done(target).map_err(|mut errors| errors.swap_remove(0))
}

/// A node as commands name it: `n1` or `/node/n1`.
///
/// # Errors
/// Where the text is neither.
pub fn node_name(text: &str) -> Result<NodeName, InvalidName> {
    text.strip_prefix("/node/").unwrap_or(text).parse()
}

/// `/service/NAME` names the outlet NAME.
fn without_service(text: &str) -> &str {
    text.strip_prefix("/service/").unwrap_or(text)
}

/// A random name that fits `free`.
///
/// Eight hexadecimal digits: never beginning with `outlet`, and alike for two of a thousand only once in ten thousand times, which `free` excludes.
fn random_name_that<T: FromStr>(free: impl Fn(&str) -> bool) -> T {
    loop {
        let name = format!("{:08x}", u32::from_be_bytes(random_array()));
        if let (true, Ok(name)) = (free(&name), name.parse()) {
            return name;
        }
    }
}

/// A random name for a node that was not given one.
#[must_use]
pub fn random_node_name(taken: impl Fn(&str) -> bool) -> NodeName {
    random_name_that(|name| !taken(name))
}

/// A name written in this file.
fn constant<T: FromStr>(name: &'static str) -> T {
    name.parse().unwrap_or_else(|_| unreachable!("`{name}` is a name of every kind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlets() {
        let request = outlet(OutletArguments { to: Some("6000"), ..Default::default() }).unwrap();
        assert_eq!(request.to.to_string(), "127.0.0.1:6000");
        assert_eq!(request.clone().named(|_| false).name.as_str(), "outlet");
        let second = request.named(|name| name == "outlet").name;
        assert!(!second.as_str().starts_with("outlet"));
        let named = outlet(OutletArguments { from: Some("/service/db"), to: Some("h:1"), ..Default::default() }).unwrap();
        assert_eq!(named.named(|_| true).name.as_str(), "db");

        let errors = outlet(OutletArguments { from: Some("a/b"), to: Some("h:65536"), ..Default::default() }).unwrap_err();
        assert_eq!(errors.iter().map(|error| error.argument).collect::<Vec<_>>(), ["from", "to"]);
        assert!(outlet(OutletArguments { to: Some("h:0"), ..Default::default() }).is_err());
        let missing = outlet(OutletArguments::default()).unwrap_err();
        assert!(missing[0].to_string().starts_with("`to` is missing"));
    }

    #[test]
    fn inlets() {
        let plain = inlet(InletArguments::default()).unwrap();
        assert_eq!(plain.from.to_string(), "127.0.0.1:0");
        assert_eq!(plain.to.to_string(), "/project/default/service/forward_to_default/secure/api/service/outlet");
        assert_ne!(plain.alias, inlet(InletArguments::default()).unwrap().alias);

        let to = |via, to| inlet(InletArguments { via, to: vec![(to, None)], ..Default::default() });
        for (via, route, expected) in [
            (Some("r"), "db", "/project/default/service/forward_to_r/secure/api/service/db"),
            (Some("r"), "/service/db", "/project/default/service/forward_to_r/secure/api/service/db"),
            (Some("r"), "/secure/api/service/db", "/project/default/service/forward_to_r/secure/api/service/db"),
            (None, "/node/n1/service/db", "/node/n1/secure/api/service/db"),
            (
                None,
                "/project/default/service/forward_to_r/secure/api/service/db",
                "/project/default/service/forward_to_r/secure/api/service/db",
            ),
            (None, "/ip4/10.0.0.1/tcp/7/service/db", "/ip4/10.0.0.1/tcp/7/secure/api/service/db"),
        ] {
            assert_eq!(to(via, route).unwrap().to.to_string(), expected);
        }
        assert_eq!(to(Some("r"), "/node/n1/service/db").unwrap_err()[0].fault, ArgumentFault::ViaBesideRoute);
        assert_eq!(to(Some("/project/default/service/forward_to_r"), "db").unwrap_err()[0].fault, ArgumentFault::RouteInVia);
        let all = inlet(InletArguments {
            from: Some("x"),
            via: Some("a b"),
            to: vec![("/", None), ("db", Some("0"))],
            alias: Some("a.b"),
            allow: None,
            resume_timeout: Some("2h"),
            disclose: Some("all"),
        });
        assert_eq!(all.unwrap_err().len(), 7, "all problems at once");
        let patient = inlet(InletArguments { resume_timeout: Some("5m"), ..Default::default() }).unwrap();
        assert_eq!(patient.resume_timeout.get(), std::time::Duration::from_secs(300));

        let several = |to| inlet(InletArguments { via: Some("r"), to, ..Default::default() });
        let split = several(vec![("v1", Some("90")), ("/service/v2", Some("10"))]).unwrap();
        let shares: Vec<_> = split.to.shares().iter().map(|share| (share.to.outlet.as_str(), share.weight.get())).collect();
        assert_eq!(shares, [("v1", 90), ("v2", 10)]);
        assert!(several(vec![("v1", None), ("/service/v1", Some("2"))]).is_err(), "one outlet twice");
    }

    #[test]
    fn relays_and_policies() {
        assert_eq!(relay(RelayArguments::default()).unwrap().name.as_str(), "default");
        let at = |at| relay(RelayArguments { name: Some("r"), at: Some(at), weight: None }).map(|spec| spec.at);
        assert_eq!(at("/project/default"), Ok(RelayAt::Project));
        assert_eq!(at("relay.example:4000"), Ok(RelayAt::Server("relay.example:4000".parse().unwrap())));
        assert!(at("x").is_err());
        let weighed = |weight| relay(RelayArguments { weight: Some(weight), ..Default::default() }).map(|spec| spec.weight.get());
        assert_eq!(weighed("3"), Ok(3));
        assert!(weighed("0").is_err() && weighed("x").is_err());

        let for_ = |resource, resource_type| {
            policy(PolicyArguments { resource, resource_type, allow: Some("a"), expression: None }).map(|spec| spec.target)
        };
        assert_eq!(for_(Some("tcp-outlet"), None), Ok(PolicyTarget::ResourceType(ResourceType::TcpOutlet)));
        assert_eq!(for_(None, Some("tcp_inlet")), Ok(PolicyTarget::ResourceType(ResourceType::TcpInlet)));
        assert_eq!(for_(Some("db"), None), Ok(PolicyTarget::Resource("db".into())));
        assert!(for_(None, Some("udp-inlet")).is_err() && for_(None, None).is_err() && for_(Some("a"), Some("relay")).is_err());
        assert!(policy(PolicyArguments { resource: Some("a"), ..Default::default() }).is_err());
        assert_eq!(node_name("/node/n1"), "n1".parse());
    }
}
