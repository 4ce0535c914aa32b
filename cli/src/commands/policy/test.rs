//! `policy test`: cases that are decided without a network, by the code that decides about connections.

use std::process::ExitCode;

use postern_node::config::cases::{Case, Target, decide, load_cases};
use postern_node::config::{NodeConfig, Variables, load, text};
use postern_node::control::fault::Fault;
use postern_node::store::{Specs, Stored};
use postern_proto::name::{IdentityName, NodeName};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::node_choice::existing;
use crate::output::Versioned;
use crate::source;

/// What became of a case.
#[derive(Debug, Serialize)]
struct Document {
    case: String,
    line: usize,
    /// The resource or the type.
    resource: String,
    /// `allow` or `deny`.
    expected: &'static str,
    /// `allow`, `deny` or, where there is no such resource, `unknown`.
    decided: &'static str,
    ok: bool,
    /// Why it is denied.
    reason: Option<String>,
}

pub fn run(context: &Context, file: &str, variables: &[String], at: Option<&NodeName>) -> Result<ExitCode, CliError> {
    let variables = Variables::with_process_environment(variables.iter().map(String::as_str)).map_err(Fault::from)?;
    let fault = |problems| Fault::from(&problems);
    let read =
        |path: &str| -> Result<String, CliError> { Ok(text(path, &source::configuration(context, path)?).map_err(fault)?) };
    let cases = load_cases(file, &read(file)?, &variables).map_err(fault)?;
    let specs = match (&cases.config, &cases.configuration) {
        (Some(config), _) => of_config(context, config)?,
        (None, Some(path)) => of_config(context, &load(path, &read(path)?, &variables, None).map_err(fault)?)?,
        (None, None) => {
            if let Some(idle) = variables.without_configuration() {
                context.output().warn(idle);
            }
            context
                .output()
                .say("note: these are the policies of the node; those of the project narrow them and are not looked at here");
            Stored::load(&existing(&context.home()?, at)?)?.specs
        }
    };
    let documents: Vec<_> = cases.cases.iter().map(|case| Versioned::new(document(&specs, case))).collect();
    let missed = documents.iter().filter(|document| !document.ok).count();
    context.output().list(&documents, || {
        let mut plain = String::new();
        for document in &documents {
            let verdict = if document.ok { "ok  " } else { "MISS" };
            plain.push_str(&format!("{verdict} {}: {} is to {}", document.case, document.resource, document.expected));
            plain.push_str(&if document.ok { String::new() } else { format!(", and is decided: {}", document.decided) });
            plain.push_str(&document.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default());
            plain.push('\n');
        }
        plain.push_str(&format!("{} of {} cases as expected\n", documents.len() - missed, documents.len()));
        plain
    })?;
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The resources and policies of a configuration; its identity does not matter here.
fn of_config(context: &Context, config: &NodeConfig) -> Result<Specs, CliError> {
    for warning in &config.warnings {
        context.output().warn(warning);
    }
    let identity: IdentityName = "default".parse()?;
    Ok(Stored::from_config(config, identity).specs)
}

fn document(specs: &Specs, case: &Case) -> Document {
    let word = |allowed: bool| if allowed { "allow" } else { "deny" };
    let (decided, reason) = match decide(specs, case) {
        Ok(()) => (Some(true), None),
        Err(Some(denial)) => (Some(false), Some(denial.to_string())),
        Err(None) => (None, Some("there is no such outlet or inlet".to_owned())),
    };
    Document {
        case: case.name.clone(),
        line: case.line,
        resource: match &case.target {
            Target::Resource(name) => name.clone(),
            Target::ResourceType(kind) => kind.to_string(),
        },
        expected: word(case.allowed),
        decided: decided.map_or("unknown", word),
        ok: decided == Some(case.allowed),
        reason,
    }
}
