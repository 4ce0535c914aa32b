//! What the kernel tells about running processes.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

/// Resident memory of a process, in bytes.
///
/// # Panics
/// Where there is no such process.
#[must_use]
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes << 10
}

/// How many descriptors a process has open.
///
/// # Panics
/// Where there is no such process.
#[must_use]
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

/// How long a process has kept processors busy until now, in the steps of 10 ms in which the kernel tells it.
///
/// # Panics
/// Where there is no such process.
#[must_use]
pub fn busy(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name, in brackets, may hold anything. Behind it, the 12th and 13th fields are the ticks in user and kernel mode (proc(5)).
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(10 * ticks)
}

/// Command lines of all processes that this user may see, with their ids.
#[must_use]
pub fn command_lines() -> Vec<(u32, Vec<u8>)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A process that has just ended is none.
    ids.filter_map(|pid: u32| Some((pid, fs::read(format!("/proc/{pid}/cmdline")).ok()?))).collect()
}

/// Which of `needles` stand in the memory that a process can write: heap, stacks, data.
///
/// # Panics
/// Where the memory may not be read: only root reads another session's.
#[must_use]
pub fn found_in_memory<'a>(pid: u32, needles: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process runs");
    let mut memory = File::open(format!("/proc/{pid}/mem")).expect("root reads the memory of any process");
    let mut found = Vec::new();
    let mut regions = 0;
    for line in maps.lines() {
        let mut fields = line.split(' ');
        let range = fields.next().and_then(|range| range.split_once('-'));
        let writable = fields.next().is_some_and(|mode| mode.starts_with("rw"));
        let Some((Ok(start), Ok(end))) =
            range.map(|(start, end)| (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))).filter(|_| writable)
        else {
            continue;
        };
        let mut bytes = vec![0; usize::try_from(end - start).expect("an address space fits")];
        // Some special regions cannot be read; the heap always can.
        if memory.seek(SeekFrom::Start(start)).is_err() || memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        regions += 1;
        found.extend(needles.iter().filter(|needle| contains(&bytes, needle)));
    }
    assert!(regions > 3, "the memory of process {pid} was not read");
    found.sort_unstable();
    found.dedup();
    found
}

/// Whether `needle` stands in `bytes`.
#[must_use]
pub fn contains(mut bytes: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return true };
    while let Some(at) = bytes.iter().position(|byte| byte == first) {
        bytes = &bytes[at + 1..];
        if bytes.starts_with(rest) {
            return true;
        }
    }
    false
}

/// Every ordinary file below `directory`, with what it holds.
#[must_use]
pub fn files_below(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return files };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            files.extend(files_below(&entry.path()));
        } else if kind.is_file()
            && let Ok(bytes) = fs::read(entry.path())
        {
            files.push((entry.path(), bytes));
        }
    }
    files
}
