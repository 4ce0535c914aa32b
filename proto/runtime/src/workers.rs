//! Threads that move bytes. Each has a reactor of its own and runs what is given to it alone, so that a connection whose sockets
//! all belong to one of them wakes that thread and no other, and its buffers stay in one cache. (With threads that share their work,
//! a wake-up of one wakes another to look for work that is not there: figures in `docs/adr/0010-threads-that-move-bytes.md`.)

use std::future::Future;
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::supervise::Supervisor;

/// What runs everything of a daemon but the bytes: half as many threads as the machine runs at once, for those that share their work wake
/// one another for nothing. On two cores, idle control links cost a third less with one than with two.
///
/// # Errors
/// Where the system gives no threads.
pub fn runtime() -> io::Result<Runtime> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    Builder::new_multi_thread().worker_threads(cores.div_ceil(2).min(MOST)).enable_all().build()
}

/// More threads than this do not move more bytes, where each already fills a core's share of a network.
const MOST: usize = 16;

/// As many threads as the machine runs at once. They end when this is dropped.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Worker>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    id: ThreadId,
    /// Tasks that it runs.
    load: Arc<AtomicUsize>,
}

/// A task's weight on its thread.
struct Load(Arc<AtomicUsize>);

impl Load {
    fn on(worker: &Worker) -> Self {
        worker.load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&worker.load))
    }

    fn carry(self, task: impl Future<Output = ()> + Send + 'static) -> impl Future<Output = ()> + Send + 'static {
        // In an allocation of its own: awaited where it is captured, its room would be taken twice.
        let task = Box::pin(task);
        async move {
            task.await;
            drop(self);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// Where the operating system gives no thread or no reactor.
    pub fn start() -> io::Result<Arc<Self>> {
        let count = thread::available_parallelism().map_or(1, NonZero::get).min(MOST);
        let stop = CancellationToken::new();
        let mut threads = Vec::new();
        let guard = stop.clone().drop_guard();
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
            let handle = runtime.handle().clone();
            let stop = stop.clone();
            let thread =
                thread::Builder::new().name(format!("worker {number}")).spawn(move || runtime.block_on(stop.cancelled()))?;
            threads.push(Worker { handle, id: thread.thread().id(), load: Arc::default() });
        }
        Ok(Arc::new(Self { threads, _stop: guard }))
    }

    /// Runs `task` under `supervisor` on the thread that has the fewest; on the one that calls, if there is none with fewer.
    pub fn spawn(&self, supervisor: &Supervisor, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let worker = self.next();
        let task = Load::on(worker).carry(task);
        let _context = worker.handle.enter();
        supervisor.spawn(name, task);
    }

    /// As [`Self::spawn`]; the task is dropped when `stop` is cancelled.
    pub fn spawn_until(
        &self,
        supervisor: &Supervisor,
        stop: &CancellationToken,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let worker = self.next();
        let task = Load::on(worker).carry(task);
        let _context = worker.handle.enter();
        supervisor.spawn_until(stop, name, task);
    }

    fn next(&self) -> &Worker {
        let here = thread::current().id();
        let Some(worker) = self.threads.iter().min_by_key(|worker| (worker.load.load(Ordering::Relaxed), worker.id != here))
        else {
            unreachable!("there is at least one thread");
        };
        worker
    }
}

/// The socket as one of the calling thread's reactor, where it was that of `home`.
///
/// # Errors
/// Whatever the operating system says.
pub fn adopt(socket: TcpStream, home: ThreadId) -> io::Result<TcpStream> {
    if home == thread::current().id() { Ok(socket) } else { TcpStream::from_std(socket.into_std()?) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_socket_goes_on_where_it_was_taken_to() {
        let workers = Workers::start().unwrap();
        let supervisor = Supervisor::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let (done, ran) = mpsc::channel();
        let home = thread::current().id();
        workers.spawn(&supervisor, "echo", async move {
            let mut far = adopt(far, home).unwrap();
            let mut word = [0; 4];
            far.read_exact(&mut word).await.unwrap();
            far.write_all(&word).await.unwrap();
            done.send(thread::current().id()).unwrap();
        });
        near.write_all(b"word").await.unwrap();
        let mut word = [0; 4];
        near.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"word");
        let ran_on = tokio::task::spawn_blocking(move || ran.recv_timeout(Duration::from_secs(5)).unwrap()).await.unwrap();
        assert_ne!(ran_on, thread::current().id());
    }
}
