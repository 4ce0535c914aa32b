//! A small disk of a test's own, that it fills, and makes read-only. Only root mounts one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::thread::UnshareFlags;

/// A file system in memory, of a bounded size. It is mounted for one thread and what that starts, and goes with them.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Runs `test` on a thread that sees a disk of `mib` mebibytes, in a directory that nobody else sees it in. `None`, said as
    /// [`crate::skipped`] says it, where the machine does not let us mount one.
    ///
    /// # Panics
    /// Where `test` panics.
    pub fn with<T: Send>(mib: usize, test: impl FnOnce(&Self) -> T + Send) -> Option<T> {
        let place = tempfile::Builder::new().prefix("postern-disk-").tempdir().expect("a directory for a test");
        let path = place.path().to_owned();
        let mounted = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                mount_alone(&path, mib)?;
                Ok(test(&Self { path: path.clone() }))
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        mounted.map_err(|error: io::Error| crate::skipped(format!("no disk of our own can be mounted here: {error}"))).ok()
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn filling(&self) -> PathBuf {
        self.path.join("filling")
    }

    /// Takes all room that is left. May be called again, for what was given back meanwhile.
    ///
    /// # Panics
    /// Where writing fails otherwise than by a full disk.
    pub fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filling()).expect("a file of the test");
        for size in [64 << 10, 1] {
            let chunk = vec![0; size];
            loop {
                match file.write(&chunk) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => panic!("the disk is not full: {error}"),
                }
            }
        }
    }

    /// Gives back what [`Self::fill`] took.
    ///
    /// # Panics
    /// Where it took nothing.
    pub fn make_room(&self) {
        fs::remove_file(self.filling()).expect("the disk was filled");
    }

    /// Makes the disk read-only, or writable again. The kernel refuses the former while somebody has a file open for writing.
    ///
    /// # Panics
    /// Where the kernel refuses.
    pub fn set_read_only(&self, read_only: bool) {
        let options = if read_only { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", options]).arg(&self.path)).expect("the disk is mounted anew");
    }
}

/// Mounts a file system of `mib` at `path`, for this thread and what it starts alone.
fn mount_alone(path: &Path, mib: usize) -> io::Result<()> {
    // SAFETY: descriptors stay shared (`FILES` is not among the flags), which is all that can go wrong with other threads.
    #[expect(unsafe_code, reason = "mounts of one thread take a system call that may be told to do worse")]
    unsafe {
        rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS)?;
    }
    // What is mounted here must not spread to where this namespace came from.
    run(Command::new("mount").args(["--make-rprivate", "/"]))?;
    run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0755"), "postern-test"]).arg(path))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
