//! Threads that move bytes. Each has a reactor of its own and runs what is given to it alone, so that a connection whose sockets
//! all belong to one of them wakes that thread and no other, and its buffers stay in one cache. (With threads that share their work,
//! a wake-up of one wakes another to look for work that is not there: figures in `docs/adr/0010-threads-that-move-bytes.md`.)

use std::cell::{OnceCell, RefCell};
use std::future::Future;
use std::io;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::AbortHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::scheduling::Scheduling;
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

/// Work that ends sooner is brief.
const BRIEF: Duration = Duration::from_millis(50);

/// After so many brief pieces of work, one behind the other, the next ones are taken to be brief too.
const BRIEF_AFTER: usize = 8;

/// By so many a thread may run more than the one that runs the fewest, while its work is brief. One that cannot keep up has more soon.
const CROWD: usize = 32;

/// A thread that something has kept busy has no room for brief work for so long.
const BUSY: Duration = Duration::from_millis(100);

thread_local! {
    /// When something kept this thread busy last, and what work it is used to, where it is one of [`Workers`].
    static HERE: OnceCell<(Arc<Moment>, Arc<Habit>)> = const { OnceCell::new() };

    /// How this thread is scheduled, where that changes.
    static SCHEDULING: RefCell<Option<Scheduling>> = const { RefCell::new(None) };
}

/// Lets this thread look at how it is scheduled. It gives up for good where it cannot.
fn review_scheduling() {
    SCHEDULING.with_borrow_mut(|scheduling| {
        if let Some(Err(error)) = scheduling.as_mut().map(Scheduling::review) {
            tracing::debug!(%error, "this thread stays as it is scheduled");
            *scheduling = None;
        }
    });
}

/// Milliseconds since the first of them; 0 is never.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

impl Moment {
    fn now() -> u64 {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        1 + u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn is_within(&self, span: Duration) -> bool {
        let then = self.0.load(Ordering::Relaxed);
        then > 0 && u128::from(Self::now().saturating_sub(then)) < span.as_millis()
    }
}

/// What runs on the calling thread keeps it busy: brief work had better go elsewhere for a moment.
pub fn keeps_busy() {
    HERE.with(|here| {
        if let Some((busy, habit)) = here.get() {
            busy.0.store(Moment::now(), Ordering::Relaxed);
            // Whatever comes now may last, too.
            habit.ended(BRIEF);
        }
    });
}

/// Threads that move bytes. They end when this is dropped.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Worker>,
    habit: Arc<Habit>,
    /// How many tasks were given out in turn.
    turn: AtomicUsize,
    _stop: DropGuard,
}

/// What a thread that is woken does to who runs on its core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Preempts,
    GivesWay,
}

/// One of the threads of [`Workers`].
#[derive(Debug)]
pub struct Worker {
    handle: Handle,
    id: ThreadId,
    /// What it carries.
    load: Arc<AtomicUsize>,
    busy: Arc<Moment>,
}

/// How many pieces of work that ended last were brief, one behind the other; at most [`BRIEF_AFTER`].
#[derive(Debug, Default)]
struct Habit(AtomicUsize);

impl Habit {
    fn is_brief(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= BRIEF_AFTER
    }

    fn ended(&self, after: Duration) {
        let brief = self.0.load(Ordering::Relaxed);
        let now = if after < BRIEF { (brief + 1).min(BRIEF_AFTER) } else { 0 };
        // Mostly it stays as it is, and no other thread's cache is troubled. A count that another thread overtakes is as good.
        if now != brief {
            self.0.store(now, Ordering::Relaxed);
        }
    }
}

/// A piece of work's weight on its thread.
#[derive(Debug)]
pub struct Load {
    load: Arc<AtomicUsize>,
    habit: Arc<Habit>,
    began: Instant,
}

pin_project! {
    /// A task with its weight, which goes when it does. (An `async` block that captures a task and awaits it takes its room twice.)
    struct Carried<F> {
        #[pin]
        task: F,
        _load: Load,
    }
}

impl<F: Future> Future for Carried<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.project().task.poll(context)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.habit.ended(self.began.elapsed());
    }
}

impl Workers {
    /// Starts as many threads as the machine runs at once.
    ///
    /// # Errors
    /// Where the operating system gives no thread or no reactor.
    pub fn start() -> io::Result<Arc<Self>> {
        Self::of(thread::available_parallelism().map_or(1, NonZero::get), Woken::Preempts)
    }

    /// Starts half as many, for a relay: one thread splices more than two nodes seal and open on a core each. They give way to other threads while
    /// those keep them waiting for short times only.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_half() -> io::Result<Arc<Self>> {
        Self::of(thread::available_parallelism().map_or(1, NonZero::get).div_ceil(2), Woken::GivesWay)
    }

    fn of(count: usize, woken: Woken) -> io::Result<Arc<Self>> {
        let stop = CancellationToken::new();
        let mut threads = Vec::new();
        let guard = stop.clone().drop_guard();
        let habit = Arc::<Habit>::default();
        for number in 0..count.min(MOST) {
            let mut builder = Builder::new_current_thread();
            if woken == Woken::GivesWay {
                builder.on_thread_park(review_scheduling);
            }
            let runtime = builder.enable_io().enable_time().build()?;
            let handle = runtime.handle().clone();
            let stop = stop.clone();
            let busy = Arc::<Moment>::default();
            let of_thread = (Arc::clone(&busy), Arc::clone(&habit));
            let run = move || {
                HERE.with(|here| {
                    here.get_or_init(move || of_thread);
                });
                if woken == Woken::GivesWay {
                    SCHEDULING.set(Scheduling::of_this_thread());
                }
                runtime.block_on(stop.cancelled());
            };
            let thread = thread::Builder::new().name(format!("worker {number}")).spawn(run)?;
            threads.push(Worker { handle, id: thread.thread().id(), load: Arc::default(), busy });
        }
        Ok(Arc::new(Self { threads, habit, turn: AtomicUsize::new(0), _stop: guard }))
    }

    /// Runs `task`, a piece of work, under `supervisor`: on the thread that has the fewest; on the one that calls, if there is none with fewer, or
    /// while work is brief. The handle aborts it.
    pub fn spawn(
        &self,
        supervisor: &Supervisor,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let worker = self.next();
        let task = Carried { task, _load: self.load(worker) };
        let _context = worker.handle.enter();
        supervisor.spawn(name, task)
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
        let task = Carried { task, _load: self.load(worker) };
        let _context = worker.handle.enter();
        supervisor.spawn_until(stop, name, task);
    }

    /// Runs `task`, which mostly waits and is no work, under `supervisor`: on each thread in turn.
    pub fn spawn_waiting(&self, supervisor: &Supervisor, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.threads.len();
        let _context = self.threads[turn].handle.enter();
        supervisor.spawn(name, task);
    }

    /// Runs on `worker` what mostly waits, and is no work until it says so with [`Self::begin`]. Dropped when `stop` is cancelled.
    pub fn wait_on(
        &self,
        worker: &Worker,
        supervisor: &Supervisor,
        stop: &CancellationToken,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let _context = worker.handle.enter();
        supervisor.spawn_until(stop, name, task);
    }

    /// A piece of work begins on the calling thread; it ends when what is returned is dropped. `None` where the calling thread is none of these.
    #[must_use]
    pub fn begin(&self) -> Option<Load> {
        self.here().map(|worker| self.load(worker))
    }

    /// As [`Self::begin`], on `worker`, whereto it is on the way: it counts there from now on.
    #[must_use]
    pub fn begin_on(&self, worker: &Worker) -> Load {
        self.load(worker)
    }

    /// Where a piece of work that has just come to the calling thread had better be done, if not here. Taking it there costs a few system calls.
    #[must_use]
    pub fn better(&self) -> Option<&Worker> {
        let here = self.here()?;
        let lightest = self.lightest();
        if !self.habit.is_brief() {
            return (here.load() > lightest.load()).then_some(lightest);
        }
        // Together on the first: none comes to a thread that it would soon have to leave.
        let room = |worker: &&Worker| worker.has_room(lightest, if worker.id == here.id { CROWD } else { CROWD / 2 });
        self.threads.iter().find(room).filter(|worker| worker.id != here.id)
    }

    /// Where the next piece of work goes.
    #[must_use]
    pub fn next(&self) -> &Worker {
        let lightest = self.lightest();
        let here = self.here().filter(|here| self.habit.is_brief() && here.has_room(lightest, CROWD));
        here.unwrap_or(lightest)
    }

    fn load(&self, worker: &Worker) -> Load {
        worker.load.fetch_add(1, Ordering::Relaxed);
        Load { load: Arc::clone(&worker.load), habit: Arc::clone(&self.habit), began: Instant::now() }
    }

    fn here(&self) -> Option<&Worker> {
        let here = thread::current().id();
        self.threads.iter().find(|worker| worker.id == here)
    }

    fn lightest(&self) -> &Worker {
        let here = thread::current().id();
        let Some(worker) = self.threads.iter().min_by_key(|worker| (worker.load(), worker.id != here)) else {
            unreachable!("there is at least one thread");
        };
        worker
    }
}

impl Worker {
    fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Whether brief work may come here, though `lightest` has less: on a thread that is awake it wakes none.
    fn has_room(&self, lightest: &Self, crowd: usize) -> bool {
        self.load() <= lightest.load() + crowd && !self.busy.is_within(BUSY)
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
#[path = "workers_tests.rs"]
mod tests;
