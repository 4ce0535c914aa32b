//! `audit reconcile`: the stream log of the other company against the one of this home.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use postern_node::stream_log::{Decision, Entry, FILES, Side, StreamLine};
use postern_proto::id::Identifier;
use postern_runtime::home::Home;
use serde::Serialize;

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

#[derive(Debug, Serialize)]
struct Document {
    ok: bool,
    /// Streams that both wrote down, without a difference.
    agree: usize,
    differ: Vec<Difference>,
    only_here: Vec<Shown>,
    only_there: Vec<Shown>,
    /// Streams of a time from which the other side has nothing any more, or not yet.
    not_compared: usize,
    /// Lines that were lost or cannot be read, on each side.
    lost_here: u64,
    lost_there: u64,
    /// How often a node was killed on each side, so that lines may be missing.
    killed_here: u64,
    killed_there: u64,
}

#[derive(Debug, Serialize)]
struct Difference {
    stream: String,
    /// What differs: a field of the lines.
    field: &'static str,
    here: String,
    there: String,
}

#[derive(Debug, Clone, Serialize)]
struct Shown {
    stream: String,
    at: String,
    peer: Option<Identifier>,
    outlet: String,
    decision: Decision,
    end: String,
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

    /// The first and last time that it covers.
    fn covered(&self) -> (String, String) {
        let starts = self.streams.values().map(|line| &line.started_at).min();
        let ends = self.streams.values().map(|line| &line.at).max();
        (starts.cloned().unwrap_or_default(), ends.cloned().unwrap_or_default())
    }
}

fn compare(here: &Log, there: &Log) -> Document {
    let mut document = Document {
        ok: true,
        agree: 0,
        differ: Vec::new(),
        only_here: Vec::new(),
        only_there: Vec::new(),
        not_compared: 0,
        lost_here: here.lost,
        lost_there: there.lost,
        killed_here: here.killed,
        killed_there: there.killed,
    };
    let (covered_here, covered_there) = (here.covered(), there.covered());
    for ((stream, inlet), line) in here.streams.iter().filter(|(_, line)| is_with(line, there)) {
        match there.streams.get(&(stream.clone(), !inlet)) {
            Some(other) => {
                let found = differences(stream, line, other);
                document.agree += usize::from(found.is_empty());
                document.differ.extend(found);
            }
            None if is_covered(line, &covered_there) => document.only_here.push(shown(stream, line)),
            None => document.not_compared += 1,
        }
    }
    for ((stream, inlet), line) in there.streams.iter().filter(|(_, line)| is_with(line, here)) {
        if !here.streams.contains_key(&(stream.clone(), !inlet)) {
            if is_covered(line, &covered_here) {
                document.only_there.push(shown(stream, line));
            } else {
                document.not_compared += 1;
            }
        }
    }
    document.ok = document.differ.is_empty() && document.only_here.is_empty() && document.only_there.is_empty();
    document
}

/// Whether a stream was with one of those who wrote `log`.
fn is_with(line: &StreamLine, log: &Log) -> bool {
    line.peer().is_some_and(|peer| log.own.contains(&peer))
}

/// Whether a log that covers these times reaches as far back and as far on as the stream.
fn is_covered(line: &StreamLine, (from, to): &(String, String)) -> bool {
    line.started_at >= *from && line.at <= *to
}

fn shown(stream: &str, line: &StreamLine) -> Shown {
    Shown {
        stream: stream.to_owned(),
        at: line.at.clone(),
        peer: line.peer(),
        outlet: line.outlet.clone(),
        decision: line.decision,
        end: line.end.clone(),
    }
}

fn differences(stream: &str, here: &StreamLine, there: &StreamLine) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut differ = |field, here: String, there: String, alike: bool| {
        if !alike {
            found.push(Difference { stream: stream.to_owned(), field, here, there });
        }
    };
    let name = |identity: &Option<Identifier>| identity.map_or_else(String::new, |identity| identity.to_string());
    for (field, ours, theirs) in [
        ("inlet_identity", &here.inlet_identity, &there.inlet_identity),
        ("outlet_identity", &here.outlet_identity, &there.outlet_identity),
    ] {
        differ(field, name(ours), name(theirs), ours == theirs);
    }
    differ("outlet", here.outlet.clone(), there.outlet.clone(), here.outlet == there.outlet);
    let decision = |line: &StreamLine| match line.decision {
        Decision::Allowed => "allowed".to_owned(),
        Decision::Refused => "refused".to_owned(),
    };
    differ("decision", decision(here), decision(there), here.decision == there.decision);
    // Of a stream that broke, who sent has counted what may never have arrived; nobody can have received more than was sent.
    let both_clean = here.end == "clean" && there.end == "clean";
    let (inlet, outlet) = if here.side == Side::Inlet { (here, there) } else { (there, here) };
    let fits = |sent: u64, received: u64| if both_clean { sent == received } else { received <= sent };
    differ(
        "bytes_to_outlet",
        here.bytes_to_outlet.to_string(),
        there.bytes_to_outlet.to_string(),
        fits(inlet.bytes_to_outlet, outlet.bytes_to_outlet),
    );
    differ(
        "bytes_to_inlet",
        here.bytes_to_inlet.to_string(),
        there.bytes_to_inlet.to_string(),
        fits(outlet.bytes_to_inlet, inlet.bytes_to_inlet),
    );
    found
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
    if document.not_compared > 0 {
        text.push_str(&format!("{} streams are of a time that the other side does not cover\n", document.not_compared));
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
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn line(side: &str, stream: u64, at: &str, end: &str, bytes: [u64; 2]) -> String {
        let (inlet, outlet) = ("a1".repeat(32), "b2".repeat(32));
        format!(
            r#"{{"api_version":"1","at":"{at}","started_at":"{at}","duration_ms":1,"stream":"{}-{stream}","side":"{side}","name":"x","inlet_identity":"P{inlet}","outlet_identity":"P{outlet}","outlet":"db","decision":"allowed","code":null,"bytes_to_outlet":{},"bytes_to_inlet":{},"end":"{end}"}}"#,
            "0c".repeat(16),
            bytes[0],
            bytes[1]
        )
    }

    fn log(lines: &[String]) -> Log {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("x");
        std::fs::write(&path, lines.join("\n")).unwrap();
        let mut log = Log::default();
        read(&mut log, File::open(&path).unwrap(), &path).unwrap();
        log
    }

    #[test]
    fn what_is_only_on_one_side_and_what_differs() {
        let t = |minute: u32| format!("2026-11-22T08:{minute:02}:00Z");
        let here = log(&[
            line("inlet", 0, &t(10), "clean", [5, 7]),
            line("inlet", 2, &t(11), "clean", [5, 7]),
            line("inlet", 4, &t(12), "link-lost", [100, 7]),
            line("inlet", 6, &t(13), "clean", [1, 1]),
            line("inlet", 8, &t(1), "clean", [1, 1]),
            "{\"api_version\":\"1\",\"at\":\"x\",\"lost\":3}".to_owned(),
            "{\"api_version\":\"1\",\"at\":\"x\",\"killed\":true}".to_owned(),
            "half a li".to_owned(),
        ]);
        let there = log(&[
            line("outlet", 0, &t(10), "clean", [5, 7]),
            line("outlet", 2, &t(11), "clean", [5, 9]),
            line("outlet", 4, &t(12), "link-lost", [60, 7]),
            line("outlet", 10, &t(12), "clean", [1, 1]),
            line("outlet", 12, &t(20), "clean", [1, 1]),
        ]);
        let document = compare(&here, &there);
        assert_eq!((document.ok, document.agree, document.lost_here, document.lost_there), (false, 2, 4, 0));
        assert_eq!((document.killed_here, document.killed_there), (1, 0));
        assert!(plain(&document).contains("1 times a node here was killed"));
        let [differ] = &document.differ[..] else { panic!("{:?}", document.differ) };
        assert!(differ.stream.ends_with("-2") && differ.field == "bytes_to_inlet" && differ.here == "7" && differ.there == "9");
        let ids = |shown: &[Shown]| shown.iter().map(|one| one.stream[33..].to_owned()).collect::<Vec<_>>();
        assert_eq!(ids(&document.only_here), ["6"]);
        assert_eq!(ids(&document.only_there), ["10"]);
        assert_eq!(document.not_compared, 2, "before the other log begins, and after this one ends");
        let same = compare(&here, &log(&[]));
        assert!(same.ok && same.agree == 0);
        // Nobody has received more than was sent.
        let more = log(&[line("outlet", 4, &t(12), "link-lost", [101, 7])]);
        assert_eq!(compare(&here, &more).differ[0].field, "bytes_to_outlet");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// The file is the other company's: any bytes, or lines that somebody edited. It is read line by line, and shows as lines.
        #[test]
        fn whatever_the_other_side_sends_is_compared(
            edits in vec((any::<Index>(), any::<u8>()), 0..12),
            behind in vec(any::<u8>(), 0..600),
            long in 0..3_usize,
        ) {
            let t = |minute: u32| format!("2026-11-22T08:{minute:02}:00Z");
            let here = log(&[line("inlet", 0, &t(1), "clean", [5, 7]), line("inlet", 2, &t(2), "clean", [5, 7])]);
            let sent = [line("outlet", 0, &t(1), "clean", [5, 7]), line("outlet", 2, &t(2), "clean", [u64::MAX, 0])].join("\n");
            let mut sent = sent.into_bytes();
            for (at, byte) in edits {
                let at = at.index(sent.len());
                sent[at] = byte;
            }
            sent.push(b'\n');
            sent.extend(behind);
            sent.resize(sent.len() + long * MAX_LINE as usize, b'{');
            let directory = tempfile::TempDir::new().unwrap();
            let path = directory.path().join("theirs");
            std::fs::write(&path, sent).unwrap();
            let mut there = Log::default();
            read(&mut there, File::open(&path).unwrap(), &path).unwrap();
            let document = compare(&here, &there);
            prop_assert!(document.agree <= 2);
            let shown = plain(&document);
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
            prop_assert!(serde_json::to_string(&document).is_ok());
        }
    }
}
