//! What others must not learn: the relay (behaviour 28), other users who look at processes, logs and files (29), and other users of
//! the machine who try to use a home (30). Reading another process's memory and being somebody else takes root.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use postern_proto::secret::random_array;
use postern_proto::ticket::Ticket;
use postern_test_support::{
    Disk, EchoServer, Outcome, PATIENCE, Project, Proxy, Reserved, TestHome, command_lines, connect, contains, echoes,
    eventually, files_below, found_in_memory, json, listen_as,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// Somebody who is neither root nor the owner of anything.
const NOBODY: u32 = 65_534;

fn not_root() -> bool {
    let plain = !rustix::process::geteuid().is_root();
    if plain {
        postern_test_support::skipped("this takes root");
    }
    plain
}

/// A word that stands nowhere else.
fn canary(kind: &str) -> String {
    format!("canary-{kind}-{}", hex(&random_array::<8>()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Behaviour 28: the relay, in a process of its own, receives what is needed to join links, and nothing more.
#[test]
fn the_relay_learns_nothing() {
    if not_root() {
        return;
    }
    let [attribute, value, outlet, up, down] = ["attribute", "value", "outlet", "up", "down"].map(canary);
    let relay_name = canary("relay-name");
    let admin = TestHome::new(POSTERN);
    admin.ok(&["enroll"]);
    let project = Project::of(admin);

    // A relay in front of which every byte is recorded. The one beside the authority ends, so that nothing goes another way.
    let proxy = Proxy::recording();
    let relay = project.stranger();
    let ticket = relay.file("relay.ticket", project.ticket(&["--relay-server", &proxy.address.to_string()]));
    let port = Reserved::new().release();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    proxy.point_at(address);
    let serving = relay.invoke(["serve", "relay", "--listen", &address.to_string(), "--ticket"]).arg(ticket).spawn();
    eventually(PATIENCE, "the relay listens", || connect(address).ok());
    let authority = project.json(&["status"])["servers"][0]["address"].as_str().expect("an address").to_owned();
    project.ok(&["serve", "stop"]);
    let _authority = project.spawn(&["serve", "authority", "--listen", &authority]);
    eventually(PATIENCE, "the authority listens", || connect(authority.as_str()).ok());

    // The service answers each line of the client's with one of its own.
    let said = down.clone();
    let server = postern_test_support::TcpServer::start(move |mut stream| {
        let mut question = String::new();
        stream.read_to_string(&mut question)?;
        stream.write_all(format!("{said}\n").repeat(question.lines().count()).as_bytes())?;
        stream.shutdown(Shutdown::Write)
    });
    let attributes = format!("{attribute}={value}");
    let vendor = project.member(&["--attribute", &attributes, "--relay", &relay_name]);
    let policy = format!("(= subject.{attribute} \"{value}\")");
    vendor.ok(&["node", "create", "--configuration", &format!("{{name: vendor, relay: {relay_name}}}")]);
    let target = server.port().to_string();
    vendor.ok(&["tcp-outlet", "create", "--from", &outlet, "--to", &target, "--allow", &policy]);
    let customer = project.member(&["--attribute", &attributes]);
    customer.ok(&["node", "create", "--configuration", "{name: customer}"]);
    let route = ["--via", &relay_name, "--to", &outlet, "--alias", "service"];
    customer.ok(&[&["tcp-inlet", "create", "--from", "127.0.0.1:0", "--allow", &policy], &route[..]].concat());
    let inlet = customer.inlet("service");
    eventually(PATIENCE, "a portal through the only relay", || (customer.portal("service")["ok"] == true).then_some(()));

    const LINES: usize = 20_000;
    let ask = || {
        let mut stream = connect(inlet).expect("the inlet listens");
        let question = format!("{up}\n").repeat(LINES);
        let mut writer = stream.try_clone().expect("a handle");
        let writing =
            thread::spawn(move || writer.write_all(question.as_bytes()).and_then(|()| writer.shutdown(Shutdown::Write)));
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        writing.join().expect("no panic").expect("all is taken");
        assert_eq!(answer.lines().filter(|line| *line == down).count(), LINES);
    };
    ask();
    // One more stays open while the memory is read.
    let mut live = connect(inlet).expect("the inlet listens");
    live.write_all(format!("{up}\n").as_bytes()).expect("it is taken");

    let secret: Vec<&[u8]> = [&attribute, &value, &outlet, &up, &down].map(|text| text.as_bytes()).to_vec();
    let known = relay_name.as_bytes();
    let recorded = proxy.recorded();
    let bytes: usize = recorded.iter().map(Vec::len).sum();
    assert!(bytes > 2 * LINES * up.len(), "only {bytes} bytes came to the relay: the traffic went another way");
    for connection in &recorded {
        for needle in &secret {
            assert!(!contains(connection, needle), "{} on its way to the relay", String::from_utf8_lossy(needle));
        }
    }
    let memory = |pid: u32| found_in_memory(pid, &[&secret[..], &[known]].concat());
    let found = memory(serving.pid());
    assert_eq!(found, [known], "the relay's memory holds relay names (so they were found) and nothing else");
    // The same look finds them where they have to be.
    let at_vendor = memory(vendor.node_pid("vendor"));
    for needle in [&attribute, &value, &outlet] {
        assert!(at_vendor.contains(&needle.as_bytes()), "{needle} is not in the memory of the outlet's own node");
    }
    for (path, bytes) in files_below(&relay.path()) {
        assert!(secret.iter().all(|needle| !contains(&bytes, needle)), "a secret in the relay's file {}", path.display());
    }
    let log = serving.output();
    assert!(secret.iter().all(|needle| !contains(log.as_bytes(), needle)), "a secret in the relay's log:\n{log}");
}

/// Looks at all command lines until told to stop.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    seen: Arc<Mutex<BTreeMap<Vec<u8>, u32>>>,
}

impl Watcher {
    fn start() -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<BTreeMap<Vec<u8>, u32>>>::default());
        let (stopped, all) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let lines = command_lines();
                let mut all = all.lock().expect("no panic");
                all.extend(lines.into_iter().map(|(pid, line)| (line, pid)));
                drop(all);
                // No command is as short as this.
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self { stop, thread, seen }
    }

    fn end(self) -> BTreeMap<Vec<u8>, u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
        Arc::try_unwrap(self.seen).expect("the thread has ended").into_inner().expect("no panic")
    }
}

/// The forms in which a key could show: raw, hex of both cases, base64, and a list of numbers as `Debug` prints it.
fn forms(key: &[u8]) -> Vec<Vec<u8>> {
    let numbers: Vec<String> = key.iter().map(u8::to_string).collect();
    vec![
        key.to_vec(),
        hex(key).into_bytes(),
        hex(key).to_uppercase().into_bytes(),
        base64(key).into_bytes(),
        base64(key).replace('+', "-").replace('/', "_").into_bytes(),
        numbers.join(", ").into_bytes(),
    ]
}

/// Standard base64, without padding and without the last characters that depend on what follows.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.chunks_exact(3);
    groups
        .flat_map(|group| {
            let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
            [18, 12, 6, 0].map(|shift| char::from(ALPHABET[(bits >> shift & 63) as usize]))
        })
        .collect()
}

/// The secret keys that a home keeps: every file of 32 bytes, and every byte string of 32 in the files of identities and of the
/// authority (which are CBOR) that is not public.
fn keys(home: &Path) -> Vec<Vec<u8>> {
    let secret_files = ["static", "signing", "identity", "issuer"];
    let mut found = Vec::new();
    for (path, bytes) in files_below(home) {
        if !path.file_name().is_some_and(|name| secret_files.iter().any(|secret| name == *secret)) {
            continue;
        }
        if bytes.len() == 32 {
            found.push(bytes);
            continue;
        }
        let public = postern_proto::identity::Identity::from_secret_bytes(&bytes).map(|identity| identity.history().encode());
        let public = public.unwrap_or_default();
        // 0x58 0x20 begins a byte string of 32 (RFC 8949).
        let strings = bytes.windows(34).filter(|window| window.starts_with(&[0x58, 0x20])).map(|window| window[2..].to_vec());
        found.extend(strings.filter(|string| !contains(&public, string)));
    }
    found.sort();
    found.dedup();
    found
}

/// Behaviour 29: a life with tickets, keys and traffic, watched from outside and logged at the finest level.
#[test]
fn nothing_secret_where_others_look() {
    let watcher = Watcher::start();
    let mut printed = Vec::new();
    let mut homes = Vec::new();
    let mut run = |home: &TestHome, arguments: &[&str]| -> Outcome {
        let outcome = home.invoke(arguments).env("POSTERN_LOG", "trace").run();
        printed.push(outcome.clone());
        outcome
    };
    let server = EchoServer::start();
    let canary = canary("traffic");

    let admin = TestHome::new(POSTERN);
    run(&admin, &["enroll"]).success();
    let ticket = |flags: &[&str]| {
        let outcome = admin.invoke(["project", "ticket"]).args(flags).env("POSTERN_LOG", "trace").run().success();
        (outcome.line().to_owned(), outcome.stderr)
    };
    let (vendors, said) = ticket(&["--relay", "vendor"]);
    let (customers, said_too) = ticket(&["--attribute", "customer"]);
    let (unused, _) = ticket(&[]);
    let members = [("vendor", &vendors), ("customer", &customers)].map(|(name, ticket)| {
        let home = TestHome::new(POSTERN);
        let file = home.file("my.ticket", ticket);
        let configuration = if name == "vendor" {
            format!("{{name: vendor, relay: vendor, tcp-outlet: {{from: service, to: {}}}}}", server.port())
        } else {
            "{name: customer, tcp-inlet: {alias: service, from: '127.0.0.1:0', via: vendor, to: service}}".to_owned()
        };
        let file = file.to_str().expect("text").to_owned();
        run(&home, &["node", "create", "--configuration", &configuration, "--enrollment-ticket", &file]).success();
        home
    });
    echoes(members[1].inlet("service"), format!("{canary}\n").repeat(10_000).as_bytes()).expect("traffic");

    // What fails: a used ticket, a changed one, half of one, one of another project, one with something behind it.
    let stranger = TestHome::new(POSTERN);
    let changed = customers.replace(&customers[60..62], if &customers[60..62] == "AA" { "BB" } else { "AA" });
    let faulty =
        [customers.clone(), changed, unused[..unused.len() / 2].to_owned(), format!("{unused} {unused}"), format!("x{unused}")];
    for (number, text) in faulty.iter().enumerate() {
        let file = stranger.file(&format!("{number}.ticket"), text);
        let outcome = run(&stranger, &["project", "enroll", file.to_str().expect("text")]);
        assert_ne!(outcome.status, 0, "{outcome:?}");
        let inline = stranger.invoke(["project", "enroll", "-"]).input(text.as_bytes()).env("POSTERN_LOG", "trace").run();
        assert_ne!(inline.status, 0, "{inline:?}");
        let mistaken = stranger.invoke(["node", "create", "--enrollment-ticket", "-"]).input(text.as_bytes()).run();
        assert_ne!(mistaken.status, 0, "{mistaken:?}");
        homes.push(inline);
        homes.push(mistaken);
    }
    for home in &members {
        run(home, &["status"]).success();
        run(home, &["node", "show"]).success();
    }
    for home in &members {
        run(home, &["node", "stop"]).success();
        run(home, &["node", "start"]).success();
    }
    // What somebody may not have is written down, too.
    run(&members[0], &["policy", "create", "--resource", "service", "--allow", "nobody-has-this"]).success();
    let refused = echoes(members[1].inlet("service"), canary.as_bytes());
    assert!(refused.is_err(), "the policy does not allow it");
    // Daemons, while they run.
    let mut daemons = Vec::new();
    for home in members.iter().chain([&admin]) {
        for process in home.processes() {
            for file in ["environ", "cmdline"] {
                let path = format!("/proc/{}/{file}", process.pid);
                daemons.push((path.clone(), fs::read(&path).unwrap_or_default()));
            }
        }
    }
    assert!(daemons.iter().filter(|(_, bytes)| !bytes.is_empty()).count() >= 5, "not all daemons were looked at: {daemons:?}");
    run(&admin, &["ticket", "list"]).success();
    run(&admin, &["serve", "stop"]).success();
    run(&admin, &["enroll"]).success();
    let watched = watcher.end();
    assert!(watched.keys().any(|line| contains(line, b"my.ticket")), "the commands of this test were not seen");
    printed.extend(homes);

    let mut secrets: Vec<(String, Vec<u8>)> = vec![("the traffic".to_owned(), canary.clone().into_bytes())];
    for text in [&vendors, &customers, &unused] {
        let ticket: Ticket = text.parse().expect("a ticket");
        let secret: &[u8; 32] = ticket.secret.expose_secret();
        secrets.extend(forms(secret).into_iter().map(|form| ("a ticket's secret".to_owned(), form)));
        // Any sixteen characters of the part that holds the secret would be a beginning.
        secrets
            .extend([text.len() - 40, text.len() - 60].map(|at| ("a ticket".to_owned(), text.as_bytes()[at..at + 16].to_vec())));
    }
    let mut count = 0;
    for home in members.iter().chain([&admin]) {
        let keys = keys(&home.path());
        count += keys.len();
        for key in keys {
            secrets.extend(forms(&key).into_iter().map(|form| (format!("a key of {}", home.path().display()), form)));
        }
    }
    assert!(count >= 7, "only {count} keys were found, which are too few to be all");

    let mut places: Vec<(String, Vec<u8>)> = vec![("what `project ticket` said".to_owned(), (said + &said_too).into_bytes())];
    places.extend(watched.into_iter().map(|(line, pid)| (format!("the command line of {pid}"), line)));
    places.extend(
        printed.into_iter().map(|outcome| ("output".to_owned(), format!("{}{}", outcome.stdout, outcome.stderr).into_bytes())),
    );
    places.extend(daemons);
    let mut seen = [false; 4];
    for home in members.iter().chain([&admin]) {
        for (path, bytes) in files_below(&home.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let log = name == "stdout.log";
            let database = name.starts_with("authority.db");
            // Logs of daemons were told to say all; without fine lines they did not.
            seen[0] |= log && contains(&bytes, b"DEBUG");
            seen[1] |= database && !bytes.is_empty();
            seen[2] |= name == "streams.jsonl" && !bytes.is_empty();
            seen[3] |= name == "refusals.jsonl" && !bytes.is_empty();
            if log || database || name.contains(".json") {
                places.push((path.display().to_string(), bytes));
            }
        }
    }
    assert_eq!(seen, [true; 4], "no log with fine lines, database, or log of streams or refusals was looked at");
    for (place, bytes) in &places {
        for (what, secret) in &secrets {
            assert!(!contains(bytes, secret), "{what} ({}) stands in {place}", String::from_utf8_lossy(secret));
        }
    }
    println!("{} secrets are in none of {} places", secrets.len(), places.len());
}

/// A command as somebody else.
fn as_nobody(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::null());
    command
}

fn postern_as_nobody(home: &Path, arguments: &[&str]) -> Output {
    as_nobody(executable_for_all()).env("POSTERN_HOME", home).args(arguments).output().expect("it runs")
}

/// The binary where everybody may run it: a build below root's own directory is not.
fn executable_for_all() -> PathBuf {
    static COPY: std::sync::OnceLock<(tempfile::TempDir, PathBuf)> = std::sync::OnceLock::new();
    let (_, path) = COPY.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("its owner may");
        let path = directory.path().join("postern");
        // Copied by another process: a descriptor of this one, open for writing, would be inherited by whatever another test
        // starts at that moment, and a file that is open for writing cannot be run.
        let copied = Command::new("cp").arg(POSTERN).arg(&path).status().expect("cp runs");
        assert!(copied.success());
        (directory, path)
    });
    path.clone()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o7777
}

/// A home with a running node, in a directory that everybody may enter.
fn open_to_all() -> TestHome {
    let home = TestHome::new(POSTERN);
    set_mode(home.scratch(), 0o755);
    home.ok(&["node", "create", "n"]);
    home
}

/// Behaviour 30: nothing of a home is readable to others, whatever the umask was.
#[test]
fn a_home_is_its_owners() {
    let home = TestHome::new(POSTERN);
    let script = format!("umask 000; exec '{POSTERN}' node create n");
    let template = home.invoke([""; 0]).command();
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(home.scratch()).stdin(Stdio::null());
    shell.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let made = shell.output().expect("a shell");
    assert!(made.status.success(), "{made:?}");
    fn look(path: &Path, seen: &mut usize) {
        for entry in fs::read_dir(path).expect("a directory").flatten() {
            let path = entry.path();
            let kind = entry.file_type().expect("a type");
            let expected = if kind.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode(&path), expected, "{}", path.display());
            *seen += 1;
            if kind.is_dir() {
                look(&path, seen);
            }
        }
    }
    assert_eq!(mode(&home.path()), 0o700);
    let mut seen = 0;
    look(&home.path(), &mut seen);
    assert!(seen > 8, "only {seen} files were looked at");
}

/// Behaviour 30.
#[test]
fn another_user_cannot_use_a_home() {
    if not_root() {
        return;
    }
    let home = open_to_all();
    for arguments in
        [&["node", "show", "n"][..], &["node", "list"], &["node", "stop", "n"], &["tcp-outlet", "create", "--to", "1"]]
    {
        let refused = postern_as_nobody(&home.path(), arguments);
        assert!(!refused.status.success(), "{arguments:?}: {refused:?}");
        assert!(refused.stdout.is_empty(), "{arguments:?}: {refused:?}");
    }
    for file in ["", "home.json", "nodes/n/static", "nodes/n/node.json", "nodes/n/stdout.log", "identities"] {
        let refused = as_nobody("/bin/cat").arg(home.path().join(file)).output().expect("it runs");
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{file}: {refused:?}");
    }

    // Even where somebody has opened all doors meanwhile, the node asks the kernel who it is that connects.
    let socket = home.path().join("nodes/n/control.sock");
    for path in [&home.path(), &home.path().join("nodes"), &home.path().join("nodes/n")] {
        set_mode(path, 0o755);
    }
    set_mode(&socket, 0o666);
    if let Ok(version) = Command::new("curl").arg("--version").output()
        && version.status.success()
    {
        let ask = |mut curl: Command| {
            curl.args(["--silent", "--max-time", "10", "--unix-socket"])
                .arg(&socket)
                .arg("http://localhost/")
                .output()
                .expect("curl")
        };
        let mut mine = Command::new("curl");
        mine.args(["--output", "/dev/null", "--write-out", "%{http_code}"]);
        let answered = ask(mine);
        assert_ne!(answered.stdout, b"000", "the owner is answered: {answered:?}");
        let refused = ask(as_nobody("curl"));
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
    } else {
        postern_test_support::skipped("the program `curl` is not installed");
    }
    for path in [&home.path(), &home.path().join("nodes"), &home.path().join("nodes/n")] {
        set_mode(path, 0o700);
    }
    set_mode(&socket, 0o600);
    assert_eq!(home.json(&["node", "show", "n"])["status"], "running", "the node goes on");
}

/// How somebody gets at a node's control socket.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// By its path in the home.
    Path,
    /// By another path of the directory that it is in.
    BoundDirectory,
    /// By another path of the socket itself, which no directory of the home hides.
    BoundSocket,
    /// By a descriptor of the directory, which was handed to him open.
    Inherited,
}

/// U1: whichever way another user comes, the mode of the socket keeps him out; where the mode has been taken away, the node asks the kernel who
/// he is. Root comes the same ways, and is answered: so they lead there.
#[test]
fn no_way_to_the_control_socket_is_open_to_another_user() {
    const REFUSED: &str = "refused a user at the control socket";
    if not_root() {
        return;
    }
    for program in ["curl", "setpriv"] {
        if Command::new(program).arg("--version").output().is_err() {
            postern_test_support::skipped(format!("the program `{program}` is not installed"));
            return;
        }
    }
    Disk::with(16, |disk| {
        let home = TestHome::below(POSTERN, disk.path());
        set_mode(home.scratch(), 0o755);
        home.ok(&["node", "create", "n"]);
        let directory = home.path().join("nodes/n");
        let socket = directory.join("control.sock");
        let bound = ["directory", "socket"].map(|name| home.scratch().join(name));
        fs::create_dir(&bound[0]).expect("a directory");
        fs::write(&bound[1], "").expect("a file");
        for (from, to) in [(&directory, &bound[0]), (&socket, &bound[1])] {
            let mounted = Command::new("mount").arg("--bind").args([from, to]).status().expect("mount runs");
            assert!(mounted.success());
        }
        // `None` is root.
        let comes = |way: Way, uid: Option<u32>| -> Output {
            let place = match way {
                Way::Path => socket.clone(),
                Way::BoundDirectory => bound[0].join("control.sock"),
                Way::BoundSocket => bound[1].clone(),
                Way::Inherited => "/proc/self/fd/7/control.sock".into(),
            };
            let who = uid.map(|uid| format!("setpriv --reuid={uid} --regid={uid} --clear-groups ")).unwrap_or_default();
            let ask = "curl --silent --max-time 10 --output /dev/null --write-out '%{http_code}' --unix-socket \"$2\" http://localhost/";
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("exec 7<\"$1\"; exec {who}{ask}"), "sh"]).arg(&directory).arg(place);
            shell.current_dir("/").stdin(Stdio::null()).output().expect("a shell")
        };
        let refusals = || home.node_log("n").lines().filter(|line| line.contains(REFUSED)).count();
        let ways = [Way::Path, Way::BoundDirectory, Way::BoundSocket, Way::Inherited];
        for way in ways {
            let answered = comes(way, None);
            assert!(answered.status.success() && answered.stdout != b"000", "{way:?}: {answered:?}");
            let refused = comes(way, Some(NOBODY));
            // It could not connect.
            assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(7), &b"000"[..]), "{way:?}: {refused:?}");
        }
        assert_eq!(refusals(), 0, "the mode kept him out");

        for path in [home.path(), home.path().join("nodes"), directory.clone()] {
            set_mode(&path, 0o755);
        }
        set_mode(&socket, 0o666);
        for (already, way) in ways.into_iter().enumerate() {
            let refused = comes(way, Some(NOBODY));
            // He was connected, as the node says, and got no answer.
            assert!(!refused.status.success() && refused.stdout == b"000", "{way:?}: {refused:?}");
            eventually(PATIENCE, "the node says so", || (refusals() == already + 1).then_some(()));
            let answered = comes(way, None);
            assert!(answered.status.success(), "{way:?}: {answered:?}");
        }
        assert!(home.node_log("n").contains(&format!("uid=Some({NOBODY})")), "{}", home.node_log("n"));
        for path in [home.path(), home.path().join("nodes"), directory.clone()] {
            set_mode(&path, 0o700);
        }
        set_mode(&socket, 0o600);
        for path in &bound {
            assert!(Command::new("umount").arg(path).status().expect("umount runs").success());
        }
        assert_eq!(home.json(&["node", "show", "n"])["status"], "running", "the node goes on");
    });
}

/// U4: where somebody else has put a socket of his own in the place of a node's, commands say nothing to it: neither where the file is
/// his, nor where he listens at one that root made.
#[test]
fn a_command_sends_nothing_to_a_socket_of_somebody_else() {
    if not_root() {
        return;
    }
    let home = TestHome::new(POSTERN);
    home.ok(&["node", "create", "n"]);
    let (socket, own) = (home.path().join("nodes/n/control.sock"), home.scratch().join("own.sock"));
    fs::rename(&socket, &own).expect("root moves files");
    for his_file in [true, false] {
        let listener = listen_as(NOBODY, &socket, his_file);
        listener.set_nonblocking(true).expect("a socket");
        for arguments in [&["node", "show", "n"][..], &["tcp-outlet", "create", "--to", "1"], &["policy", "list"]] {
            let refused = home.run(arguments);
            assert_ne!(refused.status, 0, "his file: {his_file}, {refused:?}");
            let refused = refused.says("HOME_UNSAFE");
            assert!(refused.says(&format!("belongs to user {NOBODY}")).stdout.is_empty());
        }
        // He may have seen that somebody connected; nobody said anything.
        while let Ok((mut connection, _)) = listener.accept() {
            let mut said = Vec::new();
            connection.set_nonblocking(false).and_then(|()| connection.read_to_end(&mut said)).expect("it is closed");
            assert_eq!(said, b"", "his file: {his_file}");
        }
        fs::remove_file(&socket).expect("root removes files");
    }
    fs::rename(&own, &socket).expect("root moves files");
    assert_eq!(home.json(&["node", "show", "n"])["status"], "running");
    assert_eq!(home.json(&["tcp-outlet", "list"]), json!([]), "nothing was done");
}

/// Behaviour 30: a home that others could use is refused, with the line that mends it.
#[test]
fn a_home_with_wrong_modes_is_refused() {
    let home = TestHome::new(POSTERN);
    home.ok(&["node", "create", "n"]);
    home.ok(&["node", "stop", "n"]);
    let wrong = [("", 0o755), ("", 0o770), ("nodes", 0o777), ("nodes/n/static", 0o644), ("nodes/n/static", 0o660)];
    for (file, bad) in wrong {
        let path = home.path().join(file);
        let good = mode(&path);
        set_mode(&path, bad);
        let refused = home.run(&["node", "start", "n"]);
        assert_ne!(refused.status, 0, "{file} with mode {bad:o}: {refused:?}");
        let line = refused.stderr.lines().find_map(|line| line.split_once("chmod ")).map(|(_, rest)| format!("chmod {rest}"));
        let line = line.unwrap_or_else(|| panic!("{file} with mode {bad:o}: no chmod line: {refused:?}"));
        assert!(line.contains(&format!("{good:o} ")), "{line}");
        let mended = Command::new("sh").args(["-c", &line]).status().expect("a shell");
        assert!(mended.success(), "{line}");
        assert_eq!(mode(&path), good, "the line that was printed mends it: {line}");
        home.ok(&["node", "start", "n"]);
        home.ok(&["node", "stop", "n"]);
    }
}

/// Behaviour 30: a home of somebody else is refused to root too, who could read it.
#[test]
fn a_home_of_another_owner_is_refused() {
    if not_root() {
        return;
    }
    let home = TestHome::new(POSTERN);
    home.ok(&["node", "create", "n"]);
    home.ok(&["node", "stop", "n"]);
    std::os::unix::fs::chown(home.path(), Some(NOBODY), Some(NOBODY)).expect("root gives files away");
    let refused = home.run(&["node", "start", "n"]);
    assert_ne!(refused.status, 0, "{refused:?}");
    assert!(refused.stderr.contains("chown"), "{refused:?}");
    std::os::unix::fs::chown(home.path(), Some(0), Some(0)).expect("root gives files away");
}
