//! Logs: to standard error, as text for people or as JSON for machines.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Pretty,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a log format: use pretty or json")]
pub struct InvalidLogFormat(String);

impl FromStr for LogFormat {
    type Err = InvalidLogFormat;

    fn from_str(text: &str) -> Result<Self, InvalidLogFormat> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(InvalidLogFormat(text.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        })
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Copy)]
pub struct Telemetry {
    pub format: LogFormat,
    /// How often `-v` was given; beats the environment.
    pub verbosity: u8,
    /// Daemons log the events of their life; a command is silent unless asked.
    pub daemon: bool,
    pub color: bool,
}

/// A log filter in the environment that is none.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is no log filter: write a level (info), or targets with levels (postern_node=debug,warn)")]
pub struct InvalidFilter {
    variable: &'static str,
    source: ParseError,
}

/// Starts to log for the rest of the process. A second call changes nothing.
///
/// # Errors
/// Where `POSTERN_LOG` or `RUST_LOG` is no filter; nothing is logged then.
pub fn init(telemetry: Telemetry) -> Result<(), InvalidFilter> {
    let filter = filter(telemetry, |name| std::env::var(name).ok())?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match telemetry.format {
        LogFormat::Pretty => lines.with_ansi(telemetry.color && std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    // The error is that logging was started before.
    drop(started);
    Ok(())
}

fn filter(telemetry: Telemetry, variable: impl Fn(&str) -> Option<String>) -> Result<EnvFilter, InvalidFilter> {
    let verbose = match (telemetry.verbosity, telemetry.daemon) {
        (0, _) => {
            for name in ["POSTERN_LOG", "RUST_LOG"] {
                if let Some(text) = variable(name).filter(|text| !text.is_empty()) {
                    return EnvFilter::builder().parse(text).map_err(|source| InvalidFilter { variable: name, source });
                }
            }
            if telemetry.daemon { "warn,postern=info" } else { "off" }
        }
        (1, false) => "warn,postern=info",
        (1, true) | (2, false) => "warn,postern=debug",
        // The targets of all our crates begin so. Other crates at this level would print what they were given.
        _ => "warn,postern=trace",
    };
    Ok(EnvFilter::new(verbose))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides() {
        let text = |verbosity, daemon, env: &'static [(&str, &str)]| {
            let telemetry = Telemetry { format: LogFormat::Pretty, verbosity, daemon, color: false };
            filter(telemetry, |name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
                .map(|filter| filter.to_string())
        };
        assert_eq!(text(0, false, &[]).unwrap(), "off");
        assert!(text(0, true, &[]).unwrap().contains("postern=info"));
        assert_eq!(text(0, false, &[("POSTERN_LOG", "debug"), ("RUST_LOG", "trace")]).unwrap(), "debug");
        assert_eq!(text(0, false, &[("RUST_LOG", "trace")]).unwrap(), "trace");
        assert!(text(3, false, &[("RUST_LOG", "error")]).unwrap().contains("postern=trace"));
        assert!(text(0, false, &[("RUST_LOG", "a=b=c")]).unwrap_err().to_string().starts_with("RUST_LOG"));
    }
}
