//! `identity`: the keys by which this home is known to others.

mod protection;

use std::path::PathBuf;

use clap::Subcommand;
use postern_proto::id::Identifier;
use postern_proto::identity::{ChangeReason, Identity, MAX_CHANGES};
use postern_proto::name::IdentityName;
use postern_proto::time::Timestamp;
use postern_relay::RelayHome;
use postern_runtime::authority::AuthorityError;
use postern_runtime::home::{Home, IdentityHome};
use postern_runtime::membership::Membership;
use serde::Serialize;

use crate::args::Yes;
use crate::authority;
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Versioned, fields, table};
use crate::prompt::confirm;

/// Make and look at identities, the keys by which others know this home
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an identity
    Create {
        /// Its name [default: default; if that is taken, a random one]
        name: Option<IdentityName>,
    },
    /// List the identities of this home
    List,
    /// Show an identity
    Show {
        /// The identity [default: the default identity]
        name: Option<IdentityName>,
    },
    /// Delete an identity that no node uses, with its membership
    Delete {
        /// The identity
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<IdentityName>,
        /// Delete all identities
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        yes: Yes,
    },
    /// Replace the key of an identity; its identifier, membership and connections stay
    #[command(after_help = "\
The change is signed by the old and the new key, and told to the authority at once. Running nodes
take the new key when they connect to the authority next. With --compromised, what was issued
before is void, and its tickets are revoked: nodes of the identity get new credentials and show
them to their peers.

Examples:
  postern identity rotate
  postern identity rotate me --compromised
  postern identity rotate --relay")]
    Rotate {
        /// The identity [default: the default identity]
        #[arg(conflicts_with = "relay")]
        name: Option<IdentityName>,
        /// The old key is, or may be, in other hands
        #[arg(long)]
        compromised: bool,
        /// The identity of this home's relay server
        #[arg(long)]
        relay: bool,
    },
    /// Protect all keys of this home with a passphrase, or give it another one
    #[command(after_help = PROTECT_HELP)]
    Protect {
        /// The new passphrase of a home that is protected already: a file, - for a line of standard input [default: ask]
        #[arg(long, value_name = "FILE")]
        new_key_file: Option<PathBuf>,
        /// Make the key file first, with a random passphrase, if it is not there
        #[arg(long)]
        generate: bool,
    },
    /// Write all keys of this home as they are, so that no passphrase is needed
    Unprotect {
        #[command(flatten)]
        yes: Yes,
    },
    /// Show which identity is the default, or make NAME the default
    Default {
        /// The identity that becomes the default
        name: Option<IdentityName>,
    },
}

const PROTECT_HELP: &str = "\
The keys of all identities, nodes and servers of the home are sealed under it. Nothing of the
home may run meanwhile. From then on whoever starts something gives it: --key-file FILE,
POSTERN_KEY_FILE, the systemd credential `postern-key`, or at the terminal. Without it the keys
are lost.

Examples:
  postern identity protect                                        # asks for a passphrase
  postern identity protect --key-file /etc/postern/key --generate # a random one, in a file
  postern identity protect --key-file old --new-key-file new      # another one";

#[derive(Debug, Serialize)]
struct Document {
    name: IdentityName,
    identifier: Identifier,
    is_default: bool,
    /// How often its key was replaced.
    changes: u64,
    /// How often it can still be.
    changes_left: usize,
    /// When its key expires.
    expires_at: String,
    /// Whether its key is sealed under a passphrase.
    protected: bool,
}

/// What `rotate --relay` prints.
#[derive(Debug, Serialize)]
struct RelayDocument {
    identifier: Identifier,
    changes: u64,
    changes_left: usize,
    expires_at: String,
}

pub fn run(context: &Context, command: Command) -> Result<(), CliError> {
    if matches!(command, Command::Delete { all: true, .. }) && !context.is_there()? {
        context.output().say("there are no identities");
        return Ok(());
    }
    let home = match command {
        Command::Protect { .. } => context.home_as_it_is()?,
        Command::Unprotect { .. } => {
            context.must_be_there()?;
            context.home_as_it_is()?
        }
        Command::Create { .. } => context.home_or_new()?,
        _ => context.home()?,
    };
    match command {
        Command::Protect { new_key_file, generate } => protection::protect(context, &home, new_key_file, generate),
        Command::Unprotect { yes } => protection::unprotect(context, &home, yes),
        Command::Create { name } => create(context, &home, name),
        Command::List => list(context, &home),
        Command::Show { name } => show(context, &home, name),
        Command::Delete { name, all, yes } => delete(context, &home, name.filter(|_| !all), yes),
        Command::Rotate { name, compromised, relay } => {
            let reason = if compromised { ChangeReason::Compromised } else { ChangeReason::Renewed };
            if relay { rotate_relay(context, &home, reason) } else { rotate(context, &home, name, reason) }
        }
        Command::Default { name: None } => show(context, &home, None),
        Command::Default { name: Some(name) } => {
            home.set_default_identity(&name)?;
            context.output().say(format_args!("`{name}` is the default identity"));
            Ok(())
        }
    }
}

fn create(context: &Context, home: &Home, name: Option<IdentityName>) -> Result<(), CliError> {
    let created = match name {
        Some(name) => home.create_identity(&name, context.now())?,
        None if home.default_identity()?.is_none() => home.default_identity_or_create(context.now())?,
        None => home.create_identity(&random_name(home)?, context.now())?,
    };
    let document = document(home, &created, context.now())?;
    context.output().say(format_args!("made the identity `{}`", document.name));
    context.output().created(document.identifier, &document)
}

/// A name that no identity of this home has.
fn random_name(home: &Home) -> Result<IdentityName, CliError> {
    let taken: Vec<IdentityName> = home.identities()?.iter().map(|identity| identity.name().clone()).collect();
    let name = postern_node::config::resource::random_node_name(|name| taken.iter().any(|taken| taken.as_str() == name));
    Ok(name.as_str().parse()?)
}

fn list(context: &Context, home: &Home) -> Result<(), CliError> {
    let documents: Vec<_> =
        home.identities()?.iter().map(|identity| document(home, identity, context.now())).collect::<Result<_, _>>()?;
    context.output().list(&documents, || {
        let row = |document: &Versioned<Document>| {
            vec![document.name.to_string(), document.identifier.to_string(), mark(document.is_default)]
        };
        table(&["NAME", "IDENTIFIER", "DEFAULT"], &documents.iter().map(row).collect::<Vec<_>>())
    })
}

fn mark(is_default: bool) -> String {
    if is_default { "yes" } else { "" }.to_owned()
}

fn show(context: &Context, home: &Home, name: Option<IdentityName>) -> Result<(), CliError> {
    let document = document(home, &named(home, name)?, context.now())?;
    context.output().show(&document, || {
        fields(&[
            ("name", document.name.to_string()),
            ("identifier", document.identifier.to_string()),
            ("default", mark(document.is_default)),
            ("changes", format!("{} ({} left)", document.changes, document.changes_left)),
            ("expires", document.expires_at.clone()),
            ("protected", mark(document.protected)),
        ])
    })
}

fn document(home: &Home, identity: &IdentityHome, now: Timestamp) -> Result<Versioned<Document>, CliError> {
    let loaded = identity.load()?;
    Ok(Versioned::new(Document {
        name: identity.name().clone(),
        identifier: loaded.identifier(),
        is_default: home.default_identity()?.as_ref() == Some(identity.name()),
        changes: loaded.history().sequence(),
        changes_left: changes_left(&loaded, now),
        expires_at: loaded.history().expires().to_string(),
        protected: home.is_protected()?,
    }))
}

/// The identity `name`, else the default one.
fn named(home: &Home, name: Option<IdentityName>) -> Result<IdentityHome, CliError> {
    let name = match name {
        Some(name) => name,
        None => home
            .default_identity()?
            .ok_or_else(|| CliError::not_found("identity", "default").try_this("make one with `postern identity create`"))?,
    };
    home.identity(&name)?.ok_or_else(|| CliError::not_found("identity", &name))
}

fn rotate(context: &Context, home: &Home, name: Option<IdentityName>, reason: ChangeReason) -> Result<(), CliError> {
    let identity = named(home, name)?;
    let changed = home.rotate_identity(identity.name(), context.now(), reason)?;
    context.output().say(format_args!("the identity `{}` has a new key ({})", identity.name(), nth(&changed)));
    if let Some(membership) = identity.membership()? {
        tell(context, home, &changed, &membership)?;
    }
    let document = document(home, &identity, context.now())?;
    context.output().created(document.identifier, &document)
}

fn rotate_relay(context: &Context, home: &Home, reason: ChangeReason) -> Result<(), CliError> {
    let relay = RelayHome::open(home)?;
    let changed = relay.rotate_identity(home, context.now(), reason)?;
    context.output().say(format_args!("the relay server's identity has a new key ({})", nth(&changed)));
    if let Some(trust) = relay.trust()? {
        tell(context, home, &changed, &trust.membership)?;
    }
    let (identifier, history) = (changed.identifier(), changed.history());
    let document = RelayDocument {
        identifier,
        changes: history.sequence(),
        changes_left: changes_left(&changed, context.now()),
        expires_at: history.expires().to_string(),
    };
    context.output().created(identifier, &Versioned::new(document))
}

/// How often the key can still be replaced. Changes differ in length, and a history is bounded in bytes: they are tried on a copy.
fn changes_left(identity: &Identity, now: Timestamp) -> usize {
    let Ok(mut copy) = Identity::from_secret_bytes(&identity.to_secret_bytes()) else { return 0 };
    (0..MAX_CHANGES).take_while(|_| copy.rotate(now, ChangeReason::Renewed).is_ok()).count()
}

/// Which key it is that `identity` has now.
fn nth(identity: &Identity) -> String {
    format!("change {}", identity.history().sequence())
}

/// Tells the authority of the change, so that the key before it is refused from now on. One that cannot be reached hears of it later.
fn tell(context: &Context, home: &Home, identity: &Identity, membership: &Membership) -> Result<(), CliError> {
    match authority::announce(context, home, identity, membership)? {
        Ok(()) => context.output().say("the authority knows it"),
        Err(error @ AuthorityError::Refused(..)) => return Err(error.into()),
        Err(error) => context.output().warn(format_args!(
            "the authority was not told: {error}. It hears of it when a node of the identity connects; until then it takes the old key"
        )),
    }
    Ok(())
}

fn delete(context: &Context, home: &Home, name: Option<IdentityName>, yes: Yes) -> Result<(), CliError> {
    let names = match name {
        Some(name) => vec![name],
        None => home.identities()?.iter().map(|identity| identity.name().clone()).collect(),
    };
    for name in &names {
        if home.identity(name)?.is_none() {
            return Err(CliError::not_found("identity", name));
        }
        if let Some(node) = user_of(home, name)? {
            return Err(CliError::new(code::IN_USE, format!("identity `{name}` is used by node `{node}`"))
                .try_this(format!("delete the node first: postern node delete {node}")));
        }
    }
    if names.is_empty() {
        context.output().say("there are no identities");
        return Ok(());
    }
    let list = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    confirm(context, &format!("Delete identity {list}, which cannot be made again?"), yes.yes)?;
    for name in &names {
        home.delete_identity(name)?;
        context.output().say(format_args!("deleted the identity `{name}`"));
    }
    Ok(())
}

/// A node that acts under the identity `name`.
pub fn user_of(home: &Home, name: &IdentityName) -> Result<Option<postern_proto::name::NodeName>, CliError> {
    for node in home.nodes()? {
        let stored: serde_json::Value = serde_json::from_slice(&node.stored()?).unwrap_or_default();
        if stored.get("identity").and_then(|identity| identity.as_str()) == Some(name.as_str()) {
            return Ok(Some(node.name().clone()));
        }
    }
    Ok(None)
}
