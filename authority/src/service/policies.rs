//! Policies of the whole project.

use postern_proto::authority::{Answer, Refusal};
use postern_proto::policy::Expr;
use postern_proto::spec::ResourceType;

use super::{Caller, Service, member};
use crate::ActError;
use crate::rules;
use crate::store::{Action, Entry, policies};

/// Longest expression. A node evaluates it for every stream; a person has to read it.
const MAX_EXPRESSION: usize = 4_096;

impl Service {
    pub(super) async fn set_policy(
        &self,
        caller: &Caller,
        resource_type: &str,
        expression: Option<&str>,
    ) -> Result<Answer, ActError> {
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let caller = member(&mut write, caller.identifier).await?;
        rules::administrators_only(&caller, "set policies of the project")?;
        let resource_type = ResourceType::ALL
            .into_iter()
            .find(|known| known.as_str() == resource_type)
            .ok_or_else(|| Refusal::Invalid { reason: "the resource type is tcp-inlet, tcp-outlet or relay".to_owned() })?;
        let entry = Entry::ok(now, Some(caller.identifier), Action::SetPolicy, resource_type);
        let known = policies::list(&mut write).await?.into_iter().find(|row| row.resource_type == resource_type.as_str());
        let entry = match known {
            Some(row) => entry.before(row.expression),
            None => entry,
        };
        let entry = match expression {
            Some(text) => {
                let canonical = parse(text)?;
                write.set_policy(resource_type.as_str(), &canonical).await?;
                entry.after(canonical)
            }
            None if write.delete_policy(resource_type.as_str()).await? => entry.because("deleted"),
            None => return Err(Refusal::NotFound { what: format!("a policy for {resource_type}") }.into()),
        };
        write.audit(&entry).await?;
        write.commit().await?;
        Ok(Answer::Done)
    }

    pub(super) async fn list_policies(&self, caller: &Caller) -> Result<Answer, ActError> {
        let mut read = self.0.store.read().await?;
        let caller = member(&mut read, caller.identifier).await?;
        // Expressions name attributes, which relays must not learn.
        rules::no_relay_server(&caller)?;
        Ok(Answer::Policies { rows: policies::list(&mut read).await? })
    }
}

/// The canonical form of an expression.
fn parse(text: &str) -> Result<String, Refusal> {
    if text.len() > MAX_EXPRESSION {
        return Err(Refusal::Invalid { reason: format!("an expression has at most {MAX_EXPRESSION} bytes") });
    }
    text.parse::<Expr>().map(|expression| expression.to_string()).map_err(|error| Refusal::Invalid { reason: error.to_string() })
}
