//! `policy`: who may use what.

mod test;

use std::process::ExitCode;

use clap::Subcommand;
use postern_node::config::resource::{PolicyArguments, policy, policy_target};
use postern_node::control::document::{GuardrailDocument, NodeDocument, PolicyDocument, PolicySource};
use postern_node::control::fault::Fault;
use postern_node::findings::{Finding, GRANTED_BY_TICKETS};
use postern_proto::name::OutletName;
use postern_proto::spec::{PolicyTarget, ResourceType};

use crate::args::Yes;
use crate::context::Context;
use crate::error::CliError;
use crate::node_choice::{At, Need, ask, existing, existing_or_made};
use crate::output::{fields, table};
use crate::prompt::confirm;

/// Say who may use which resources of a node
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set the policy of a resource, or of all resources of a type
    #[command(after_help = "\
On an outlet, a policy says which nodes may reach it; on an inlet, to which nodes it may send.
A name alone means that this attribute of the peer is \"true\", which is what
`project ticket --attribute NAME` grants.

Examples:
  postern policy create --resource-type tcp-outlet --allow 'trusted'
  postern policy create --resource db --allow 'app = \"billing\" and not staging'")]
    Create {
        /// The type: tcp-inlet or tcp-outlet. relay is taken too, and decides nothing: relay names are granted by tickets
        #[arg(long, value_name = "TYPE")]
        resource_type: Option<String>,
        /// The name of an outlet or the alias of an inlet
        #[arg(long, value_name = "NAME")]
        resource: Option<String>,
        /// The expression that a peer must meet
        #[arg(long, value_name = "EXPRESSION")]
        allow: Option<String>,
        /// The same as --allow
        #[arg(long, value_name = "EXPRESSION")]
        expression: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// Show the policy in force for a resource or a type
    Show {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        at: At,
    },
    /// List the policies of a node, and what is open to every member
    List {
        #[command(flatten)]
        at: At,
    },
    /// Try policies on cases, without a network
    #[command(after_help = "\
FILE is YAML: `cases`, each with a resource (or resource-type), the attributes of a subject, and
what to expect. The policies stand beside them, as in a node's configuration, or in the file that
`configuration` names; else they are those of a node of this home. It exits with 1 on a miss.
A case is {resource: db, subject: {app: billing}, expect: allow}; expect is allow or deny.

Examples:
  postern policy test cases.yaml
  postern policy test cases.yaml --at n1")]
    Test {
        /// The cases: a path, a URL, or - for standard input
        #[arg(value_name = "FILE")]
        file: String,
        /// A variable of the file
        #[arg(long = "variable", value_name = "NAME=VALUE")]
        variables: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Delete the policy of a resource or a type
    Delete {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        yes: Yes,
    },
}

/// What a policy is for. Either flag, or neither of them, takes either kind of name.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Target {
    /// The name of an outlet, the alias of an inlet, or a type: tcp-inlet, tcp-outlet or relay
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The same as NAME
    #[arg(long, value_name = "NAME")]
    resource: Option<String>,
    /// The same as NAME
    #[arg(long, value_name = "TYPE")]
    resource_type: Option<String>,
}

impl Target {
    fn name(&self) -> Result<OutletName, CliError> {
        let text = self.name.as_ref().or(self.resource.as_ref()).or(self.resource_type.as_ref()).map_or("", String::as_str);
        policy_target(text).map_err(|error| Fault::usage(&[error]))?;
        Ok(text.parse()?)
    }
}

pub fn run(context: &Context, command: Command) -> Result<ExitCode, CliError> {
    if let Command::Test { file, variables, at } = &command {
        return test::run(context, file, variables, at.at.as_ref());
    }
    change_or_show(context, command)?;
    Ok(ExitCode::SUCCESS)
}

fn change_or_show(context: &Context, command: Command) -> Result<(), CliError> {
    let home = if matches!(command, Command::Create { .. }) { context.home_or_new()? } else { context.home()? };
    match command {
        // Handled before: it alone has an exit code of its own.
        Command::Test { .. } => Ok(()),
        Command::Create { resource_type, resource, allow, expression, at } => {
            let arguments = PolicyArguments {
                resource: resource.as_deref(),
                resource_type: resource_type.as_deref(),
                allow: allow.as_deref(),
                expression: expression.as_deref(),
            };
            let spec = policy(arguments).map_err(|errors| Fault::usage(&errors))?;
            let node = existing_or_made(context, &home, at.at.as_ref(), Need::Any)?;
            let made = ask(context, &node, async |client| client.create_policy(&spec).await)?;
            context.output().say(format_args!("{} is allowed where {}", subject(&made), made.expression));
            if spec.target == PolicyTarget::ResourceType(ResourceType::Relay) {
                context.output().warn(format_args!("a policy for the type `relay` decides nothing: {GRANTED_BY_TICKETS}"));
            }
            if let Some(name) = &made.resource {
                let node = super::node::document(context, &home, &node)?;
                let known = node.inlets.iter().map(|inlet| &inlet.alias).chain(node.outlets.iter().map(|outlet| &outlet.name));
                if !known.into_iter().any(|known| known == name) {
                    context.output().warn(format_args!(
                        "the node `{}` has no outlet or inlet `{name}`; the policy waits until one is made",
                        node.name
                    ));
                }
            }
            context.output().created(&made.expression, &made)
        }
        Command::Show { target, at } => {
            let name = target.name()?;
            let node = existing(&home, at.at.as_ref())?;
            let policy = ask(context, &node, async |client| client.policy(&name).await)?;
            context.output().show(&policy, || {
                fields(&[
                    ("for", subject(&policy)),
                    ("expression", policy.expression.clone()),
                    ("source", source(policy.source).to_owned()),
                    ("meaning", policy.note.clone().unwrap_or_default()),
                ])
            })
        }
        Command::List { at } => {
            let node = existing(&home, at.at.as_ref())?;
            let NodeDocument { policies, open_to_every_member, policy_findings, guardrails, .. } =
                super::node::document(context, &home, &node)?;
            context.output().list(&policies, || {
                let row = |policy: &PolicyDocument| {
                    vec![
                        subject(policy),
                        policy.note.clone().unwrap_or_else(|| policy.expression.clone()),
                        source(policy.source).to_owned(),
                    ]
                };
                table(&["FOR", "ALLOWED", "SOURCE"], &policies.iter().map(row).collect::<Vec<_>>())
            })?;
            for resource in &open_to_every_member {
                context.output().say(format_args!("note: {}", open(resource)));
            }
            for finding in &policy_findings {
                context.output().say(format_args!("note: {}", said(finding)));
            }
            for guardrail in &guardrails {
                context.output().say(format_args!("note: the project allows {}, too", guarded(guardrail)));
            }
            Ok(())
        }
        Command::Delete { target, at, yes } => {
            let name = target.name()?;
            let node = existing(&home, at.at.as_ref())?;
            confirm(context, &format!("Delete the policy of `{name}`?"), yes.yes)?;
            let left = ask(context, &node, async |client| {
                client.delete_policy(&name).await?;
                // Where it was of something that is not there, nothing is left to be told.
                Ok(client.policy(&name).await.ok())
            })?;
            context.output().say(format_args!("deleted the policy of `{name}`"));
            if let Some(left) = left {
                let now = left.note.as_deref().unwrap_or(&left.expression);
                context.output().say(format_args!("now in force for `{name}`: {now} ({})", source(left.source)));
            }
            Ok(())
        }
    }
}

/// What a policy of the project leaves, and for which nodes it is.
pub fn guarded(GuardrailDocument { resource_type, applies_to, expression }: &GuardrailDocument) -> String {
    let whose = applies_to.as_ref().map(|nodes| format!(" (for {nodes})")).unwrap_or_default();
    format!("{resource_type} only where {expression}{whose}")
}

/// A finding as a person reads it.
pub fn said(finding: &Finding) -> String {
    format!("the policy of {} {}: {}", finding.subject, finding.kind.as_str(), finding.reason)
}

/// What it means that nothing closes `resource`, a `TYPE NAME`.
pub fn open(resource: &str) -> String {
    if resource.starts_with("tcp-inlet ") {
        format!("{resource} may send to every member")
    } else {
        format!("{resource} is open to every member")
    }
}

fn subject(policy: &PolicyDocument) -> String {
    policy.resource.clone().or_else(|| policy.resource_type.clone()).unwrap_or_default()
}

const fn source(source: PolicySource) -> &'static str {
    match source {
        PolicySource::Own => "own",
        PolicySource::Type => "type",
        PolicySource::Default => "default",
    }
}
