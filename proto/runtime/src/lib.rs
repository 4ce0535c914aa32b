//! The tokio shell that the daemons stand on: where state is kept, how a process becomes a daemon, and what it logs.

pub mod files;
pub mod home;
pub mod lock;
pub mod membership;
pub mod net;
