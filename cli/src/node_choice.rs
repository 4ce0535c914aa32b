//! Which node a command means, and the client that speaks to it.

use std::fmt::Display;
use std::time::Duration;

use postern_node::control::client::{Client, ClientError};
use postern_node::control::fault::Fault;
use postern_node::daemon::Start;
use postern_node::store::Stored;
use postern_proto::name::NodeName;
use postern_runtime::home::{Home, NodeHome};

use crate::authority::member;
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::node_process;

/// `--at`, where a command means a node.
#[derive(Debug, Clone, clap::Args)]
pub struct At {
    /// The node, as NODE or /node/NODE [default: the default node]
    #[arg(long, value_name = "NODE", value_parser = parse_node)]
    pub at: Option<NodeName>,
}

/// `n1` or `/node/n1`.
pub fn parse_node(text: &str) -> Result<NodeName, postern_proto::name::InvalidName> {
    postern_node::config::resource::node_name(text)
}

/// A random name that no node of the home has.
pub fn free_node_name(home: &Home) -> Result<NodeName, CliError> {
    let taken: Vec<NodeName> = home.nodes()?.iter().map(|node| node.name().clone()).collect();
    Ok(postern_node::config::resource::random_node_name(|name| taken.iter().any(|taken| taken.as_str() == name)))
}

/// The node that is named, or the default one.
pub fn existing(home: &Home, name: Option<&NodeName>) -> Result<NodeHome, CliError> {
    let name = match name {
        Some(name) => name.clone(),
        None => home
            .default_node()?
            .ok_or_else(|| CliError::not_found("node", "default").try_this("make one with `postern node create`"))?,
    };
    home.node(&name)?.ok_or_else(|| CliError::not_found("node", &name))
}

/// What a node is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Something that works in any home.
    Any,
    /// Something of a project, for which no node is made where there is no project.
    Project,
}

/// The node that is named, or the default one; where there is none, one is made and started.
pub fn existing_or_made(context: &Context, home: &Home, name: Option<&NodeName>, need: Need) -> Result<NodeHome, CliError> {
    if name.is_some() {
        return existing(home, name);
    }
    if home.default_node()?.is_some() {
        let node = existing(home, None)?;
        // Another command may be about to start it: its turn comes first.
        if ask_if_running(context, &node, async |client| client.show().await)?.is_none() {
            drop(home.lock_making()?);
        }
        return Ok(node);
    }
    // Held until the node runs: who comes at the same time finds it, and can ask it.
    let _making = home.lock_making()?;
    if home.default_node()?.is_some() {
        return existing(home, name);
    }
    if need == Need::Project && member(home)?.is_none() {
        return Err(CliError::no_project());
    }
    let identity = home.default_identity_or_create(context.now())?;
    let name = free_node_name(home)?;
    let stored =
        Stored::new(identity.name().clone()).encode().map_err(|error| CliError::new(code::STORAGE, error.to_string()))?;
    let node = home.create_node(&name, &stored)?;
    let start = Start { creating: true, connection_wait: Duration::ZERO };
    if let Err(error) = node_process::start(context, &node, start) {
        home.delete_node(&name)?;
        return Err(error);
    }
    context.output().say(format_args!("made the node `{name}`"));
    Ok(node)
}

/// Asks a running node something.
pub fn ask<T>(
    context: &Context,
    node: &NodeHome,
    question: impl AsyncFnOnce(&Client<'_>) -> Result<T, ClientError>,
) -> Result<T, CliError> {
    let client = Client::new(node);
    context.block_on(question(&client))?.map_err(|error| told_by(node, error.into()))
}

/// There is no `kind` called `name` at `node`.
pub fn none_at(node: &NodeHome, kind: &str, name: impl Display) -> CliError {
    told_by(node, Fault::not_found(kind, name))
}

/// What `node` answered. Where it has not what is meant, another one of the home may have it.
fn told_by(node: &NodeHome, mut fault: Fault) -> CliError {
    if fault.code == code::NOT_FOUND {
        fault.why.get_or_insert_with(|| format!("the node `{}` has none of that name", node.name()));
    }
    fault.into()
}

/// As [`ask`]; `None` where the node does not run.
pub fn ask_if_running<T>(
    context: &Context,
    node: &NodeHome,
    question: impl AsyncFnOnce(&Client<'_>) -> Result<T, ClientError>,
) -> Result<Option<T>, CliError> {
    context.block_on(answer_if_running(node, question))?
}

/// As [`ask_if_running`], within what waits for more than that.
pub async fn answer_if_running<T>(
    node: &NodeHome,
    question: impl AsyncFnOnce(&Client<'_>) -> Result<T, ClientError>,
) -> Result<Option<T>, CliError> {
    let client = Client::new(node);
    match question(&client).await {
        Ok(answer) => Ok(Some(answer)),
        Err(ClientError::NotRunning(_)) => Ok(None),
        Err(error) => Err(told_by(node, error.into())),
    }
}
