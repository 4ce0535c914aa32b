//! What many nodes that do nothing cost one relay: `postern-bench idle-nodes`.

mod load;

use std::io::{BufRead, BufReader, Lines};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{ChildStdout, Command};
use std::time::{Duration, Instant};

use serde_json::json;

pub use load::{Member, connect, hold, member, random, run as load};

use crate::Result;
use crate::machine::Machine;
use crate::options::{IdleNodes, Options, Output};
use crate::process::{self, Owned, cpu_seconds, memory};
use crate::results::Unit;
use crate::run::say;
use crate::table::number;
use crate::warden::Warden;
use crate::ways::{Home, Setting, postern};

/// The relay gives nodes no more than half of its descriptors, so these are what 8,000 need, and room.
const OPEN_FILES: u64 = 65_536;

/// After the last node has connected: handshakes' memory is given back, and what was sent at once has been.
const SETTLES: Duration = Duration::from_secs(10);

/// A relay may use so much for each node (process memory beside the kernel's), and so much of one core for 8,000.
const MEMORY_MUST: f64 = 12.0 * 1024.0;
const CPU_MUST: f64 = 6.0;

pub fn measure(options: &Options, wanted: &IdleNodes) -> Result<()> {
    process::raise_open_files(OPEN_FILES)?;
    let warden = Warden::start()?;
    let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let setting = Setting { options, warden: &warden, service: nowhere, hosts: None };
    let admin = Home::servers(&postern(options)?, &setting)?;
    let usage = wanted.nodes.to_string();
    let ticket = admin.run(&setting, &["project", "ticket", "--relay", "*", "--usage-count", &usage, "--expires-in", "1h"])?;
    let ticket = admin.home.file("load.ticket", ticket);
    let pid = admin.home.servers_pid();
    let (what, before) = (admin.run(&setting, &["--version"])?, memory(pid)?);
    let began = Instant::now();
    let mut loads = Vec::new();
    for index in 0..wanted.loads {
        let nodes = (wanted.nodes + index) / wanted.loads;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("idle-load").arg(&ticket).arg(nodes.to_string());
        loads.push(Owned::spawn_piped(&command, &warden)?);
    }
    let mut loads: Vec<(Owned, Lines<BufReader<ChildStdout>>)> =
        loads.into_iter().map(|(load, out)| (load, out.lines())).collect();
    for (_, lines) in &mut loads {
        answer(lines, "up ")?;
    }
    say(&format!("{} nodes are up after {:.1} s", wanted.nodes, began.elapsed().as_secs_f64()));
    std::thread::sleep(if options.smoke { Duration::ZERO } else { SETTLES });
    let (cpu, start, at_start) = (cpu_seconds(pid)?, Instant::now(), memory(pid)?);
    std::thread::sleep(Duration::from_secs_f64(wanted.minutes * 60.0));
    let share = (cpu_seconds(pid)? - cpu) / start.elapsed().as_secs_f64() * 100.0;
    let after = memory(pid)?;
    let mut lost = 0;
    for (load, lines) in &mut loads {
        load.end_input();
        lost += answer(lines, "lost ")?;
    }
    let each = |memory: u64| memory.saturating_sub(before) as f64 / wanted.nodes as f64;
    let (first, last) = (each(at_start), each(after));
    let word = |met: bool| if met { "met" } else { "missed" };
    let machine = Machine::this();
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let rows = [
        ("control links lost", lost.to_string(), "none", lost == 0),
        ("relay's memory for each, at the end", number(last, Unit::Bytes), "≤ 12.0 KiB", last <= MEMORY_MUST),
        ("relay's CPU, of one core", format!("{share:.2} %"), "≤ 6 %", share <= CPU_MUST),
    ];
    if options.output == Output::Json {
        let document = json!({
            "command": command, "machine": machine.json(), "postern": what, "nodes": wanted.nodes, "minutes": wanted.minutes, "lost": lost,
            "memory_before_bytes": before, "memory_each_at_start_bytes": first, "memory_each_at_end_bytes": last, "cpu_percent": share,
            "targets": rows.map(|(title, value, must, met)| json!({ "target": title, "value": value, "must": must, "result": word(met) })),
        });
        println!("{document:#}");
        return Ok(());
    }
    println!("command:  {command}\nmachine:  {}\npostern:  {what}, the relay in one process with the authority", machine.line());
    println!(
        "{} idle nodes in {} load processes for {} min; at the start {} each\n",
        wanted.nodes,
        wanted.loads,
        wanted.minutes,
        number(first, Unit::Bytes)
    );
    for (title, value, must, met) in rows {
        println!("{title:<38}{value:>12}  {must:<12}{}", word(met));
    }
    Ok(())
}

/// The number behind `word` on the next line of a load process.
fn answer(lines: &mut Lines<BufReader<ChildStdout>>, word: &str) -> Result<usize> {
    let line = lines.next().ok_or("a load process ended")??;
    let number = line.strip_prefix(word).ok_or_else(|| format!("a load process said {line:?}"))?;
    Ok(number.parse()?)
}
