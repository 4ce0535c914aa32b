//! What happens when a process has no descriptor left. A test program of its own, because the limit holds for all of its tests.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_runtime::net::{Acceptor, SocketKind, bind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn count(&self, text: &str) -> usize {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().matches(text).count()
    }
}

#[tokio::test(start_paused = true)]
async fn accepting_waits_until_there_are_descriptors_and_says_so_once() {
    let log = Log::default();
    let writer = log.clone();
    let _logging = tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(move || writer.clone()).finish());
    let listener = bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = Acceptor::new(listener, SocketKind::Link, 8);
    let _client = TcpStream::connect(address).await.unwrap();

    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..getrlimit(Resource::Nofile) }).unwrap();
    let held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!held.is_empty());
    // A minute of virtual time: dozens of attempts, and one line.
    assert!(tokio::time::timeout(Duration::from_secs(60), acceptor.accept()).await.is_err());
    assert_eq!(log.count("cannot accept connections"), 1);

    drop(held);
    let accepted = acceptor.accept().await;
    assert!(accepted.peer.ip().is_loopback());
}
