//! How commands reach a running node: documents, requests, the server in the node and the client in the command.

pub mod api;
pub mod client;
pub mod code;
pub mod document;
pub mod explain;
pub mod fault;
pub mod server;

pub use client::{Client, ClientError};
pub use fault::{Class, Fault};

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
