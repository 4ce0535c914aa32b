//! Files that only their owner may use: directories 0700, files 0600, replaced whole and made durable.
//!
//! Everything is reached from an open directory by a name without a slash, so that nobody who swaps a part of the path
//! can redirect a read or a write, and no symbolic link is ever followed.

mod dir;
mod error;
#[cfg(test)]
mod races;
mod secrets;
mod socket;

pub use dir::{ChangeLock, Dir, Entry};
pub use error::FileError;

/// Longest file that a caller without a limit of its own should read: far above any key, membership or stored node.
pub const MAX_SMALL_FILE: usize = 1024 * 1024;

/// A directory for a test; it is there as long as the first of the two.
#[cfg(test)]
pub(crate) fn scratch() -> (tempfile::TempDir, Dir) {
    let scratch = tempfile::TempDir::new().expect("a directory");
    let dir = Dir::open_or_take_over(&scratch.path().join("d")).expect("a directory of its own");
    (scratch, dir)
}
