//! The node: inlets, outlets, channels, streams and their local control.
#![deny(unsafe_code)]

pub mod config;
pub mod engine;
