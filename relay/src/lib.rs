//! The relay: it knows which nodes can be found under which names, joins their links, and moves ciphertext between them. It
//! can read nothing of what it moves.

mod ending;
pub mod pipes;
pub mod registry;
pub mod splice;
