//! The warden: a small process that ends what the bench has started, should the bench die before it has done so itself.
//!
//! It reads lines from a pipe whose other end only the bench holds: `+pid 17`, `-pid 17`, and so on. At the pipe's end, it ends and removes what
//! was added and not taken back. So Ctrl-C, a panic and SIGKILL need no code of their own. It stands in a process group of its
//! own, so that Ctrl-C in a terminal does not reach it.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use postern_test_support::{Signal, signal};

use crate::Result;
use crate::process::end_descendants;

/// How long the bench waits, at its end, for the warden's.
const LAST_LOOK: std::time::Duration = std::time::Duration::from_secs(10);

/// The bench's side of the warden.
#[derive(Clone)]
pub struct Warden(Arc<Mutex<Inside>>);

struct Inside {
    pipe: Option<ChildStdin>,
    child: Child,
}

/// Something the warden looks after until this is dropped. Drop it *after* the thing has ended.
pub struct Entrusted {
    warden: Warden,
    what: String,
}

impl Warden {
    pub fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("warden")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self(Arc::new(Mutex::new(Inside { pipe: child.stdin.take(), child }))))
    }

    /// A process that is to be killed.
    pub fn process(&self, pid: u32) -> Entrusted {
        self.entrust(format!("pid {pid}"))
    }

    /// A directory that is to be removed.
    pub fn directory(&self, path: &Path) -> Entrusted {
        self.entrust(format!("dir {}", path.display()))
    }

    /// A postern home that is to be reset by this `postern`.
    pub fn home(&self, postern: &Path, home: &Path) -> Entrusted {
        self.entrust(format!("home {}\t{}", postern.display(), home.display()))
    }

    /// The network namespaces of this process.
    pub fn namespaces(&self) -> Entrusted {
        self.entrust(format!("netns postern-{}-", std::process::id()))
    }

    fn entrust(&self, what: String) -> Entrusted {
        self.say('+', &what);
        Entrusted { warden: self.clone(), what }
    }

    fn say(&self, sign: char, what: &str) {
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipe) = &mut inside.pipe {
            // A warden that was killed cannot be told; the ordinary way of ending things goes on without it.
            let _ = writeln!(pipe, "{sign}{what}");
        }
    }
}

impl Drop for Entrusted {
    fn drop(&mut self) {
        self.warden.say('-', &self.what);
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.pipe = None;
        let end = std::time::Instant::now() + LAST_LOOK;
        while matches!(self.child.try_wait(), Ok(None)) && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// The warden's process.
pub fn run() -> Result<()> {
    let mut left = BTreeSet::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if let Some(what) = line.strip_prefix('+') {
            left.insert(what.to_owned());
        } else if let Some(what) = line.strip_prefix('-') {
            left.remove(what);
        }
    }
    // Processes before the directories that they write to; homes know their own processes.
    for kind in ["home ", "pid ", "netns ", "dir "] {
        for what in left.iter().filter_map(|what| what.strip_prefix(kind)) {
            end(kind, what);
        }
    }
    Ok(())
}

fn end(kind: &str, what: &str) {
    match kind {
        "home " => {
            let Some((postern, home)) = what.split_once('\t') else { return };
            let mut reset = Command::new(postern);
            reset.args(["reset", "-y"]).env("POSTERN_HOME", home);
            reset.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // Nobody is left to be told of an error.
            let _ = reset.status();
        }
        "pid " => {
            if let Ok(pid) = what.parse() {
                end_descendants(pid);
                signal(pid, Signal::KILL);
            }
        }
        "netns " => {
            for folder in ["/run/netns", "/etc/netns"] {
                let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
                let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
                for name in names.filter(|name| name.starts_with(what)) {
                    let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
                    let _ = std::fs::remove_dir_all(Path::new("/etc/netns").join(name));
                }
            }
        }
        _ => {
            let _ = std::fs::remove_dir_all(what);
        }
    }
}
