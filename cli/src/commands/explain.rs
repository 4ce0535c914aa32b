//! `explain`: why something was refused, or would be.

mod show;
mod way;

use std::process::ExitCode;

use postern_node::control::explain::RefusalDocument;
use postern_proto::id::RefusalId;
use postern_runtime::home::Home;

use crate::context::Context;
use crate::error::CliError;
use crate::node_choice::answer_if_running;
use crate::output::table;
use crate::when::When;

/// Most refusals that are listed.
const MAX_LISTED: usize = 50;

/// Tell why something was refused, or would be
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With the id of a refusal, as it stands in the logs of both sides, in errors and in `status`: the
policy, the term that failed, and what the peer had, as far as this home decided it or was told.
With --from and --to: the decision, step by step, by the policies and credentials of now. It exits
with 0 where that is allowed, 77 where somebody denies it, 1 where something else is in the way.
Without arguments: what was refused lately.

Examples:
  postern explain R5f0c1d2e3a4b5c6d
  postern explain --from acme --to /saas-relay/saas
  postern explain --from acme --to /node/n1/service/db --at 2027-01-01T00:00:00Z")]
pub struct Args {
    /// The id of a refusal
    #[arg(value_name = "ID", conflicts_with_all = ["from", "to", "at"])]
    id: Option<RefusalId>,
    /// Who would open the connection: a member by its identifier or name, or a node of this home
    #[arg(long, value_name = "NODE", requires = "to")]
    from: Option<String>,
    /// What it would reach: /RELAY/OUTLET, or a route as `tcp-inlet create --to` takes it
    #[arg(long, value_name = "ROUTE", requires = "from")]
    to: Option<String>,
    /// When credentials are looked at: a time like 2027-01-01T00:00:00Z, or how long ago, like 24h; policies are those of now [default: now]
    #[arg(long, value_name = "WHEN", requires = "from")]
    at: Option<When>,
}

pub fn run(context: &Context, args: &Args) -> Result<ExitCode, CliError> {
    let home = context.home()?;
    match (&args.id, &args.from, &args.to) {
        (Some(id), ..) => known(context, &home, *id),
        (None, Some(from), Some(to)) => way::run(context, &home, from, to, args.at.map(|when| when.at(context.now()))),
        _ => recent(context, &home),
    }
}

/// What the running nodes of the home remember, and what is kept in it, the newest first.
fn refusals(context: &Context, home: &Home) -> Result<Vec<RefusalDocument>, CliError> {
    let nodes = home.nodes()?;
    let mut all = context.block_on(async {
        let mut all = Vec::new();
        for node in &nodes {
            all.extend(answer_if_running(node, async |client| client.refusals().await).await?.unwrap_or_default());
        }
        Ok::<_, CliError>(all)
    })??;
    // Kept ones of a node that runs are remembered, too, as a rule.
    for line in home.refusals()? {
        // A line may be unfinished, or of another version.
        let Ok(kept) = serde_json::from_slice::<RefusalDocument>(&line) else { continue };
        if !all.iter().any(|known| (known.id, &known.node, &known.by) == (kept.id, &kept.node, &kept.by)) {
            all.push(kept);
        }
    }
    all.sort_by(|one, other| other.at.cmp(&one.at));
    Ok(all)
}

fn known(context: &Context, home: &Home, id: RefusalId) -> Result<ExitCode, CliError> {
    let mut found = refusals(context, home)?;
    found.retain(|refusal| refusal.id == id);
    // Where both ends are nodes of this home, the one that decided says more.
    found.sort_by_key(|refusal| refusal.by != "this-node" && refusal.node != "servers");
    if found.is_empty() {
        return Err(CliError::not_found("refusal", id)
            .why("nothing of this home decided it or was told it, or it was too long ago")
            .try_this("look for the id in the log of the node: postern node logs"));
    }
    context.output().list(&found, || found.iter().map(show::refusal).collect::<Vec<_>>().join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn recent(context: &Context, home: &Home) -> Result<ExitCode, CliError> {
    let mut all = refusals(context, home)?;
    all.truncate(MAX_LISTED);
    context.output().list(&all, || {
        let row = |refusal: &RefusalDocument| {
            let resource = refusal.inlet.as_ref().map(|inlet| format!("tcp-inlet {inlet}"));
            let resource = resource.or_else(|| refusal.outlet.as_ref().map(|outlet| format!("tcp-outlet {outlet}")));
            vec![
                refusal.id.to_string(),
                refusal.at.clone(),
                refusal.by.clone(),
                refusal.code.clone(),
                resource.unwrap_or_default(),
                refusal.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            ]
        };
        table(&["ID", "AT", "BY", "CODE", "RESOURCE", "PEER"], &all.iter().map(row).collect::<Vec<_>>())
    })?;
    Ok(ExitCode::SUCCESS)
}
