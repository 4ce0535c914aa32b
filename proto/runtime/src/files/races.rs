//! Somebody puts something else into a file's place while it is written to, again and again: nothing outside is touched. `POSTERN_RACES` says
//! how often (10,000 for a long run).

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{CWD, Mode};

use super::*;
use crate::lock::Lock;

/// What stands where nothing may be written.
const PRECIOUS: &[u8] = b"precious";

/// How often a thing comes and goes in one round, which counts as one.
const BURST: usize = 16;

/// How many swaps of each kind.
fn races() -> usize {
    std::env::var("POSTERN_RACES").ok().and_then(|text| text.parse().ok()).unwrap_or(150)
}

/// What is put into a file's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Symlink,
    /// To where nothing is yet.
    Dangling,
    SymlinkToDirectory,
    HardLink,
    Fifo,
    Directory,
}

const KINDS: [Kind; 6] = [Kind::Symlink, Kind::Dangling, Kind::SymlinkToDirectory, Kind::HardLink, Kind::Fifo, Kind::Directory];

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The places of a test outside of the directory that is written to.
struct Outside {
    target: PathBuf,
    missing: PathBuf,
    directory: PathBuf,
}

impl Outside {
    fn new(scratch: &Path) -> Self {
        let (target, missing, directory) = (scratch.join("target"), scratch.join("missing"), scratch.join("elsewhere"));
        fs::write(&target, PRECIOUS).unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(&directory).unwrap();
        Self { target, missing, directory }
    }

    /// Makes a thing of the kind at `place`, where nothing is.
    fn put(&self, kind: Kind, place: &Path) -> std::io::Result<()> {
        match kind {
            Kind::Symlink => symlink(&self.target, place),
            Kind::Dangling => symlink(&self.missing, place),
            Kind::SymlinkToDirectory => symlink(&self.directory, place),
            Kind::HardLink => fs::hard_link(&self.target, place),
            Kind::Fifo => Ok(rustix::fs::mkfifoat(CWD, place, Mode::from_raw_mode(0o600))?),
            Kind::Directory => fs::create_dir(place),
        }
    }

    #[track_caller]
    fn is_untouched(&self, doing: &str, kind: Kind) {
        assert_eq!(fs::read(&self.target).unwrap(), PRECIOUS, "{doing}, {kind:?}");
        let mode = fs::metadata(&self.target).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o600, "{doing}, {kind:?}");
        assert!(fs::symlink_metadata(&self.missing).is_err(), "{doing}, {kind:?}: something was made outside");
        assert_eq!(fs::read_dir(&self.directory).unwrap().count(), 0, "{doing}, {kind:?}: something was made outside");
    }
}

/// Swaps things of all kinds into the place of the file `name` while `work` is done, over and over, until each was there [`races`] times.
#[track_caller]
fn race(doing: &str, work: impl Fn(&Dir, &str) + Sync) {
    // In memory, where there is such a place: syncing a disk takes most of the time otherwise.
    let scratch = tempfile::TempDir::new_in("/dev/shm").or_else(|_| tempfile::TempDir::new()).unwrap();
    let dir = Dir::open_or_take_over(&scratch.path().join("d")).unwrap();
    let outside = Outside::new(scratch.path());
    let (place, aside) = (dir.path().join("state"), dir.path().join("aside"));
    for kind in KINDS {
        let (done, worked) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            // Also where a round fails: the worker is waited for.
            let _done = SetWhenDropped(&done);
            let worker = scope.spawn(|| {
                loop {
                    work(&dir, "state");
                    worked.fetch_add(1, Ordering::Relaxed);
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            let mut swaps = 0;
            // Both sides came to their turn.
            while swaps < races() || worked.load(Ordering::Relaxed) < races() / 4 {
                swaps += 1;
                // Made beside it and renamed over it, or taken away and put there: both while somebody is in the middle of it.
                let _ = fs::remove_dir(&aside);
                let _ = fs::remove_file(&aside);
                outside.put(kind, &aside).unwrap();
                // A directory takes no file's place, and a link no other name's of the same file.
                if fs::rename(&aside, &place).is_err() {
                    let _ = fs::remove_file(&place);
                    let _ = fs::rename(&aside, &place);
                }
                // Gone before anybody looks at it, as often as possible between two looks at the target.
                for _ in 0..BURST {
                    let _ = fs::remove_dir(&place);
                    let _ = fs::remove_file(&place);
                    let _ = outside.put(kind, &place);
                }
                outside.is_untouched(doing, kind);
                let _ = fs::remove_dir(&place);
                let _ = fs::remove_file(&place);
                assert!(!worker.is_finished(), "{doing}, {kind:?}");
            }
        });
        outside.is_untouched(doing, kind);
        let _ = fs::remove_dir(&place);
        let _ = fs::remove_file(&place);
    }
    println!("{doing}: {} swaps of each of {} kinds", races(), KINDS.len());
}

#[test]
fn whatever_takes_the_place_of_a_state_file_redirects_no_write() {
    race("write", |dir, name| drop(dir.write(name, b"mine")));
    race("write_new", |dir, name| drop(dir.write_new(name, b"mine")));
}

#[test]
fn whatever_takes_the_place_of_a_log_redirects_no_line() {
    race("append", |dir, name| {
        if let Ok(mut file) = dir.append(name) {
            let _ = file.write_all(b"mine");
        }
    });
}

#[test]
fn whatever_takes_the_place_of_a_lock_is_not_written_to() {
    race("lock", |dir, name| drop(Lock::acquire(dir, name)));
}

#[test]
fn whatever_takes_the_place_of_a_secret_is_not_overwritten() {
    race("write_secret", |dir, name| drop(dir.write_secret(name, b"mine")));
    race("remove_secret", |dir, name| {
        let _ = dir.write_new(name, b"mine");
        drop(dir.remove_secret(name));
    });
}

#[test]
fn whatever_takes_the_place_of_a_socket_keeps_its_mode() {
    race("socket", |dir, name| {
        if let Ok(listener) = dir.listen(name) {
            let path = listener.local_addr().unwrap().as_pathname().map(Path::to_owned).unwrap();
            assert_eq!(path, dir.path().join(name));
        }
    });
}
