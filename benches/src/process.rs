//! Processes of the ways: starting them so that they end with the bench, and what the kernel tells about them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use postern_test_support::{Signal, signal};

use crate::warden::{Entrusted, Warden};
use crate::{Error, Result, session};

/// A child that is killed when dropped, by the warden should the bench die before.
pub struct Owned {
    child: Child,
    /// A hop ends when this end of its input does.
    stdin: Option<ChildStdin>,
    _entrusted: Entrusted,
}

impl Owned {
    pub fn spawn(command: &Command, warden: &Warden) -> Result<Self> {
        // What it prints is not the bench's result; what it complains about is.
        Self::begin(session::around(command)?.stdin(Stdio::null()).stdout(Stdio::null()), warden)
    }

    fn begin(command: &mut Command, warden: &Warden) -> Result<Self> {
        let mut child = command.spawn()?;
        let entrusted = warden.process(child.id());
        Ok(Self { stdin: child.stdin.take(), child, _entrusted: entrusted })
    }

    /// The same, with its standard output; its standard input is open until this is dropped.
    pub fn spawn_piped(command: &Command, warden: &Warden) -> Result<(Self, BufReader<ChildStdout>)> {
        let mut owned = Self::begin(session::around(command)?.stdin(Stdio::piped()).stdout(Stdio::piped()), warden)?;
        let output = owned.child.stdout.take().ok_or("no output")?;
        Ok((owned, BufReader::new(output)))
    }

    /// The same, with the first line of its standard output.
    pub fn spawn_telling(command: &Command, warden: &Warden) -> Result<(Self, String)> {
        let (owned, mut output) = Self::spawn_piped(command, warden)?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        Ok((owned, line.trim().to_owned()))
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.stdin.as_mut().ok_or("its input has ended")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        end_descendants(self.pid());
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills what `pid` has started: a server's process for a connection may live on where it does not learn that its peer is gone.
pub fn end_descendants(pid: u32) {
    descendants(pid).into_iter().for_each(|pid| signal(pid, Signal::KILL));
}

/// Looks every few milliseconds until `look` finds something.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > end {
            return Err(Error::from(format!("waited {} s in vain for: {what}", limit.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// CPU time of a process and its ended children-threads, user and system, in seconds: `utime` and `stime` of proc_pid_stat(5).
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| format!("process {pid}: {error}"))?;
    // The name of the program stands in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in stat")?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut next = || fields.next().and_then(|text| text.parse::<f64>().ok()).ok_or("no time in stat");
    Ok((next()? + next()?) / rustix::param::clock_ticks_per_second() as f64)
}

/// Every process that `pid` has started and that lives, and those that these have.
pub fn descendants(pid: u32) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let all: Vec<(u32, u32)> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
}

/// Resident memory of a process, in bytes.
pub fn memory(pid: u32) -> Result<u64> {
    status(pid, "VmRSS:")
}

/// Peak resident memory of a process since it began or since [`forget_peak`], in bytes.
pub fn peak_memory(pid: u32) -> Result<u64> {
    status(pid, "VmHWM:")
}

/// Lets the peak of a process begin anew; where that is forbidden, the old one counts on.
pub fn forget_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

fn status(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| format!("process {pid}: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("a process without memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Lets this process and what it starts open as many files as it may; `wanted`, where that is more, if it is root's to allow.
pub fn raise_open_files(wanted: u64) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        let more = Rlimit { current: Some(wanted), maximum: Some(wanted) };
        if setrlimit(Resource::Nofile, more).is_ok() {
            return Ok(());
        }
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_time() {
        let pid = std::process::id();
        assert!(peak_memory(pid).expect("a peak") > 1 << 20);
        assert!(cpu_seconds(pid).expect("a time") >= 0.0);
    }
}
