//! The side of the caller.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use serde_json::Value;

use super::{MAX_MESSAGE, Report};

/// Environment variables whose content a daemon must not keep: anyone who may read `/proc/PID/environ` would see them.
const SECRET_VARIABLES: [&str; 1] = ["ENROLLMENT_TICKET"];

/// A daemon to be started.
#[derive(Debug)]
pub struct Launch {
    /// Arguments after the program's name; everyone on this machine can read them.
    pub arguments: Vec<OsString>,
    /// Where its standard output and error go.
    pub log: File,
    /// What it is told in private.
    pub settings: zeroize::Zeroizing<Vec<u8>>,
}

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot start a background process")]
    Spawn(#[source] io::Error),
    #[error("cannot tell the background process its settings")]
    Settings(#[source] io::Error),
}

/// Why a daemon did not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It said why; the document is its own.
    #[error("the background process could not start")]
    Failed(Value),
    #[error("the background process ended before it was ready ({0})")]
    Died(ExitStatus),
    #[error("the background process {pid} was not ready after {} s", limit.as_secs())]
    TimedOut { pid: u32, limit: Duration },
    #[error("cannot hear from the background process")]
    Io(#[from] io::Error),
    #[error("the background process reported something that is no report")]
    Garbled,
}

/// A daemon that was started and has not said yet that it is up.
#[derive(Debug)]
pub struct Starting {
    child: Child,
    reports: BufReader<UnixStream>,
}

/// A daemon that is up.
#[derive(Debug)]
pub struct Started {
    pub pid: u32,
    /// What it said when it was ready.
    pub detail: Value,
}

impl Launch {
    /// Starts it.
    ///
    /// # Errors
    /// Where the process cannot be made or ends before it took its settings.
    pub fn spawn(self) -> Result<Starting, LaunchError> {
        close_on_exec().map_err(LaunchError::Spawn)?;
        let (ours, theirs) = UnixStream::pair().map_err(LaunchError::Spawn)?;
        let error_log = self.log.try_clone().map_err(LaunchError::Spawn)?;
        let mut command = Command::new(program());
        command.arg0("postern").args(&self.arguments).current_dir("/");
        for name in SECRET_VARIABLES {
            command.env_remove(name);
        }
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(self.log).stderr(error_log);
        // Dropping the command closes this process's copy of their end, without which the end of the stream is never seen.
        let child = command.spawn().map_err(LaunchError::Spawn)?;
        drop(command);
        let mut settings = &ours;
        let told = settings.write_all(&self.settings).and_then(|()| ours.shutdown(Shutdown::Write));
        match told {
            // It ended early: its report, or its exit status, says more than this error.
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
                ) => {}
            Err(error) => return Err(LaunchError::Settings(error)),
        }
        Ok(Starting { child, reports: BufReader::new(ours) })
    }
}

impl Starting {
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is up, has failed, or `limit` has passed; in the last case it is left alone.
    ///
    /// # Errors
    /// Where it did not come up.
    pub fn wait(mut self, limit: Duration, mut progress: impl FnMut(Value)) -> Result<Started, StartError> {
        let deadline = Instant::now() + limit;
        let mut line = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StartError::TimedOut { pid: self.child.id(), limit });
            }
            self.reports.get_ref().set_read_timeout(Some(left))?;
            // What was read before a time-out stays in `line`.
            match (&mut self.reports).take((MAX_MESSAGE - line.len()) as u64).read_until(b'\n', &mut line) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(StartError::Died(self.child.wait()?)),
                Err(error) => return Err(error.into()),
            }
            if line.is_empty() {
                return Err(StartError::Died(self.child.wait()?));
            }
            match serde_json::from_slice(&line) {
                Ok(Report::Progress(detail)) => progress(detail),
                Ok(Report::Ready(detail)) => return Ok(Started { pid: self.child.id(), detail }),
                Ok(Report::Failed(detail)) => {
                    // It ends by itself right after; waiting means that its lock is free when the caller goes on.
                    self.child.wait()?;
                    return Err(StartError::Failed(detail));
                }
                Err(_) => return Err(StartError::Garbled),
            }
            line.clear();
        }
    }
}

/// The program that runs now, by a path under which others will recognise it, where that is still the same file.
fn program() -> PathBuf {
    let running = PathBuf::from("/proc/self/exe");
    let identity = |path: &PathBuf| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    match std::env::current_exe() {
        Ok(path) if identity(&path).is_some() && identity(&path) == identity(&running) => path,
        // Replaced by an upgrade or removed: what runs now is still there under this name.
        _ => running,
    }
}

/// Marks all descriptors that this process was given by its own caller, so that a daemon does not inherit them.
fn close_on_exec() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        if number <= 2 {
            continue;
        }
        #[expect(unsafe_code, reason = "descriptors from the caller have no owner in this process to borrow them from")]
        // SAFETY: the number is used for one system call only and never closed here. If its file was closed meanwhile, the
        // call fails or marks a descriptor of this process that is marked anyway, because Rust opens all of them so.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        match rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC) {
            Ok(()) | Err(rustix::io::Errno::BADF) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
