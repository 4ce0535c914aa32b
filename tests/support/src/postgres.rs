//! A PostgreSQL server and sessions of its client, where they are installed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use tempfile::TempDir;

use crate::poll::{PATIENCE, eventually};
use crate::servers::Reserved;

/// An installed program's path; where it is missing, a line of output says what is skipped.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    // Debian keeps a database server's programs out of the path.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let found = versions
        .chain(std::env::split_paths(&path))
        .chain(beside)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        crate::skipped(format_args!("the program `{name}` is not installed"));
    }
    found
}

/// A user who is not root, for a server that refuses root.
fn plain_user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let of = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2);
        Some((ids.next()?.parse().ok()?, ids.next()?.parse().ok()?))
    };
    of("postgres").or_else(|| of("nobody"))
}

/// A database server with an empty database, until it is dropped.
#[derive(Debug)]
pub struct Postgres {
    server: Child,
    port: u16,
    psql: PathBuf,
    _data: TempDir,
}

impl Postgres {
    /// `None` where it is not installed.
    ///
    /// # Panics
    /// Where it is, and does not start.
    #[track_caller]
    #[must_use]
    pub fn start() -> Option<Self> {
        let (psql, initdb, postgres) = (program("psql")?, program("initdb")?, program("postgres")?);
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        fs::create_dir(&data).expect("a directory");
        let user = if rustix::process::geteuid().is_root() { plain_user() } else { None };
        if let Some((user, group)) = user {
            for path in [directory.path(), &data] {
                std::os::unix::fs::chown(path, Some(user), Some(group)).expect("root gives files away");
            }
        }
        let as_user = |program: &Path| {
            let mut command = Command::new(program);
            if let Some((user, group)) = user {
                command.gid(group).uid(user);
            }
            command.current_dir(directory.path()).env("LC_ALL", "C").stdin(Stdio::null());
            command
        };
        let mut init = as_user(&initdb);
        init.arg("-D").arg(&data).args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]);
        let made = init.output().expect("an installed program");
        assert!(made.status.success(), "{made:?}");
        let port = Reserved::new().release();
        let mut serve = as_user(&postgres);
        serve.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        serve.args(["-c", "unix_socket_directories="]).stdout(Stdio::null()).stderr(Stdio::null());
        let server = serve.spawn().expect("an installed program");
        let mut started = Self { server, port, psql, _data: directory };
        // A server that still starts says so.
        eventually(PATIENCE, "the database answers", || {
            assert!(matches!(started.server.try_wait(), Ok(None)), "the database server ended");
            started.client(port).args(["-c", "select 1"]).output().ok()?.status.success().then_some(())
        });
        Some(started)
    }

    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// `psql`, to be completed, with bare rows as its output, for the server that is reached at `port` of this machine.
    #[must_use]
    pub fn client(&self, port: u16) -> Command {
        let mut command = Command::new(&self.psql);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"]);
        command.args(["-p", &port.to_string()]).env("PGCONNECT_TIMEOUT", "30").arg("postgres");
        command
    }

    /// An open session through `port`.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[track_caller]
    #[must_use]
    pub fn session(&self, port: u16) -> PostgresSession {
        let mut command = self.client(port);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut psql = command.spawn().expect("an installed program");
        let (stdin, stdout) = (psql.stdin.take().expect("a pipe"), psql.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        PostgresSession { psql, stdin, lines: Mutex::new(lines) }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGKILL of a server whose files go with the test.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A client that stays connected.
#[derive(Debug)]
pub struct PostgresSession {
    psql: Child,
    stdin: ChildStdin,
    lines: Mutex<Receiver<String>>,
}

impl PostgresSession {
    /// Says `statement`, and nothing comes back.
    ///
    /// # Panics
    /// Where the session has ended.
    #[track_caller]
    pub fn say(&mut self, statement: &str) {
        writeln!(self.stdin, "{statement};").expect("the session goes on");
    }

    /// The one line that `query` gives.
    ///
    /// # Panics
    /// Where the session has ended, or the answer takes longer than two minutes.
    #[track_caller]
    pub fn ask(&mut self, query: &str) -> String {
        self.say(query);
        let lines = self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.recv_timeout(4 * PATIENCE).expect("an answer")
    }
}

impl Drop for PostgresSession {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}
