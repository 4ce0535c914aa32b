//! Places where a test can end the process, to prove that whatever was half done leaves nothing behind. Compiled into tests
//! only: elsewhere a point is nothing.

/// Names the point at which the process ends.
#[cfg(test)]
pub(crate) const VARIABLE: &str = "POSTERN_FAILPOINT";

/// Ends the process here, as `kill -9` would, if a test asked for this point.
#[cfg(test)]
pub(crate) fn hit(point: &str) {
    if std::env::var(VARIABLE).is_ok_and(|wanted| wanted == point) {
        // No destructor, no flush, no rollback: the database is left exactly as the last system call made it.
        std::process::abort();
    }
}

#[cfg(not(test))]
pub(crate) const fn hit(_: &str) {}
