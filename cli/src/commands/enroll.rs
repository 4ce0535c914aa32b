//! `enroll`: everything that a project needs, on this machine.

use std::time::Duration;

use postern_proto::address::HostPort;
use postern_runtime::files::Dir;
use postern_runtime::home::{Home, servers as files};
use postern_runtime::lock::{Lock, LockError};
use serde::Serialize;
use zeroize::Zeroizing;

use super::serve::administrator;
use crate::background::{self, Background};
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::node_process;
use crate::output::Versioned;
use crate::servers::{Advertise, CredentialLifetime, Ready, Roles, Settings};
use crate::stop;

/// How long the servers may take to come up: an empty database is made, a large one is opened.
const START: Duration = Duration::from_secs(30);

/// Set up a project on this machine: identity, authority and relay, in the background
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Run again, it starts the servers if they do not run, and changes nothing else.

Examples:
  postern enroll                                                   # for this machine only
  postern enroll --listen 0.0.0.0:4000 --advertise gate.example    # for other machines, too")]
pub struct Args {
    /// Where the servers listen [default: what it was, else a free port of 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    listen: Option<HostPort>,
    /// What tickets tell other machines: the name or address of this one [default: the address of --listen]
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<Advertise>,
    /// How long the authority's credentials are good, 10s to 6d: for so long nodes go on without it [default: what it was, else 24h]
    #[arg(long, value_name = "DURATION")]
    credential_lifetime: Option<CredentialLifetime>,
}

#[derive(Debug, Serialize)]
struct Document {
    project: String,
    identity_name: String,
    address: HostPort,
    advertised: HostPort,
}

pub fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let home = context.home_or_new()?;
    // Two at a time would both find nothing and make everything.
    let servers = home.servers()?;
    let lock = servers.lock_changes()?;
    let kept = kept(context, &home, &servers)?;
    let first = !home.has_authority()?;
    let administrator = administrator(context, &home)?;
    if first && home.identity(&administrator)?.is_some_and(|identity| identity.membership().is_ok_and(|known| known.is_some())) {
        return Err(CliError::new(code::ALREADY_MEMBER, format!("the identity `{administrator}` belongs to a project already"))
            .try_this("look at it with `postern project show`; for a project of your own use another POSTERN_HOME"));
    }
    let mut settings = kept.clone().unwrap_or_else(|| Settings::new(Roles::All));
    settings.roles = Roles::All;
    settings.administrator.get_or_insert(administrator);
    if let Some(listen) = &args.listen {
        // The same place, with whatever port it got.
        let same = listen.port() == 0 && listen.host() == settings.listen.host();
        if !same {
            settings.listen = listen.clone();
        }
    }
    if let Some(advertise) = &args.advertise {
        settings.advertise = Some(advertise.clone());
    }
    settings.credential_lifetime = args.credential_lifetime.or(settings.credential_lifetime);

    if let Some(odd) = settings.told_elsewhere() {
        context
            .output()
            .warn(format_args!("{odd}: unless something leads from there to here, nobody finds them (--advertise HOST[:PORT])"));
    }

    let hint = "end it at once: postern serve stop".to_owned();
    let running = stop::goes_on(context, (&servers, files::LOCK), "the process of the servers is stopping", hint)?;
    let changed = kept.as_ref() != Some(&settings);
    if running && changed {
        context.output().say("restarting the servers with the new settings");
        stop::servers(&home)?;
    }
    let (address, advertised) = if running && !changed {
        context.output().say(format_args!("the servers run already, on {}", settings.listen));
        (settings.listen.clone(), settings.advertised())
    } else {
        let ready = start(context, &home, &settings).map_err(|error| match &kept {
            // They ran until a moment ago, and nobody has asked that they do not.
            Some(before) if running => match start(context, &home, before) {
                Ok(_) => error.why("the servers run on with the settings that they had"),
                Err(_) => error.try_this("the servers are stopped now; start them as they were: postern enroll"),
            },
            _ => error,
        })?;
        if !first {
            context.output().say(format_args!("started the servers, on {}", ready.address));
        }
        if let Some(before) = kept.as_ref().map(Settings::advertised).filter(|before| !first && *before != ready.advertised) {
            context.output().warn(format_args!(
                "members and tickets know the address {before}; until it leads here, they do not find these servers at {}",
                ready.advertised
            ));
        }
        (ready.address, ready.advertised)
    };
    drop(lock);
    tell(context, &home, first, address, advertised)
}

/// The settings of servers that run, or belong to a project. Others are left from a first start that was killed, and are removed: another
/// program may have the address by now.
fn kept(context: &Context, home: &Home, servers: &Dir) -> Result<Option<Settings>, CliError> {
    let Some(kept) = Settings::load(home)? else { return Ok(None) };
    if !kept.are_unused(home)? {
        return Ok(Some(kept));
    }
    // Servers that are being started in the foreground have the lock before they keep anything.
    match Lock::acquire(servers, files::LOCK) {
        Ok(_lock) if kept.forget_unused(home)? => {
            context.output().say(format_args!("what was set up of servers at {} made no project, and is forgotten", kept.listen));
            Ok(None)
        }
        Ok(_lock) => Settings::load(home),
        Err(LockError::Held { .. }) => Ok(Some(kept)),
        Err(LockError::File(error)) => Err(error.into()),
    }
}

/// Starts the servers with `settings`, which they keep once they listen: a start that fails leaves what was kept before.
fn start(context: &Context, home: &Home, settings: &Settings) -> Result<Ready, CliError> {
    background::start(
        context,
        Background {
            command: &["serve", "daemon"],
            log: (&home.servers()?, files::LOG),
            settings: Zeroizing::new(serde_json::to_vec(settings).map_err(std::io::Error::from)?),
            limit: START,
        },
    )
}

fn tell(context: &Context, home: &Home, first: bool, address: HostPort, advertised: HostPort) -> Result<(), CliError> {
    let out = context.output();
    let Some((identity, membership)) = crate::authority::member(home)? else { return Err(CliError::no_project()) };
    let document =
        Document { project: membership.info().name.to_string(), identity_name: identity.name().to_string(), address, advertised };
    if first {
        node_process::reload(home, identity.name())?;
        out.say(format_args!("made project `{}` with its authority and a relay, on {}", document.project, document.address));
        out.say(format_args!("identity `{}` is its administrator", document.identity_name));
    }
    if document.advertised.is_loopback() {
        if document.address.is_loopback() {
            out.say("only this machine can reach the servers; for others: postern enroll --listen 0.0.0.0:4000 --advertise HOST");
        } else {
            let (at, told, port) = (&document.address, &document.advertised, document.address.port());
            out.say(format_args!(
                "the servers listen on {at}, and others are told {told}, which leads nowhere from other machines; give them the \
                 name of this one: postern enroll --advertise HOST:{port}"
            ));
        }
    }
    out.say("next: postern project ticket --attribute NAME --relay NAME > NAME.ticket");
    out.created(&document.project, &Versioned::new(&document))
}
