//! What runs: relay links, channels, streams, inlets, outlets and the decisions about them.

mod buffers;
mod link;
mod pump;
