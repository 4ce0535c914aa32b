//! Lock files: a file lock, not the existence of a file, says that a daemon runs, so that a crash leaves nothing stale.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, FlockOperation};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::files::{Dir, FileError};

/// Those who only look hold the lock shared for microseconds; a taker that meets one tries again for this long.
const LOOKERS_GONE: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_millis(5);

/// What stands in the file, behind who holds the lock, once the holder was told to stop.
const STOPPING: &str = "stopping";

/// A lock that this process holds until it drops the value or ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("it runs already{}", pid.map(|pid| format!(", as process {}", pid.as_raw_nonzero())).unwrap_or_default())]
    Held { pid: Option<Pid> },
    #[error(transparent)]
    File(#[from] FileError),
}

impl Lock {
    /// Takes the lock `name` in `dir` and writes this process's id into it.
    ///
    /// # Errors
    /// [`LockError::Held`] where another process has it.
    pub fn acquire(dir: &Dir, name: &str) -> Result<Self, LockError> {
        let deadline = Instant::now() + LOOKERS_GONE;
        loop {
            let mut file = dir.open_in_place(name)?;
            let fault = |source: io::Error| FileError::io("lock", &dir.path().join(name), source);
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(RETRY);
                    continue;
                }
                Err(Errno::WOULDBLOCK) => return Err(LockError::Held { pid: read_pid(&mut file) }),
                Err(errno) => return Err(fault(errno.into()).into()),
            }
            // The file may have been removed, and made anew, between opening and locking it.
            if !is_still(dir, name, &file).map_err(|errno| fault(errno.into()))? {
                continue;
            }
            let text = format!("{}\n{}\n", std::process::id(), pid_namespace());
            file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(fault)?;
            return Ok(Self { file });
        }
    }

    /// Says in the file that this process is about to end, for [`Lock::stopping`]. To be called once.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn say_stopping(&self) -> io::Result<()> {
        // Behind what `acquire` wrote, through the same open file.
        (&self.file).write_all(format!("{STOPPING}\n").as_bytes())
    }

    /// The process that holds the lock `name` in `dir`, where it has said that it is about to end.
    ///
    /// # Errors
    /// Where the file cannot be looked at.
    pub fn stopping(dir: &Dir, name: &str) -> Result<Option<Pid>, FileError> {
        // Where nobody holds the lock, the file stays as its last holder left it.
        let Some(holder) = Self::holder(dir, name)? else { return Ok(None) };
        let Some(mut file) = dir.open_to_look(name)? else { return Ok(None) };
        Ok(read_line(&mut file, 2).is_some_and(|line| line == STOPPING).then_some(holder))
    }

    /// The process that holds the lock `name` in `dir`, if one does.
    ///
    /// # Errors
    /// Where the file cannot be looked at.
    pub fn holder(dir: &Dir, name: &str) -> Result<Option<Pid>, FileError> {
        // Looking must not take more than reading: the disk may be one that nobody writes to.
        let Some(mut file) = dir.open_to_look(name)? else { return Ok(None) };
        // The holder has the lock a moment before its id stands in the file.
        let deadline = Instant::now() + LOOKERS_GONE;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => return Ok(None),
                Err(Errno::WOULDBLOCK) => match read_pid(&mut file) {
                    Some(pid) => return Ok(Some(pid)),
                    None if Instant::now() < deadline => std::thread::sleep(RETRY),
                    None => {
                        let nobody = io::Error::other("it is locked by a process that did not say who it is");
                        return Err(FileError::io("read", &dir.path().join(name), nobody));
                    }
                },
                Err(errno) => return Err(FileError::io("look at", &dir.path().join(name), errno)),
            }
        }
    }

    /// Sends `signal` to the process that holds the lock, which cannot be another one that was given the same id meanwhile.
    ///
    /// # Errors
    /// Where the file cannot be looked at or the signal not sent; also where the holder runs in another container, in which its id
    /// means another process than here.
    pub fn signal_holder(dir: &Dir, name: &str, signal: Signal) -> Result<Option<Signalled>, FileError> {
        let Some(pid) = Self::holder(dir, name)? else { return Ok(None) };
        let fault = |errno: Errno| FileError::io("signal the process of", &dir.path().join(name), errno);
        if dir
            .open_to_look(name)?
            .and_then(|mut file| read_namespace(&mut file))
            .is_some_and(|namespace| namespace != pid_namespace())
        {
            let elsewhere = io::Error::other("it runs in another container; stop it there");
            return Err(FileError::io("signal the process of", &dir.path().join(name), elsewhere));
        }
        let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(fault(errno)),
        };
        if Self::holder(dir, name)? != Some(pid) {
            return Ok(None);
        }
        match rustix::process::pidfd_send_signal(&handle, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(Some(Signalled { pid, handle })),
            Err(errno) => Err(fault(errno)),
        }
    }
}

/// A process that was sent a signal, and can be waited for.
#[derive(Debug)]
pub struct Signalled {
    pid: Pid,
    handle: std::os::fd::OwnedFd,
}

impl Signalled {
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits until the process has ended; `false` where it lives on after `limit`.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = rustix::event::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut wait = [PollFd::from_borrowed_fd(self.handle.as_fd(), PollFlags::IN)];
            match rustix::event::poll(&mut wait, Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Ends the process at once.
    pub fn kill(&self) {
        // The only error left is that it ended by itself.
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

fn is_still(dir: &Dir, name: &str, file: &File) -> Result<bool, Errno> {
    let held = rustix::fs::fstat(file)?;
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The id in the file; `None` where none is written (yet).
fn read_pid(file: &mut File) -> Option<Pid> {
    Pid::from_raw(read_line(file, 0)?.parse().ok()?)
}

/// The namespace that the id counts in; `None` where it is not said.
fn read_namespace(file: &mut File) -> Option<String> {
    read_line(file, 1)
}

fn read_line(file: &mut File, number: usize) -> Option<String> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(128).read_to_string(&mut text).ok()?;
    // Without its end, a line may be the first half of one.
    text.split_inclusive('\n').nth(number)?.strip_suffix('\n').map(str::to_owned)
}

/// What process ids of this process count in: containers have one each. The same for all where it cannot be said.
fn pid_namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid").map(|link| link.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::scratch;

    #[test]
    fn one_holder_at_a_time() {
        let (_scratch, dir) = scratch();
        assert_eq!(Lock::holder(&dir, "lock").unwrap(), None);
        let held = Lock::acquire(&dir, "lock").unwrap();
        let us = Pid::from_raw(std::process::id() as i32);
        assert_eq!(Lock::holder(&dir, "lock").unwrap(), us);
        assert!(matches!(Lock::acquire(&dir, "lock"), Err(LockError::Held { pid }) if pid == us));
        drop(held);
        assert_eq!(Lock::holder(&dir, "lock").unwrap(), None);
        Lock::acquire(&dir, "lock").unwrap();
    }

    #[test]
    fn a_holder_says_that_it_stops_and_the_next_one_does_not() {
        let (_scratch, dir) = scratch();
        let us = Pid::from_raw(std::process::id() as i32);
        assert_eq!(Lock::stopping(&dir, "lock").unwrap(), None);
        let held = Lock::acquire(&dir, "lock").unwrap();
        assert_eq!(Lock::stopping(&dir, "lock").unwrap(), None);
        held.say_stopping().unwrap();
        assert_eq!((Lock::stopping(&dir, "lock").unwrap(), Lock::holder(&dir, "lock").unwrap()), (us, us));
        drop(held);
        assert_eq!(Lock::stopping(&dir, "lock").unwrap(), None, "what the file says is left of one that ended");
        let _next = Lock::acquire(&dir, "lock").unwrap();
        assert_eq!(Lock::stopping(&dir, "lock").unwrap(), None);
    }

    #[test]
    fn many_takers_and_lookers_one_winner() {
        let (_scratch, dir) = scratch();
        let barrier = std::sync::Barrier::new(8);
        let won: usize = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        let _ = Lock::holder(&dir, "lock");
                        let lock = Lock::acquire(&dir, "lock");
                        barrier.wait();
                        usize::from(lock.is_ok())
                    })
                })
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        assert_eq!(won, 1);
    }

    #[test]
    fn a_holder_in_another_container_is_not_taken_for_a_process_here() {
        let (_scratch, dir) = scratch();
        let _held = Lock::acquire(&dir, "lock").unwrap();
        let file = dir.path().join("lock");
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, format!("{}\n{}\n", std::process::id(), pid_namespace()));
        std::fs::write(&file, "1\npid:[1]\n").unwrap();
        let error = Lock::signal_holder(&dir, "lock", Signal::TERM).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("another container"), "{error}");
    }

    #[test]
    fn a_left_over_file_of_a_dead_process_locks_nothing() {
        let (_scratch, dir) = scratch();
        dir.write("lock", b"1\n").unwrap();
        assert_eq!(Lock::holder(&dir, "lock").unwrap(), None);
        assert!(Lock::signal_holder(&dir, "lock", Signal::TERM).unwrap().is_none());
        Lock::acquire(&dir, "lock").unwrap();
    }
}
