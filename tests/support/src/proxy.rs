//! A TCP proxy that a test stands in front of a server: the network that fails when the test says so, and that remembers what it saw.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::chaos::{Chaos, Counts, Damager, Damages};

/// How long the chaos holds back what is to come together with what follows.
const HELD: Duration = Duration::from_millis(20);

/// Where the preface of a connection says which service it asks for.
const SERVICE_AT: usize = 5;

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
    /// What it does to the bytes that pass, and the how manieth chaos that is.
    chaos: (u64, Option<Chaos>),
}

struct State {
    inside: Mutex<Inside>,
    changed: Condvar,
    damages: Counts,
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
        let inside = Inside {
            weather: Weather::Fair,
            target: None,
            connections: Vec::new(),
            count: 0,
            silent: 0,
            recorded,
            chaos: (0, None),
        };
        let state = Arc::new(State { inside: Mutex::new(inside), changed: Condvar::new(), damages: Counts::default() });
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

    /// From now on, does this to what passes, on connections that there are, too; `None` ends it.
    pub fn chaos(&self, chaos: Option<Chaos>) {
        let mut inside = self.state.lock();
        inside.chaos = (inside.chaos.0 + 1, chaos);
    }

    /// What was done to bytes so far.
    #[must_use]
    pub fn damages(&self) -> Damages {
        std::array::from_fn(|which| self.state.damages[which].load(Ordering::Relaxed))
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
    let service = Arc::new(AtomicU8::new(0));
    let [there, back] = [(0, there), (1, back)].map(|(direction, place)| Direction {
        state: Arc::clone(state),
        number,
        direction,
        place,
        service: Arc::clone(&service),
        damager: None,
    });
    let (near_too, far_too) = (Arc::clone(&near), Arc::clone(&far));
    thread::spawn(move || back.forward(&far_too, &near_too));
    there.forward(&near, &far);
}

/// One direction of connection `number`.
struct Direction {
    state: Arc<State>,
    number: u64,
    /// 0 from who connected.
    direction: u64,
    /// Where what passes is recorded.
    place: Option<usize>,
    /// What the connection is for, once its preface was read.
    service: Arc<AtomicU8>,
    /// What is done to it, in the how manieth chaos.
    damager: Option<(u64, Damager)>,
}

impl Direction {
    fn forward(mut self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let held = self.damager.as_ref().is_some_and(|(_, damager)| damager.holds());
            // A socket that is there takes a timeout.
            let _ = from.set_read_timeout(held.then_some(HELD));
            let read = from.read(&mut buffer);
            if !self.state.may_pass(self.number) {
                return;
            }
            let portions = match read {
                Ok(0) => {
                    // A half-close is passed on; where the far side is gone there is nobody to tell.
                    let _ = to.write_all(&self.flush());
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(count) => self.passes(&buffer[..count]),
                Err(error) if held && matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => vec![self.flush()],
                Err(_) => return reset(to),
            };
            for portion in portions {
                if to.write_all(&portion).is_err() {
                    return reset(from);
                }
            }
        }
    }

    /// What was held back.
    fn flush(&mut self) -> Vec<u8> {
        self.damager.as_mut().map(|(_, damager)| damager.flush()).unwrap_or_default()
    }

    /// What goes on of `bytes`.
    fn passes(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        if self.direction == 0
            && self.service.load(Ordering::Relaxed) == 0
            && let Some(service) = bytes.get(SERVICE_AT)
        {
            self.service.store(*service, Ordering::Relaxed);
        }
        let mut inside = self.state.lock();
        let (which, chaos) = inside.chaos;
        if let Some(place) = self.place
            && let Some(recorded) = &mut inside.recorded
        {
            recorded[place].extend_from_slice(bytes);
        }
        drop(inside);
        let chaos = chaos.filter(|chaos| chaos.services.contains(&self.service.load(Ordering::Relaxed)));
        let mut portions = Vec::new();
        if self.damager.as_ref().is_none_or(|(of, _)| *of != which) {
            portions.push(self.flush());
            let damages = &self.state.damages;
            self.damager = chaos.map(|chaos| (which, Damager::new(chaos, self.number, self.direction, Arc::clone(damages))));
        }
        match &mut self.damager {
            Some((_, damager)) => portions.extend(damager.pass(bytes)),
            None => portions.push(bytes.to_vec()),
        }
        portions
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
