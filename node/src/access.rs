//! What another configuration would change in who may reach what, for whoever decides about it: a line for each outlet and inlet.

use std::fmt;

use postern_proto::address::HostPort;
use postern_proto::policy::Expr;
use postern_proto::spec::{PolicyTarget, ResourceType};
use serde::Serialize;

use crate::engine::Resource;
use crate::store::Specs;

/// An outlet or inlet that would be there no more, newly, or otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessChange {
    pub resource_type: ResourceType,
    pub resource: String,
    /// `None` where it is new.
    pub was: Option<Access>,
    /// `None` where it goes away.
    pub is: Option<Access>,
}

/// Who may reach what through an outlet or inlet, as far as its node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Access {
    /// Where an inlet listens; `None` for an outlet.
    pub from: Option<HostPort>,
    /// The target of an outlet; the outlets that an inlet leads to.
    pub to: String,
    /// The policy in force, in canonical form: its own, that of its type, or the default.
    pub allow: String,
    /// Whether every member meets it.
    pub members_only: bool,
}

/// The changes from `before` to `after`, those of outlets first; what stays as it is is left out.
#[must_use]
pub fn changes(before: &Specs, after: &Specs) -> Vec<AccessChange> {
    let (was, is) = (reached(before), reached(after));
    let same = |one: &(ResourceType, &str, Access), other: &(ResourceType, &str, Access)| (one.0, one.1) == (other.0, other.1);
    let kept = was.iter().filter_map(|old| {
        let new = is.iter().find(|new| same(old, new));
        let changed = new.is_none_or(|new| !old.2.covers(&new.2));
        changed.then(|| AccessChange::new(old.0, old.1, Some(&old.2), new.map(|new| &new.2)))
    });
    let added = is.iter().filter(|new| !was.iter().any(|old| same(old, new)));
    let mut all: Vec<AccessChange> = kept.chain(added.map(|new| AccessChange::new(new.0, new.1, None, Some(&new.2)))).collect();
    all.sort_by_key(|change| change.resource_type != ResourceType::TcpOutlet);
    all
}

/// Every outlet and inlet, with who reaches what through it.
fn reached(specs: &Specs) -> Vec<(ResourceType, &str, Access)> {
    let access = |kind, name: &str, allow: Option<&Expr>, from, to| {
        let of_type = specs.policy(&PolicyTarget::ResourceType(kind)).map(|policy| &policy.expression);
        let default = Expr::members_only();
        let in_force = specs.own_policy(name, allow).or(of_type).unwrap_or(&default);
        let setting = Resource { resource_type: kind, name, allow }.setting();
        Access { from, to, allow: in_force.to_string(), members_only: in_force.is_always_true(&setting) }
    };
    let outlets = specs.outlets.iter().map(|outlet| {
        let (kind, name) = (ResourceType::TcpOutlet, outlet.name.as_str());
        (kind, name, access(kind, name, outlet.allow.as_ref(), None, outlet.to.to_string()))
    });
    let inlets = specs.inlets.iter().map(|inlet| {
        let (kind, name) = (ResourceType::TcpInlet, inlet.alias.as_str());
        let to: Vec<String> = inlet.to.iter().map(ToString::to_string).collect();
        (kind, name, access(kind, name, inlet.allow.as_ref(), Some(inlet.from.clone()), to.join(", ")))
    });
    outlets.chain(inlets).collect()
}

impl AccessChange {
    fn new(resource_type: ResourceType, resource: &str, was: Option<&Access>, is: Option<&Access>) -> Self {
        Self { resource_type, resource: resource.to_owned(), was: was.cloned(), is: is.cloned() }
    }
}

impl Access {
    /// Whether the other one says the same. A port that is to be found free, and one that was, are alike.
    fn covers(&self, new: &Self) -> bool {
        self.listens_like(new) && self.to == new.to && self.allows_like(new)
    }

    fn listens_like(&self, new: &Self) -> bool {
        match (&self.from, &new.from) {
            (Some(was), Some(is)) if is.port() == 0 => was.with_port(0) == *is,
            (was, is) => was == is,
        }
    }

    /// However it is written, what every member meets is one policy.
    fn allows_like(&self, new: &Self) -> bool {
        self.allow == new.allow || (self.members_only && new.members_only)
    }

    fn who(&self) -> &str {
        if self.members_only { "members only" } else { &self.allow }
    }

    fn listening(&self) -> String {
        self.from.as_ref().map(|from| format!("from {from} ")).unwrap_or_default()
    }
}

impl fmt::Display for AccessChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.resource_type, self.resource)?;
        match (&self.was, &self.is) {
            (Some(was), Some(is)) => {
                let from = (!was.listens_like(is)).then(|| {
                    let text = |access: &Access| access.from.as_ref().map(ToString::to_string).unwrap_or_default();
                    format!("from {} → {}", text(was), text(is))
                });
                let to = (was.to != is.to).then(|| format!("to {} → {}", was.to, is.to));
                let allow = (!was.allows_like(is)).then(|| format!("allow {} → {}", was.who(), is.who()));
                f.write_str(&from.into_iter().chain(to).chain(allow).collect::<Vec<_>>().join("; "))
            }
            (None, Some(is)) => write!(f, "new, {}to {}; allow {}", is.listening(), is.to, is.who()),
            _ => f.write_str("goes away"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};
    use crate::store::Stored;

    fn specs(text: &str) -> Specs {
        Stored::from_config(&load("f", text, &Variables::default(), None).unwrap(), "i".parse().unwrap()).specs
    }

    fn lines(before: &str, after: &str) -> Vec<String> {
        changes(&specs(before), &specs(after)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_opens_what_closes_and_what_leads_elsewhere() {
        let before = "tcp-outlets: {a: {to: 1, allow: x}, b: {to: 2}, c: {to: 3}, same: {to: 9, allow: z}}\ntcp-inlet: {alias: i, from: 7000, via: r, to: o}\n";
        let after = "tcp-outlets: {a: {to: 1}, b: {to: 4, allow: y}, d: {to: 5}, same: {to: 9, allow: z}}\ntcp-inlet: {alias: i, from: '0.0.0.0:7000', via: r, to: o}\n";
        assert_eq!(
            lines(before, after),
            [
                "tcp-outlet a: allow (= subject.x \"true\") → members only",
                "tcp-outlet b: to 127.0.0.1:2 → 127.0.0.1:4; allow members only → (= subject.y \"true\")",
                "tcp-outlet c: goes away",
                "tcp-outlet d: new, to 127.0.0.1:5; allow members only",
                "tcp-inlet i: from 127.0.0.1:7000 → 0.0.0.0:7000",
            ]
        );
        assert_eq!(lines(before, before), [""; 0]);
    }

    /// What is compared is what is in force, wherever it is written.
    #[test]
    fn policies_of_types_and_of_names_count_too() {
        let outlet = "tcp-outlet: {from: a, to: 1}\n";
        let of_type = format!("{outlet}policy: {{resource-type: tcp-outlet, allow: x}}\n");
        assert_eq!(lines(&of_type, outlet), ["tcp-outlet a: allow (= subject.x \"true\") → members only"]);
        assert_eq!(lines(&of_type, &format!("{outlet}policy: {{resource: a, allow: x}}\n")), [""; 0]);
        assert_eq!(lines(&of_type, "tcp-outlet: {from: a, to: 1, allow: x}\n"), [""; 0]);
        // All members, in other words.
        assert_eq!(lines(outlet, "tcp-outlet: {from: a, to: 1, allow: x or not x}\n"), [""; 0]);
        // A port that was found is the one that is asked for with 0.
        assert_eq!(lines("tcp-inlet: {alias: i, from: 7000}\n", "tcp-inlet: {alias: i, from: 0}\n"), [""; 0]);
        assert_eq!(lines("tcp-inlet: {alias: i, from: 7000}\n", "tcp-inlet: {alias: i, from: 7001}\n").len(), 1);
    }
}
