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
    let workers = Workers::of(2, Woken::Preempts).unwrap();
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
    let workers = Workers::of(2, Woken::Preempts).unwrap();
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
#[test]
fn threads_of_a_relay_give_way_but_not_to_who_computes() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// The scheduling policy among the numbers of a thread (proc_pid_stat(5)): the 39th behind the name.
    const POLICY: usize = 38;
    /// Longer than the longest pause, by far.
    const ENOUGH: Duration = Duration::from_secs(60);
    if Scheduling::of_this_thread().is_none() {
        println!("skipped: the system does not tell how long threads wait, or this process has a scheduling policy of its own");
        return;
    }
    // On one core, so that the others are left to whom they belong.
    let allowed = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|core| allowed.is_set(*core)).unwrap());
    let workers = Workers::start_half().unwrap();
    let supervisor = Supervisor::new();
    let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let (tell, thread) = mpsc::channel();
    let _echo = workers.spawn(&supervisor, "echo", async move {
        sched_setaffinity(None, &one).unwrap();
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
        let deadline = Instant::now() + ENOUGH;
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
    // Until it is told to stop, or this test has failed.
    let (stop, deadline) = (AtomicUsize::new(0), Instant::now() + ENOUGH);
    thread::scope(|scope| {
        scope.spawn(|| {
            sched_setaffinity(None, &one).unwrap();
            while stop.load(Ordering::Relaxed) == 0 && Instant::now() < deadline {}
        });
        until(libc::SCHED_OTHER);
        stop.store(1, Ordering::Relaxed);
    });
    until(libc::SCHED_BATCH);
}
