//! Taking figures of a way, each once.

mod connections;
mod far;
mod idle;
mod round_trip;
mod throughput;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;

pub use connections::connections;
pub use far::{first_bytes, one_stream};
pub use idle::idle_memory;
pub use round_trip::round_trips;
pub use throughput::throughput;

use crate::Result;
use crate::service::MESSAGE;

/// Runs `work` on `many` threads at once, and waits for all of them.
fn at_once<T: Send>(many: usize, work: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..many).map(|_| scope.spawn(&work)).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread of the load panicked")?).collect()
    })
}

/// A connection through a way.
fn connect(entry: SocketAddr) -> Result<std::net::TcpStream> {
    let socket = std::net::TcpStream::connect(entry)?;
    socket.set_nodelay(true)?;
    // A way that loses bytes must end the run, not hold it up.
    socket.set_read_timeout(Some(STALLED))?;
    socket.set_write_timeout(Some(STALLED))?;
    Ok(socket)
}

/// A connection of this kind that has carried one message to the service and back.
pub fn exchange(entry: SocketAddr, kind: u8) -> Result<std::net::TcpStream> {
    let mut socket = connect(entry)?;
    let mut request = [0x5a; 1 + MESSAGE];
    request[0] = kind;
    socket.write_all(&request)?;
    socket.read_exact(&mut request[1..])?;
    Ok(socket)
}

/// A way that carries nothing for this long is broken.
const STALLED: std::time::Duration = std::time::Duration::from_secs(60);

/// The value below which `share` of `sorted` lies.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((sorted.len() as f64 * share) as usize).min(last)).copied().unwrap_or(f64::NAN)
}
