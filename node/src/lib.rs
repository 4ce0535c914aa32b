//! The node: inlets, outlets, channels, streams and their local control.
#![deny(unsafe_code)]

pub mod access;
pub mod code;
pub mod config;
pub mod control;
pub mod daemon;
pub mod engine;
pub mod findings;
pub mod http;
pub mod keeper;
pub mod plan;
pub mod store;
pub mod stream_log;

#[cfg(test)]
mod testing;
