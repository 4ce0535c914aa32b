//! The relay: it knows which nodes can be found under which names, joins their links, and moves ciphertext between them. It
//! can read nothing of what it moves, and is never shown an attribute or the name of an outlet.
//!
//! [`registry`] decides, without input or output; [`server`] serves connections and performs; [`splice`] moves bytes.
//! [`join`] makes the relay a member of its project and keeps it so; [`state`] is what it keeps on disk.

mod ending;
pub mod join;
pub mod keeper;
pub mod pipes;
pub mod registry;
pub mod server;
pub mod splice;
pub mod state;
#[cfg(test)]
mod testing;
pub mod trust;

pub use join::Member;
pub use server::{Relay, RelayHandle, RelaySettings, RelayStatus};
pub use state::RelayHome;
pub use trust::TrustState;
