//! How connections end through each way, beside how they end with plain TCP. The cases are those of the project's own suite.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use postern_test_support::{ENDINGS, EndingServer, NOBODY, Patience, Reserved, nobody_there};
use serde_json::{Map, Value, json};

use crate::Result;
use crate::options::Options;
use crate::run::say;
use crate::warden::Warden;
use crate::ways::{self, Kind, Setting, Started};

/// What became of every case, by way: how it differs from plain TCP, where it does.
pub struct Endings {
    ways: Vec<(Kind, Vec<std::result::Result<(), String>>)>,
}

/// Tries every case through each of `kinds`, started anew.
pub fn try_all(options: &Options, warden: &Warden, kinds: impl Iterator<Item = Kind>) -> Endings {
    // A step that takes longer hangs: all of it is on one machine.
    let pause = Duration::from_millis(if options.smoke { 50 } else { 1_000 });
    let patience = Patience { step: Duration::from_secs(5), pause };
    let tried = |kind: Kind| {
        say(&format!("endings of {}", kind.name()));
        let mut faults = match with_server(kind, options, warden, patience) {
            Ok(faults) => faults,
            Err(error) => ENDINGS.iter().map(|_| Err(error.to_string())).collect(),
        };
        faults.push(with_nobody(kind, options, warden, patience).unwrap_or_else(|error| Err(error.to_string())));
        (kind, faults)
    };
    Endings { ways: kinds.map(tried).collect() }
}

fn with_server(
    kind: Kind,
    options: &Options,
    warden: &Warden,
    patience: Patience,
) -> Result<Vec<std::result::Result<(), String>>> {
    let server = EndingServer::start();
    through(kind, options, warden, server.address(), |entry| {
        // A connection that only looked whether somebody listens may come late, and be taken for the one that is tried.
        let tried = |ending| server.tries(ending, entry, patience).or_else(|_| server.tries(ending, entry, patience));
        ENDINGS.iter().map(tried).collect()
    })
}

fn with_nobody(kind: Kind, options: &Options, warden: &Warden, patience: Patience) -> Result<std::result::Result<(), String>> {
    let nobody = Reserved::new();
    let target = SocketAddr::from(([127, 0, 0, 1], nobody.port()));
    through(kind, options, warden, target, |entry| nobody_there(entry, patience).map(drop))
}

/// Starts a way to `service`, and does `work` at its entry.
fn through<T>(
    kind: Kind,
    options: &Options,
    warden: &Warden,
    service: SocketAddr,
    work: impl FnOnce(SocketAddr) -> T,
) -> Result<T> {
    match ways::start(kind, &Setting { options, warden, service, hosts: None })? {
        Started::Runs(way) => Ok(work(way.entry)),
        Started::Missing(how) => Err(how.into()),
    }
}

impl Endings {
    /// One row a case; below, how it differs where it does.
    pub fn write(&self, out: &mut String) -> std::fmt::Result {
        let names = || ENDINGS.iter().map(|ending| ending.name).chain([NOBODY]);
        let width = names().map(str::len).max().unwrap_or(0);
        writeln!(out, "\nHow a connection ends: = as with plain TCP, × not so")?;
        write!(out, "{:width$}", "")?;
        for (kind, _) in &self.ways {
            write!(out, " {:>13}", kind.name())?;
        }
        writeln!(out)?;
        for (row, name) in names().enumerate() {
            write!(out, "{name:<width$}")?;
            for (_, faults) in &self.ways {
                write!(out, " {:>13}", if faults[row].is_ok() { '=' } else { '×' })?;
            }
            writeln!(out)?;
        }
        for (kind, faults) in &self.ways {
            for (name, fault) in names().zip(faults) {
                if let Err(fault) = fault {
                    writeln!(out, "{}, {name}: {fault}", kind.name())?;
                }
            }
        }
        Ok(())
    }

    /// By case and way: null, or how it differs.
    pub fn json(&self) -> Value {
        let names = ENDINGS.iter().map(|ending| ending.name).chain([NOBODY]);
        let row = |row: usize| -> Map<_, _> {
            self.ways.iter().map(|(kind, faults)| (kind.name().to_owned(), json!(faults[row].as_ref().err()))).collect()
        };
        names.enumerate().map(|(number, name)| (name.to_owned(), Value::Object(row(number)))).collect::<Map<_, _>>().into()
    }
}
