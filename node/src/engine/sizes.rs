//! How much room the futures take that wait for long. An `async fn` is as large as the most that it may have to hold at once, and a future
//! that is handed on by value takes its room again in each one that it passes: a phase that is over, or not yet begun, belongs into an
//! allocation of its own.

use std::mem::size_of;
use std::sync::Arc;

use super::channel::{Channel, Control};
use super::relay_link::RelayLink;
use super::shared::Shared;
use super::{inlet, serve};

/// The room of what a function's future takes, by the function's arguments.
macro_rules! size {
    ($function:expr, $($argument:ident),+) => {{
        fn of<$($argument,)+ F: Future>(_: impl FnOnce($($argument),+) -> F) -> usize {
            size_of::<F>()
        }
        of($function)
    }};
}

#[test]
fn what_waits_for_long_is_small() {
    let control =
        |control: Control, shared: &'static Arc<Shared>, channel: &'static Channel| control.run(shared, channel, |_| ());
    let limits = [
        ("a connection of an inlet", size!(inlet::connection, A, B, C), 2784),
        ("a path that waits for its next stream", size!(serve::serve_path, A, B), 1024),
        ("a stream that a path carries", size!(serve::carry, A, B), 2560),
        ("a link that waits parked", size!(RelayLink::park, A, B, C), 1280),
        ("the control stream of a channel", size!(control, A, B, C), 4096),
    ];
    for (what, size, limit) in limits {
        assert!(size <= limit, "{what} takes {size} bytes of at most {limit}");
    }
}
