//! Running `postern`: once with a deadline, or in the foreground beside the test.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::processes;

/// The binary that a suite which measures runs: `built`, or an optimised one that `POSTERN_BINARY` names.
#[must_use]
pub fn binary_or(built: &str) -> PathBuf {
    std::env::var_os("POSTERN_BINARY").map_or_else(|| built.into(), PathBuf::from)
}

/// A command that takes longer hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// After a command has ended, its output must end: who still holds it is a daemon that kept its caller's descriptors.
const OUTPUT_ENDS: Duration = Duration::from_secs(5);

/// Variables of the environment that would change what commands do.
const FOREIGN: &[&str] =
    &["POSTERN_HOME", "POSTERN_LOG", "RUST_LOG", "XDG_STATE_HOME", "QUIET", "NO_INPUT", "NO_COLOR", "ENROLLMENT_TICKET"];

/// How a command ended, and what it printed.
#[derive(Clone)]
pub struct Outcome {
    /// The exit code; 128 and the signal's number where a signal ended it, as shells say it.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
    command: String,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, stdout, stderr, took, command } = self;
        write!(f, "$ {command}\n{stdout}--- stderr\n{stderr}--- exit {status} after {took:?}")
    }
}

impl Outcome {
    /// Requires that the command succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        self.exits(0)
    }

    /// Requires the exit code `status`.
    #[track_caller]
    pub fn exits(self, status: i32) -> Self {
        assert!(self.status == status, "expected exit {status}:\n{self:?}");
        assert!(!self.stderr.contains("panicked at"), "it panicked:\n{self:?}");
        self
    }

    /// Requires that standard error says `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "expected {text:?} in standard error:\n{self:?}");
        self
    }

    /// The one line on standard output.
    #[track_caller]
    pub fn line(&self) -> &str {
        let line = self.stdout.strip_suffix('\n').unwrap_or(&self.stdout);
        assert!(!line.is_empty() && !line.contains('\n'), "expected one bare line:\n{self:?}");
        line
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("expected JSON ({error}):\n{self:?}"))
    }
}

/// A command about to run.
#[derive(Debug)]
pub struct Invocation {
    binary: PathBuf,
    home: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
    input: Option<Vec<u8>>,
    deadline: Duration,
}

impl Invocation {
    pub(crate) fn new(binary: &Path, home: &Path, directory: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            home: home.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: directory.to_owned(),
            input: None,
            deadline: DEADLINE,
        }
    }

    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// What the command reads; nothing at all unless this is called.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = directory.to_owned();
        self
    }

    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// As the standard library's command, with nothing set for its input and output.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for name in FOREIGN {
            command.env_remove(name);
        }
        command
            .env("POSTERN_HOME", &self.home)
            .env("HOME", &self.directory)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(&self.arguments)
            .current_dir(&self.directory);
        if let Some(filter) = std::env::var_os("POSTERN_TEST_LOG") {
            command.env("POSTERN_LOG", filter);
        }
        command
    }

    fn words(&self) -> String {
        let words: Vec<_> = self.arguments.iter().map(|word| word.to_string_lossy()).collect();
        format!("POSTERN_HOME={} postern {}", self.home.display(), words.join(" "))
    }

    /// Runs the command to its end.
    ///
    /// # Panics
    /// Where it does not end before the deadline, or a process that it left holds its output open.
    #[track_caller]
    pub fn run(self) -> Outcome {
        let (words, deadline) = (self.words(), self.deadline);
        self.spawn().finish(deadline).unwrap_or_else(|foreground| {
            let output = foreground.output();
            panic!("it did not end within {deadline:?}:\n$ {words}\n{output}")
        })
    }

    /// Starts the command and lets it run beside the test.
    #[track_caller]
    pub fn spawn(self) -> Foreground {
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut command = self.command();
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{} cannot be run: {error}", self.binary.display()));
        if let (Some(bytes), Some(mut stdin)) = (self.input.clone(), child.stdin.take()) {
            // A command that does not read to the end closes the pipe; that is its right.
            std::thread::spawn(move || stdin.write_all(&bytes));
        }
        let collected = Collected::default();
        let (done, ended) = channel();
        let pipes = [
            (Pipe::Out, child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>)),
            (Pipe::Err, child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>)),
        ];
        for (which, pipe) in pipes {
            let (done, collected) = (done.clone(), collected.clone());
            std::thread::spawn(move || {
                if let Some(pipe) = pipe {
                    collected.fill(which, pipe);
                }
                // Nobody listens where the test ended first.
                let _ = done.send(());
            });
        }
        Foreground { child, collected, ended, begun, words: self.words(), status: None }
    }
}

/// Which of the two outputs.
#[derive(Debug, Clone, Copy)]
enum Pipe {
    Out,
    Err,
}

/// Output as it comes.
#[derive(Debug, Clone, Default)]
struct Collected(Arc<(Mutex<[Vec<u8>; 2]>, Condvar)>);

impl Collected {
    fn fill(&self, which: Pipe, mut pipe: impl Read) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            self.lock()[which as usize].extend_from_slice(&buffer[..count]);
            self.0.1.notify_all();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, [Vec<u8>; 2]> {
        self.0.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn text(&self, which: Pipe) -> String {
        String::from_utf8_lossy(&self.lock()[which as usize]).into_owned()
    }

    /// Waits for the first whole line of either that contains `text`.
    fn line_with(&self, text: &str, limit: Duration) -> Option<String> {
        let end = Instant::now() + limit;
        let mut pipes = self.lock();
        loop {
            for bytes in pipes.iter() {
                let all = String::from_utf8_lossy(bytes);
                let whole = all.rfind('\n').map_or("", |end| &all[..end]);
                if let Some(line) = whole.lines().find(|line| line.contains(text)) {
                    return Some(line.to_owned());
                }
            }
            let left = end.checked_duration_since(Instant::now())?;
            pipes = self.0.1.wait_timeout(pipes, left).map_or_else(|poisoned| poisoned.into_inner().0, |(pipes, _)| pipes);
        }
    }
}

/// A command that runs beside the test; killed when dropped.
pub struct Foreground {
    child: Child,
    collected: Collected,
    ended: Receiver<()>,
    begun: Instant,
    words: String,
    status: Option<ExitStatus>,
}

impl Foreground {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, which: Signal) {
        processes::signal(self.pid(), which);
    }

    /// Whether it has not ended yet.
    pub fn runs(&mut self) -> bool {
        self.status.is_none() && matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has printed to standard output and standard error until now.
    pub fn output(&self) -> String {
        format!("{}--- stderr\n{}", self.collected.text(Pipe::Out), self.collected.text(Pipe::Err))
    }

    /// Waits for a line of standard output or error that contains `text`.
    #[track_caller]
    pub fn line_with(&self, text: &str, limit: Duration) -> String {
        self.collected
            .line_with(text, limit)
            .unwrap_or_else(|| panic!("no line with {text:?} within {limit:?}:\n$ {}\n{}", self.words, self.output()))
    }

    /// Waits for its end; it is given back where it lives on after `limit`.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Result<Outcome, Box<Self>> {
        if !processes::wait_end(self.pid(), limit.saturating_sub(self.begun.elapsed())) && self.runs() {
            return Err(Box::new(self));
        }
        let status = self.child.wait().unwrap_or_default();
        self.status = Some(status);
        let took = self.begun.elapsed();
        for _ in 0..2 {
            if self.ended.recv_timeout(OUTPUT_ENDS) == Err(RecvTimeoutError::Timeout) {
                panic!("after its end, somebody holds the output of\n$ {}\n{}", self.words, self.output());
            }
        }
        Ok(Outcome {
            status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
            stdout: self.collected.text(Pipe::Out),
            stderr: self.collected.text(Pipe::Err),
            took,
            command: self.words.clone(),
        })
    }

    /// Waits for its end, and requires it before the usual deadline from now.
    #[track_caller]
    pub fn wait(self) -> Outcome {
        let limit = self.begun.elapsed() + DEADLINE;
        self.finish(limit).unwrap_or_else(|running| panic!("it goes on:\n$ {}\n{}", running.words, running.output()))
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if self.runs() {
            // It may have ended meanwhile.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
