//! What stands behind an argument that may be a path, a URL, `-` or the text itself.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;

use postern_proto::address::HostPort;
use postern_proto::secret::SecretText;
use postern_proto::ticket::{PREFIX, Ticket, TicketError};

use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::http;

/// Longest ticket file or line: a ticket has a few hundred bytes.
const MAX_TICKET: u64 = 16 * 1024;
/// Longest configuration; above the limit of the configuration itself, whose own message says more.
const MAX_CONFIGURATION: u64 = 8 * 1024 * 1024;
/// Longest line that `-` in a route is replaced by.
const MAX_LINE: u64 = 4 * 1024;

/// A ticket, and the text that it was read from.
#[derive(Debug)]
pub struct TicketSource {
    pub text: SecretText,
    pub ticket: Ticket,
}

/// Where a configuration or ticket is to be read from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place<'a> {
    Stdin,
    File(&'a Path),
    Url(String),
}

/// Whether a ticket argument stood on the command line, rather than in the environment, which only its owner can see.
pub fn is_in_arguments(argument: &str) -> bool {
    std::env::var_os("ENROLLMENT_TICKET").is_none_or(|value| value.to_str() != Some(argument))
}

/// Reads the ticket that `argument` names: a path, a URL, `-` or the text itself. `in_arguments` says that it stood on the
/// command line, where a ticket's text is visible to other users.
pub fn ticket(context: &Context, argument: &str, in_arguments: bool) -> Result<TicketSource, CliError> {
    let argument = argument.trim();
    if argument.starts_with(PREFIX) {
        if in_arguments {
            context.output().warn(
                "the ticket stands on the command line, where other users of this machine can see it; \
                 give a file or - for standard input instead",
            );
        }
        return parsed(SecretText::new(argument.to_owned()));
    }
    let bytes = match place(argument) {
        Place::File(path) if !path.exists() => {
            return Err(CliError::new(code::TICKET_NOT_FOUND, format!("there is no ticket file `{}`", path.display()))
                .try_this("ask for a ticket with `postern project ticket`, and give its file, URL or text"));
        }
        place => read(context, &place, MAX_TICKET, "ticket")?,
    };
    match String::from_utf8(bytes) {
        Ok(text) => parsed(SecretText::new(text.trim().to_owned())),
        Err(_) => Err(TicketError::NotATicket.into()),
    }
}

fn parsed(text: SecretText) -> Result<TicketSource, CliError> {
    let ticket = text.expose_secret().parse()?;
    Ok(TicketSource { text, ticket })
}

/// Reads the configuration that `argument` names: a path, a URL, or `-`.
pub fn configuration(context: &Context, argument: &str) -> Result<Vec<u8>, CliError> {
    match place(argument) {
        Place::File(path) if !path.exists() => {
            let error = CliError::new(code::CONFIGURATION_NOT_FOUND, format!("there is no file `{}`", path.display()));
            // Each of the endings that one may have meant.
            if let Some(near) =
                ["yaml", "yml", "json"].map(|ending| path.with_extension(ending)).iter().find(|near| near.is_file())
            {
                return Err(error.try_this(format!("did you mean `{}`?", near.display())));
            }
            Err(error.try_this("a node's name has only the characters A-Z a-z 0-9 _ -; anything else is taken as a path or URL"))
        }
        place => read(context, &place, MAX_CONFIGURATION, "configuration"),
    }
}

/// Reads a text file of at most `limit` bytes.
pub fn text_file(context: &Context, path: &Path, limit: u64) -> Result<String, CliError> {
    if !path.exists() {
        return Err(CliError::not_found("file", path.display()));
    }
    let bytes = read(context, &Place::File(path), limit, "file")?;
    String::from_utf8(bytes).map_err(|error| CliError::from_error(code::UNREADABLE_FILE, &error))
}

/// Replaces `-` at the beginning of a route (`-/service/x`) by a line of standard input.
pub fn route(argument: &str) -> Result<String, CliError> {
    let Some(rest) = argument.strip_prefix('-').filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return Ok(argument.to_owned());
    };
    let mut line = String::new();
    io::stdin().lock().take(MAX_LINE).read_line(&mut line)?;
    let line = line.trim().trim_end_matches('/');
    if line.is_empty() {
        return Err(CliError::new(code::EMPTY_STDIN, format!("`{argument}` takes a line of standard input, and there was none")));
    }
    Ok(format!("{line}{rest}"))
}

fn place(argument: &str) -> Place<'_> {
    let path = Path::new(argument);
    if argument == "-" {
        Place::Stdin
    } else if argument.starts_with("http://") || argument.starts_with("https://") {
        Place::Url(argument.to_owned())
    } else if !path.exists() && is_url_without_scheme(argument) {
        Place::Url(format!("http://{argument}"))
    } else {
        Place::File(path)
    }
}

/// Whether `text`, which is no file, reads as `HOST:PORT/PATH` or `HOST.DOMAIN/PATH`.
fn is_url_without_scheme(text: &str) -> bool {
    let Some((authority, path)) = text.split_once('/') else { return false };
    let is_host = |host: &str| HostPort::new(host, 80).is_ok();
    !path.is_empty()
        && match authority.rsplit_once(':') {
            Some(_) => authority.parse::<HostPort>().is_ok(),
            // `dir.d/node.yaml` reads so, too; that a file is missing is then said as a host that is not found.
            None => authority == "localhost" || (authority.contains('.') && !authority.starts_with('.') && is_host(authority)),
        }
}

fn read(context: &Context, place: &Place<'_>, limit: u64, what: &str) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    match place {
        Place::Stdin => io::stdin().lock().take(limit + 1).read_to_end(&mut bytes).map(drop)?,
        Place::Url(url) => bytes = context.block_on(http::get(url, limit))??,
        Place::File(path) => {
            let fault = |error: io::Error| {
                CliError::from_error(code::UNREADABLE_FILE, &error).why(format!("reading `{}`", path.display()))
            };
            File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(fault)?;
        }
    }
    if bytes.len() as u64 > limit {
        return Err(CliError::new(code::TOO_LONG, format!("the {what} is longer than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_arguments_lead() {
        assert_eq!(place("-"), Place::Stdin);
        assert_eq!(place("http://x/y"), Place::Url("http://x/y".into()));
        assert_eq!(place("127.0.0.1:80/n.yaml"), Place::Url("http://127.0.0.1:80/n.yaml".into()));
        assert_eq!(place("localhost:8080/a"), Place::Url("http://localhost:8080/a".into()));
        assert_eq!(place("files.example/a.yaml"), Place::Url("http://files.example/a.yaml".into()));
        for path in ["a.yaml", "./a.yaml", "dir/a.yaml", "/a/b", "../x/y"] {
            assert_eq!(place(path), Place::File(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn routes_without_a_dash_stay() {
        assert_eq!(route("/service/x").unwrap(), "/service/x");
        assert_eq!(route("-x").unwrap(), "-x");
    }
}
