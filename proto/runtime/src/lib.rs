//! The tokio shell that the daemons stand on: links, dialling and listening, where state is kept, how a process becomes a
//! daemon, and what it logs.

pub mod authority;
pub mod backoff;
pub mod bucket;
pub mod clock;
pub mod daemon;
pub mod enrol;
pub mod error;
pub mod files;
pub mod home;
pub mod lock;
pub mod membership;
pub mod memory;
pub mod metrics;
pub mod net;
pub mod open_files;
mod scheduling;
pub mod session;
pub mod statics;
pub mod supervise;
pub mod telemetry;
pub mod trouble;
pub mod vault;
pub mod workers;
