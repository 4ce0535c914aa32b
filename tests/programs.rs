//! Programs that people use, through a portal: a database's client and server, `curl`, an SSH session, WebSockets. What is not
//! installed is skipped, with the reason printed (`cargo test -- --nocapture`).

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use postern_test_support::{PATIENCE, Pattern, Portal, Postgres, Reserved, TcpServer, eventually, program};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// A program that takes longer hangs.
const LIMIT: &str = "300";

/// A server that ends with the test.
struct Server(Child);

impl Server {
    #[track_caller]
    fn start(command: &mut Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut server = Self(child);
        eventually(PATIENCE, "the server listens", || {
            assert!(matches!(server.0.try_wait(), Ok(None)), "the server ended: {command:?}");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL of a server whose files go with the test.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn done(output: io::Result<Output>) -> String {
    let output = output.expect("an installed program");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Starts the command with `input`, and returns its output.
fn with_input(command: &mut Command, mut input: impl Read + Send + 'static) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().expect("a pipe");
    let writer = thread::spawn(move || io::copy(&mut input, &mut stdin));
    let output = child.wait_with_output()?;
    writer.join().expect("no panic").map(|_| output)
}

#[test]
fn a_database() {
    let Some(server) = Postgres::start() else { return };
    let port = server.port();
    let portal = Portal::to(POSTERN, port);
    let query = || server.client(portal.inlet.port());
    assert_eq!(done(query().args(["-c", "select 6 * 7"]).output()), "42\n");
    assert_eq!(done(query().args(["-c", "select inet_server_port()"]).output()), format!("{port}\n"), "it is that server");

    // Bulk in both directions, and many small statements in one session.
    let lines: String = (0..200_000).map(|number| format!("{number}\tthis is line {number} of many\n")).collect();
    let expected = lines.clone();
    done(query().args(["-c", "create table lines (number int primary key, text text)"]).output());
    done(with_input(query().args(["-c", "copy lines from stdin"]), io::Cursor::new(lines.into_bytes())));
    assert!(done(query().args(["-c", "copy (select * from lines order by number) to stdout"]).output()) == expected);
    let statements: String =
        (0..500).map(|number| format!("update lines set text = 'changed' where number = {number};\n")).collect();
    done(with_input(query().args(["-f", "-"]), io::Cursor::new(format!("begin;\n{statements}commit;\n"))));
    assert_eq!(done(query().args(["-c", "select count(*) from lines where text = 'changed'"]).output()), "500\n");
    let wrong = query().args(["-c", "select nothing from nowhere"]).output().expect("psql");
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("nowhere"), "{wrong:?}");
}

/// How many bytes `curl` carries each way: a GiB takes a few seconds, even in a build without optimisation.
const BULK: u64 = 1 << 30;

/// Serves one connection, request after request: `GET /pattern` gives the pattern 8, `PUT` must bring the pattern 9, anything else is
/// answered with its path.
fn serve_http(stream: &TcpStream, size: u64) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            match header.trim_end() {
                "" => break,
                header => headers.push(header.to_ascii_lowercase()),
            }
        }
        let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
        if headers.iter().any(|header| header == "expect: 100-continue") {
            (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if request.starts_with("PUT") {
            assert!(headers.iter().any(|header| header == "transfer-encoding: chunked"), "{headers:?}");
            let mut expected = Pattern::new(9, size);
            while let Some(chunk) = read_chunk(&mut reader)? {
                expected.check_piece(&chunk)?;
            }
            let text = format!("{} bytes came", expected.position());
            write!(&*stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())?;
        } else if path == "/pattern" {
            write!(&*stream, "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n")?;
            io::copy(&mut Pattern::new(8, size), &mut &*stream)?;
        } else {
            write!(&*stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len())?;
        }
    }
}

/// The next chunk of a body; `None` after the last (RFC 9112, section 7.1).
fn read_chunk(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let length = usize::from_str_radix(line.trim_end(), 16).map_err(|error| io::Error::other(format!("{line:?}: {error}")))?;
    let mut chunk = vec![0; length + 2];
    reader.read_exact(&mut chunk)?;
    chunk.truncate(length);
    Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
}

#[test]
fn curl_keeps_alive_uploads_and_downloads() {
    let Some(curl) = program("curl") else { return };
    let server = TcpServer::start(move |stream| serve_http(&stream, BULK));
    let portal = Portal::to(POSTERN, server.port());
    let url = |path: &str| format!("http://{}{path}", portal.inlet);
    let get = || {
        let mut command = Command::new(&curl);
        command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", LIMIT]);
        command
    };

    let before = server.accepted();
    let paths = ["/one", "/two", "/three"];
    let both = done(get().args(["--write-out", " (%{num_connects})\n"]).args(paths.map(url)).output());
    assert_eq!(both, "/one (1)\n/two (0)\n/three (0)\n", "one connection is kept for all");
    assert_eq!(server.accepted() - before, 1);

    let begun = Instant::now();
    let mut download = get().arg(url("/pattern")).stdout(Stdio::piped()).spawn().expect("curl");
    Pattern::new(8, BULK).check(&mut download.stdout.take().expect("a pipe")).expect("a whole download");
    assert!(download.wait().expect("an end").success());
    let down = begun.elapsed();

    let begun = Instant::now();
    let answer = done(with_input(get().args(["--upload-file", "-"]).arg(url("/")), Pattern::new(9, BULK)));
    assert_eq!(answer, format!("{BULK} bytes came"));
    println!("{} MiB down in {down:?}, up in {:?}", BULK >> 20, begun.elapsed());
}

#[test]
fn an_ssh_session() {
    let (Some(ssh), Some(keygen), Some(sshd)) = (program("ssh"), program("ssh-keygen"), program("sshd")) else { return };
    let user = done(Command::new("id").arg("-un").output());
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    if !users.lines().any(|line| line.starts_with(&format!("{}:", user.trim())) && line.ends_with("sh")) {
        postern_test_support::skipped(format_args!("the user `{}` has no shell to log in with", user.trim()));
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name);
    for key in ["host", "user"] {
        done(Command::new(&keygen).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file(key)).output());
    }
    fs::copy(file("user.pub"), file("authorized")).expect("a key");
    if rustix::process::geteuid().is_root() {
        // The server insists on it; packages make it when the machine starts.
        fs::create_dir_all("/run/sshd").expect("root makes it");
    }
    let port = Reserved::new().release();
    let host = file("host").display().to_string();
    let authorized = file("authorized").display().to_string();
    fs::write(
        file("config"),
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {authorized}\nPidFile none\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        ),
    )
    .expect("a file");
    let mut server = Command::new(&sshd);
    server.arg("-D").arg("-f").arg(file("config")).arg("-E").arg(file("log"));
    let _server = Server::start(&mut server, port);

    let portal = Portal::to(POSTERN, port);
    let public = fs::read_to_string(file("host.pub")).expect("a key");
    // The server's own key is what the client sees: nothing stands in the middle.
    fs::write(file("known"), format!("[127.0.0.1]:{} {public}", portal.inlet.port())).expect("a file");
    let session = || {
        let mut command = Command::new(&ssh);
        command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-i"]);
        command.arg(file("user")).arg("-o").arg(format!("UserKnownHostsFile={}", file("known").display()));
        command.args(["-p", &portal.inlet.port().to_string(), "-l", user.trim(), "127.0.0.1"]);
        command
    };
    let log = || fs::read_to_string(file("log")).unwrap_or_default();

    let hello = session().arg("echo hello; exit 7").output().expect("ssh");
    assert_eq!((hello.status.code(), &hello.stdout[..]), (Some(7), &b"hello\n"[..]), "{hello:?}\n{}", log());

    let output = with_input(session().arg("cat"), Pattern::new(10, 20_000_000)).expect("ssh");
    Pattern::new(10, 20_000_000).check(&mut &output.stdout[..]).expect("all came back");

    // A terminal, with a person who waits for each answer.
    let mut shell =
        session().args(["-tt", "sh"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("ssh");
    let (mut stdin, lines) = (shell.stdin.take().expect("a pipe"), lines_of(shell.stdout.take().expect("a pipe")));
    let ask = |stdin: &mut ChildStdin, number: u32| {
        writeln!(stdin, "echo answer-$(({number} * 2))").expect("the session goes on");
        let expected = format!("answer-{}", number * 2);
        while !lines.recv_timeout(PATIENCE).expect("an answer").ends_with(&expected) {}
    };
    (1..=20).for_each(|number| ask(&mut stdin, number));
    writeln!(stdin, "exit").expect("the session goes on");
    assert!(shell.wait().expect("an end").success());
}

fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    let sender = Mutex::new(sender);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let Ok(sender) = sender.lock() else { return };
            if sender.send(line.trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    lines
}

/// An echo over WebSocket (RFC 6455), in Python for want of a smaller independent peer.
#[test]
fn a_web_socket() {
    let Some(python) = program("python3") else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/programs/websocket.py");
    let port = Reserved::new().release();
    let mut server = Command::new(&python);
    server.arg(&script).args(["serve", &port.to_string()]);
    let _server = Server::start(&mut server, port);
    let portal = Portal::to(POSTERN, port);
    let said = done(Command::new(&python).arg(&script).args(["talk", &portal.inlet.port().to_string()]).output());
    assert_eq!(said.trim_end(), "200 messages came back, and the close was answered");
}

/// Many short connections, as programs without keep-alive make them, some at once.
#[test]
fn many_short_connections() {
    const EACH: usize = 100;
    let server = TcpServer::start(|mut stream| {
        let mut question = String::new();
        stream.read_to_string(&mut question)?;
        stream.write_all(question.to_uppercase().as_bytes())?;
        stream.shutdown(Shutdown::Write)
    });
    let portal = Portal::to(POSTERN, server.port());
    let begun = Instant::now();
    thread::scope(|scope| {
        for worker in 0..8 {
            let inlet = portal.inlet;
            scope.spawn(move || {
                for number in 0..EACH {
                    let mut stream = postern_test_support::connect(inlet).expect("the inlet listens");
                    write!(stream, "question {worker}.{number}").expect("it is taken");
                    stream.shutdown(Shutdown::Write).expect("an end");
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).expect("an answer");
                    assert_eq!(answer, format!("QUESTION {worker}.{number}"));
                }
            });
        }
    });
    println!("{} connections in {:?}", 8 * EACH, begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(60));
}
