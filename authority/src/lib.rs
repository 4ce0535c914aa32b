//! The authority of a project: it enrols members by ticket, issues their credentials, and keeps members, tickets, policies
//! and the audit.
#![forbid(unsafe_code)]

mod act;
mod authority;
mod clock;
pub mod enrol;
mod failpoint;
pub mod keys;
pub mod rules;
pub mod server;
pub mod service;
mod signing;
pub mod store;
#[cfg(test)]
mod testing;

pub use act::ActError;
pub use authority::{Authority, DEFAULT_CREDENTIAL_LIFETIME, OpenError, RESTORED, Settings, Status};
pub use clock::Clock;
pub use enrol::Newcomer;
pub use server::Server;
pub use service::{Caller, MAX_CREDENTIAL_LIFETIME, Service};
