//! Policies of the whole project: guardrails, which stand above those of its nodes.

use postern_proto::authority::{Answer, Guardrails, ProjectPolicyRow, Refusal};
use postern_proto::policy::Expr;
use postern_proto::spec::ResourceType;
use postern_proto::statement;

use super::tickets::no_project;
use super::{Caller, Service, calling, kept};
use crate::ActError;
use crate::rules;
use crate::store::{Action, Entry, policies};

/// Longest expression. A node evaluates it for every stream; a person has to read it.
const MAX_EXPRESSION: usize = 4_096;

/// Most bytes of all expressions of a project, so that they fit one signed statement (120 KiB), each with room for its frame.
const MAX_ALL: usize = 64 * 1024;

/// Most policies of a project. Each is asked for every stream.
const MAX_POLICIES: usize = 64;

impl Service {
    pub(super) async fn set_policy(
        &self,
        caller: &Caller,
        resource_type: &str,
        (expression, applies_to): (Option<&str>, Option<&str>),
    ) -> Result<Answer, ActError> {
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let caller = calling(&mut write, caller).await?;
        rules::administrators_only(&caller, "set policies of the project")?;
        let resource_type = ResourceType::ALL
            .into_iter()
            .find(|known| known.as_str() == resource_type)
            .ok_or_else(|| Refusal::Invalid { reason: "the resource type is tcp-inlet, tcp-outlet or relay".to_owned() })?;
        if resource_type == ResourceType::Relay {
            let reason = "relay names are granted by tickets: a policy of the project is for tcp-inlet or tcp-outlet";
            return Err(Refusal::Invalid { reason: reason.to_owned() }.into());
        }
        let applies_to = applies_to.map(parse).transpose()?.unwrap_or_default();
        let subject = if applies_to.is_empty() { resource_type.to_string() } else { format!("{resource_type} for {applies_to}") };
        let entry = Entry::ok(now, Some(caller.identifier), Action::SetPolicy, &subject);
        let is_it = |row: &ProjectPolicyRow| {
            row.resource_type == resource_type.as_str() && row.applies_to.as_deref().unwrap_or_default() == applies_to
        };
        let entry = match policies::list(&mut write).await?.into_iter().find(is_it) {
            Some(row) => entry.before(row.expression),
            None => entry,
        };
        let entry = match expression {
            Some(text) => {
                let canonical = parse(text)?;
                write.set_policy(resource_type.as_str(), &applies_to, &canonical).await?;
                check_size(&policies::list(&mut write).await?)?;
                entry.after(canonical)
            }
            None if write.delete_policy(resource_type.as_str(), &applies_to).await? => entry.because("deleted"),
            None => return Err(Refusal::NotFound { what: format!("a policy for {subject}") }.into()),
        };
        // The project information has a new sequence then, by which nodes learn that there is something to ask for.
        write.raise_sequence(now).await?;
        write.audit(&entry).await?;
        write.commit().await?;
        self.republish().await?;
        Ok(Answer::Done)
    }

    /// The project's policies, signed, for a node.
    pub(super) async fn guardrails(&self, caller: &Caller) -> Result<Answer, ActError> {
        let mut read = self.0.store.read().await?;
        let caller = calling(&mut read, caller).await?;
        rules::no_relay_server(&caller)?;
        // The sequence first: rows that are newer than it are asked for again when the next one is told.
        let project = kept::load(&mut read).await?.ok_or_else(no_project)?;
        let rows = policies::list(&mut read).await?;
        let guardrails = Guardrails { project: project.id, epoch: project.sequence, rows };
        let statement = statement::sign(&self.0.keys.identity, &guardrails).map_err(super::ServiceError::from)?;
        Ok(Answer::Guardrails { statement })
    }

    pub(super) async fn list_policies(&self, caller: &Caller) -> Result<Answer, ActError> {
        let mut read = self.0.store.read().await?;
        let caller = calling(&mut read, caller).await?;
        // Expressions name attributes, which relays must not learn.
        rules::no_relay_server(&caller)?;
        Ok(Answer::Policies { rows: policies::list(&mut read).await? })
    }
}

/// That all policies fit a statement, and are few enough to be asked for every stream.
fn check_size(rows: &[ProjectPolicyRow]) -> Result<(), Refusal> {
    let bytes: usize = rows.iter().map(|row| row.expression.len() + row.applies_to.as_ref().map_or(0, String::len)).sum();
    if rows.len() > MAX_POLICIES || bytes > MAX_ALL {
        let reason = format!("a project has at most {MAX_POLICIES} policies, with {MAX_ALL} bytes in all");
        return Err(Refusal::Invalid { reason });
    }
    Ok(())
}

/// The canonical form of an expression.
fn parse(text: &str) -> Result<String, Refusal> {
    if text.len() > MAX_EXPRESSION {
        return Err(Refusal::Invalid { reason: format!("an expression has at most {MAX_EXPRESSION} bytes") });
    }
    text.parse::<Expr>().map(|expression| expression.to_string()).map_err(|error| Refusal::Invalid { reason: error.to_string() })
}
