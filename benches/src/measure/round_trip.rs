//! How long a small message takes there and back on a connection that is open.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use super::{connect, quantile};
use crate::Result;
use crate::service::{ECHO, MESSAGE};

/// The first round trips are slower: buffers are made, and the connection's windows opened.
const WARM_UP: u32 = 20;

/// Microseconds of a round trip: median and 99th percentile of `many`.
pub fn round_trips(entry: SocketAddr, many: u32) -> Result<(f64, f64)> {
    let mut socket = connect(entry)?;
    socket.write_all(&[ECHO])?;
    let mut message = [0x5a; MESSAGE];
    let mut times = Vec::new();
    for number in 0..many + WARM_UP {
        let began = Instant::now();
        socket.write_all(&message)?;
        socket.read_exact(&mut message)?;
        if number >= WARM_UP {
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok((quantile(&times, 0.5), quantile(&times, 0.99)))
}
