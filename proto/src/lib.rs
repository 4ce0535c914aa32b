//! Everything that two Postern processes must agree on: identities, credentials, tickets, policies, handshakes,
//! records and messages, as functions and state machines over bytes.
//!
//! This crate does no input or output: no sockets, no clock, no files, no environment. Time and randomness are
//! passed in. The exact wire formats are specified in `docs/protocol/`.
#![forbid(unsafe_code)]

pub mod address;
pub mod aead;
pub mod audit;
pub mod authority;
pub mod channel;
pub mod credential;
pub mod handshake;
pub mod id;
pub mod identity;
pub mod link;
pub mod name;
pub mod path;
pub mod policy;
pub mod preface;
pub mod record;
pub mod replay;
pub mod secret;
pub mod session;
pub mod sign;
pub mod spec;
pub mod statement;
pub mod stream;
pub mod ticket;
pub mod time;
#[cfg(test)]
mod uniqueness;
pub mod weight;
