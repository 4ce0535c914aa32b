//! What is worth saying of a node's policies without a peer: those that nobody can meet, and those that decide nothing. Only what is
//! certain is said.

use postern_proto::policy::Expr;
use postern_proto::spec::{PolicyTarget, ResourceType};
use serde::{Deserialize, Serialize};

use crate::engine::{PolicySource, Resource, Rule};
use crate::store::Specs;

/// What is found of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// No peer can ever meet it.
    NeverTrue,
    /// Another one always goes before it.
    Shadowed,
    /// There is nothing that it is for.
    Unused,
    /// What it is for is not decided by policies.
    DecidesNothing,
}

impl FindingKind {
    /// As a person reads it, behind its subject.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NeverTrue => "is never true",
            Self::Shadowed => "is shadowed",
            Self::Unused => "is unused",
            Self::DecidesNothing => "decides nothing",
        }
    }
}

/// Why a policy for relay names decides nothing.
pub const GRANTED_BY_TICKETS: &str = "relay names are granted by tickets";

/// Something about a policy that its author should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: FindingKind,
    /// Whose policy it is: `TYPE NAME`, or a type.
    pub subject: String,
    pub reason: String,
}

/// What is to be said of the policies in `specs`. `guardrails` gives those of the project for a resource, as far as they are known.
#[must_use]
pub fn findings(specs: &Specs, guardrails: &dyn Fn(&Resource<'_>) -> Vec<Rule>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut say = |kind, subject: String, reason: String| found.push(Finding { kind, subject, reason });
    for (resource_type, name, allow) in specs.governed() {
        let subject = format!("{resource_type} {name}");
        let named = specs.policy(&PolicyTarget::Resource(name.to_owned())).map(|policy| &policy.expression);
        let of_type = specs.policy(&PolicyTarget::ResourceType(resource_type)).map(|policy| &policy.expression);
        if named.is_some() && allow.is_some() {
            let reason = "the `allow` that it was made with is not asked: the policy that names it goes before it";
            say(FindingKind::Shadowed, subject.clone(), reason.to_owned());
        }
        let default = Expr::members_only();
        let in_force = named.or(allow).or(of_type).unwrap_or(&default);
        let resource = Resource { resource_type, name, allow };
        let setting = resource.setting();
        if in_force.is_never_true(&[], &setting) {
            say(FindingKind::NeverTrue, subject, format!("no peer can ever meet {in_force}"));
            continue;
        }
        let project: Vec<Expr> = guardrails(&resource)
            .into_iter()
            .filter(|rule| rule.source == PolicySource::Guardrail)
            .map(|rule| rule.expression)
            .collect();
        if !project.is_empty() && in_force.is_never_true(&project.iter().collect::<Vec<_>>(), &setting) {
            let reason = format!("no peer can ever meet both {in_force} and the policies of the project");
            say(FindingKind::NeverTrue, subject, reason);
        }
    }
    for policy in &specs.policies {
        match &policy.target {
            PolicyTarget::Resource(name) if specs.resource(name).is_none() => {
                let reason = "this node has no outlet or inlet of that name; it waits until one is made";
                say(FindingKind::Unused, name.clone(), reason.to_owned());
            }
            PolicyTarget::ResourceType(ResourceType::Relay) => {
                say(FindingKind::DecidesNothing, ResourceType::Relay.to_string(), GRANTED_BY_TICKETS.to_owned());
            }
            PolicyTarget::Resource(name) => {
                if let Some((ResourceType::Relay, _)) = specs.resource(name) {
                    say(FindingKind::DecidesNothing, format!("{} {name}", ResourceType::Relay), GRANTED_BY_TICKETS.to_owned());
                }
            }
            PolicyTarget::ResourceType(kind) => {
                let mut of_kind = specs.governed().filter(|(other, ..)| other == kind).peekable();
                let some = of_kind.peek().is_some();
                let has_own = |(_, name, allow): (ResourceType, &str, Option<&Expr>)| {
                    allow.is_some() || specs.policy(&PolicyTarget::Resource(name.to_owned())).is_some()
                };
                if some && of_kind.all(has_own) {
                    let reason = format!("every {kind} of this node has a policy of its own, which goes before it");
                    say(FindingKind::Shadowed, kind.to_string(), reason);
                } else if !some && policy.expression.is_never_true(&[], &Resource::of_type(*kind).setting_of_type()) {
                    say(FindingKind::NeverTrue, kind.to_string(), format!("no peer can ever meet {}", policy.expression));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};
    use crate::store::Stored;

    fn specs(text: &str) -> Specs {
        Stored::from_config(&load("f", text, &Variables::default(), None).unwrap(), "i".parse().unwrap()).specs
    }

    fn found(text: &str) -> Vec<(FindingKind, String)> {
        findings(&specs(text), &|_| Vec::new()).into_iter().map(|finding| (finding.kind, finding.subject)).collect()
    }

    #[test]
    fn what_is_said_and_what_is_not() {
        assert_eq!(found("tcp-outlets: {a: {to: 1}, b: {to: 1, allow: x}}"), []);
        assert_eq!(
            found("tcp-outlet: {from: a, to: 1, allow: x and not x}"),
            [(FindingKind::NeverTrue, "tcp-outlet a".to_owned())]
        );
        assert_eq!(
            found(
                "tcp-outlet: {from: a, to: 1, allow: x}\npolicies: [{resource-type: tcp-outlet, allow: y}, {resource: z, allow: y}]"
            ),
            [(FindingKind::Shadowed, "tcp-outlet".to_owned()), (FindingKind::Unused, "z".to_owned())]
        );
        // A type that no resource has yet waits for one.
        assert_eq!(found("policy: {resource-type: tcp-inlet, allow: y}"), []);
        assert_eq!(
            found("relay: r\npolicies: [{resource-type: relay, allow: y}, {resource: r, allow: y}]"),
            [(FindingKind::DecidesNothing, "relay".to_owned()), (FindingKind::DecidesNothing, "relay r".to_owned())]
        );
        // The outlet of that name is what it is for.
        assert_eq!(found("relay: r\ntcp-outlet: {from: r, to: 1}\npolicy: {resource: r, allow: y}"), []);
        let mut both = specs("tcp-outlet: {from: a, to: 1}\npolicy: {resource: a, allow: y}");
        both.outlets[0].allow = Some("x".parse().unwrap());
        assert_eq!(findings(&both, &|_| Vec::new())[0].kind, FindingKind::Shadowed);
    }

    #[test]
    fn with_the_policies_of_the_project() {
        let specs = specs("tcp-outlet: {from: a, to: 1, allow: not staff}");
        let guardrail = |_: &Resource<'_>| {
            vec![Rule { source: PolicySource::Guardrail, applies_to: None, expression: "staff".parse().unwrap() }]
        };
        let found = findings(&specs, &guardrail);
        assert_eq!((found.len(), found[0].kind), (1, FindingKind::NeverTrue));
        assert!(found[0].reason.contains("the project"), "{found:?}");
    }
}
