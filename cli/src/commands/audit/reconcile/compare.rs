//! Which streams two logs tell alike, which otherwise, and which only one of them has.
//!
//! The other log is what the other company hands over: it may say of itself what it likes. Which time is compared is therefore told by the
//! times that this side wrote of the streams that both have; times in the other log can only widen it.

use std::time::Duration;

use postern_node::stream_log::{Decision, Side, StreamLine};
use postern_proto::id::Identifier;
use postern_proto::time::{Timestamp, parse_timestamp};
use serde::Serialize;

use super::Log;

/// How far apart the two times of one stream may lie: clocks that differ, and what was on the way.
const MAX_APART: Duration = Duration::from_secs(5 * 60);

/// Where a log was really cut, streams of the same moment stand on either side of the cut, because two nodes do not write in the same order.
const MOMENT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
pub(super) struct Document {
    pub ok: bool,
    /// Streams that both wrote down, without a difference.
    pub agree: usize,
    pub differ: Vec<Difference>,
    pub only_here: Vec<Shown>,
    pub only_there: Vec<Shown>,
    /// The time that was compared, as this side wrote it; `None` where nothing was.
    pub compared: Option<Span>,
    /// Streams before or after, where one of the logs has nothing any more, or not yet.
    pub not_compared: usize,
    /// Connections whose client broke off before any answer, of which the other side may have left out its line: it says that it left out some.
    pub broken_off: u64,
    /// Lines that were lost or cannot be read, on each side.
    pub lost_here: u64,
    pub lost_there: u64,
    /// How often a node was killed on each side, so that lines may be missing.
    pub killed_here: u64,
    pub killed_there: u64,
}

/// When the first and the last compared stream of this side ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Span {
    pub from: String,
    pub to: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Difference {
    pub stream: String,
    /// What differs: a field of the lines.
    pub field: &'static str,
    pub here: String,
    pub there: String,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Shown {
    pub stream: String,
    pub at: String,
    pub peer: Option<Identifier>,
    pub outlet: String,
    pub decision: Decision,
    pub end: String,
}

/// What one log has with those who wrote the other one.
struct Told<'a> {
    /// Of streams that both have, when they ended as this log says.
    common: Vec<Timestamp>,
    /// Streams that the other log lacks.
    missing: Vec<(&'a str, &'a StreamLine)>,
}

/// What is left of a side's missing streams.
#[derive(Default)]
struct Sorted<'a> {
    only: Vec<(&'a str, &'a StreamLine)>,
    not_compared: usize,
    broken_off: u64,
}

pub(super) fn compare(here: &Log, there: &Log) -> Document {
    let mut agree = 0;
    let mut differ = Vec::new();
    let mut both = 0;
    for ((stream, inlet), line) in &here.streams {
        if let Some(other) = there.streams.get(&(stream.clone(), !inlet)) {
            let found = differences(stream, line, other);
            both += 1;
            agree += usize::from(found.is_empty());
            differ.extend(found);
        }
    }
    let (ours, theirs) = (told(here, there), told(there, here));
    let only_here = sort(&ours, there);
    let only_there = sort(&theirs, here);
    let not_compared = only_here.not_compared + only_there.not_compared;
    let ended = only_here.only.iter().filter_map(|(_, line)| parse_timestamp(&line.at)).chain(ours.common.iter().copied());
    let (first, last) = (ended.clone().min(), ended.max());
    Document {
        // Two logs that have nothing in common agree on nothing, unless there was nothing.
        ok: differ.is_empty() && only_here.only.is_empty() && only_there.only.is_empty() && (both > 0 || not_compared == 0),
        agree,
        differ,
        only_here: only_here.only.into_iter().map(shown).collect(),
        only_there: only_there.only.into_iter().map(shown).collect(),
        compared: first.zip(last).map(|(first, last)| Span { from: first.to_string(), to: last.to_string() }),
        not_compared,
        broken_off: only_here.broken_off + only_there.broken_off,
        lost_here: here.lost,
        lost_there: there.lost,
        killed_here: here.killed,
        killed_there: there.killed,
    }
}

fn told<'a>(log: &'a Log, other: &Log) -> Told<'a> {
    let mut told = Told { common: Vec::new(), missing: Vec::new() };
    for ((stream, inlet), line) in &log.streams {
        if other.streams.contains_key(&(stream.clone(), !inlet)) {
            told.common.extend(parse_timestamp(&line.at));
        } else if line.peer().is_some_and(|peer| other.own.contains(&peer)) {
            told.missing.push((stream, line));
        }
    }
    told
}

/// Which of the missing streams the other log should have: those between streams that both have, and those of a time that it says to cover.
fn sort<'a>(told: &Told<'a>, other: &Log) -> Sorted<'a> {
    let says = || other.streams.values().filter_map(|line| parse_timestamp(&line.at));
    // What the other log says of itself is by another clock.
    let said = says()
        .min()
        .zip(says().max())
        .map(|(from, to)| (from.plus(MAX_APART), to.minus(MAX_APART)))
        .filter(|(from, to)| from <= to);
    let both = told.common.iter().min().copied().zip(told.common.iter().max().copied());
    let ended = |line: &StreamLine| parse_timestamp(&line.at);
    let from = both.map(|(from, _)| from).into_iter().chain(said.map(|(from, _)| from)).min();
    let to = both.map(|(_, to)| to).into_iter().chain(said.map(|(_, to)| to)).max();
    let cut_before = told.missing.iter().any(|(_, line)| ended(line) < from && ended(line).is_some());
    let cut_behind = told.missing.iter().any(|(_, line)| ended(line) > to);
    let blur = |cut: bool| if cut { MOMENT } else { Duration::ZERO };
    // A cut blurs the edge of what both have only: what the other log says of itself is narrowed already.
    let within = |at: Timestamp| {
        let from = both.map(|(from, _)| from.plus(blur(cut_before))).into_iter().chain(said.map(|(from, _)| from)).min();
        let to = both.map(|(_, to)| to.minus(blur(cut_behind))).into_iter().chain(said.map(|(_, to)| to)).max();
        from.is_some_and(|from| at >= from) && to.is_some_and(|to| at <= to)
    };
    let mut sorted = Sorted::default();
    for &(stream, line) in &told.missing {
        // What has no time that can be read is not excused by its time.
        if ended(line).is_some_and(|at| !within(at)) {
            sorted.not_compared += 1;
        } else if broke_off(line) && sorted.broken_off < other.lost {
            sorted.broken_off += 1;
        } else {
            sorted.only.push((stream, line));
        }
    }
    sorted
}

/// Whether an inlet's client went before any answer: the outlet's node may have refused it, which this side has not heard any more.
fn broke_off(line: &StreamLine) -> bool {
    line.side == Side::Inlet && line.decision == Decision::Allowed && line.end == "application" && line.bytes_to_inlet == 0
}

fn shown((stream, line): (&str, &StreamLine)) -> Shown {
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
    let (inlet, outlet) = if here.side == Side::Inlet { (here, there) } else { (there, here) };
    let decision = |line: &StreamLine| match line.decision {
        Decision::Allowed => "allowed".to_owned(),
        Decision::Refused => "refused".to_owned(),
    };
    // A client that went before it heard the refusal.
    let unheard = broke_off(inlet) && outlet.decision == Decision::Refused;
    differ("decision", decision(here), decision(there), here.decision == there.decision || unheard);
    differ("started_at", here.started_at.clone(), there.started_at.clone(), near(&here.started_at, &there.started_at));
    // Of a stream that broke, who sent has counted what may never have arrived; nobody can have received more than was sent.
    let both_clean = here.end == "clean" && there.end == "clean";
    // One that broke ends for each side when that side learns it: a machine that slept, hours later.
    let ends_fit = if both_clean { near(&here.at, &there.at) } else { parse_timestamp(&there.at).is_some() };
    differ("at", here.at.clone(), there.at.clone(), ends_fit);
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

/// Whether two times of one stream can both be right. What is no time is near to none.
fn near(here: &str, there: &str) -> bool {
    let (here, there) = (parse_timestamp(here), parse_timestamp(there));
    here.zip(there).is_some_and(|(here, there)| here.max(there).since(here.min(there)) <= MAX_APART)
}
