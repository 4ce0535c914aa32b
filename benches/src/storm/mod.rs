//! What happens when the servers of many nodes are killed and come back: `postern-bench storm`.

mod load;

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::{ChildStdout, Command};
use std::time::{Duration, Instant};

use serde_json::json;

pub use load::run as load;

use self::load::Back;
use crate::Result;
use crate::machine::Machine;
use crate::measure::{exchange, quantile};
use crate::options::{Options, Output, Storm};
use crate::process::{self, Owned, cpu_seconds};
use crate::run::say;
use crate::service::{ECHO, MESSAGE, Service};
use crate::warden::Warden;
use crate::ways::{Home, Setting, portal_nodes, postern};

/// A relay gives nodes no more than a quarter of its descriptors, and each node has one more with the authority.
const OPEN_FILES: u64 = 65_536;

/// What must hold: most nodes are back in, all are back in, seconds.
const MOST_MUST: f64 = 10.0;
const ALL_MUST: f64 = 30.0;

/// Connections that are opened at once.
const OPENERS: usize = 8;

pub fn measure(options: &Options, wanted: &Storm) -> Result<()> {
    process::raise_open_files(OPEN_FILES)?;
    let warden = Warden::start()?;
    let service = Service::start(TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0))?)?;
    let setting = Setting { options, warden: &warden, service: service.address, hosts: None };
    let admin = Home::servers(&postern(options)?, &setting)?;
    let what = admin.run(&setting, &["--version"])?;
    let (_vendor, _customer, entry) = portal_nodes(&setting, &admin)?;
    let mut streams = open(entry, wanted.streams)?;
    say(&format!("{} streams are open", streams.len()));
    let mut loads = nodes(&setting, &admin, wanted)?;

    admin.home.kill(admin.home.servers_pid());
    std::thread::sleep(Duration::from_secs_f64(wanted.away));
    for (load, _) in &mut loads {
        load.tell("again")?;
    }
    let began = Instant::now();
    admin.run(&setting, &["enroll"])?;
    let up = began.elapsed();
    say(&format!("the servers are up {:.1} s after their start", up.as_secs_f64()));
    let lost = streams.iter_mut().map(|stream| goes_on(stream).is_err()).filter(|lost| *lost).count();
    let streams_on = began.elapsed().as_secs_f64();
    let back = collect(&mut loads)?;
    let cpu = cpu_seconds(admin.home.servers_pid())?;
    report(options, wanted, &Outcome { what, lost, streams_on, back, cpu })
}

/// Opens `many` streams, each of which has carried a message.
fn open(entry: std::net::SocketAddr, many: usize) -> Result<Vec<TcpStream>> {
    std::thread::scope(|scope| {
        let opener = |index: usize| (0..(many + index) / OPENERS).map(|_| exchange(entry, ECHO)).collect::<Result<Vec<_>>>();
        let openers: Vec<_> = (0..OPENERS).map(|index| scope.spawn(move || opener(index))).collect();
        let mut streams = Vec::new();
        for opener in openers {
            streams.extend(opener.join().map_err(|_| "a thread of the load panicked")??);
        }
        Ok(streams)
    })
}

/// One more message there and back.
fn goes_on(stream: &mut TcpStream) -> Result<()> {
    let (sent, mut back) = ([0xa5; MESSAGE], [0; MESSAGE]);
    stream.write_all(&sent)?;
    stream.read_exact(&mut back)?;
    if back == sent { Ok(()) } else { Err("other bytes came back".into()) }
}

type Loads = Vec<(Owned, Lines<BufReader<ChildStdout>>)>;

/// The load processes, once all their nodes are up.
fn nodes(setting: &Setting<'_>, admin: &Home, wanted: &Storm) -> Result<Loads> {
    let usage = wanted.nodes.to_string();
    let flags = ["project", "ticket", "--relay", "*", "--usage-count", &usage, "--expires-in", "1h"];
    let ticket = admin.home.file("load.ticket", admin.run(setting, &flags)?);
    let began = Instant::now();
    let mut loads = Vec::new();
    for index in 0..wanted.loads {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("storm-load").arg(&ticket).arg(((wanted.nodes + index) / wanted.loads).to_string());
        let (load, out) = Owned::spawn_piped(&command, setting.warden)?;
        loads.push((load, out.lines()));
    }
    for (_, lines) in &mut loads {
        answer(lines, "up ")?;
    }
    say(&format!("{} nodes are up after {:.1} s", wanted.nodes, began.elapsed().as_secs_f64()));
    Ok(loads)
}

/// What is behind `word` on the next line of a load process.
fn answer(lines: &mut Lines<BufReader<ChildStdout>>, word: &str) -> Result<String> {
    let line = lines.next().ok_or("a load process ended")??;
    Ok(line.strip_prefix(word).ok_or_else(|| format!("a load process said {line:?}"))?.to_owned())
}

fn collect(loads: &mut Loads) -> Result<Back> {
    let mut all = Back::default();
    for (_, lines) in loads {
        let back: Back = serde_json::from_str(&answer(lines, "back ")?)?;
        all.links.extend(back.links);
        all.sessions.extend(back.sessions);
        all.failed += back.failed;
    }
    all.links.sort_by(f64::total_cmp);
    all.sessions.sort_by(f64::total_cmp);
    Ok(all)
}

struct Outcome {
    what: String,
    lost: usize,
    streams_on: f64,
    back: Back,
    cpu: f64,
}

/// How many of `sorted` lie within one second, at most.
fn busiest_second(sorted: &[f64]) -> usize {
    let mut first = 0;
    let within = |(index, at): (usize, &f64)| {
        while sorted[first] + 1.0 < *at {
            first += 1;
        }
        index + 1 - first
    };
    sorted.iter().enumerate().map(within).max().unwrap_or(0)
}

fn report(options: &Options, wanted: &Storm, outcome: &Outcome) -> Result<()> {
    let Outcome { what, lost, streams_on, back, cpu } = outcome;
    let (most, all) = (quantile(&back.links, 0.95), back.links.last().copied().unwrap_or(f64::NAN));
    let sessions = back.sessions.last().copied().unwrap_or(f64::NAN);
    let missing = 2 * wanted.nodes - back.links.len() - back.sessions.len();
    let (relay_peak, authority_peak) = (busiest_second(&back.links), busiest_second(&back.sessions));
    let word = |met: bool| if met { "met" } else { "missed" };
    let machine = Machine::this();
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let rows = [
        ("95 % of the nodes back at the relay", format!("{most:.1} s"), "≤ 10 s", most <= MOST_MUST),
        ("all of them", format!("{all:.1} s"), "≤ 30 s", all <= ALL_MUST && missing == 0),
        ("streams lost", lost.to_string(), "none", *lost == 0),
    ];
    if options.output == Output::Json {
        let document = json!({
            "command": command, "machine": machine.json(), "postern": what, "nodes": wanted.nodes, "streams": wanted.streams,
            "away_seconds": wanted.away, "links_back_95_seconds": most, "links_back_seconds": all, "sessions_back_seconds": sessions,
            "missing": missing, "streams_lost": lost, "streams_on_seconds": streams_on, "failed_attempts": back.failed,
            "links_busiest_second": relay_peak, "sessions_busiest_second": authority_peak, "servers_cpu_seconds": cpu,
            "targets": rows.map(|(title, value, must, met)| json!({ "target": title, "value": value, "must": must, "result": word(met) })),
        });
        println!("{document:#}");
        return Ok(());
    }
    println!("command:  {command}\nmachine:  {}\npostern:  {what}, the relay in one process with the authority", machine.line());
    println!(
        "{} nodes and {} streams; relay and authority killed, and started again after {} s\n",
        wanted.nodes, wanted.streams, wanted.away
    );
    for (title, value, must, met) in rows {
        println!("{title:<38}{value:>12}  {must:<12}{}", word(met));
    }
    println!(
        "all streams have carried a message after {streams_on:.1} s, all sessions with the authority are back after {sessions:.1} s"
    );
    println!(
        "in the busiest second, {relay_peak} nodes came back to the relay and {authority_peak} to the authority; {} attempts failed; \
         the servers used {cpu:.1} s of CPU",
        back.failed
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_busiest_second() {
        assert_eq!(super::busiest_second(&[]), 0);
        assert_eq!(super::busiest_second(&[0.1, 0.9, 1.0, 3.0, 3.5]), 3);
    }
}
