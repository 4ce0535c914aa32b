//! Whether a thread that has been woken takes the core from who runs there.
//!
//! A thread that moves small messages for others and is woken for each of them cuts into the work of whoever sent it, often in the middle of several
//! messages. Under `SCHED_BATCH` (sched(7)) it runs when they sleep, and does at once what has come together. But where somebody computes without sleeping, it
//! would wait a time slice of theirs for each message. So it looks at how long the kernel makes it wait, and goes back to the normal policy for a while
//! where that is long. Figures: `docs/adr/0018-a-relay-gives-way.md`.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

/// As long a thread does something else between two looks: not much longer than the wait that it looks for, so that few other ones are counted with it.
const LOOK: Duration = Duration::from_millis(1);

/// A wait for somebody who sleeps soon. Each turn on a core may have one.
const SHORT: Duration = Duration::from_micros(100);

/// Having waited so much longer between two looks is a long wait, on a machine with one core. Who moves bytes leaves a core sooner; who computes has
/// a slice of 0.7 ms at least. A slice is longer the more cores there are ([`long`]).
const LONG: Duration = Duration::from_micros(500);

/// One long wait in so many turns is nobody's fault: something of the system ran.
const TURNS: u64 = 1000;

/// More long waits than this, beyond one for so many turns, and somebody computes.
const TOLERATED: u64 = 2;

/// How long a thread is normal before it gives way: at first, and after too many long waits; twice as long each time, while they go on.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Without a long wait for so long, whoever computed has ended.
const QUIET: Duration = Duration::from_secs(2);

/// What a long wait is, with so many cores: Linux makes slices longer by their logarithm, up to eight (kernel/sched/fair.c, `sysctl_sched_base_slice`).
fn long(cores: usize) -> Duration {
    LONG * (1 + cores.clamp(1, 8).ilog2())
}

/// Scheduling policies of threads (sched(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// `SCHED_OTHER`: a thread that is woken preempts one that has had more of the core.
    Normal,
    /// `SCHED_BATCH`: it preempts nobody.
    Batch,
}

/// What a thread has waited for a core, all in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waits {
    waited: Duration,
    turns: u64,
}

/// Decides a thread's policy.
#[derive(Debug)]
struct Judge {
    long: Duration,
    policy: Policy,
    /// When it began to give way, or waited for long since.
    disturbed: Instant,
    /// When to look next.
    next: Instant,
    /// As of the last look.
    waits: Waits,
    /// [`TURNS`] for each long wait, less one for each turn since.
    debt: u64,
    /// How long the next time as a normal thread will be.
    pause: Duration,
}

/// The policy of the thread that made it, which gives way to others while they keep it waiting for short times only.
#[derive(Debug)]
pub(crate) struct Scheduling {
    /// `/proc/thread-self/schedstat` (Linux, Documentation/scheduler/sched-stats.rst): nanoseconds on a core, nanoseconds of waiting for one, turns.
    statistics: File,
    judge: Judge,
}

impl Scheduling {
    /// `None` where the system does not tell how long threads wait, or whoever started the process chose another policy than the normal one.
    pub(crate) fn of_this_thread() -> Option<Self> {
        if system::policy() != Some(Policy::Normal) {
            return None;
        }
        let statistics = File::open("/proc/thread-self/schedstat").ok()?;
        // Fewer than the machine has, where this process may not use all: a wait is called long sooner.
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Some(Self { statistics, judge: Judge::new(Instant::now(), long(cores)) })
    }

    /// Looks at how long this thread has waited, where it is time to, and changes its policy accordingly. To be called often, on the thread that made it.
    ///
    /// # Errors
    /// Where the system does not permit it, or does not tell how long threads wait any more (the policy is the normal one then), or somebody else has
    /// changed the policy. It should not be called again then.
    pub(crate) fn review(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if now < self.judge.next {
            return Ok(());
        }
        if system::policy() != Some(self.judge.policy) {
            return Err(io::Error::other("somebody else has set its scheduling policy"));
        }
        let waits = match self.waits() {
            Ok(waits) => waits,
            Err(error) => return system::set_policy(Policy::Normal).and(Err(error)),
        };
        let Some(policy) = self.judge.judge(now, waits) else { return Ok(()) };
        tracing::debug!(?policy, pause = ?self.judge.pause, "this thread is scheduled differently");
        system::set_policy(policy)
    }

    fn waits(&self) -> io::Result<Waits> {
        // Three numbers of at most 20 digits.
        let mut text = [0; 64];
        let count = self.statistics.read_at(&mut text, 0)?;
        Waits::parse(&text[..count]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl Waits {
    fn parse(text: &[u8]) -> Option<Self> {
        let mut numbers = std::str::from_utf8(text).ok()?.split_ascii_whitespace().skip(1).map(str::parse);
        let (Some(Ok(waited)), Some(Ok(turns))) = (numbers.next(), numbers.next()) else { return None };
        Some(Self { waited: Duration::from_nanos(waited), turns })
    }
}

impl Judge {
    /// Of a thread that is normal.
    fn new(now: Instant, long: Duration) -> Self {
        let waits = Waits { waited: Duration::ZERO, turns: 0 };
        Self { long, policy: Policy::Normal, disturbed: now, next: now + FIRST_PAUSE, waits, debt: 0, pause: FIRST_PAUSE }
    }

    /// Says what is to be another policy from now on.
    fn judge(&mut self, now: Instant, waits: Waits) -> Option<Policy> {
        let turns = waits.turns.saturating_sub(self.waits.turns);
        let waited = waits.waited.saturating_sub(self.waits.waited);
        (self.waits, self.next) = (waits, now + LOOK);
        match self.policy {
            // A kernel that counts nothing says that this thread never had a turn.
            Policy::Normal if turns == 0 => return None,
            Policy::Normal => (self.policy, self.debt, self.disturbed) = (Policy::Batch, 0, now),
            Policy::Batch => {
                self.debt = self.debt.saturating_sub(turns);
                if waited >= self.long + SHORT * u32::try_from(turns).unwrap_or(u32::MAX) {
                    (self.debt, self.disturbed) = (self.debt + TURNS, now);
                } else if now - self.disturbed >= QUIET {
                    self.pause = FIRST_PAUSE;
                }
                if self.debt <= TOLERATED * TURNS {
                    return None;
                }
                (self.policy, self.next) = (Policy::Normal, now + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
        Some(self.policy)
    }
}

/// By system calls: what the C library knows of a thread's policy is what it has set itself (pthread_getschedparam(3)), and musl's sets none.
#[cfg(target_os = "linux")]
mod system {
    use std::io;

    use super::Policy;

    /// The calling thread's policy; `None` where it is none of these.
    #[expect(unsafe_code, reason = "system calls that no crate here wraps")]
    pub(super) fn policy() -> Option<Policy> {
        // SAFETY: it takes the number of a thread, 0 for the calling one, and no memory (sched_getscheduler(2)).
        let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
        match i32::try_from(policy) {
            Ok(libc::SCHED_OTHER) => Some(Policy::Normal),
            Ok(libc::SCHED_BATCH) => Some(Policy::Batch),
            _ => None,
        }
    }

    /// Sets the calling thread's policy. Its nice value stays.
    #[expect(unsafe_code, reason = "system calls that no crate here wraps")]
    pub(super) fn set_policy(policy: Policy) -> io::Result<()> {
        let policy = match policy {
            Policy::Normal => libc::SCHED_OTHER,
            Policy::Batch => libc::SCHED_BATCH,
        };
        // `struct sched_param` of the kernel: a priority, which is 0 for these policies.
        let parameters: libc::c_int = 0;
        // SAFETY: it reads the parameters, which outlive it, and no other memory; 0 is the calling thread (sched_setscheduler(2)).
        match unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;

    use super::Policy;

    pub(super) fn policy() -> Option<Policy> {
        None
    }

    pub(super) fn set_policy(_: Policy) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A judge and what it is told.
    struct Court {
        judge: Judge,
        now: Instant,
        waits: Waits,
    }

    impl Court {
        fn new() -> Self {
            let now = Instant::now();
            Self { judge: Judge::new(now, LONG), now, waits: Waits { waited: Duration::ZERO, turns: 1 } }
        }

        /// What is decided when it looks next, after so many turns with so long a wait before each.
        fn next(&mut self, turns: u32, wait: Duration) -> Option<Policy> {
            self.now = self.judge.next;
            self.waits = Waits { waited: self.waits.waited + wait * turns, turns: self.waits.turns + u64::from(turns) };
            self.judge.judge(self.now, self.waits)
        }

        /// After as many long waits as are too many, it is to be normal.
        fn keep_waiting(&mut self) {
            for _ in 0..TOLERATED {
                assert_eq!(self.next(1, LONG + SHORT), None);
            }
            assert_eq!(self.next(1, LONG + SHORT), Some(Policy::Normal));
        }

        fn pause(&self) -> Duration {
            self.judge.next - self.now
        }
    }

    #[test]
    fn a_thread_gives_way_until_it_waits_for_long() {
        let mut court = Court::new();
        let began = court.now;
        assert_eq!(court.next(1000, LONG * 5), Some(Policy::Batch), "what it waited before tells nothing");
        assert_eq!(court.now - began, FIRST_PAUSE);
        assert_eq!(court.next(1000, SHORT), None, "many short waits");
        assert_eq!(court.next(0, SHORT), None);
        assert_eq!(court.next(1, LONG + SHORT), None, "one that is long");
        assert_eq!(court.next(1, LONG + SHORT), None);
        assert_eq!(court.next(1, LONG + SHORT), Some(Policy::Normal), "several of few");
        assert_eq!(court.pause(), FIRST_PAUSE);
        assert_eq!(court.next(0, SHORT), None, "nothing was done, so nobody can be in its way");
    }

    #[test]
    fn waits_are_long_by_the_cores_of_the_machine() {
        let of = |cores| long(cores).as_micros();
        assert_eq!([0, 1, 2, 4, 7, 8, 200].map(of), [500, 500, 1000, 1500, 1500, 2000, 2000]);
    }

    #[test]
    fn a_long_wait_now_and_then_is_nothing() {
        let mut court = Court::new();
        assert_eq!(court.next(1, SHORT), Some(Policy::Batch));
        for _ in 0..100 {
            assert_eq!(court.next(1, LONG * 5), None);
            assert_eq!(court.next(u32::try_from(TURNS).unwrap() - 1, SHORT), None);
        }
    }

    #[test]
    fn it_tries_again_less_and_less_often() {
        let mut court = Court::new();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(court.next(10, SHORT), Some(Policy::Batch));
            court.keep_waiting();
            pauses.push(court.pause().as_millis());
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
        assert_eq!(court.next(10, SHORT), Some(Policy::Batch));
        let batch = court.now;
        while court.now - batch < QUIET {
            assert_eq!(court.next(10, SHORT), None);
        }
        court.keep_waiting();
        assert_eq!(court.pause(), FIRST_PAUSE, "it was quiet meanwhile");
    }

    #[test]
    fn messages_that_come_rarely_wait_as_rarely() {
        for gap in [LOOK, Duration::from_millis(260), Duration::from_secs(1), QUIET, QUIET * 3] {
            let mut court = Court::new();
            let (mut long, mut messages) = (0, 0);
            let end = court.now + Duration::from_secs(240);
            while court.now < end {
                messages += 1;
                let next = court.judge.next;
                court.judge.next = next.max(court.now + gap);
                long += u32::from(court.judge.policy == Policy::Batch);
                court.next(1, if court.judge.policy == Policy::Batch { LONG + SHORT } else { Duration::ZERO });
            }
            assert!(long <= 3 * (240 / 8 + 6), "{long} of {messages} every {gap:?}");
            assert_eq!(court.judge.pause, LONGEST_PAUSE, "{gap:?}");
        }
    }

    #[test]
    fn where_the_kernel_counts_nothing_a_thread_stays_normal() {
        let mut court = Court::new();
        court.waits.turns = 0;
        for _ in 0..10 {
            assert_eq!(court.next(0, SHORT), None);
        }
    }

    #[test]
    fn statistics_are_read_or_not_trusted() {
        let waits = Waits { waited: Duration::from_nanos(1_194_760), turns: 12 };
        assert_eq!(Waits::parse(b"43 1194760 12\n"), Some(waits));
        for text in [&b""[..], b"1 2", b"1 -2 3", b"1 2 x", b"\xff 1 2", b"1 99999999999999999999 3"] {
            assert_eq!(Waits::parse(text), None);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_policy_of_a_thread_is_its_own() {
        if Scheduling::of_this_thread().is_none() {
            println!(
                "skipped: the system does not tell how long threads wait, or this process has a scheduling policy of its own"
            );
            return;
        }
        let test = || {
            assert_eq!(system::policy(), Some(Policy::Normal));
            system::set_policy(Policy::Batch).unwrap();
            assert_eq!(system::policy(), Some(Policy::Batch));
            assert!(Scheduling::of_this_thread().is_none(), "whoever set it may have had a reason");
            system::set_policy(Policy::Normal).unwrap();
            assert_eq!(system::policy(), Some(Policy::Normal));
            let mut scheduling = Scheduling::of_this_thread().unwrap();
            assert!(scheduling.waits().unwrap().turns > 0);
            scheduling.review().unwrap();
            assert_eq!(system::policy(), Some(Policy::Normal), "it is not time yet");
            scheduling.judge.next = Instant::now();
            scheduling.review().unwrap();
            assert_eq!(system::policy(), Some(Policy::Batch));
            system::set_policy(Policy::Normal).unwrap();
            scheduling.judge.next = Instant::now();
            scheduling.review().unwrap_err();
            assert_eq!(system::policy(), Some(Policy::Normal), "somebody else's choice stays");
        };
        thread::spawn(test).join().unwrap();
        assert_eq!(system::policy(), Some(Policy::Normal));
    }
}
