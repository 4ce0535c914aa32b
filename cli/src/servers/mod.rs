//! The servers of a home: authority and relay, on one port, in one process.

mod metrics;
mod run;
mod settings;

pub use run::{Ready, run};
pub use settings::{Advertise, CredentialLifetime, Roles, Settings};
