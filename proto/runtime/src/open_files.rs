//! How many files this process may have open: sockets are files, and one that lacks them can neither accept nor dial.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Where the system sets no limit, as many as anything here would use.
const UNLIMITED: usize = 1 << 20;

/// Raises the process's soft limit to its hard one, and returns what it is then.
#[must_use]
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files to the one that the system permits");
    }
    getrlimit(Resource::Nofile).current.map_or(UNLIMITED, |limit| usize::try_from(limit).unwrap_or(UNLIMITED))
}
