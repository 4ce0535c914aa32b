//! The harness itself, with a shell in the place of `postern`.

use std::io::Write;
use std::time::Duration;

use postern_test_support::{
    EchoServer, HttpServer, Reserved, Signal, SinkServer, TestHome, connect, echoes, eventually, http_get,
};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);

fn shell() -> TestHome {
    TestHome::new("/bin/sh")
}

#[test]
fn a_command_ends_with_its_code_and_its_output() {
    let outcome = shell().run(&["-c", "echo out; echo err >&2; exit 3"]).exits(3).says("err");
    assert_eq!((outcome.line(), outcome.stderr.as_str()), ("out", "err\n"));
    assert_eq!(shell().run(&["-c", "kill -9 $$"]).status, 137);
    assert_eq!(shell().invoke(["-c", "cat"]).input("typed").run().stdout, "typed");
    assert_eq!(shell().run(&["-c", "cat"]).success().stdout, "");
}

#[test]
#[should_panic(expected = "did not end within")]
fn a_command_that_hangs_is_a_failure() {
    shell().invoke(["-c", "exec sleep 600"]).deadline(SECOND).run();
}

#[test]
#[should_panic(expected = "somebody holds the output")]
fn so_is_one_that_leaves_a_process_with_its_output() {
    shell().run(&["-c", "sleep 20 & exit 0"]);
}

#[test]
fn a_foreground_process_is_seen_and_signalled() {
    let home = shell();
    let mut running = home.spawn(&["-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"]);
    running.line_with("ready", LONG);
    assert!(running.runs() && home.processes().iter().any(|process| process.pid == running.pid()));
    running.signal(Signal::TERM);
    assert_eq!(running.wait().success().stdout, "ready\nbye\n");
    eventually(LONG, "the last process to end", || home.processes().is_empty().then_some(()));
}

#[test]
fn a_command_on_a_terminal() {
    let home = shell();
    let script = "test -t 0 && test -t 1 && read answer && echo got $answer";
    let (status, shown) = home.invoke(["-c", script]).run_on_terminal("yes\n", LONG).unwrap();
    assert!(status == 0 && shown.contains("got yes"), "{shown}");
}

#[test]
fn servers_serve() {
    let echo = EchoServer::start();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    echoes(echo.address(), &bytes).unwrap();
    assert_eq!(echo.accepted(), 1);

    let http = HttpServer::answering(|path| (path == "/a").then(|| b"body".to_vec()));
    assert_eq!(http_get(http.address(), "/a").unwrap().text(), "body");
    assert_eq!(http_get(http.address(), "/b").unwrap().status, 404);
    assert_eq!(http.paths(), ["/a", "/b"]);

    let sink = SinkServer::start();
    connect(sink.address()).unwrap().write_all(b"gone").unwrap();
    assert_eq!(sink.received(LONG).unwrap(), b"gone");

    let reserved = Reserved::new();
    assert_eq!(connect(("127.0.0.1", reserved.port())).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}
