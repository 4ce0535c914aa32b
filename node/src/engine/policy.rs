//! Which policy is in force for a resource, and what it decides about a peer.

use std::sync::{PoisonError, RwLock};

use postern_proto::credential::VerifiedCredential;
use postern_proto::policy::{Action, Decision, Expr, Request};
use postern_proto::spec::{PolicySpec, PolicyTarget, ResourceType};

/// Where the policy in force comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicySource {
    /// The resource's own.
    Own,
    /// The one for its type.
    Type,
    /// The built-in grant: members of the same project, or of the same home where there is no project.
    Default,
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

    /// The policy in force for the resource `name`, whose `allow` is what its own definition says.
    #[must_use]
    pub fn in_force(&self, resource_type: ResourceType, name: &str, allow: Option<&Expr>) -> (Expr, PolicySource) {
        let specs = self.specs.read().unwrap_or_else(PoisonError::into_inner);
        let find = |wanted: &dyn Fn(&PolicyTarget) -> bool| {
            specs.iter().find(|spec| wanted(&spec.target)).map(|spec| spec.expression.clone())
        };
        let own = find(&|target| matches!(target, PolicyTarget::Resource(resource) if resource == name));
        if let Some(expression) = own.or_else(|| allow.cloned()) {
            return (expression, PolicySource::Own);
        }
        match find(&|target| *target == PolicyTarget::ResourceType(resource_type)) {
            Some(expression) => (expression, PolicySource::Type),
            None => (Expr::members_only(), PolicySource::Default),
        }
    }

    /// Whether the peer with `credential` may have a stream through the resource.
    pub fn decide(
        &self,
        resource_type: ResourceType,
        name: &str,
        allow: Option<&Expr>,
        credential: &VerifiedCredential,
    ) -> Decision {
        let action = match resource_type {
            ResourceType::TcpInlet => Action::OpenStream,
            ResourceType::TcpOutlet => Action::AcceptStream,
            ResourceType::Relay => Action::ClaimRelayName,
        };
        let (expression, _) = self.in_force(resource_type, name, allow);
        expression.evaluate(&Request { subject: credential.facts(), resource: name, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(target: PolicyTarget, expression: &str) -> PolicySpec {
        PolicySpec { target, expression: expression.parse().unwrap() }
    }

    #[test]
    fn own_before_type_before_members_only() {
        let policies = Policies::default();
        let force = |allow: Option<&Expr>| policies.in_force(ResourceType::TcpOutlet, "db", allow);
        assert_eq!(force(None), (Expr::members_only(), PolicySource::Default));
        policies.set(vec![policy(PolicyTarget::ResourceType(ResourceType::TcpInlet), "a")]);
        assert_eq!(force(None).1, PolicySource::Default, "a policy for inlets says nothing of outlets");
        policies.set(vec![policy(PolicyTarget::ResourceType(ResourceType::TcpOutlet), "a")]);
        assert_eq!(force(None), ("a".parse().unwrap(), PolicySource::Type));
        let allow = "b".parse().unwrap();
        assert_eq!(force(Some(&allow)), (allow.clone(), PolicySource::Own));
        policies.set(vec![policy(PolicyTarget::Resource("db".to_owned()), "c")]);
        assert_eq!(force(Some(&allow)), ("c".parse().unwrap(), PolicySource::Own));
    }
}
