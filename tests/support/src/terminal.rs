//! A command on a terminal, for what commands do only there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
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
        let near = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        rustix::pty::grantpt(&near)?;
        rustix::pty::unlockpt(&near)?;
        let name = rustix::pty::ptsname(&near, Vec::new())?;
        let far = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        let mut command = self.command();
        command.stdin(Stdio::from(far.try_clone()?)).stdout(Stdio::from(far.try_clone()?)).stderr(Stdio::from(far));
        let mut child = command.spawn()?;
        // The command's ends of the terminal; while any is open here, the terminal would not end with the command.
        drop(command);
        let mut near = File::from(near);
        near.write_all(typed.as_bytes())?;
        let shown = collect(near);
        let status = end(&mut child, limit)?;
        let text = shown.recv_timeout(limit).map_err(|_| io::Error::other("somebody holds the terminal"))?;
        Ok((status, text))
    }
}

fn collect(mut near: File) -> Receiver<String> {
    let (done, shown) = channel();
    std::thread::spawn(move || {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 1024]);
        // When the last process has left the terminal, reading fails with EIO.
        while let Ok(count @ 1..) = near.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..count]);
        }
        done.send(String::from_utf8_lossy(&bytes).into_owned())
    });
    shown
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
