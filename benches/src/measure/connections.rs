//! How many connections can be made in a second, and how long one takes until it is of use.

use std::io::Read;
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use super::{at_once, exchange, quantile};
use crate::Result;
use crate::service::ECHO;

pub struct Connections {
    pub per_second: f64,
    /// Microseconds from the client's call of connect to the last byte of the answer: median, 99th percentile.
    pub p50: f64,
    pub p99: f64,
}

/// Connections for `span`, `at_a_time` of them at once, each with one request and its answer, to their end at both sides.
pub fn connections(entry: SocketAddr, at_a_time: usize, span: Duration) -> Result<Connections> {
    let began = Instant::now();
    let clients = at_once(at_a_time, || {
        let mut times = Vec::new();
        while began.elapsed() < span {
            times.push(one(entry)?);
        }
        Ok(times)
    })?;
    let took = began.elapsed().as_secs_f64();
    let mut times = clients.concat();
    times.sort_by(f64::total_cmp);
    Ok(Connections { per_second: times.len() as f64 / took, p50: quantile(&times, 0.5), p99: quantile(&times, 0.99) })
}

/// One connection; microseconds until its answer.
fn one(entry: SocketAddr) -> Result<f64> {
    let began = Instant::now();
    let mut socket = exchange(entry, ECHO)?;
    let took = began.elapsed();
    socket.shutdown(Shutdown::Write)?;
    // Until the far end has closed too, so that the connection is whole; a peer that resets instead has closed as well.
    let _ = socket.read(&mut [0]);
    Ok(took.as_secs_f64() * 1e6)
}
