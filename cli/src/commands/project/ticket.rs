//! `project ticket`: an admission to the project, for somebody else.

use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::authority::{Answer, Attributes, Bound, Grant, RelayPermission, Request, Role, TicketRequest};
use postern_proto::name::{RelayName, is_beginning_of_identifier};
use postern_proto::policy::Expr;
use postern_proto::ticket::Ticket;
use postern_proto::time::parse_duration;

use crate::authority::{Session, unexpected};
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::servers::Settings;

/// Names that begin so are kept for what the authority itself says of members.
const RESERVED: &str = "postern-";

/// Make a ticket that admits an identity to the project
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Standard output is the ticket and nothing else. It is a secret until it is used.

Examples:
  postern project ticket --attribute web > web.ticket
  postern project ticket --expires-in 24h --attribute app=billing --relay acme > acme.ticket
  postern project ticket --enroller --may-grant web --may-grant 'relay=acme*' > enroller.ticket
  postern project ticket --for web-1 --attribute web > web-1.ticket
  postern project ticket --relay-server relay.example:4000 > relay.ticket")]
pub struct Args {
    /// An attribute of the new member, which policies speak of; without a value it is "true". May be given several times
    #[arg(long = "attribute", value_name = "K[=V]")]
    attributes: Vec<String>,
    /// A relay name that the new member may claim; * for any that nobody else holds. May be given several times
    #[arg(long = "relay", value_name = "NAME")]
    relays: Vec<String>,
    /// The new member may itself make tickets
    #[arg(long)]
    enroller: bool,
    /// What an enroller may put into its tickets: an attribute, with any value where none is given, relay=NAME with * at the end for all that begin so, or role=enroller
    /// for enrollers that may grant no more than it may itself
    /// [default: any attribute, and any relay name that no member enrolled by others holds]
    #[arg(long = "may-grant", value_name = "K[=V]|relay=NAME*|role=enroller", requires = "enroller")]
    may_grant: Vec<String>,
    /// The new member may do everything; only administrators can make such a ticket
    #[arg(long, conflicts_with = "enroller")]
    administrator: bool,
    /// The ticket is for a relay server, which is to be reached here
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["enroller", "administrator", "attributes", "relays"])]
    relay_server: Option<HostPort>,
    /// Whom the ticket is for: an identity's identifier, which nobody else can use it with, or its name, with * at the end for all
    /// that begin so, against mix-ups
    #[arg(long = "for", value_name = "IDENTIFIER|NAME*")]
    bound: Option<String>,
    /// How long the ticket can be used, from 1s on: 30s, 10m, 24h, 7d
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    expires_in: Duration,
    /// How many identities can use it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    usage_count: u32,
}

pub fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let request = request(args)?;
    let Answer::Ticket { ticket } = Session::open(context)?.call(context, Request::IssueTicket(request))? else {
        return Err(unexpected());
    };
    let read: Ticket = ticket.expose_secret().parse()?;
    if read.addresses.iter().all(HostPort::is_loopback) {
        // Servers of this home that listen everywhere lack only a name.
        let listen = Settings::load(&context.home()?)?.map(|settings| settings.listen).filter(|listen| !listen.is_loopback());
        let flags = listen.map_or_else(
            || "--listen 0.0.0.0:4000 --advertise HOST".to_owned(),
            |listen| format!("--advertise HOST:{}", listen.port()),
        );
        context.output().warn(format_args!(
            "only this machine can use the ticket, because the servers are reached at a loopback address. For others, where the\n  \
             servers run: postern enroll {flags}"
        ));
    }
    context
        .output()
        .say(format_args!("ticket {}, good until {}; who used it: postern ticket show {}", read.id, read.expires, read.id));
    context.output().line(ticket.expose_secret())
}

/// What the flags ask for; the authority decides whether the caller may have it.
fn request(args: Args) -> Result<TicketRequest, CliError> {
    let attributes = attributes(&args.attributes)?;
    let bound = args.bound.map(bound).transpose()?;
    let shared = args.usage_count > 1;
    let relays = args.relays.iter().map(|name| permission(name, shared)).collect::<Result<_, _>>()?;
    let role = match (args.relay_server, args.administrator, args.enroller) {
        (Some(address), ..) => Role::RelayServer {
            address: address.dialable().map_err(|error| CliError::new(code::INVALID_ADDRESS, error.to_string()))?,
        },
        (None, true, _) => Role::Administrator,
        (None, false, true) => {
            Role::Enroller { may_grant: args.may_grant.iter().map(|text| grant(text)).collect::<Result<_, _>>()? }
        }
        (None, false, false) => Role::Member,
    };
    if args.expires_in < Duration::from_secs(1) {
        return Err(CliError::new(code::EXPIRES_IN, "a ticket must be usable for at least 1s"));
    }
    Ok(TicketRequest { attributes, relays, role, expires_in: args.expires_in.as_secs(), max_uses: args.usage_count, bound })
}

/// Whom `--for` means: what is no identifier is a name, which the authority checks.
fn bound(text: String) -> Result<Bound, CliError> {
    if let Ok(identifier) = text.parse() {
        return Ok(Bound::Identity(identifier));
    }
    if is_beginning_of_identifier(text.strip_suffix('*').unwrap_or(&text)) {
        let error = CliError::new(code::INVALID_NAME, format!("`{text}` is a part of an identifier, and nobody is called so"));
        return Err(error
            .try_this("write the whole identifier (`P` and 64 digits), as `postern identity show` tells it on their machine"));
    }
    Ok(Bound::Name(text))
}

/// The attributes that several `K[=V]` name.
pub fn attributes(texts: &[String]) -> Result<Attributes, CliError> {
    let mut attributes = Attributes::new();
    for text in texts {
        let (key, value) = attribute(text)?;
        if attributes.insert(key.to_owned(), value.unwrap_or("true").to_owned()).is_some() {
            return Err(CliError::new(code::ATTRIBUTE_TWICE, format!("the attribute `{key}` is given twice")));
        }
    }
    Ok(attributes)
}

/// `K[=V]`, with a key that may be given to members.
fn attribute(text: &str) -> Result<(&str, Option<&str>), CliError> {
    let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
    let pointer = match key {
        "ockam-role" => Some("for who may make tickets, use --enroller or --administrator"),
        "ockam-relay" | "relay" => Some("for relay names, use --relay NAME"),
        // Other values are as good as any attribute's, and policies may ask for them.
        "role" if matches!(value, Some("enroller" | "administrator")) => {
            Some("for who may make tickets, use --enroller or --administrator")
        }
        _ if key.starts_with(RESERVED) => Some("choose another name: those that begin with `postern-` are reserved"),
        _ => None,
    };
    if let Some(pointer) = pointer {
        return Err(CliError::new(code::RESERVED_ATTRIBUTE, format!("the attribute `{text}` cannot be given")).try_this(pointer));
    }
    if key.is_empty() {
        return Err(CliError::new(code::INVALID_ATTRIBUTE, "an attribute needs a name: write NAME or NAME=VALUE"));
    }
    // What no policy could ask about serves nobody.
    if format!("(= subject.{key} \"\")").parse::<Expr>().is_err() {
        let error = CliError::new(code::INVALID_ATTRIBUTE, format!("no policy can ask for an attribute called `{key}`"));
        return Err(error.try_this("choose a name that can stand in an expression, such as `inlet-to-saas`"));
    }
    Ok((key, value))
}

/// Several identities that use one ticket hold its relay names together; else a name belongs to the one that uses it.
fn permission(name: &str, shared: bool) -> Result<RelayPermission, CliError> {
    if name == "*" {
        return Ok(RelayPermission::Any);
    }
    let name: RelayName = name.parse()?;
    Ok(if shared { RelayPermission::Shared(name) } else { RelayPermission::Name(name) })
}

fn grant(text: &str) -> Result<Grant, CliError> {
    if text == "role=enroller" {
        return Ok(Grant::Enroller);
    }
    match text.strip_prefix("relay=") {
        Some(pattern) => {
            let stem = pattern.strip_suffix('*').unwrap_or(pattern);
            if !stem.is_empty() {
                stem.parse::<RelayName>()?;
            } else if pattern.is_empty() {
                return Err(CliError::new(code::INVALID_GRANT, "`relay=` needs a relay name, or * for all"));
            }
            Ok(Grant::Relay { pattern: pattern.to_owned() })
        }
        None => {
            let (key, value) = attribute(text)?;
            Ok(Grant::Attribute { key: key.to_owned(), value: value.map(str::to_owned) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn of(line: &str) -> Result<TicketRequest, String> {
        let words = std::iter::once("ticket").chain(line.split_whitespace());
        let parsed = Line::try_parse_from(words).map_err(|error| error.kind().to_string())?;
        request(parsed.args).map_err(|error| error.code)
    }

    #[test]
    fn the_scenario() {
        let request = of("--expires-in 24h --usage-count 1 --attribute outlet-to-saas --attribute inlet-from-saas \
             --relay saas-relay --enroller")
        .unwrap();
        assert_eq!(request.attributes["outlet-to-saas"], "true");
        assert_eq!(request.relays, [RelayPermission::Name("saas-relay".parse().unwrap())]);
        assert_eq!(request.role, Role::Enroller { may_grant: vec![] });
        assert_eq!((request.expires_in, request.max_uses), (86_400, 1));
    }

    #[test]
    fn roles_exclude_each_other_and_reserved_names_are_refused() {
        assert!(of("--enroller --administrator").is_err());
        assert!(of("--may-grant a").is_err());
        assert!(of("--relay-server h:1 --attribute a").is_err());
        assert_eq!(of("--attribute ockam-role=enroller"), Err("RESERVED_ATTRIBUTE".into()));
        assert_eq!(of("--attribute ockam-relay=x"), Err("RESERVED_ATTRIBUTE".into()));
        assert_eq!(of("--attribute postern-x"), Err("RESERVED_ATTRIBUTE".into()));
        for confused in ["role=enroller", "role=administrator", "relay=foo", "relay"] {
            assert_eq!(of(&format!("--attribute {confused}")), Err("RESERVED_ATTRIBUTE".into()), "{confused}");
        }
        assert_eq!(of("--enroller --may-grant role=administrator").unwrap_err(), "RESERVED_ATTRIBUTE");
        assert_eq!(of("--attribute role=ops").unwrap().attributes["role"], "ops");
        assert_eq!(of("--attribute a --attribute a=b"), Err("ATTRIBUTE_TWICE".into()));
        // No expression could name these.
        assert_eq!(of("--attribute é=1"), Err("INVALID_ATTRIBUTE".into()));
        assert_eq!(of("--attribute a:b"), Err("INVALID_ATTRIBUTE".into()));
        assert_eq!(of("--attribute =1"), Err("INVALID_ATTRIBUTE".into()));
        assert!(of("--attribute identifier.x=1 --attribute resource.a_b-c --attribute and=b=c").is_ok());
        assert_eq!(of("--relay-server h:0"), Err("INVALID_ADDRESS".into()));
        let request = of("--enroller --may-grant a --may-grant b=c --may-grant relay=acme*").unwrap();
        let Role::Enroller { may_grant } = request.role else { panic!("an enroller") };
        assert_eq!(may_grant[2], Grant::Relay { pattern: "acme*".into() });
        assert_eq!(of("--enroller --may-grant role=enroller").unwrap().role, Role::Enroller { may_grant: vec![Grant::Enroller] });
        assert_eq!(of("--for web-*").unwrap().bound, Some(Bound::Name("web-*".into())));
        let identifier = format!("P{}", "ab".repeat(32));
        assert_eq!(of(&format!("--for {identifier}")).unwrap().bound, Some(Bound::Identity(identifier.parse().unwrap())));
        // Cut short, it is no name.
        for cut in [&identifier[..8], &identifier[..64], &format!("{}*", &identifier[..9]), &format!("{identifier}0")] {
            assert_eq!(of(&format!("--for {cut}")), Err("INVALID_NAME".into()), "{cut}");
        }
        assert_eq!(of("--for Paddington").unwrap().bound, Some(Bound::Name("Paddington".into())));
        assert!(of("--usage-count 0").is_err() && of("--expires-in 10").is_ok() && of("--expires-in x").is_err());
    }
}
