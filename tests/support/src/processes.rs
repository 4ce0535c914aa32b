//! Finding the processes of a home, and ending them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal};

/// A process of a home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Its arguments, joined by spaces.
    pub command: String,
}

/// All processes that have `home` as their `POSTERN_HOME` or name it in their arguments, and those that hold one of the lock files
/// `locks`: a daemon shows its environment to nobody but root.
pub(crate) fn of_home(home: &Path, locks: &[PathBuf]) -> Vec<Process> {
    let needle = home.as_os_str().as_encoded_bytes();
    let contains = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let holders: Vec<u32> = locks.iter().filter_map(|lock| holder(lock)).collect();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let ours = std::process::id();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != ours)
        .filter_map(|pid| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let arguments = read("cmdline");
            // A process that has ended, and waits for its parent to notice, has no arguments.
            let found = !arguments.is_empty() && (holders.contains(&pid) || contains(&arguments) || contains(&read("environ")));
            let command = String::from_utf8_lossy(&arguments).replace('\0', " ").trim_end().to_owned();
            found.then_some(Process { pid, command })
        })
        .collect()
}

/// The process in the lock file, where the file is locked now. One that runs in another process namespace has no id here.
fn holder(lock: &Path) -> Option<u32> {
    let file = fs::File::open(lock).ok()?;
    let Err(rustix::io::Errno::WOULDBLOCK) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) else {
        return None;
    };
    let text = fs::read_to_string(lock).ok()?;
    let mut lines = text.lines();
    let pid = lines.next()?.parse().ok()?;
    let here = fs::read_link("/proc/self/ns/pid").ok()?;
    (lines.next() == here.to_str()).then_some(pid)
}

/// Sends `which` to the process `pid`; nothing where it has ended.
pub fn signal(pid: u32, which: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // The only error left for a process of ours is that it has ended.
        let _ = rustix::process::kill_process(pid, which);
    }
}

/// Waits until the process `pid` has ended; `false` where it lives on after `limit`.
pub(crate) fn wait_end(pid: u32, limit: Duration) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return true };
    let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let timeout = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    rustix::event::poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
}
