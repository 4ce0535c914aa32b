//! A TCP proxy that a test stands in front of a server: the network that fails when the test says so, and that remembers what it saw.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

/// How the network behaves now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    /// Connections are reset, new ones too.
    Cut,
    /// Connections stay, and nothing arrives any more.
    Silent,
}

struct Inside {
    weather: Weather,
    target: Option<SocketAddr>,
    connections: Vec<Weak<TcpStream>>,
    /// How many connections there were.
    count: u64,
    /// Those below this number are silent for ever.
    silent: u64,
    /// What passed, one entry for each connection and direction; `None` where nothing is to be remembered.
    recorded: Option<Vec<Vec<u8>>>,
}

struct State {
    inside: Mutex<Inside>,
    changed: Condvar,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until bytes of connection `number` may pass; `false` where they never will.
    fn may_pass(&self, number: u64) -> bool {
        let mut inside = self.lock();
        while inside.weather == Weather::Silent || inside.weather == Weather::Fair && number < inside.silent {
            inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
        inside.weather == Weather::Fair
    }
}

/// The proxy. It listens for as long as the test process lives.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1; connections wait until [`Self::point_at`] says where to.
    #[must_use]
    pub fn start() -> Self {
        Self::with(None)
    }

    /// The same, and remembers every byte.
    #[must_use]
    pub fn recording() -> Self {
        Self::with(Some(Vec::new()))
    }

    fn with(recorded: Option<Vec<Vec<u8>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let inside = Inside { weather: Weather::Fair, target: None, connections: Vec::new(), count: 0, silent: 0, recorded };
        let state = Arc::new(State { inside: Mutex::new(inside), changed: Condvar::new() });
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let state = Arc::clone(&accepting);
                thread::spawn(move || carry(&state, near));
            }
        });
        Self { address, state }
    }

    /// Where connections go.
    pub fn point_at(&self, target: SocketAddr) {
        self.state.lock().target = Some(target);
        self.state.changed.notify_all();
    }

    /// Resets every connection, and new ones.
    pub fn cut(&self) {
        let mut inside = self.state.lock();
        inside.weather = Weather::Cut;
        inside.connections.drain(..).filter_map(|socket| socket.upgrade()).for_each(|socket| reset(&socket));
        drop(inside);
        self.state.changed.notify_all();
    }

    /// Lets nothing pass, without telling anybody: as if a cable had been pulled somewhere on the way.
    pub fn silence(&self) {
        self.state.lock().weather = Weather::Silent;
    }

    /// Lets nothing pass on the connections that there are, without telling anybody; new ones are carried. As where something on the way
    /// has forgotten what it knew of connections, and throws away what belongs to none.
    pub fn forget(&self) {
        let mut inside = self.state.lock();
        inside.silent = inside.count;
    }

    /// Lets bytes pass again, also those that were held back.
    pub fn restore(&self) {
        self.state.lock().weather = Weather::Fair;
        self.state.changed.notify_all();
    }

    /// What passed so far: one entry for each connection and direction.
    #[must_use]
    pub fn recorded(&self) -> Vec<Vec<u8>> {
        self.state.lock().recorded.clone().unwrap_or_default()
    }
}

fn carry(state: &Arc<State>, near: TcpStream) {
    let target = {
        let mut inside = state.lock();
        while inside.target.is_none() || inside.weather == Weather::Silent {
            inside = state.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
        inside.target.filter(|_| inside.weather == Weather::Fair)
    };
    let Some(far) = target.and_then(|target| TcpStream::connect_timeout(&target, Duration::from_secs(5)).ok()) else {
        return reset(&near);
    };
    let [near, far] = [near, far].map(|socket| {
        // Where this fails the bytes are only slower.
        let _ = socket.set_nodelay(true);
        Arc::new(socket)
    });
    let mut inside = state.lock();
    if inside.weather == Weather::Cut {
        reset(&near);
        return reset(&far);
    }
    inside.connections.retain(|socket| socket.strong_count() > 0);
    inside.connections.extend([&near, &far].map(Arc::downgrade));
    let [there, back] = [(); 2].map(|()| {
        inside.recorded.as_mut().map(|recorded| {
            recorded.push(Vec::new());
            recorded.len() - 1
        })
    });
    let number = inside.count;
    inside.count += 1;
    drop(inside);
    let (state_too, near_too, far_too) = (Arc::clone(state), Arc::clone(&near), Arc::clone(&far));
    thread::spawn(move || forward(&state_too, number, &far_too, &near_too, back));
    forward(state, number, &near, &far, there);
}

/// Carries one direction of connection `number`; what passes goes to the record at `place`.
fn forward(state: &State, number: u64, mut from: &TcpStream, mut to: &TcpStream, place: Option<usize>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer);
        if !state.may_pass(number) {
            return;
        }
        match read {
            Ok(0) => {
                // A half-close is passed on; where the far side is gone there is nobody to tell.
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(count) => {
                if let Some(place) = place
                    && let Some(recorded) = &mut state.lock().recorded
                {
                    recorded[place].extend_from_slice(&buffer[..count]);
                }
                if to.write_all(&buffer[..count]).is_err() {
                    return reset(from);
                }
            }
            Err(_) => return reset(to),
        }
    }
}

/// Breaks a connection off, under all handles of the socket, so that the peer sees a reset: what dissolving an association does to
/// a connected socket (`connect(2)` with `AF_UNSPEC`).
pub fn reset(socket: &TcpStream) {
    // Where this fails the connection has ended already.
    let _ = rustix::net::connect_unspec(socket);
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::servers::EchoServer;

    #[test]
    fn cut_and_restored() {
        let server = EchoServer::start();
        let proxy = Proxy::recording();
        proxy.point_at(server.address());
        let hello = || {
            let mut stream = crate::connect(proxy.address)?;
            stream.write_all(b"hello")?;
            stream.read_exact(&mut [0; 5]).map(|()| stream)
        };
        let mut live = hello().unwrap();
        proxy.cut();
        assert_eq!(live.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(hello().is_err());
        proxy.restore();
        let mut live = hello().unwrap();
        proxy.silence();
        live.write_all(b"later").unwrap();
        proxy.restore();
        live.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(proxy.recorded().iter().filter(|bytes| bytes.starts_with(b"hello")).count(), 4);
        proxy.forget();
        live.write_all(b"lost").unwrap();
        live.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert_eq!(live.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        hello().unwrap();
    }
}
