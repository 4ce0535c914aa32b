//! `audit reconcile`: the stream log of the other company against the one of this home.

mod compare;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use postern_node::stream_log::{Entry, FILES, Side, StreamLine};
use postern_proto::id::Identifier;
use postern_runtime::home::Home;

use self::compare::{Document, Shown, compare};
use super::cell;
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Versioned, table};

/// Longest line that is read: three times what a node writes.
const MAX_LINE: u64 = 4 * 1024;

/// Most lines of one side: ten times what a node keeps; some 500 bytes of memory each.
const MAX_LINES: usize = 2_000_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The other side's streams.jsonl, or several of them one after the other
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What one side wrote down.
#[derive(Debug, Default)]
struct Log {
    /// By stream and side: a node that reaches its own outlet writes both.
    streams: BTreeMap<(String, bool), StreamLine>,
    /// Whose nodes wrote it.
    own: BTreeSet<Identifier>,
    lost: u64,
    killed: u64,
    lines: usize,
}

pub fn run(context: &Context, args: &Args) -> Result<ExitCode, CliError> {
    let here = of_home(&context.home()?)?;
    let mut there = Log::default();
    let file = File::open(&args.file)
        .map_err(|error| unreadable(&args.file, &error).try_this("give the streams.jsonl of the other side's node"))?;
    read(&mut there, file, &args.file)?;
    if there.own.is_empty() {
        return Err(CliError::new(code::AUDIT_NO_STREAMS, format!("{} has no line of a stream", args.file.display()))
            .try_this("ask the other side for the streams.jsonl of its node"));
    }
    let document = Versioned::new(compare(&here, &there));
    let ok = document.ok;
    context.output().show(&document, || plain(&document))?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn unreadable(path: &Path, error: &std::io::Error) -> CliError {
    CliError::new(code::UNREADABLE_FILE, format!("cannot open `{}`", path.display())).why(error)
}

/// What all nodes of this home wrote, the oldest first.
fn of_home(home: &Home) -> Result<Log, CliError> {
    let mut log = Log::default();
    for node in home.nodes()? {
        for name in FILES.iter().rev() {
            let path = node.dir().path().join(name);
            match File::open(&path) {
                Ok(file) => read(&mut log, file, &path)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(&path, &error)),
            }
        }
    }
    Ok(log)
}

fn read(log: &mut Log, file: File, path: &Path) -> Result<(), CliError> {
    let fault = |error: std::io::Error| CliError::from_error(code::UNREADABLE_FILE, &error).why(path.display());
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(fault)?;
        if read == 0 {
            return Ok(());
        }
        log.lines += 1;
        if log.lines > MAX_LINES {
            return Err(CliError::new(code::TOO_LONG, format!("{} has more than {MAX_LINES} lines", path.display()))
                .try_this("compare a part of it: only the lines of the days in question"));
        }
        match serde_json::from_slice::<Entry>(&line) {
            Ok(Entry::Stream(stream)) => log.take(*stream),
            Ok(Entry::Lost(lost)) => log.lost = log.lost.saturating_add(lost.lost),
            Ok(Entry::Killed(_)) => log.killed += 1,
            // Cut by a crash, or not of a stream log.
            Err(_) => log.lost += 1,
        }
    }
}

impl Log {
    fn take(&mut self, line: StreamLine) {
        self.own.extend(line.own());
        // Without an id it was a connection that found no channel: the other side cannot know of it.
        if let Some(stream) = &line.stream {
            self.streams.insert((stream.clone(), line.side == Side::Inlet), line);
        }
    }
}

fn plain(document: &Document) -> String {
    let mut text = format!("{} streams are the same on both sides\n", document.agree);
    if !document.differ.is_empty() {
        let rows: Vec<_> = document
            .differ
            .iter()
            .map(|found| vec![cell(&found.stream), found.field.to_owned(), cell(&found.here), cell(&found.there)])
            .collect();
        text.push_str(&table(&["STREAM", "WHAT DIFFERS", "HERE", "THERE"], &rows));
    }
    for (side, streams) in [("here", &document.only_here), ("there", &document.only_there)] {
        if !streams.is_empty() {
            text.push_str(&format!("{} streams are only {side}\n", streams.len()));
            let row = |shown: &Shown| vec![cell(&shown.stream), cell(&shown.at), cell(&shown.outlet), cell(&shown.end)];
            text.push_str(&table(&["STREAM", "AT", "OUTLET", "END"], &streams.iter().map(row).collect::<Vec<_>>()));
        }
    }
    match &document.compared {
        Some(span) => text.push_str(&format!("compared: what ended here from {} to {}\n", cell(&span.from), cell(&span.to))),
        None if document.not_compared > 0 => text.push_str("no stream is in both: nothing was compared\n"),
        None => {}
    }
    if document.not_compared > 0 {
        text.push_str(&format!(
            "{} streams before or after were not compared: one of the logs does not reach as far\n",
            document.not_compared
        ));
    }
    if document.broken_off > 0 {
        text.push_str(&format!(
            "{} connections broke off before any answer, and may be among the lines that the other side lost\n",
            document.broken_off
        ));
    }
    for (side, lost) in [("here", document.lost_here), ("there", document.lost_there)] {
        if lost > 0 {
            text.push_str(&format!("{lost} lines {side} were lost or cannot be read\n"));
        }
    }
    for (side, killed) in [("here", document.killed_here), ("there", document.killed_there)] {
        if killed > 0 {
            text.push_str(&format!("{killed} times a node {side} was killed: lines of that moment may be missing\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests;
