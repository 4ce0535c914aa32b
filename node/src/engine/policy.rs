//! Which policies are in force for a resource, and what they decide about a peer.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use postern_proto::authority::Guardrails;
use postern_proto::credential::VerifiedCredential;
use postern_proto::policy::{Action, Decision, Expr, Facts, Reason, Request, Setting};
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
    /// Of a guardrail that is not for all nodes: for which.
    pub applies_to: Option<Expr>,
    pub expression: Expr,
}

/// A policy of the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guardrail {
    pub resource_type: ResourceType,
    /// An expression about this node's own attributes; absent: for all nodes.
    pub applies_to: Option<Expr>,
    pub expression: Expr,
}

impl Guardrail {
    /// Those of a statement. What this version cannot read applies, and allows nobody: a node that is too old must not be wider than
    /// others.
    fn all(guardrails: &Guardrails) -> Vec<Self> {
        let nobody = || Expr::members_only().negated();
        let mut all = Vec::new();
        for row in &guardrails.rows {
            let applies_to = row.applies_to.as_ref().map(|text| text.parse::<Expr>());
            let rule = row.expression.parse::<Expr>();
            let (applies_to, expression) = match (applies_to.transpose(), rule) {
                (Ok(applies_to), Ok(expression)) => (applies_to, expression),
                _ => (None, nobody()),
            };
            // A kind that this version does not have, it has no resources of.
            if let Ok(resource_type) = row.resource_type.parse::<ResourceType>() {
                all.push(Self { resource_type, applies_to, expression });
            }
        }
        all
    }
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
            PolicySource::Guardrail => write!(f, "a policy of the project (a guardrail): {}", self.reason),
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

    /// Any resource of a type that has no policy of its own.
    #[must_use]
    pub const fn of_type(resource_type: ResourceType) -> Self {
        Self { resource_type, name: "", allow: None }
    }

    /// What is known of every request for it.
    #[must_use]
    pub const fn setting(&self) -> Setting<'a> {
        Setting { action: self.action(), resource: Some(self.name) }
    }

    /// What is known of every request for a resource of its type.
    #[must_use]
    pub const fn setting_of_type(&self) -> Setting<'static> {
        Setting { action: self.action(), resource: None }
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
    project: RwLock<Project>,
}

/// What the project's administrators set.
#[derive(Debug, Default)]
struct Project {
    /// Of the statement that is in force; 0 for none.
    epoch: u64,
    guardrails: Vec<Guardrail>,
    /// This node's own credential, by which it knows which are for it.
    own: Option<VerifiedCredential>,
}

impl Policies {
    /// Takes the project's policies, where they are not older than those that are known. Whether they were taken.
    pub fn set_guardrails(&self, guardrails: &Guardrails) -> bool {
        let mut project = self.project.write().unwrap_or_else(PoisonError::into_inner);
        if guardrails.epoch < project.epoch {
            return false;
        }
        (project.epoch, project.guardrails) = (guardrails.epoch, Guardrail::all(guardrails));
        true
    }

    /// Forgets the policies of a project that this node has left.
    pub fn clear_guardrails(&self) {
        let mut project = self.project.write().unwrap_or_else(PoisonError::into_inner);
        (project.epoch, project.guardrails) = (0, Vec::new());
    }

    /// What this node itself is, for policies of the project that are for some nodes.
    pub fn set_own(&self, own: VerifiedCredential) {
        self.project.write().unwrap_or_else(PoisonError::into_inner).own = Some(own);
    }

    /// The policies of the project for this node's resources of a type.
    #[must_use]
    pub fn guardrails(&self, resource: &Resource<'_>) -> Vec<Rule> {
        let project = self.project.read().unwrap_or_else(PoisonError::into_inner);
        let applies = |guardrail: &&Guardrail| {
            guardrail.resource_type == resource.resource_type
                && match (&guardrail.applies_to, &project.own) {
                    (None, _) => true,
                    // A node that does not know what it is keeps to all of them.
                    (Some(_), None) => true,
                    (Some(applies_to), Some(own)) => {
                        let request = Request { subject: own.facts(), resource: resource.name, action: resource.action() };
                        applies_to.evaluate(&request).is_allowed()
                    }
                }
        };
        let rule = |guardrail: &Guardrail| Rule {
            source: PolicySource::Guardrail,
            applies_to: guardrail.applies_to.clone(),
            expression: guardrail.expression.clone(),
        };
        project.guardrails.iter().filter(applies).map(rule).collect()
    }

    pub fn set(&self, specs: Vec<PolicySpec>) {
        *self.specs.write().unwrap_or_else(PoisonError::into_inner) = specs;
    }

    /// The policies in force for a resource, in the order in which they are asked.
    #[must_use]
    pub fn in_force(&self, resource: &Resource<'_>) -> Vec<Rule> {
        let mut all = self.guardrails(resource);
        all.push(self.local(resource));
        all
    }

    fn local(&self, resource: &Resource<'_>) -> Rule {
        let specs = self.specs.read().unwrap_or_else(PoisonError::into_inner);
        let find = |wanted: &dyn Fn(&PolicyTarget) -> bool| {
            specs.iter().find(|spec| wanted(&spec.target)).map(|spec| spec.expression.clone())
        };
        let own = find(&|target| matches!(target, PolicyTarget::Resource(name) if name == resource.name));
        if let Some(expression) = own.or_else(|| resource.allow.cloned()) {
            return Rule { source: PolicySource::Own, applies_to: None, expression };
        }
        match find(&|target| *target == PolicyTarget::ResourceType(resource.resource_type)) {
            Some(expression) => Rule { source: PolicySource::Type, applies_to: None, expression },
            None => Rule { source: PolicySource::Default, applies_to: None, expression: Expr::members_only() },
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
    use postern_proto::authority::ProjectPolicyRow;
    use postern_proto::id::ProjectId;

    use super::*;

    fn policy(target: PolicyTarget, expression: &str) -> PolicySpec {
        PolicySpec { target, expression: expression.parse().unwrap() }
    }

    fn rule(source: PolicySource, expression: &str) -> Vec<Rule> {
        vec![Rule { source, applies_to: None, expression: expression.parse().unwrap() }]
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

    fn guardrails(epoch: u64, rows: &[(&str, &str, Option<&str>)]) -> Guardrails {
        let row = |(resource_type, expression, applies_to): &(&str, &str, Option<&str>)| ProjectPolicyRow {
            resource_type: (*resource_type).to_owned(),
            expression: (*expression).to_owned(),
            applies_to: applies_to.map(str::to_owned),
        };
        Guardrails { project: ProjectId::from_bytes([1; 16]), epoch, rows: rows.iter().map(row).collect() }
    }

    /// Whether a peer with these attributes, all `true`, may reach the outlet `db`, which allows `a`.
    fn allowed(policies: &Policies, attributes: &[&str]) -> bool {
        let attributes = attributes.iter().map(|name| ((*name).to_owned(), "true".to_owned())).collect();
        let subject = Facts { identifier: None, has_credential: true, attributes: &attributes };
        let allow = "a".parse().unwrap();
        policies.decide(&Resource::outlet("db", Some(&allow)), subject).is_ok()
    }

    #[test]
    fn guardrails_only_narrow_and_do_not_go_back() {
        let policies = Policies::default();
        assert!(policies.set_guardrails(&guardrails(5, &[("tcp-outlet", "g", None), ("tcp-inlet", "h", None)])));
        for (attributes, expected) in [(&["a"][..], false), (&["g"], false), (&["a", "g"], true)] {
            assert_eq!(allowed(&policies, attributes), expected, "{attributes:?}");
        }
        assert!(!policies.set_guardrails(&guardrails(4, &[])), "older ones are refused");
        assert!(!allowed(&policies, &["a"]));
        // No policy of the node opens what the project closes.
        policies.set(vec![policy(PolicyTarget::Resource("db".to_owned()), "true")]);
        assert!(!allowed(&policies, &["a"]));
        assert!(policies.set_guardrails(&guardrails(6, &[])));
        assert!(allowed(&policies, &["a"]));
    }

    #[test]
    fn what_cannot_be_known_or_read_closes() {
        let policies = Policies::default();
        policies.set_guardrails(&guardrails(1, &[("tcp-outlet", "g", Some("some-nodes"))]));
        assert!(!allowed(&policies, &["a"]), "without a credential of its own, a node keeps to all of them");
        policies.set_guardrails(&guardrails(2, &[("tcp-outlet", "(a newer form)", None)]));
        assert!(!allowed(&policies, &["a"]));
        policies.set_guardrails(&guardrails(3, &[("another-type", "g", None)]));
        assert!(allowed(&policies, &["a"]));
    }
}
