//! The resources of a configuration: each one checked, and all of them against each other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use postern_proto::address::HostPort;
use postern_proto::name::OutletName;
use postern_proto::spec::{InletSpec, PolicyTarget, ResourceType};

use super::keys;
use super::problem::{Place, Problem};
use super::read::{Arguments, Reader};
use super::resource::{self, InletArguments, OutletArguments, OutletRequest, PolicyArguments, RelayArguments};
use super::tree::Node;
use crate::findings::GRANTED_BY_TICKETS;

impl Reader<'_> {
    pub(super) fn outlets(&mut self, node: &Node, plural: bool) {
        let mut requests: Vec<(OutletRequest, Place)> = Vec::new();
        for arguments in self.resources(&keys::OUTLET, node, plural) {
            match resource::outlet(outlet_arguments(&arguments)) {
                Ok(request) => requests.push((request, arguments.place)),
                Err(errors) => self.argument_errors(&arguments, errors),
            }
        }
        let mut names: BTreeMap<OutletName, Place> = BTreeMap::new();
        for (request, place) in &requests {
            if let Some(name) = &request.name
                && let Some(first) = names.insert(name.clone(), *place)
            {
                self.problem(*place, format!("there are two outlets `{name}`; the first is on line {}", first.start.line));
            }
        }
        for (request, place) in requests {
            let spec = request.named(|name| name.parse().is_ok_and(|name: OutletName| names.contains_key(&name)));
            names.entry(spec.name.clone()).or_insert(place);
            self.refuse_second_policy(spec.name.as_str(), spec.allow.is_some(), place, keys::OUTLET.key);
            self.config.outlets.push(spec);
        }
    }

    pub(super) fn inlets(&mut self, node: &Node, plural: bool) {
        let mut aliases = BTreeMap::new();
        for arguments in self.resources(&keys::INLET, node, plural) {
            let spec: InletSpec = match resource::inlet(inlet_arguments(&arguments)) {
                Ok(spec) => spec,
                Err(errors) => {
                    self.argument_errors(&arguments, errors);
                    continue;
                }
            };
            if let Some(first) = aliases.insert(spec.alias.clone(), arguments.place) {
                self.problem(
                    arguments.place,
                    format!("there are two inlets `{}`; the first is on line {}", spec.alias, first.start.line),
                );
            }
            self.listens.push((spec.from.clone(), arguments.place("from"), "an inlet".to_owned()));
            self.refuse_second_policy(spec.alias.as_str(), spec.allow.is_some(), arguments.place("allow"), keys::INLET.key);
            self.config.inlets.push(spec);
        }
    }

    pub(super) fn relays(&mut self, node: &Node, plural: bool) {
        let mut names = BTreeMap::new();
        for arguments in self.resources(&keys::RELAY, node, plural) {
            match resource::relay(relay_arguments(&arguments)) {
                Ok(spec) => {
                    if let Some(first) = names.insert(spec.name.clone(), arguments.place) {
                        let message = format!("relay name `{}` is claimed twice, first on line {}", spec.name, first.start.line);
                        self.problem(arguments.place, message);
                    }
                    self.config.relays.push(spec);
                }
                Err(errors) => self.argument_errors(&arguments, errors),
            }
        }
    }

    pub(super) fn policies(&mut self, node: &Node, plural: bool) {
        let mut targets = BTreeMap::new();
        for arguments in self.resources(&keys::POLICY, node, plural) {
            match resource::policy(policy_arguments(&arguments)) {
                Ok(spec) => {
                    if let Some(first) = targets.insert(spec.target.clone(), arguments.place) {
                        let of = match &spec.target {
                            PolicyTarget::Resource(name) => format!("`{name}`"),
                            PolicyTarget::ResourceType(kind) => format!("all of type {kind}"),
                        };
                        let message = format!("there are two policies for {of}; the first is on line {}", first.start.line);
                        self.problems.push(Problem::new(arguments.place, message).try_this("join them with `or` or `and`"));
                    }
                    if spec.target == PolicyTarget::ResourceType(ResourceType::Relay) {
                        self.warn(
                            arguments.place.start,
                            format!("a policy for the type `relay` decides nothing: {GRANTED_BY_TICKETS}"),
                        );
                    }
                    self.config.policies.push(spec);
                }
                Err(errors) => self.argument_errors(&arguments, errors),
            }
        }
    }

    /// A resource has one policy of its own: its `allow:` or a `policy:` that names it.
    pub(super) fn refuse_second_policy(&mut self, name: &str, has_allow: bool, place: Place, kind: &str) {
        let named = |target: &PolicyTarget| matches!(target, PolicyTarget::Resource(resource) if resource == name);
        if has_allow && self.config.policies.iter().any(|policy| named(&policy.target)) {
            self.problem(place, format!("{kind} `{name}` has an `allow` and a `policy` that names it: keep one of them"));
        }
    }

    /// Two listeners on one port exclude each other, also where one of them listens on every address.
    pub(super) fn refuse_equal_listens(&mut self) {
        /// What listens on one port: by host, and the first of all.
        type Port = (BTreeMap<Host, usize>, usize);
        let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
        let mut found = Vec::new();
        for (index, (address, place, what)) in self.listens.iter().enumerate().filter(|(_, (address, ..))| address.port() != 0) {
            let (hosts, first) = ports.entry(address.port()).or_insert((BTreeMap::new(), index));
            let host = Host::of(address);
            let other = hosts.get(&Host::Every).or_else(|| hosts.get(&host)).or_else(|| {
                // Whatever else listens on this port is in the way of one that listens everywhere.
                (host == Host::Every && !hosts.is_empty()).then_some(&*first)
            });
            if let Some(&other) = other {
                let (other, first_place, first_what) = &self.listens[other];
                found.push(Problem::new(
                    *place,
                    format!("{what} listens on {address}, as {first_what} on line {} does ({other})", first_place.start.line),
                ));
            }
            hosts.entry(host).or_insert(index);
        }
        self.problems.extend(found);
    }
}

/// The host of a listen address, so that two that mean the same are equal.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Every,
    Ip(IpAddr),
    Name(String),
}

impl Host {
    fn of(address: &HostPort) -> Self {
        match address.host().parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if ip.is_unspecified() => Self::Every,
            Ok(ip) => Self::Ip(ip),
            Err(_) if address.host() == "localhost" => Self::Ip(IpAddr::from([127, 0, 0, 1])),
            Err(_) => Self::Name(address.host().to_lowercase()),
        }
    }
}

pub(super) fn outlet_arguments<'a>(given: &'a Arguments<'_>) -> OutletArguments<'a> {
    OutletArguments {
        from: given.name(&keys::OUTLET),
        to: given.get("to"),
        allow: given.get("allow"),
        resume_timeout: given.get("resume-timeout"),
        disclose: given.get("disclose"),
    }
}

pub(super) fn inlet_arguments<'a>(given: &'a Arguments<'_>) -> InletArguments<'a> {
    InletArguments {
        from: given.get("from"),
        via: given.get("via"),
        to: given.shares().unwrap_or_else(|| given.get("to").map(|to| (to, None)).into_iter().collect()),
        alias: given.name(&keys::INLET),
        allow: given.get("allow"),
        resume_timeout: given.get("resume-timeout"),
        disclose: given.get("disclose"),
    }
}

pub(super) fn relay_arguments<'a>(given: &'a Arguments<'_>) -> RelayArguments<'a> {
    RelayArguments { name: given.name(&keys::RELAY), at: given.get("at"), weight: given.get("weight") }
}

pub(super) fn policy_arguments<'a>(given: &'a Arguments<'_>) -> PolicyArguments<'a> {
    PolicyArguments {
        resource: given.get("resource"),
        resource_type: given.get("resource-type"),
        allow: given.get("allow"),
        expression: given.get("expression"),
    }
}
