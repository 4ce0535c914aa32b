//! A home for one test.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::processes::{self, Process};
use crate::run::{Foreground, Invocation, Outcome};

/// How much of each log is printed when a test fails.
const LOG_TAIL: usize = 16 * 1024;

/// After `reset`, all processes of the home are gone; one that ends right now is given this long.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// A `POSTERN_HOME` in a directory of its own, with room beside it for the files of a test. When it is dropped, everything in it is
/// stopped by `reset -y`, and the test fails if anything still runs then; when the test fails, its logs are printed.
#[derive(Debug)]
pub struct TestHome {
    binary: PathBuf,
    scratch: TempDir,
}

impl TestHome {
    /// A home that does not exist yet. `binary` is `env!("CARGO_BIN_EXE_postern")`, which only a suite itself knows.
    #[must_use]
    pub fn new(binary: impl AsRef<Path>) -> Self {
        Self::below(binary, &std::env::temp_dir())
    }

    /// The same in a directory of the test's choice, such as one on another disk.
    #[must_use]
    pub fn below(binary: impl AsRef<Path>, directory: &Path) -> Self {
        let scratch = tempfile::Builder::new().prefix("postern-test-").tempdir_in(directory).expect("a directory for a test");
        Self { binary: binary.as_ref().to_owned(), scratch }
    }

    /// The home's directory.
    pub fn path(&self) -> PathBuf {
        self.scratch.path().join("home")
    }

    /// The directory beside the home, in which commands run.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Writes a file beside the home.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.scratch.path().join(name);
        fs::write(&path, text).expect("a file of a test");
        path
    }

    /// A command of this home, to be completed.
    pub fn invoke<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Invocation {
        Invocation::new(&self.binary, &self.path(), self.scratch.path()).args(arguments)
    }

    /// Runs a command, whatever it ends with.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.invoke(arguments).run()
    }

    /// Runs a command that must succeed; returns what it printed to standard output, without the last end of line.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).success().stdout.trim_end_matches('\n').to_owned()
    }

    /// Runs a command that must succeed and print JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.run(arguments).success().json()
    }

    /// Runs a command that must end with the exit code `status`.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str], status: i32) -> Outcome {
        self.run(arguments).exits(status)
    }

    /// Starts a command that goes on in the foreground.
    #[track_caller]
    pub fn spawn(&self, arguments: &[&str]) -> Foreground {
        self.invoke(arguments).spawn()
    }

    /// All processes of this home: those that name it, and those that hold its locks.
    pub fn processes(&self) -> Vec<Process> {
        processes::of_home(&self.path(), &self.lock_files())
    }

    fn lock_files(&self) -> Vec<PathBuf> {
        let nodes = fs::read_dir(self.path().join("nodes")).into_iter().flatten().flatten().map(|entry| entry.path());
        nodes.chain([self.path().join("servers")]).map(|directory| directory.join("lock")).collect()
    }

    /// The process of the node `name`, by its lock file.
    #[track_caller]
    pub fn node_pid(&self, name: &str) -> u32 {
        self.lock_pid(&format!("nodes/{name}/lock"))
    }

    /// The process of the servers, by their lock file.
    #[track_caller]
    pub fn servers_pid(&self) -> u32 {
        self.lock_pid("servers/lock")
    }

    #[track_caller]
    fn lock_pid(&self, file: &str) -> u32 {
        let text = fs::read_to_string(self.path().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        text.lines().next().unwrap_or_default().parse().unwrap_or_else(|_| panic!("{file} holds {text:?}, not a process id"))
    }

    /// Ends the process at once (SIGKILL) and waits until it is gone.
    #[track_caller]
    pub fn kill(&self, pid: u32) {
        assert!(self.processes().iter().any(|process| process.pid == pid), "process {pid} is none of this home");
        processes::signal(pid, Signal::KILL);
        assert!(processes::wait_end(pid, LAST_BREATH), "process {pid} survived SIGKILL");
    }

    /// The log of the node `name`, as it is now.
    pub fn node_log(&self, name: &str) -> String {
        self.log(&format!("nodes/{name}/stdout.log"))
    }

    /// The log of the servers, as it is now.
    pub fn servers_log(&self) -> String {
        self.log("servers/stdout.log")
    }

    /// The whole lines of the stream log of the node `name`, as it is now.
    ///
    /// # Panics
    /// Where one is no JSON.
    #[track_caller]
    pub fn stream_lines(&self, name: &str) -> Vec<Value> {
        let text = self.log(&format!("nodes/{name}/streams.jsonl"));
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| line.parse().expect("JSON lines")).collect()
    }

    fn log(&self, file: &str) -> String {
        fs::read(self.path().join(file)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The ends of all logs of this home, for a test that failed.
    pub fn logs(&self) -> String {
        let nodes = fs::read_dir(self.path().join("nodes")).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut text = String::new();
        for directory in nodes.chain([self.path().join("servers")]) {
            let file = directory.join("stdout.log");
            let Ok(bytes) = fs::read(&file) else { continue };
            let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL)..]).into_owned();
            text.push_str(&format!("===== {}\n{tail}\n", file.display()));
        }
        text
    }
}

impl Drop for TestHome {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            // Through the macro, the test harness captures it; to a closed standard error, it would panic in a panic.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| eprint!("{}", self.logs())));
        }
        if !self.path().exists() {
            return;
        }
        let reset = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.run(&["reset", "-y"])));
        let left = self.processes();
        let mut survived = Vec::new();
        for process in left {
            if !processes::wait_end(process.pid, LAST_BREATH) {
                processes::signal(process.pid, Signal::KILL);
                survived.push(process);
            }
        }
        if !failed {
            let reset = reset.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            assert!(reset.status == 0, "reset failed:\n{reset:?}");
            assert!(survived.is_empty(), "these survived `reset -y`: {survived:?}");
        }
    }
}
