//! What a stream costs in memory while nothing passes.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use super::{at_once, exchange};
use crate::Result;
use crate::process::memory;
use crate::service::IDLE;
use crate::ways::{Place, Way};

/// How many connections are opened at once.
const OPENERS: usize = 8;

/// Memory of one idle stream, in bytes, at one place of a way.
pub struct IdleMemory {
    pub place: Place,
    /// At each of the two numbers: what was added since no stream was open, divided by their number.
    pub at: [f64; 2],
    /// Between the two numbers: what one more costs.
    pub margin: f64,
}

/// Opens streams up to each of the two numbers, lets each carry one message, and looks at the processes when they have been idle for `span`.
pub fn idle_memory(way: &Way, numbers: [usize; 2], span: Duration) -> Result<Vec<IdleMemory>> {
    let sizes = || -> Result<Vec<u64>> {
        thread::sleep(span);
        Place::ALL.iter().map(|place| way.at(*place).map(|part| memory(part.pid)).sum()).collect()
    };
    // One stream before all: what a way makes once does not count.
    let entry = way.entry;
    let mut open = vec![message(entry)?];
    let none = sizes()?;
    let mut filled = Vec::new();
    for number in numbers {
        let missing = number.saturating_sub(open.len());
        let opened = at_once(OPENERS, || (0..missing.div_ceil(OPENERS)).map(|_| message(entry)).collect::<Result<Vec<_>>>())?;
        open.extend(opened.into_iter().flatten());
        filled.push((open.len() as f64, sizes()?));
    }
    let [(fewer, at_fewer), (more, at_more)] = &filled[..] else { return Err("two numbers were measured".into()) };
    let places = Place::ALL.iter().enumerate().filter(|(_, place)| way.at(**place).next().is_some());
    Ok(places
        .map(|(index, place)| {
            let added = |sizes: &[u64]| sizes[index] as f64 - none[index] as f64;
            let (low, high) = (added(at_fewer), added(at_more));
            IdleMemory { place: *place, at: [low / fewer, high / more], margin: (high - low) / (more - fewer) }
        })
        .collect())
}

/// A connection that has carried a message.
fn message(entry: SocketAddr) -> Result<TcpStream> {
    exchange(entry, IDLE)
}
