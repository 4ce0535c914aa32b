//! A wire tap in front of the relay: forwards every connection and keeps every byte that the relay's process is sent.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// More than the demo moves; what is beyond is counted, and the scan says that it was not searched.
const MAX_KEPT: usize = 64 * 1024 * 1024;

#[derive(Default)]
struct Tape {
    bytes: Vec<u8>,
    lost: u64,
}

/// What went to the relay.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan<'a> {
    pub bytes: u64,
    /// Those of them that were not kept, and so not searched.
    pub unsearched: u64,
    /// What was found among the rest.
    pub found: Vec<&'a str>,
}

impl Tape {
    /// Keeps as much of `bytes` as there is room for.
    fn keep(&mut self, bytes: &[u8], most: usize) {
        let room = most.saturating_sub(self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..room]);
        self.lost += (bytes.len() - room) as u64;
    }

    fn scan<'a>(&self, canaries: &[&'a str]) -> Scan<'a> {
        let found = canaries.iter().filter(|canary| contains(&self.bytes, canary.as_bytes())).copied().collect();
        Scan { bytes: self.bytes.len() as u64 + self.lost, unsearched: self.lost, found }
    }
}

/// Listens at once, so that its address can be advertised; forwards once it knows whereto.
pub struct Recorder {
    pub address: SocketAddr,
    target: Arc<OnceLock<SocketAddr>>,
    tape: Arc<Mutex<Tape>>,
}

impl Recorder {
    pub fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let recorder = Self { address: listener.local_addr()?, target: Arc::default(), tape: Arc::default() };
        let (target, tape) = (Arc::clone(&recorder.target), Arc::clone(&recorder.tape));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Some(target) = target.get().copied() else { continue };
                let tape = Arc::clone(&tape);
                std::thread::spawn(move || forward(near, target, &tape));
            }
        });
        Ok(recorder)
    }

    pub fn set_target(&self, target: SocketAddr) {
        // Told once, by the one who started it.
        let _ = self.target.set(target);
    }

    /// How many bytes went to the relay, and which of `canaries` stand among them.
    pub fn scan<'a>(&self, canaries: &[&'a str]) -> Scan<'a> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner).scan(canaries)
    }
}

/// Whether `needle` stands anywhere in `bytes`.
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

fn forward(near: TcpStream, target: SocketAddr, tape: &Mutex<Tape>) {
    let Ok(far) = TcpStream::connect(target) else { return };
    let (Ok(back_from), Ok(back_to)) = (far.try_clone(), near.try_clone()) else { return };
    // Where this fails, small messages only take longer.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    std::thread::spawn(move || copy(&back_from, &back_to, |_| {}));
    copy(&near, &far, |bytes| {
        tape.lock().unwrap_or_else(PoisonError::into_inner).keep(bytes, MAX_KEPT);
    });
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, mut keep: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        keep(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_found() {
        let echo = TcpListener::bind("127.0.0.1:0").unwrap();
        let recorder = Recorder::start().unwrap();
        recorder.set_target(echo.local_addr().unwrap());
        let mut client = TcpStream::connect(recorder.address).unwrap();
        client.write_all(b"a canary sings").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        echo.accept().unwrap().0.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"a canary sings");
        assert_eq!(recorder.scan(&["canary", "cat"]), Scan { bytes: 14, unsearched: 0, found: vec!["canary"] });
    }

    #[test]
    fn what_is_not_kept_is_said() {
        let mut tape = Tape::default();
        tape.keep(b"a can", 8);
        tape.keep(b"ary sings", 8);
        assert_eq!(tape.scan(&["can", "sings"]), Scan { bytes: 14, unsearched: 6, found: vec!["can"] });
    }
}
