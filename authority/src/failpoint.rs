//! Places where a test can end the process, to prove that whatever was half done leaves nothing behind. Compiled into tests
//! only: elsewhere a point is nothing.

/// Names the point at which the process ends.
#[cfg(test)]
pub(crate) const VARIABLE: &str = "POSTERN_FAILPOINT";

#[cfg(test)]
thread_local! {
    /// Where the files that a crash would leave are to be copied, once this thread comes to the point: the point, from where, to where.
    static IMAGE: std::cell::RefCell<Option<(&'static str, std::path::PathBuf, std::path::PathBuf)>> = const { std::cell::RefCell::new(None) };
}

/// When this thread next comes to `point`, copies the files of `from` into the new directory `to`, as they are then: what a process that
/// dies there leaves behind. The process goes on.
#[cfg(test)]
pub(crate) fn copy_at(point: &'static str, from: &std::path::Path, to: &std::path::Path) {
    IMAGE.set(Some((point, from.to_owned(), to.to_owned())));
}

/// This thread did not come to the point of [`copy_at`], and is to copy nothing when it does later.
#[cfg(test)]
pub(crate) fn copy_no_more() {
    IMAGE.set(None);
}

#[cfg(test)]
fn copy(from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Ends the process here, as `kill -9` would, if a test asked for this point.
#[cfg(test)]
pub(crate) fn hit(point: &str) {
    if let Some((_, from, to)) = IMAGE.with_borrow_mut(|image| image.take_if(|(wanted, ..)| *wanted == point)) {
        copy(&from, &to).expect("files of a test");
    }
    if std::env::var(VARIABLE).is_ok_and(|wanted| wanted == point) {
        // No destructor, no flush, no rollback: the database is left exactly as the last system call made it.
        std::process::abort();
    }
}

#[cfg(not(test))]
pub(crate) const fn hit(_: &str) {}
