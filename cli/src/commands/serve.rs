//! `serve`: authority and relay in the foreground.

use std::path::PathBuf;

use postern_proto::address::HostPort;
use postern_proto::name::{IdentityName, ProjectName};
use postern_runtime::daemon::Attached;
use postern_runtime::home::Home;
use serde::Deserialize;

use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::servers::{self, Advertise, CredentialLifetime, Roles, Settings};
use crate::{background, source, stop};

/// Run the servers in the foreground: the authority, a relay, or both
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  postern serve --listen 0.0.0.0:4000 --advertise gate.example    # authority and relay
  postern serve relay --listen 0.0.0.0:4000 --ticket relay.ticket # a relay on another machine
  postern serve stop                                              # end those of this home

The ticket of a relay is made with: postern project ticket --relay-server HOST:PORT")]
pub struct Args {
    /// Which servers, or stop to end those that run in this home [default: those that ran before, else all]
    #[arg(value_enum)]
    what: Option<What>,
    /// Settings from a file: listen, advertise, ticket, metrics, roles, project, credential-lifetime. Flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, both servers on one port [default: what it was, else a free port of 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    listen: Option<HostPort>,
    /// What tickets tell other machines: the name or address of this one [default: the address of --listen]
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<Advertise>,
    /// The ticket with which a relay joins its project: a path, a URL, - for standard input, or its text. Once it has
    /// joined, it is not looked at
    #[arg(long, value_name = "TICKET")]
    ticket: Option<String>,
    /// Where to serve /livez, /readyz and /metrics over HTTP [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    metrics: Option<HostPort>,
    /// How long the authority's credentials are good, 10s to 6d: for so long nodes go on without it [default: what it was, else 24h]
    #[arg(long, value_name = "DURATION")]
    credential_lifetime: Option<CredentialLifetime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    All,
    Authority,
    Relay,
    Stop,
    /// In the background, as `enroll` starts them.
    #[value(hide = true)]
    Daemon,
}

impl What {
    const fn roles(self) -> Option<Roles> {
        match self {
            Self::All => Some(Roles::All),
            Self::Authority => Some(Roles::Authority),
            Self::Relay => Some(Roles::Relay),
            Self::Stop | Self::Daemon => None,
        }
    }
}

/// What `--config` may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    roles: Option<Roles>,
    listen: Option<HostPort>,
    advertise: Option<Advertise>,
    ticket: Option<String>,
    metrics: Option<HostPort>,
    project: Option<ProjectName>,
    credential_lifetime: Option<CredentialLifetime>,
}

impl Args {
    pub fn stays(&self) -> bool {
        self.what != Some(What::Stop)
    }
}

pub fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    match args.what {
        Some(What::Stop) => stop_servers(context),
        Some(What::Daemon) => background::run(context, |attached, told| serve_in_background(context, attached, told)),
        _ => serve(context, args),
    }
}

/// With the settings that the caller tells: they are kept once the servers listen.
fn serve_in_background(context: &Context, attached: &mut Option<Attached>, told: &[u8]) -> Result<(), CliError> {
    let home = context.home()?;
    let settings: Settings = serde_json::from_slice(told)
        .map_err(|error| CliError::new(code::ATTACH, "the settings that the servers were told are not understood").why(error))?;
    let runtime = postern_runtime::workers::runtime()?;
    runtime.block_on(servers::run(&home, settings, None, |ready| {
        if let Some(attached) = attached.take() {
            attached.ready(ready);
        }
    }))
}

fn serve(context: &Context, args: &Args) -> Result<(), CliError> {
    let file = match &args.config {
        Some(path) => read_file(path)?,
        None => File::default(),
    };
    let home = context.home_or_new()?;
    let settings = settings(context, &home, args, &file)?;
    // Whoever has joined never looks at its ticket again, not even whether the file is still there.
    let joined = !settings.roles.relay() || settings.roles.authority() || home.has_joined_relay()?;
    let ticket = match args.ticket.as_ref().or(file.ticket.as_ref()).filter(|_| !joined) {
        Some(argument) => Some(source::ticket(context, argument, args.ticket.is_some())?.ticket),
        None => None,
    };
    let runtime = postern_runtime::workers::runtime()?;
    runtime.block_on(servers::run(&home, settings, ticket, |ready| {
        if let Some(metrics) = &ready.metrics {
            context.output().say(format_args!("metrics at http://{metrics}/metrics"));
        }
        context.output().say(format_args!("serving on {}, told to others as {}", ready.address, ready.advertised));
    }))
}

fn settings(context: &Context, home: &Home, args: &Args, file: &File) -> Result<Settings, CliError> {
    let kept = Settings::load(home)?;
    let first = kept.is_none();
    let mut settings = kept.unwrap_or_else(|| Settings::new(Roles::All));
    if let Some(roles) = args.what.and_then(What::roles).or(file.roles) {
        if !first && roles != settings.roles && roles.authority() != settings.roles.authority() && home.has_authority()? {
            context.output().warn("the authority of this home does not run with these roles");
        }
        settings.roles = roles;
    }
    if let Some(listen) = args.listen.as_ref().or(file.listen.as_ref()) {
        settings.listen = listen.clone();
    }
    if let Some(advertise) = args.advertise.as_ref().or(file.advertise.as_ref()) {
        settings.advertise = Some(advertise.clone());
    }
    settings.metrics = args.metrics.as_ref().or(file.metrics.as_ref()).cloned();
    if let Some(lifetime) = args.credential_lifetime.or(file.credential_lifetime) {
        if !settings.roles.authority() {
            return Err(CliError::new(code::USAGE, "the lifetime of credentials is the authority's, which does not run here")
                .try_this("set it where the authority is started"));
        }
        settings.credential_lifetime = Some(lifetime);
    }
    if first {
        settings.project = file.project.clone();
    }
    if settings.roles.authority() && settings.administrator.is_none() {
        settings.administrator = Some(administrator(context, home)?);
    }
    Ok(settings)
}

/// The identity that becomes the administrator: this home's default one.
pub fn administrator(context: &Context, home: &Home) -> Result<IdentityName, CliError> {
    Ok(home.default_identity_or_create(context.now())?.name().clone())
}

fn read_file(path: &std::path::Path) -> Result<File, CliError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::new(code::CONFIGURATION, format!("cannot read `{shown}`")).why(error))?;
    serde_yaml::from_str(&text)
        .map_err(|error| CliError::new(code::CONFIGURATION, format!("`{shown}` is not a configuration of servers")).why(error))
}

fn stop_servers(context: &Context) -> Result<(), CliError> {
    if stop::servers(&context.home()?)? {
        context.output().say("stopped the servers");
    } else {
        context.output().say("the servers do not run");
    }
    Ok(())
}
