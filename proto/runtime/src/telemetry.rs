//! Logs: to standard error, as text for people or as JSON for machines.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

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
    let format = telemetry.format;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would say by `eprintln!` that nothing can be written there, and that panics.
        .log_internal_errors(false)
        .with_writer(move || Lines { to: io::stderr(), format, lost: &LOST });
    let started = match telemetry.format {
        LogFormat::Pretty => lines.with_ansi(telemetry.color && std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    // The error is that logging was started before.
    drop(started);
    Ok(())
}

/// Lines that could not be written since one could.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Where lines go. What cannot be written, because a disk is full or a reader is gone, is counted and forgotten: whatever wanted to say something
/// goes on. The next line that can be written says how many are missing before it.
struct Lines<'a, W> {
    to: W,
    format: LogFormat,
    lost: &'a AtomicU64,
}

impl<W: Write> Write for Lines<'_, W> {
    /// `line` is a whole one.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        // The last one may have been written by half.
        let told = match (lost, self.format) {
            (0, _) => Ok(()),
            (_, LogFormat::Pretty) => writeln!(self.to, "\n{lost} lines of the log are missing here: they could not be written"),
            (_, LogFormat::Json) => writeln!(
                self.to,
                "\n{{\"level\":\"WARN\",\"message\":\"lines of the log are missing here: they could not be written\",\"lost\":{lost}}}"
            ),
        };
        if told.and_then(|()| self.to.write_all(line)).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // As above.
        let _ = self.to.flush();
        Ok(())
    }
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

    /// Takes so many bytes, and no more.
    struct Disk {
        room: usize,
        holds: Vec<u8>,
    }

    impl Write for &mut Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.holds.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_fail_nothing_and_are_counted() {
        for (format, told) in [
            (LogFormat::Pretty, "3 lines of the log are missing here: they could not be written\n"),
            (LogFormat::Json, "\"lost\":3}\n"),
        ] {
            let lost = AtomicU64::new(0);
            let mut disk = Disk { room: 10, holds: Vec::new() };
            let mut say = |room: usize, line: &str| {
                disk.room += room;
                Lines { to: &mut disk, format, lost: &lost }.write_all(line.as_bytes()).unwrap();
            };
            say(0, "first\n");
            for _ in 0..3 {
                say(0, "nobody reads this\n");
            }
            say(1000, "second\n");
            say(0, "third\n");
            let text = String::from_utf8(disk.holds).unwrap();
            assert!(text.starts_with("first\nnobo\n") && text.ends_with(&format!("{told}second\nthird\n")), "{text}");
        }
    }

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
