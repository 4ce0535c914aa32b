//! A command on a terminal, for what commands do only there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::OpenptFlags;

use crate::processes;
use crate::run::Invocation;

impl Invocation {
    /// Runs the command with a terminal as its standard input, output and error, where `typed` is typed at once. Returns the exit
    /// code and all that the terminal showed.
    ///
    /// # Errors
    /// Where there are no terminals here, or the command does not end in time.
    pub fn run_on_terminal(self, typed: &str, limit: Duration) -> io::Result<(i32, String)> {
        self.start_on_terminal(typed)?.end(limit)
    }

    /// Starts the command with a terminal, as [`Self::run_on_terminal`], and lets it run beside the test.
    ///
    /// # Errors
    /// Where there are no terminals here.
    pub fn start_on_terminal(self, typed: &str) -> io::Result<OnTerminal> {
        let near = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        rustix::pty::grantpt(&near)?;
        rustix::pty::unlockpt(&near)?;
        let name = rustix::pty::ptsname(&near, Vec::new())?;
        let far = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        let mut command = self.command();
        command.stdin(Stdio::from(far.try_clone()?)).stdout(Stdio::from(far.try_clone()?)).stderr(Stdio::from(far));
        let child = command.spawn()?;
        // The command's ends of the terminal; while any is open here, the terminal would not end with the command.
        drop(command);
        let mut near = File::from(near);
        near.write_all(typed.as_bytes())?;
        let shown = Arc::default();
        Ok(OnTerminal { child, ended: collect(near, Arc::clone(&shown)), shown })
    }
}

/// A command that runs on a terminal beside the test; killed when dropped.
#[derive(Debug)]
pub struct OnTerminal {
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<()>,
}

impl OnTerminal {
    pub fn signal(&self, which: Signal) {
        processes::signal(self.child.id(), which);
    }

    /// All that the terminal was given until now.
    #[must_use]
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits for the end of the command; its exit code, and all that the terminal showed.
    ///
    /// # Errors
    /// Where it does not end in time.
    pub fn end(mut self, limit: Duration) -> io::Result<(i32, String)> {
        let status = end(&mut self.child, limit)?;
        self.ended.recv_timeout(limit).map_err(|_| io::Error::other("somebody holds the terminal"))?;
        Ok((status, self.shown()))
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // It may have ended, and been waited for, long before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut near: File, shown: Arc<Mutex<Vec<u8>>>) -> Receiver<()> {
    let (done, ended) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        // When the last process has left the terminal, reading fails with EIO.
        while let Ok(count @ 1..) = near.read(&mut buffer) {
            shown.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
        }
        done.send(())
    });
    ended
}

fn end(child: &mut Child, limit: Duration) -> io::Result<i32> {
    let until = Instant::now() + limit;
    if !processes::wait_end(child.id(), until.saturating_duration_since(Instant::now())) {
        child.kill()?;
        child.wait()?;
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end"));
    }
    Ok(child.wait()?.code().unwrap_or(-1))
}
