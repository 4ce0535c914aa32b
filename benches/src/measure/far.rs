//! What distance does to a way.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use super::{connect, quantile, throughput};
use crate::Result;
use crate::service::{MESSAGE, WHEN, now};

/// Times from a client's call of connect, in milliseconds.
pub struct FirstBytes {
    /// Until the request was at the service.
    pub there: f64,
    /// Until the first byte of the answer was at the client.
    pub back: f64,
}

/// Medians of `many` connections, one after the other.
pub fn first_bytes(entry: SocketAddr, many: u32) -> Result<FirstBytes> {
    let (mut there, mut back) = (Vec::new(), Vec::new());
    for _ in 0..many {
        let began = now();
        let mut socket = connect(entry)?;
        let mut message = [0x5a; 1 + MESSAGE];
        message[0] = WHEN;
        socket.write_all(&message)?;
        socket.read_exact(&mut message[..MESSAGE])?;
        let ended = now();
        let mut arrived = [0; 8];
        arrived.copy_from_slice(&message[..8]);
        let since = |moment: u64| moment.saturating_sub(began) as f64 / 1e6;
        there.push(since(u64::from_be_bytes(arrived)));
        back.push(since(ended));
        // Both ends, so that a path which can serve again is free when the next connection comes.
        socket.shutdown(std::net::Shutdown::Write)?;
        let _ = socket.read(&mut [0]);
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        quantile(&times, 0.5)
    };
    Ok(FirstBytes { there: median(there), back: median(back) })
}

/// Mbit/s of one stream of `bytes`, until the service has acknowledged the last.
pub fn one_stream(entry: SocketAddr, bytes: u64) -> Result<f64> {
    let began = Instant::now();
    throughput::send(entry, bytes)?;
    Ok(bytes as f64 * 8.0 / 1e6 / began.elapsed().as_secs_f64())
}
