//! What `postern explain` is told: recent refusals, and decisions step by step.

use postern_proto::id::{Identifier, RefusalId};
use postern_proto::name::OutletName;
use postern_proto::policy::{Reason, Term};
use postern_proto::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::ApiVersion;
use crate::engine::{Asked, Denial, Refusal, Rule, Told};

/// Asks a node what it can tell of a way to an outlet.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// The member whose node would open the stream.
    pub from: Identifier,
    /// How the outlet's node is found: a relay name, or a node of this home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<postern_proto::name::RelayName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<postern_proto::name::NodeName>,
    pub outlet: OutletName,
    /// The time at which credentials are looked at, in seconds of Unix time; now where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

/// A policy that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedDocument {
    /// `guardrail`, `own`, `type` or `default`.
    pub source: String,
    /// Of a guardrail that is not for all nodes: for which.
    pub applies_to: Option<String>,
    /// In canonical form.
    pub expression: String,
    pub allows: bool,
    /// The terms that would have to differ; empty where it allows.
    pub terms: Vec<TermDocument>,
}

/// A term that was not as the policy needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermDocument {
    pub term: String,
    /// Its place in the expression: first byte, and the byte behind it.
    pub start: usize,
    pub end: usize,
    /// What it was.
    pub was: bool,
    /// What the peer had, in words.
    pub had: Vec<String>,
    /// What would make it as the policy needs it.
    pub change: String,
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalDocument {
    pub api_version: ApiVersion,
    pub id: RefusalId,
    /// The node that knows of it.
    pub node: String,
    pub at: String,
    /// `this-node` or `peer`.
    pub by: String,
    pub inlet: Option<String>,
    pub outlet: Option<String>,
    pub peer: Option<Identifier>,
    pub code: String,
    /// What the code means.
    pub meaning: String,
    /// The code that the peer was told; `null` where it was told none, or refused itself.
    pub told: Option<String>,
    pub reason: String,
    /// The policy that refused, where it was one of this node.
    pub policy: Option<AskedDocument>,
}

/// One step of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDocument {
    /// `relay-claim`, `relay-look-up`, `inlet-policy`, `outlet-policy` or `outlet-target`.
    pub step: String,
    /// The node that tells it; `null` where none of this home can.
    pub node: Option<String>,
    /// `allowed`, `denied`, `failed` or `unknown`.
    pub verdict: String,
    pub resource: Option<String>,
    pub code: Option<String>,
    pub reason: String,
    /// The member that the policies were asked about, and what its credential says of it.
    pub peer: Option<Identifier>,
    pub attributes: std::collections::BTreeMap<String, String>,
    pub policies: Vec<AskedDocument>,
    /// The refusal of the peer's node, where it was asked.
    pub refusal: Option<RefusalId>,
}

/// What one node can tell of a way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainDocument {
    pub api_version: ApiVersion,
    pub node: String,
    pub steps: Vec<StepDocument>,
}

impl TermDocument {
    fn new(term: &Term) -> Self {
        Self {
            term: term.text.clone(),
            start: term.span.start,
            end: term.span.end,
            was: term.was,
            had: term.facts.iter().map(ToString::to_string).collect(),
            change: term.remedy(),
        }
    }
}

impl AskedDocument {
    /// A policy and why it refused, if it did.
    #[must_use]
    pub fn new(rule: &Rule, reason: Option<&Reason>) -> Self {
        Self {
            source: rule.source.as_str().to_owned(),
            applies_to: rule.applies_to.as_ref().map(ToString::to_string),
            expression: rule.expression.to_string(),
            allows: reason.is_none(),
            terms: reason.map(|reason| reason.terms.iter().map(TermDocument::new).collect()).unwrap_or_default(),
        }
    }

    fn asked(asked: &Asked) -> Self {
        Self::new(&asked.rule, asked.reason.as_ref())
    }

    fn denial(denial: &Denial) -> Self {
        Self::new(&denial.rule, Some(&denial.reason))
    }
}

impl RefusalDocument {
    #[must_use]
    pub fn new(node: &str, refusal: &Refusal) -> Self {
        use crate::engine::Through;
        Self {
            api_version: ApiVersion,
            id: refusal.id,
            node: node.to_owned(),
            at: refusal.at.to_string(),
            by: refusal.by.as_str().to_owned(),
            inlet: match &refusal.through {
                Some(Through::Inlet(alias)) => Some(alias.to_string()),
                _ => None,
            },
            outlet: refusal.outlet.clone(),
            peer: refusal.peer,
            code: refusal.code.into(),
            meaning: refusal.code.meaning().to_owned(),
            told: refusal.told.map(str::to_owned),
            reason: refusal.reason.clone(),
            policy: refusal.denial.as_ref().map(AskedDocument::denial),
        }
    }
}

impl StepDocument {
    #[must_use]
    pub fn new(node: &str, told: &Told) -> Self {
        Self {
            step: told.stage.as_str().to_owned(),
            node: Some(node.to_owned()),
            verdict: told.verdict.as_str().to_owned(),
            resource: told.resource.clone(),
            code: told.code.map(Into::into),
            reason: told.reason.clone(),
            peer: told.peer,
            attributes: told.attributes.iter().cloned().collect(),
            policies: told.policies.iter().map(AskedDocument::asked).collect(),
            refusal: told.refusal,
        }
    }
}

impl ExplainRequest {
    /// The time that it speaks of.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.at.map(Timestamp::from_unix)
    }
}
