//! `project key`: the keys that sign the project's credentials.

use clap::Subcommand;
use postern_proto::authority::{Answer, KeyState, Request, RingKey};
use postern_proto::id::KeyId;
use serde::Serialize;

use crate::args::Yes;
use crate::authority::{Session, member, unexpected};
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Versioned, table};
use crate::prompt::confirm;

/// Replace the key that signs the project's credentials, without an outage
#[derive(Debug, Subcommand)]
#[command(after_help = "\
First `prepare`, which tells every node and relay of the next key; then, when all had time to
hear of it, `activate`; then, when all have renewed their credentials, `retire`. No connection
notices.

Examples:
  postern project key prepare
  postern project key activate
  postern project key retire -y")]
pub enum Command {
    /// Make the next key, and tell every node and relay of it
    Prepare,
    /// Let the prepared key sign from now on; what the one before it signed stays good
    Activate,
    /// End the key that was replaced: what it signed is refused everywhere
    Retire {
        /// Also where nodes have no newer credentials yet: they are cut off until they reach the authority
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        yes: Yes,
    },
    /// List the keys, as the authority says now
    List,
}

/// One key.
#[derive(Debug, Serialize)]
pub struct Document {
    pub key: KeyId,
    pub state: KeyState,
    pub not_before: String,
    pub not_after: String,
}

impl Document {
    pub fn of(key: &RingKey) -> Self {
        Self { key: key.id, state: key.state, not_before: key.not_before.to_string(), not_after: key.not_after.to_string() }
    }
}

pub fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Prepare => {
            let key = act(context, Request::PrepareKey, KeyState::Prepared)?;
            context.output().say(format_args!("the key {} is prepared, and told to every node and relay", key.key));
            context.output().say("when all had time to hear of it: postern project key activate");
            context.output().created(key.key, &Versioned::new(key))
        }
        Command::Activate => {
            let key = act(context, Request::ActivateKey, KeyState::Active)?;
            context.output().say(format_args!("the key {} signs from now on", key.key));
            context.output().say("when all have renewed their credentials: postern project key retire");
            context.output().created(key.key, &Versioned::new(key))
        }
        Command::Retire { force, yes } => {
            confirm(context, "Retire the key that was replaced, so that nothing of it is accepted any more?", yes.yes)?;
            let key = act(context, Request::RetireKey { force }, KeyState::Active)?;
            context.output().say(format_args!("only the key {} is good now", key.key));
            context.output().created(key.key, &Versioned::new(key))
        }
        Command::List => {
            let documents: Vec<_> = refresh(context)?.iter().map(Document::of).map(Versioned::new).collect();
            context.output().list(&documents, || {
                let row = |document: &Versioned<Document>| {
                    vec![document.key.to_string(), document.state.as_str().to_owned(), document.not_after.clone()]
                };
                table(&["KEY", "STATE", "UNTIL"], &documents.iter().map(row).collect::<Vec<_>>())
            })
        }
    }
}

/// Does it, and gives the key that is in `state` since.
fn act(context: &Context, request: Request, state: KeyState) -> Result<Document, CliError> {
    let session = Session::open(context)?;
    let Answer::SigningKeys { keys } = session.call(context, request)? else { return Err(unexpected()) };
    let key = keys.iter().find(|key| key.state == state).map(Document::of).ok_or_else(unexpected)?;
    // `project show` is to tell it, also where no node of this home keeps the membership fresh.
    learn(context, &session)?;
    Ok(key)
}

/// The keys as the authority says now.
fn refresh(context: &Context) -> Result<Vec<RingKey>, CliError> {
    learn(context, &Session::open(context)?)
}

/// Keeps what the authority says of the project now, and gives its keys.
fn learn(context: &Context, session: &Session) -> Result<Vec<RingKey>, CliError> {
    let Answer::ProjectInfo { statement, history } = session.call(context, Request::ProjectInfo)? else {
        return Err(unexpected());
    };
    let (identity, mut membership) = member(&context.home()?)?.ok_or_else(CliError::no_project)?;
    match membership.update(history, statement) {
        Ok(true) => identity.set_membership(&membership)?,
        Ok(false) => {}
        Err(error) => return Err(unexpected().why(error)),
    }
    Ok(membership.info().key_ring.clone())
}
