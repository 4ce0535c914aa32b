//! `project policy`: policies that the project's administrators set for its nodes.

use clap::Subcommand;
use postern_proto::authority::{Answer, ProjectPolicyRow, Request};
use serde::Serialize;

use crate::args::Yes;
use crate::authority::{Session, unexpected};
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Versioned, table};
use crate::prompt::confirm;

/// Set policies that no node of the project can widen
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set the policy of the project for a type, for all nodes or for some
    #[command(after_help = "\
A peer needs the policy of the project and the node's own: these policies only narrow. Nodes that
are connected to the authority keep to a change within a second, also for open connections, and
keep it over restarts; the others when they connect.

Examples:
  postern project policy create --resource-type tcp-outlet --allow 'not contractor'
  postern project policy create --resource-type tcp-outlet --for 'zone = \"lab\"' --allow 'cleared'")]
    Create {
        /// The type: tcp-inlet or tcp-outlet
        #[arg(long, value_name = "TYPE")]
        resource_type: String,
        /// The expression that a peer must meet
        #[arg(long, value_name = "EXPRESSION")]
        allow: String,
        /// For which nodes: an expression about the node's own attributes [default: all]
        #[arg(long = "for", value_name = "EXPRESSION")]
        applies_to: Option<String>,
    },
    /// List the policies of the project
    List,
    /// Delete a policy of the project
    Delete {
        /// The type: tcp-inlet or tcp-outlet
        #[arg(long, value_name = "TYPE")]
        resource_type: String,
        /// For which nodes it is, as `list` prints it [default: the one for all]
        #[arg(long = "for", value_name = "EXPRESSION")]
        applies_to: Option<String>,
        #[command(flatten)]
        yes: Yes,
    },
}

/// One policy.
#[derive(Debug, Serialize)]
struct Document {
    resource_type: String,
    /// `null`: for all nodes.
    applies_to: Option<String>,
    /// In canonical form.
    expression: String,
}

pub fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Create { resource_type, allow, applies_to } => {
            let resource_type = kind(&resource_type)?;
            let expression = canonical("allow", &allow)?;
            let applies_to = applies_to.map(|text| canonical("for", &text)).transpose()?;
            let session = Session::open(context)?;
            let replaced = rows(context, &session)?
                .into_iter()
                .find(|row| row.resource_type == resource_type && row.applies_to == applies_to && row.expression != expression);
            set(context, &session, &resource_type, Some(&expression), applies_to.as_deref())?;
            if let Some(replaced) = replaced {
                context.output().say(format_args!("in the place of {}: write `A and B` for both", replaced.expression));
            }
            let nodes = applies_to.as_ref().map_or_else(|| "all nodes".to_owned(), |nodes| format!("nodes where {nodes}"));
            context.output().say(format_args!("{resource_type} of {nodes} is allowed only where {expression}"));
            context
                .output()
                .created(&expression, &Versioned::new(Document { resource_type, applies_to, expression: expression.clone() }))
        }
        Command::List => {
            let rows = rows(context, &Session::open(context)?)?;
            let documents: Vec<_> = rows.into_iter().map(document).collect();
            context.output().list(&documents, || {
                let row = |document: &Versioned<Document>| {
                    vec![
                        document.resource_type.clone(),
                        document.applies_to.clone().unwrap_or_else(|| "all nodes".to_owned()),
                        document.expression.clone(),
                    ]
                };
                table(&["FOR", "OF", "ALLOWED"], &documents.iter().map(row).collect::<Vec<_>>())
            })
        }
        Command::Delete { resource_type, applies_to, yes } => {
            let resource_type = kind(&resource_type)?;
            let applies_to = applies_to.map(|text| canonical("for", &text)).transpose()?;
            let session = Session::open(context)?;
            let whose = applies_to.as_ref().map(|nodes| format!(" for nodes where {nodes}")).unwrap_or_default();
            confirm(context, &format!("Delete the policy of the project for {resource_type}{whose}?"), yes.yes)?;
            set(context, &session, &resource_type, None, applies_to.as_deref())?;
            context.output().say(format_args!("deleted the policy of the project for {resource_type}{whose}"));
            if !rows(context, &session)?.iter().any(|row| row.resource_type == resource_type) {
                context
                    .output()
                    .say(format_args!("no policy of the project is left for {resource_type}: those of the nodes decide alone"));
            }
            Ok(())
        }
    }
}

fn set(
    context: &Context,
    session: &Session,
    resource_type: &str,
    expression: Option<&str>,
    applies_to: Option<&str>,
) -> Result<(), CliError> {
    let request = Request::SetProjectPolicy {
        resource_type: resource_type.to_owned(),
        expression: expression.map(str::to_owned),
        applies_to: applies_to.map(str::to_owned),
    };
    match session.call(context, request)? {
        Answer::Done => Ok(()),
        _ => Err(unexpected()),
    }
}

fn rows(context: &Context, session: &Session) -> Result<Vec<ProjectPolicyRow>, CliError> {
    match session.call(context, Request::ListProjectPolicies)? {
        Answer::Policies { rows } => Ok(rows),
        _ => Err(unexpected()),
    }
}

fn document(row: ProjectPolicyRow) -> Versioned<Document> {
    let ProjectPolicyRow { resource_type, expression, applies_to } = row;
    Versioned::new(Document { resource_type, applies_to, expression })
}

/// A type that streams go through. Relay names are granted by tickets.
fn kind(text: &str) -> Result<String, CliError> {
    match text {
        "tcp-inlet" | "tcp-outlet" => Ok(text.to_owned()),
        _ => Err(CliError::new(code::USAGE, format!("--resource-type: `{text}` is not tcp-inlet or tcp-outlet"))
            .try_this("relay names are granted by tickets: postern project ticket --relay NAME")),
    }
}

fn canonical(flag: &str, text: &str) -> Result<String, CliError> {
    match text.parse::<postern_proto::policy::Expr>() {
        Ok(expression) => Ok(expression.to_string()),
        Err(error) => Err(CliError::new(code::USAGE, format!("--{flag}: {error}"))),
    }
}
