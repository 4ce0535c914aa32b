//! How many bytes arrive in a second, and what that costs.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use super::{at_once, connect};
use crate::Result;
use crate::process::cpu_seconds;
use crate::service::TAKE;
use crate::ways::{Place, Way};

/// What one write gives at most: as a program that copies a file would.
const CHUNK: usize = 256 << 10;

pub struct Throughput {
    pub gigabits_per_second: f64,
    /// CPU seconds for each GiB, of the processes at each place that the way has.
    pub cpu_per_gib: Vec<(Place, f64)>,
}

/// `bytes` in all over `streams` connections, until the service has acknowledged the last byte of each.
pub fn throughput(way: &Way, streams: usize, bytes: u64) -> Result<Throughput> {
    let each = bytes / streams as u64;
    let cpu = || way.parts.iter().map(|part| cpu_seconds(part.pid)).collect::<Result<Vec<_>>>();
    let before = cpu()?;
    let began = Instant::now();
    let entry = way.entry;
    at_once(streams, || send(entry, each))?;
    let took = began.elapsed().as_secs_f64();
    let after = cpu()?;
    let moved = (each * streams as u64) as f64;
    let spent = before.iter().zip(&after).map(|(before, after)| (after - before) / moved * f64::from(1 << 30));
    let mut cpu_per_gib: Vec<(Place, f64)> = Vec::new();
    for (part, spent) in way.parts.iter().zip(spent) {
        match cpu_per_gib.iter_mut().find(|(place, _)| *place == part.place) {
            Some((_, sum)) => *sum += spent,
            None => cpu_per_gib.push((part.place, spent)),
        }
    }
    Ok(Throughput { gigabits_per_second: moved * 8.0 / 1e9 / took, cpu_per_gib })
}

pub(super) fn send(entry: SocketAddr, bytes: u64) -> Result<()> {
    let chunk = vec![0x5a; CHUNK];
    let mut socket = connect(entry)?;
    let mut header = [0; 9];
    header[0] = TAKE;
    header[1..].copy_from_slice(&bytes.to_be_bytes());
    socket.write_all(&header)?;
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(CHUNK as u64);
        socket.write_all(&chunk[..piece as usize])?;
        left -= piece;
    }
    Ok(socket.read_exact(&mut [0])?)
}
