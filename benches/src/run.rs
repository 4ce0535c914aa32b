//! A run, from the first process to the table.

use std::net::TcpListener;

use clap::ValueEnum;

use crate::machine::Machine;
use crate::measure::{connections, idle_memory, round_trips, throughput};
use crate::missing::Missing;
use crate::options::{Effort, Group, Options, Output};
use crate::process;
use crate::results::{Results, Unit};
use crate::service::Service;
use crate::table::Report;
use crate::warden::Warden;
use crate::ways::{self, Kind, Part, Place, Setting, Started, Way};
use crate::{Result, apart, endings, targets};

/// Streams, and connections, at once.
const MANY: [usize; 3] = [1, 8, 64];

/// The idle streams have two descriptors each in this process and in a relay, which takes no new ones when most of its descriptors are used.
const OPEN_FILES: u64 = 20_000;

/// Before the first round, this share of a measurement's bytes goes through each way, so that no round pays for what is made once.
const WARM_UP: u64 = 16;

pub fn compare(options: &Options) -> Result<()> {
    process::raise_open_files(OPEN_FILES)?;
    let effort = options.effort();
    let warden = Warden::start()?;
    let service = Service::start(TcpListener::bind("127.0.0.1:0")?)?;
    let setting = Setting { options, warden: &warden, service: service.address, hosts: None };
    let mut missing = Missing::default();
    let mut ways = Vec::new();
    for kind in wanted(options) {
        say(&format!("starting {}", kind.name()));
        match missing.unless_needed(kind, "does not start here", ways::start(kind, &setting))? {
            Some(Started::Runs(way)) => ways.push(way),
            Some(Started::Missing(how)) => missing.tell(kind, format!("not installed: {how}")),
            None => {}
        }
    }
    let mut results = Results::default();
    rounds(options, &effort, &mut ways, &mut missing, &mut results)?;
    peaks(options, &ways, &mut results)?;
    let described: Vec<_> = ways.iter().map(|way| (way.kind, way.what.clone(), way.parts.clone())).collect();
    drop(ways);
    idle(&setting, &effort, &service, &described, &mut missing, &mut results)?;
    let mut notes = Vec::new();
    if options.wants(Group::Far) {
        notes.push(apart::measure(options, &effort, &warden, &described, &mut missing, &mut results)?);
    }
    let endings = options.wants(Group::Endings).then(|| {
        say("trying how connections end");
        endings::try_all(options, &warden, described.iter().map(|(kind, ..)| *kind))
    });
    let report = Report {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        machine: Machine::this(),
        rounds: effort.rounds,
        bytes: effort.bytes,
        ways: described,
        missing: missing.into_told(),
        notes,
        endings,
        verdicts: targets::judge(&results),
        results,
        means_nothing: options.smoke,
    };
    match options.output {
        Output::Table => print!("{}", report.text()),
        Output::Json => println!("{:#}", report.json()),
    }
    Ok(())
}

/// The ways to measure, in the order of the table.
fn wanted(options: &Options) -> Vec<Kind> {
    Kind::value_variants().iter().copied().filter(|kind| options.ways.is_empty() || options.ways.contains(kind)).collect()
}

/// On standard error, since standard output is the table's.
pub fn say(what: &str) {
    eprintln!("postern-bench: {what}");
}

fn rounds(options: &Options, effort: &Effort, ways: &mut Vec<Way>, missing: &mut Missing, results: &mut Results) -> Result<()> {
    each(ways, missing, |way| {
        throughput(way, 1, effort.bytes / WARM_UP)?;
        way.parts.iter().for_each(|part| process::forget_peak(part.pid));
        Ok(())
    })?;
    for round in 1..=effort.rounds {
        say(&format!("round {round} of {}", effort.rounds));
        for many in MANY.iter().filter(|_| options.wants(Group::Throughput)) {
            each(ways, missing, |way| carry(way, *many, effort, results))?;
        }
        for many in MANY.iter().filter(|_| options.wants(Group::Connections)) {
            each(ways, missing, |way| connect(way, *many, effort, results))?;
        }
        for _ in (0..effort.round_trip_rounds).filter(|_| options.wants(Group::RoundTrip)) {
            each(ways, missing, |way| there_and_back(way, effort, results))?;
        }
    }
    Ok(())
}

/// The same for each way, one directly after the other; without those that fail from then on.
fn each(ways: &mut Vec<Way>, missing: &mut Missing, mut measure: impl FnMut(&Way) -> Result<()>) -> Result<()> {
    let mut next = 0;
    while let Some(way) = ways.get(next) {
        match missing.unless_needed(way.kind, "failed", measure(way))? {
            Some(()) => next += 1,
            None => drop(ways.remove(next)),
        }
    }
    Ok(())
}

fn carry(way: &Way, streams: usize, effort: &Effort, results: &mut Results) -> Result<()> {
    let taken = throughput(way, streams, effort.bytes)?;
    let title = format!("throughput, {}", plural(streams, "stream"));
    results.add(way.kind, format!("throughput-{streams}"), title, Unit::Gigabits, taken.gigabits_per_second);
    if streams == 1 && !way.parts.is_empty() {
        let all = taken.cpu_per_gib.iter().map(|(_, cpu)| cpu).sum();
        results.add(way.kind, "cpu", "CPU for a GiB, all processes", Unit::Seconds, all);
        for (place, cpu) in taken.cpu_per_gib {
            let title = format!("CPU for a GiB, {}", place.name());
            results.add(way.kind, format!("cpu-{}", place.name()), title, Unit::Seconds, cpu);
        }
    }
    Ok(())
}

fn connect(way: &Way, at_once: usize, effort: &Effort, results: &mut Results) -> Result<()> {
    let taken = connections(way.entry, at_once, effort.connecting)?;
    let key = format!("connections-{at_once}");
    results.add(way.kind, &*key, format!("connections, {at_once} at once"), Unit::PerSecond, taken.per_second);
    results.add(way.kind, format!("{key}-p50"), "  one of them, p50", Unit::Microseconds, taken.p50);
    results.add(way.kind, format!("{key}-p99"), "  one of them, p99", Unit::Microseconds, taken.p99);
    Ok(())
}

fn there_and_back(way: &Way, effort: &Effort, results: &mut Results) -> Result<()> {
    let (p50, p99) = round_trips(way.entry, effort.round_trips)?;
    results.add(way.kind, "round-trip-p50", "round trip of 64 bytes, p50", Unit::Microseconds, p50);
    results.add(way.kind, "round-trip-p99", "round trip of 64 bytes, p99", Unit::Microseconds, p99);
    Ok(())
}

/// Memory of idle streams, of ways that were started for this: what carried bytes before keeps memory that streams would use again.
fn idle(
    setting: &Setting<'_>,
    effort: &Effort,
    service: &Service,
    described: &[(Kind, String, Vec<Part>)],
    missing: &mut Missing,
    results: &mut Results,
) -> Result<()> {
    // A hop of the chain has two threads for each connection, whose memory tells nothing.
    let kinds = described.iter().filter(|(kind, _, parts)| *kind != Kind::Chain && !parts.is_empty()).map(|(kind, ..)| *kind);
    // A smoke run has no time to start the peers again.
    let kinds = kinds.filter(|kind| !setting.options.smoke || *kind == Kind::Postern);
    for kind in kinds.filter(|_| setting.options.wants(Group::Idle)) {
        say(&format!("idle streams of {}", kind.name()));
        let measured = ways::start(kind, setting).and_then(|started| match started {
            Started::Runs(way) => {
                let taken = idle_memory(&way, effort.idle, effort.idle_for);
                // Before the way's end, which would wait for streams of which only the client's half is closed.
                service.forget_idle();
                taken
            }
            Started::Missing(how) => Err(how.into()),
        });
        for taken in missing.unless_needed(kind, "failed with idle streams", measured)?.unwrap_or_default() {
            let place = taken.place.name();
            for (number, value) in effort.idle.iter().zip(taken.at) {
                let title = format!("memory of each of {number} idle streams, {place}");
                results.add(kind, format!("idle-{number}-{place}"), title, Unit::Bytes, value);
            }
            let title = format!("  of one more stream, {place}");
            results.add(kind, format!("idle-margin-{place}"), title, Unit::Bytes, taken.margin);
        }
    }
    Ok(())
}

/// How much memory each process had at most during the rounds.
fn peaks(options: &Options, ways: &[Way], results: &mut Results) -> Result<()> {
    if !options.wants(Group::Throughput) {
        return Ok(());
    }
    for place in Place::ALL {
        for way in ways {
            let mut at_place = way.at(place).peekable();
            if at_place.peek().is_none() {
                continue;
            }
            let bytes: u64 = at_place.map(|part| process::peak_memory(part.pid)).sum::<Result<u64>>()?;
            let title = format!("peak memory, {}", place.name());
            results.add(way.kind, format!("peak-memory-{}", place.name()), title, Unit::Bytes, bytes as f64);
        }
    }
    Ok(())
}

fn plural(number: usize, of: &str) -> String {
    if number == 1 { format!("1 {of}") } else { format!("{number} {of}s") }
}
