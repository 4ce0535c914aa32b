//! Which policies are in force for a resource, and what they decide about a peer.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use postern_proto::policy::{Action, Decision, Expr, Facts, Reason, Request};
use postern_proto::spec::{PolicySpec, PolicyTarget, ResourceType};

/// Where a policy in force comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicySource {
    /// The project's administrators: it stands beside whatever the node has, and no node can widen it.
    Guardrail,
    /// The resource's own.
    Own,
    /// The one for its type.
    Type,
    /// The built-in grant: members of the same project, or of the same home where there is no project.
    Default,
}

impl PolicySource {
    /// As `policy show` prints it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guardrail => "guardrail",
            Self::Own => "own",
            Self::Type => "type",
            Self::Default => "default",
        }
    }
}

/// One policy in force for a resource. A peer needs all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub source: PolicySource,
    pub expression: Expr,
}

/// Why a peer may not use a resource: the first policy that refuses it, and its terms. It names attributes of the peer, so it is for this
/// side, and for a peer only where the resource discloses reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    pub rule: Rule,
    pub reason: Reason,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule.source {
            PolicySource::Guardrail => write!(f, "a policy of the project: {}", self.reason),
            _ => self.reason.fmt(f),
        }
    }
}

/// What is decided about.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    pub resource_type: ResourceType,
    /// The outlet's name, the inlet's alias or the relay name.
    pub name: &'a str,
    /// What its own definition says.
    pub allow: Option<&'a Expr>,
}

impl<'a> Resource<'a> {
    #[must_use]
    pub const fn outlet(name: &'a str, allow: Option<&'a Expr>) -> Self {
        Self { resource_type: ResourceType::TcpOutlet, name, allow }
    }

    #[must_use]
    pub const fn inlet(name: &'a str, allow: Option<&'a Expr>) -> Self {
        Self { resource_type: ResourceType::TcpInlet, name, allow }
    }

    const fn action(&self) -> Action {
        match self.resource_type {
            ResourceType::TcpInlet => Action::OpenStream,
            ResourceType::TcpOutlet => Action::AcceptStream,
            ResourceType::Relay => Action::ClaimRelayName,
        }
    }
}

/// The node's policies beside those that stand on a resource itself.
#[derive(Debug, Default)]
pub struct Policies {
    specs: RwLock<Vec<PolicySpec>>,
}

impl Policies {
    pub fn set(&self, specs: Vec<PolicySpec>) {
        *self.specs.write().unwrap_or_else(PoisonError::into_inner) = specs;
    }

    /// The policies in force for a resource, in the order in which they are asked.
    #[must_use]
    pub fn in_force(&self, resource: &Resource<'_>) -> Vec<Rule> {
        vec![self.local(resource)]
    }

    fn local(&self, resource: &Resource<'_>) -> Rule {
        let specs = self.specs.read().unwrap_or_else(PoisonError::into_inner);
        let find = |wanted: &dyn Fn(&PolicyTarget) -> bool| {
            specs.iter().find(|spec| wanted(&spec.target)).map(|spec| spec.expression.clone())
        };
        let own = find(&|target| matches!(target, PolicyTarget::Resource(name) if name == resource.name));
        if let Some(expression) = own.or_else(|| resource.allow.cloned()) {
            return Rule { source: PolicySource::Own, expression };
        }
        match find(&|target| *target == PolicyTarget::ResourceType(resource.resource_type)) {
            Some(expression) => Rule { source: PolicySource::Type, expression },
            None => Rule { source: PolicySource::Default, expression: Expr::members_only() },
        }
    }

    /// Whether a peer of which `subject` was proven may have a stream through the resource.
    ///
    /// # Errors
    /// Why not.
    pub fn decide(&self, resource: &Resource<'_>, subject: Facts<'_>) -> Result<(), Box<Denial>> {
        self.in_force(resource).into_iter().try_for_each(|rule| match rule.decide(resource, subject) {
            Decision::Allowed => Ok(()),
            Decision::Denied(reason) => Err(Box::new(Denial { rule, reason })),
        })
    }
}

impl Rule {
    /// What this policy says by itself.
    pub fn decide(&self, resource: &Resource<'_>, subject: Facts<'_>) -> Decision {
        self.expression.evaluate(&Request { subject, resource: resource.name, action: resource.action() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(target: PolicyTarget, expression: &str) -> PolicySpec {
        PolicySpec { target, expression: expression.parse().unwrap() }
    }

    fn rule(source: PolicySource, expression: &str) -> Vec<Rule> {
        vec![Rule { source, expression: expression.parse().unwrap() }]
    }

    #[test]
    fn own_before_type_before_members_only() {
        let policies = Policies::default();
        let force = |allow: Option<&Expr>| policies.in_force(&Resource::outlet("db", allow));
        assert_eq!(force(None), rule(PolicySource::Default, "subject.has_credential"));
        policies.set(vec![policy(PolicyTarget::ResourceType(ResourceType::TcpInlet), "a")]);
        assert_eq!(force(None)[0].source, PolicySource::Default, "a policy for inlets says nothing of outlets");
        policies.set(vec![policy(PolicyTarget::ResourceType(ResourceType::TcpOutlet), "a")]);
        assert_eq!(force(None), rule(PolicySource::Type, "a"));
        let allow = "b".parse().unwrap();
        assert_eq!(force(Some(&allow)), rule(PolicySource::Own, "b"));
        policies.set(vec![policy(PolicyTarget::Resource("db".to_owned()), "c")]);
        assert_eq!(force(Some(&allow)), rule(PolicySource::Own, "c"));
    }
}
