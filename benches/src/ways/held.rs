//! What a way of other programs consists of: a directory, processes, and how they are found and waited for.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Kind, Part, Setting, Way};
use crate::Result;
use crate::process::{Owned, wait_for};
use crate::warden::Entrusted;

/// How long a program may take until it listens.
pub const STARTS: Duration = Duration::from_secs(20);

/// Processes and their directory; dropped in the order in which they stand here, the newest process first.
pub struct Held {
    processes: Vec<Owned>,
    directory: TempDir,
    _entrusted: Entrusted,
}

impl Held {
    pub fn new(setting: &Setting<'_>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("postern-bench-").tempdir()?;
        let entrusted = setting.warden.directory(directory.path());
        Ok(Self { processes: Vec::new(), directory, _entrusted: entrusted })
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn process(&mut self, process: Owned) {
        self.processes.push(process);
    }

    /// Ids of the processes, in the order in which they were started.
    pub fn processes(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(Owned::pid)
    }

    pub fn way(self, kind: Kind, what: String, entry: SocketAddr, parts: Vec<Part>) -> Way {
        Way { kind, what, entry, parts, forget: None, _held: Box::new(self) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        while self.processes.pop().is_some() {}
    }
}

/// A program: the one named, or the one in PATH or where the system keeps its daemons.
pub fn find(name: &str, named: Option<&PathBuf>) -> Option<PathBuf> {
    if let Some(named) = named {
        // Should it not be there, its start says so.
        return Some(named.canonicalize().unwrap_or_else(|_| named.clone()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Waits until connections are taken.
pub fn listens(address: SocketAddr, who: &str) -> Result<()> {
    wait_for(&format!("{who} at {address}"), STARTS, || TcpStream::connect(address).ok()).map(drop)
}

/// What a command prints that must succeed.
pub fn printed(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
