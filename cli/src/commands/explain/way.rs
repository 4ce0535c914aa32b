//! A decision step by step, put together from what the nodes of this home can tell.

use std::process::ExitCode;

use postern_node::control::explain::{ExplainDocument, ExplainRequest, StepDocument};
use postern_node::engine::Stage;
use postern_proto::id::Identifier;
use postern_proto::name::{IdentityName, NodeName};
use postern_proto::spec::{PeerRoute, Route};
use postern_proto::time::Timestamp;
use postern_runtime::home::Home;
use serde::Serialize;

use super::super::project_member;
use super::show;
use crate::code;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::node_choice::answer_if_running;
use crate::output::Versioned;

#[derive(Debug, Serialize)]
struct Document {
    from: Identifier,
    to: String,
    /// `allowed`, `denied` or `failed`.
    verdict: &'static str,
    /// The step that is in the way.
    step: Option<String>,
    /// All steps, in their order.
    steps: Vec<StepDocument>,
}

pub fn run(context: &Context, home: &Home, from: &str, to: &str, at: Option<Timestamp>) -> Result<ExitCode, CliError> {
    let (route, outlet) = destination(to)?;
    let (from, from_node) = member(context, home, from)?;
    let (relay, node) = match route {
        PeerRoute::Relay(relay) => (Some(relay), None),
        PeerRoute::Node(node) => (None, Some(node)),
        PeerRoute::Address(_) => return Err(not_a_way(to)),
    };
    let request = ExplainRequest { from, relay, node, outlet, at: at.map(Timestamp::as_unix) };
    let nodes = home.nodes()?;
    let ask = || {
        context.block_on(async {
            let mut told: Vec<ExplainDocument> = Vec::new();
            for node in &nodes {
                told.extend(answer_if_running(node, async |client| client.explain(&request).await).await?);
            }
            // Of several nodes with one identity, the one that was named tells what its inlets do.
            let is_meant = |node: &str, step: &StepDocument| {
                from_node.as_ref().is_none_or(|from| from.as_str() == node) || !INLETS_SIDE.contains(&step.step.as_str())
            };
            let meant = |ExplainDocument { node, steps, .. }| steps.into_iter().filter(move |step| is_meant(&node, step));
            Ok::<Vec<StepDocument>, CliError>(told.into_iter().flat_map(meant).collect())
        })
    };
    let mut known = ask()??;
    let is_outlets_side = |step: &StepDocument| step.step == Stage::OutletPolicy.as_str() && step.verdict == "unknown";
    // The inlet's node has shown its credential while it was asked; where the outlet's node is of this home, it can tell now.
    if known.iter().any(is_outlets_side) && known.iter().any(|step| step.step == Stage::RelayLookUp.as_str()) {
        known = ask()??;
    }
    if known.is_empty() {
        return Err(CliError::new(code::NOTHING_TO_EXPLAIN, "no running node of this home is at either end of that way")
            .why(format!("none is a node of {from}, and none is found as `{to}`"))
            .try_this("ask at one of its two ends"));
    }
    let steps: Vec<StepDocument> =
        Stage::ALL.into_iter().filter(|stage| asked(*stage, &request)).map(|stage| put_together(stage, &known)).collect();
    let hindrance =
        steps.iter().find(|step| step.verdict == "denied").or_else(|| steps.iter().find(|step| step.verdict == "failed"));
    let verdict = match hindrance.map(|step| step.verdict.as_str()) {
        Some("denied") => "denied",
        Some(_) => "failed",
        None => "allowed",
    };
    let step = hindrance.map(|step| step.step.clone());
    let document = Versioned::new(Document { from, to: to.to_owned(), verdict, step, steps });
    context.output().show(&document, || plain(&document))?;
    Ok(match verdict {
        "allowed" => ExitCode::SUCCESS,
        "denied" => ExitCode::from(Exit::Denied.exit_code()),
        _ => ExitCode::FAILURE,
    })
}

/// The steps that the inlet's node decides.
const INLETS_SIDE: [&str; 2] = [Stage::RelayLookUp.as_str(), Stage::InletPolicy.as_str()];

/// Relays have no part in what goes directly.
fn asked(stage: Stage, request: &ExplainRequest) -> bool {
    request.relay.is_some() || stage != Stage::RelayClaim
}

/// What is known of a step: by the node that decides it, where that is one of this home.
fn put_together(stage: Stage, known: &[StepDocument]) -> StepDocument {
    let of = |verdicts: &[&str]| {
        let mut found = known.iter().filter(|step| step.step == stage.as_str() && verdicts.contains(&step.verdict.as_str()));
        // The one that names policies decided itself; the other end only heard of it.
        let all: Vec<&StepDocument> = found.by_ref().collect();
        all.iter().find(|step| !step.policies.is_empty()).or_else(|| all.first()).copied().cloned()
    };
    // A refusal of one of several nodes that could be meant goes before what another one would do.
    of(&["denied"]).or_else(|| of(&["failed"])).or_else(|| of(&["allowed"])).or_else(|| of(&["unknown"])).unwrap_or_else(|| {
        StepDocument {
            step: stage.as_str().to_owned(),
            node: None,
            verdict: "unknown".to_owned(),
            resource: None,
            code: None,
            reason: match stage {
                Stage::RelayClaim | Stage::OutletPolicy | Stage::OutletTarget => "the outlet's node decides this".to_owned(),
                Stage::RelayLookUp | Stage::InletPolicy => "the inlet's node decides this".to_owned(),
            },
            peer: None,
            attributes: Default::default(),
            policies: Vec::new(),
            refusal: None,
        }
    })
}

fn plain(document: &Document) -> String {
    let mut text = String::new();
    for step in &document.steps {
        text.push_str(&show::step(step));
    }
    text.push_str(&match &document.step {
        Some(step) => format!("{}: at the step {step}\n", document.verdict),
        None if document.steps.iter().any(|step| step.verdict == "unknown") => {
            "allowed, as far as the nodes of this home can tell\n".to_owned()
        }
        None => "allowed\n".to_owned(),
    });
    text
}

/// `/RELAY/OUTLET`, or a route as an inlet has it.
fn destination(text: &str) -> Result<(PeerRoute, postern_proto::name::OutletName), CliError> {
    let segments: Vec<&str> = text.strip_prefix('/').unwrap_or_default().split('/').collect();
    if let [relay, outlet] = segments.as_slice()
        && !["service", "node", "project"].contains(relay)
    {
        return Ok((PeerRoute::Relay(relay.parse()?), outlet.parse()?));
    }
    let route: Route = text.parse().map_err(|_| not_a_way(text))?;
    match route.peer {
        Some(peer) => Ok((peer, route.outlet)),
        None => Err(not_a_way(text)),
    }
}

fn not_a_way(text: &str) -> CliError {
    CliError::new(code::USAGE, format!("`{text}` does not say where the outlet's node is found"))
        .try_this("write /RELAY/OUTLET, or /node/NODE/service/OUTLET for a node of this home")
}

/// The member that is meant, by an identifier, a node or an identity of this home, or a member's name; and the node, where it is one.
fn member(context: &Context, home: &Home, text: &str) -> Result<(Identifier, Option<NodeName>), CliError> {
    if let Ok(identifier) = text.parse() {
        return Ok((identifier, None));
    }
    let name = text.strip_prefix("/node/").unwrap_or(text);
    if let Ok(name) = name.parse::<NodeName>()
        && let Some(node) = home.node(&name)?
    {
        let stored = postern_node::store::Stored::load(&node)?;
        if let Some(identity) = home.identity(&stored.identity)? {
            return Ok((identity.load()?.identifier(), Some(name)));
        }
    }
    if let Ok(name) = name.parse::<IdentityName>()
        && let Some(identity) = home.identity(&name)?
    {
        let own = identity.load()?.identifier();
        // Who does not administer members, or does not reach the authority, means its own.
        return match project_member::identifier_of(context, text) {
            Ok(other) if other != own => {
                let what = format!("`{text}` means an identity of this home, {own}, and a member of the project, {other}");
                Err(CliError::new(code::AMBIGUOUS_MEMBER, what).try_this("give the identifier"))
            }
            Err(error) if error.code == code::AMBIGUOUS_MEMBER.as_str() => Err(error),
            _ => Ok((own, None)),
        };
    }
    project_member::identifier_of(context, text).map(|identifier| (identifier, None)).map_err(|error| match error.code.as_str() {
        // Only who administers members sees their names.
        "NOT_PERMITTED" => error.try_this("give the member's identifier, which `postern identity show` prints in its home"),
        _ => error,
    })
}
