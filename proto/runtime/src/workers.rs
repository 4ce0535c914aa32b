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

/// Before this thread sleeps.
fn review_scheduling() {
    SCHEDULING.with_borrow_mut(|scheduling| {
        if let Some(Err(error)) = scheduling.as_mut().map(Scheduling::review) {
            tracing::debug!(%error, "how this thread is scheduled cannot be changed");
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
        Self::of(thread::available_parallelism().map_or(1, NonZero::get), false)
    }

    /// Starts half as many, for a relay: one thread splices more than two nodes seal and open on a core each. They give way to other threads while
    /// those keep them waiting for short times only.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_half() -> io::Result<Arc<Self>> {
        Self::of(thread::available_parallelism().map_or(1, NonZero::get).div_ceil(2), true)
    }

    fn of(count: usize, give_way: bool) -> io::Result<Arc<Self>> {
        let stop = CancellationToken::new();
        let mut threads = Vec::new();
        let guard = stop.clone().drop_guard();
        let habit = Arc::<Habit>::default();
        for number in 0..count.min(MOST) {
            let runtime = Builder::new_current_thread().enable_io().enable_time().on_thread_park(review_scheduling).build()?;
            let handle = runtime.handle().clone();
            let stop = stop.clone();
            let busy = Arc::<Moment>::default();
            let of_thread = (Arc::clone(&busy), Arc::clone(&habit));
            let run = move || {
                HERE.with(|here| {
                    here.get_or_init(move || of_thread);
                });
                if give_way {
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
    /// while work is brief. What is returned drops it.
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
mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What `look` finds on thread `number`.
    fn on<T: Send + 'static>(workers: &Arc<Workers>, number: usize, look: impl FnOnce(&Workers) -> T + Send + 'static) -> T {
        let (found, answer) = mpsc::channel();
        let there = Arc::clone(workers);
        workers.threads[number].handle.spawn(async move { found.send(look(&there)).unwrap() });
        answer.recv().unwrap()
    }

    fn number(workers: &Workers, worker: &Worker) -> usize {
        workers.threads.iter().position(|other| other.id == worker.id).unwrap()
    }

    fn next(workers: &Workers) -> usize {
        number(workers, workers.next())
    }

    fn better(workers: &Workers) -> Option<usize> {
        workers.better().map(|worker| number(workers, worker))
    }

    fn several_brief(workers: &Workers) {
        (0..BRIEF_AFTER).for_each(|_| workers.habit.ended(BRIEF / 2));
    }

    #[test]
    fn work_that_lasts_is_spread_and_brief_work_stays_together() {
        let workers = Workers::of(2, false).unwrap();
        assert!(workers.begin().is_none(), "this thread is none of them");
        let first = on(&workers, 0, |workers| workers.begin()).unwrap();
        assert_eq!((on(&workers, 0, next), on(&workers, 1, next)), (1, 1));
        assert_eq!((on(&workers, 0, better), on(&workers, 1, better)), (Some(1), None));
        let second = on(&workers, 1, |workers| workers.begin()).unwrap();
        assert_eq!((on(&workers, 0, better), on(&workers, 1, better)), (None, None), "each has one");
        let third = on(&workers, 0, |workers| workers.begin()).unwrap();
        assert_eq!(on(&workers, 0, next), 1);
        several_brief(&workers);
        assert_eq!((on(&workers, 0, next), on(&workers, 1, next)), (0, 1), "here, whoever asks");
        assert_eq!((on(&workers, 0, better), on(&workers, 1, better)), (None, Some(0)), "paths come together on the first");
        workers.habit.ended(BRIEF);
        assert_eq!(on(&workers, 0, next), 1, "one that lasts ends the habit");
        drop((first, second, third));
        assert!((0..2).all(|number| workers.threads[number].load() == 0));
    }

    #[test]
    fn brief_work_leaves_a_thread_that_is_crowded_or_busy() {
        let workers = Workers::of(2, false).unwrap();
        several_brief(&workers);
        let crowd: Vec<Load> = (0..=CROWD).map(|_| on(&workers, 0, |workers| workers.begin()).unwrap()).collect();
        assert_eq!((on(&workers, 0, next), on(&workers, 0, better), on(&workers, 1, better)), (1, Some(1), None));
        let fewer = crowd.into_iter().skip(1).collect::<Vec<Load>>();
        several_brief(&workers);
        assert_eq!(
            (on(&workers, 0, next), on(&workers, 0, better), on(&workers, 1, better)),
            (0, None, None),
            "who is elsewhere stays there"
        );
        drop(fewer);
        several_brief(&workers);
        assert_eq!((on(&workers, 0, next), on(&workers, 1, better)), (0, Some(0)));
        let one = on(&workers, 0, |workers| workers.begin()).unwrap();
        on(&workers, 0, |_| keeps_busy());
        assert!(!workers.habit.is_brief(), "the next ones may last, too");
        several_brief(&workers);
        let busy = &workers.threads[0].busy.0;
        assert!((1..=Moment::now()).contains(&busy.load(Ordering::Relaxed)));
        // Still so when a slow machine looks.
        busy.fetch_add(60_000, Ordering::Relaxed);
        assert_eq!((on(&workers, 0, next), on(&workers, 0, better)), (1, Some(1)), "a stream without end holds the thread");
        drop(one);
    }

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

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn threads_of_a_relay_give_way_but_not_to_who_computes() {
        /// The scheduling policy among the numbers of a thread (proc_pid_stat(5)), the 39th behind the name.
        const POLICY: usize = 38;
        let workers = Workers::start_half().unwrap();
        let supervisor = Supervisor::new();
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let (tell, thread) = mpsc::channel();
        workers.spawn(&supervisor, "echo", async move {
            tell.send(std::fs::canonicalize("/proc/thread-self").unwrap()).unwrap();
            let mut far = tokio::net::UnixStream::from_std(far).unwrap();
            let mut byte = [0];
            while far.read_exact(&mut byte).await.is_ok() {
                far.write_all(&byte).await.unwrap();
            }
        });
        let stat = thread.recv_timeout(Duration::from_secs(5)).unwrap().join("stat");
        // It looks before it sleeps, so it is woken until it has.
        let mut until = |policy: libc::c_int| {
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                near.write_all(&[0]).unwrap();
                near.read_exact(&mut [0]).unwrap();
                let stat = std::fs::read_to_string(&stat).unwrap();
                let (_, numbers) = stat.rsplit_once(") ").unwrap();
                if numbers.split(' ').nth(POLICY).unwrap().parse() == Ok(policy) {
                    return;
                }
                assert!(Instant::now() < deadline, "{stat} is not {policy}");
            }
        };
        until(libc::SCHED_BATCH);
        // Until they are told to stop, or this test has failed.
        let (stop, deadline) = (AtomicUsize::new(0), Instant::now() + Duration::from_secs(60));
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().unwrap().get() {
                scope.spawn(|| while stop.load(Ordering::Relaxed) == 0 && Instant::now() < deadline {});
            }
            until(libc::SCHED_OTHER);
            stop.store(1, Ordering::Relaxed);
        });
        until(libc::SCHED_BATCH);
    }
}
