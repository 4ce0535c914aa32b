//! The relay: it knows which nodes can be found under which names, joins their links, and moves ciphertext between them. It
//! can read nothing of what it moves, and is never shown an attribute or the name of an outlet.
//!
//! [`registry`] decides, without input or output; [`server`] serves connections and performs; [`splice`] moves bytes.

mod ending;
pub mod pipes;
pub mod registry;
pub mod server;
pub mod splice;
pub mod trust;

pub use server::{Relay, RelayHandle, RelaySettings, RelayStatus};
pub use trust::TrustState;
