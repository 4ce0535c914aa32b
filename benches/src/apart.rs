//! The part of a run between two hosts that are far apart: the ways are started there anew.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::hosts::{Hosts, Side};
use crate::measure::{first_bytes, one_stream};
use crate::missing::Missing;
use crate::options::{Effort, Options};
use crate::results::{Results, Unit};
use crate::run::say;
use crate::service::Service;
use crate::warden::Warden;
use crate::ways::{self, Kind, Part, Setting, Started, Way};

/// After a node has forgotten its peers by a restart, it connects to its relay again: round trips to wait for, and the least for small delays.
const AGAIN: u32 = 20;
const AGAIN_LEAST: Duration = Duration::from_millis(300);

/// In a smoke run, only that there is some.
const SMOKE_DELAY: Duration = Duration::from_millis(3);

/// Measures those ways that ran on one host; returns a line about how, or why not at all.
pub fn measure(
    options: &Options,
    effort: &Effort,
    warden: &Warden,
    described: &[(Kind, String, Vec<Part>)],
    missing: &mut Missing,
    results: &mut Results,
) -> Result<String> {
    let delay = if options.smoke { SMOKE_DELAY } else { Duration::from_millis(options.delay) };
    say("making two hosts that are far apart");
    let hosts = match Hosts::apart(delay, warden) {
        Ok(hosts) => hosts,
        Err(why) => return Ok(format!("Far: not measured: {why}.")),
    };
    let listener = hosts.enter(Side::Service, || TcpListener::bind((Hosts::ip(Side::Service), 0)))?;
    let service = hosts.enter(Side::Service, || Service::start(listener))?;
    let setting = Setting { options, warden, service: service.address, hosts: Some(&hosts) };
    let mut ways = Vec::new();
    // A smoke run has no time to start the peers again.
    let kinds = described.iter().map(|(kind, ..)| *kind).filter(|kind| !options.smoke || *kind <= Kind::Postern);
    for kind in kinds {
        say(&format!("starting {}, far apart", kind.name()));
        match missing.unless_needed(kind, "does not start far apart", ways::start(kind, &setting))? {
            Some(Started::Runs(way)) => ways.push(way),
            Some(Started::Missing(how)) => return Err(how.into()),
            None => {}
        }
    }
    let lost = (options.loss * 10_000.0) as u64;
    for round in 1..=effort.far.rounds {
        say(&format!("far apart, round {round} of {}", effort.far.rounds));
        for way in &ways {
            let taken = this_way(way, &setting, &hosts, effort, delay, lost, results);
            missing.unless_needed(way.kind, "failed far apart", taken)?;
        }
    }
    let (rounds, made) = (effort.far.rounds, hosts.wire.made_by());
    Ok(format!("Far: {} ms each way between client and service, by {made}; medians of {rounds} rounds.", delay.as_millis()))
}

/// Every figure of one way, once.
fn this_way(
    way: &Way,
    setting: &Setting<'_>,
    hosts: &Hosts,
    effort: &Effort,
    delay: Duration,
    lost: u64,
    results: &mut Results,
) -> Result<()> {
    let entry = way.entry;
    if let Some(forget) = &way.forget {
        forget(setting)?;
        thread::sleep((delay * AGAIN).max(AGAIN_LEAST));
    }
    let first = setting.as_client(|| first_bytes(entry, 1))?;
    if way.forget.is_some() {
        results.add(way.kind, "far-cold", "far: answer's first byte, cold channel", Unit::Milliseconds, first.back);
    }
    let warm = setting.as_client(|| first_bytes(entry, effort.far.connections))?;
    results.add(way.kind, "far-warm", "far: answer's first byte, warm", Unit::Milliseconds, warm.back);
    results.add(
        way.kind,
        "far-trips",
        "far: request at the service, warm",
        Unit::Trips,
        warm.there / (delay.as_secs_f64() * 1e3),
    );
    let rate = setting.as_client(|| one_stream(entry, effort.far.bytes))?;
    results.add(way.kind, "far-throughput", "far: throughput, 1 stream", Unit::Megabits, rate);
    hosts.wire.lose(lost)?;
    let rate = setting.as_client(|| one_stream(entry, effort.far.bytes_with_loss));
    hosts.wire.lose(0)?;
    let title = format!("far: the same, {} % of packets lost", lost as f64 / 10_000.0);
    results.add(way.kind, "far-throughput-loss", title, Unit::Megabits, rate?);
    Ok(())
}
