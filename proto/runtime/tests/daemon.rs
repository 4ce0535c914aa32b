//! Starts this program as a daemon and looks at what it became.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use postern_runtime::daemon::{self, Attached, Launch, Signals, StartError, Started};
use postern_runtime::files::Dir;
use postern_runtime::lock::Lock;
use rustix::process::Signal;
use serde_json::{Value, json};
use zeroize::Zeroizing;

const LIMIT: Duration = Duration::from_secs(20);
const CANARY: &str = "canary!!!!";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", home] => serve(Path::new(home)),
        ["fail"] => fail(),
        ["die"] => std::process::exit(7),
        // What a test runner passes: there is one test, and it has no name.
        _ if arguments.iter().any(|argument| argument == "--list") => println!("daemon: test"),
        _ => test(),
    }
}

fn serve(home: &Path) {
    daemon::harden();
    let mut attached = Attached::take().unwrap();
    let lock = Lock::acquire(&Dir::open(home).unwrap(), "lock").unwrap();
    let secret_length = attached.settings().len();
    attached.progress(&json!("one"));
    println!("on standard output");
    io::stdout().flush().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // Before anyone knows that this process can be sent a signal.
        let mut signals = Signals::new().unwrap();
        attached.ready(&json!({"secret_length": secret_length}));
        assert_eq!(signals.next().await, daemon::Signal::Reload);
        eprintln!("reloaded");
        assert_eq!(signals.next().await, daemon::Signal::Stop);
        eprintln!("stopped");
    });
    drop(lock);
}

fn fail() {
    let attached = Attached::take().unwrap();
    attached.failed(&json!({"code": "because"}));
    std::process::exit(1);
}

fn launch(dir: &Dir, arguments: &[&str], progress: &mut Vec<Value>) -> Result<Started, StartError> {
    let launch = Launch {
        arguments: arguments.iter().map(Into::into).collect(),
        log: dir.append("log").unwrap(),
        settings: Zeroizing::new(CANARY.repeat(30_000).into_bytes()),
    };
    launch.spawn().unwrap().wait(LIMIT, |detail| progress.push(detail))
}

fn test() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = Dir::open_or_take_over(&scratch.path().join("home")).unwrap();
    let home = dir.path().to_str().unwrap();

    // A descriptor as a shell hands it down: it survives exec.
    let (handed_down, _other) = io::pipe().unwrap();
    rustix::io::fcntl_setfd(&handed_down, rustix::io::FdFlags::empty()).unwrap();

    let mut progress = Vec::new();
    let started = launch(&dir, &["serve", home], &mut progress).unwrap();
    assert_eq!(progress, [json!("one")]);
    assert_eq!(started.detail, json!({"secret_length": 300_000}));
    assert_eq!(Lock::holder(&dir, "lock").unwrap().map(|pid| pid.as_raw_nonzero().get() as u32), Some(started.pid));

    let proc = format!("/proc/{}", started.pid);
    assert_eq!(fs::read_link(format!("{proc}/cwd")).unwrap(), Path::new("/"));
    let log = dir.path().join("log");
    let descriptors: Vec<_> = fs::read_dir(format!("{proc}/fd"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
        .filter(|target| !target.starts_with("anon_inode:") && !target.starts_with("socket:") && !target.ends_with("/lock"))
        .collect();
    // The listener of tokio's signals is a pair of sockets; there is no pipe.
    assert_eq!(descriptors, ["/dev/null".to_owned(), log.display().to_string(), log.display().to_string()]);
    let stat = fs::read_to_string(format!("{proc}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[3], started.pid.to_string(), "it leads a session");
    assert_eq!(fields[4], "0", "it has no terminal");
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    assert!(limits.lines().any(|line| line.starts_with("Max core file size") && line.contains(" 0 ")), "{limits}");
    let cmdline = fs::read_to_string(format!("{proc}/cmdline")).unwrap();
    assert!(cmdline.starts_with("postern\0serve\0") && !cmdline.contains(CANARY), "{cmdline}");

    Lock::signal_holder(&dir, "lock", Signal::HUP).unwrap().unwrap();
    let deadline = Instant::now() + LIMIT;
    while !fs::read_to_string(&log).unwrap().contains("reloaded") {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let signalled = Lock::signal_holder(&dir, "lock", Signal::TERM).unwrap().unwrap();
    assert!(signalled.wait(LIMIT));
    assert_eq!(fs::read_to_string(&log).unwrap(), "on standard output\nreloaded\nstopped\n");
    assert_eq!(Lock::holder(&dir, "lock").unwrap(), None);

    let failed = launch(&dir, &["fail"], &mut progress);
    assert!(matches!(failed, Err(StartError::Failed(detail)) if detail == json!({"code": "because"})));
    let died = launch(&dir, &["die"], &mut progress);
    assert!(matches!(died, Err(StartError::Died(status)) if status.code() == Some(7)));
    println!("ok");
}
