//! The side of the daemon.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::fs::{FileType, Mode, OFlags};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{MAX_MESSAGE, Report};

/// A daemon that still has a caller waiting for it.
#[derive(Debug)]
pub struct Attached {
    caller: UnixStream,
    settings: Zeroizing<Vec<u8>>,
}

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("this command is run by postern itself; it cannot be started by hand")]
    NoCaller,
    #[error("cannot become a background process")]
    Io(#[from] io::Error),
    #[error("the settings are longer than {MAX_MESSAGE} bytes")]
    TooLong,
}

impl Attached {
    /// Leaves the session and directory of the caller and takes its settings. To be called first, before any thread is made.
    ///
    /// # Errors
    /// Where the process was not started by [`super::Launch`].
    pub fn take() -> Result<Self, AttachError> {
        let stdin = rustix::stdio::stdin();
        let stat = rustix::fs::fstat(stdin).map_err(io::Error::from)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(AttachError::NoCaller);
        }
        let caller = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(io::Error::from)?);
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(io::Error::from)?;
        rustix::stdio::dup2_stdin(&null).map_err(io::Error::from)?;
        match rustix::process::setsid() {
            // PERM: it leads a group already, as when it was started by an init system.
            Ok(_) | Err(rustix::io::Errno::PERM) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
        std::env::set_current_dir("/")?;

        let mut settings = Zeroizing::new(Vec::with_capacity(64 * 1024));
        (&caller).take(MAX_MESSAGE as u64 + 1).read_to_end(&mut settings)?;
        if settings.len() > MAX_MESSAGE {
            return Err(AttachError::TooLong);
        }
        Ok(Self { caller, settings })
    }

    /// What the caller said in private.
    #[must_use]
    pub fn settings(&self) -> &[u8] {
        &self.settings
    }

    /// Tells the caller how the start goes.
    pub fn progress(&mut self, detail: &impl Serialize) {
        self.send(Report::Progress(value(detail)));
    }

    /// Tells the caller that the daemon is up, and lets go of it.
    pub fn ready(mut self, detail: &impl Serialize) {
        self.send(Report::Ready(value(detail)));
    }

    /// Tells the caller why the daemon cannot start. The process must end after this.
    pub fn failed(mut self, detail: &impl Serialize) {
        self.send(Report::Failed(value(detail)));
    }

    fn send(&mut self, report: Report) {
        let mut line = serde_json::to_vec(&report).unwrap_or_default();
        line.push(b'\n');
        // A caller that was interrupted is gone; the daemon goes on without it.
        if let Err(error) = self.caller.write_all(&line) {
            tracing::debug!(%error, "the process that started this one does not listen any more");
        }
    }
}

fn value(detail: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(detail).unwrap_or_default()
}
