//! The authority of a project: it enrols members by ticket, issues their credentials, and keeps members, tickets, policies
//! and the audit.
#![forbid(unsafe_code)]

mod act;
pub mod enrol;
mod failpoint;
pub mod rules;
pub mod store;
#[cfg(test)]
mod testing;

pub use act::ActError;
