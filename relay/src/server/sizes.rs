//! How much room the futures take that wait for long. An `async fn` is as large as the most that it may have to hold at once, and a future
//! that is handed on by value takes its room again in each one that it passes: a phase that is over, or not yet begun, belongs into an
//! allocation of its own.

use std::future::Future;
use std::mem::size_of;
use std::sync::Arc;

use super::link::Link;
use super::{Shared, control, data};
use crate::splice::Splicer;

fn with_link<F: Future>(_: impl FnOnce(&'static Arc<Shared>, Link) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn what_waits_for_long_is_small() {
    let join = |splicer: &'static Splicer, first, second| splicer.join(first, second);
    let limits = [
        ("a session of a node", with_link(control::serve), 768),
        ("a link that waits parked", with_link(data::serve), 768),
        ("two links that are joined", joined(join), 232),
    ];
    for (what, size, limit) in limits {
        assert!(size <= limit, "{what} takes {size} bytes of at most {limit}");
    }
}

fn joined<F: Future>(_: impl FnOnce(&'static Splicer, tokio::net::TcpStream, tokio::net::TcpStream) -> F) -> usize {
    size_of::<F>()
}
