//! Whether a thread that has been woken takes the core from who runs there.
//!
//! A thread that moves small messages for others and is woken for each of them cuts into the work of whoever sent it, often in the middle of several
//! messages. Under `SCHED_BATCH` (sched(7)) it runs when they sleep, and does at once what has come together. But where somebody computes without sleeping, it
//! would wait a time slice of theirs for each message. So it looks at how long the kernel makes it wait, and goes back to the normal policy for a while
//! where that is long. Figures: `docs/adr/0018-a-relay-gives-way.md`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

/// As long a thread does something else between two looks: not much longer than the wait that it looks for, so that few other ones are counted with it.
const LOOK: Duration = Duration::from_millis(1);

/// A wait for somebody who sleeps soon. Each turn on a core may have one.
const SHORT: Duration = Duration::from_micros(100);

/// Having waited so much longer between two looks is too long: who moves bytes leaves a core sooner, who computes has slices of one to four milliseconds.
const LONG: Duration = Duration::from_millis(1);

/// One long wait in so many turns is nobody's fault: something of the system ran.
const TURNS: u64 = 1000;

/// More long waits than this, beyond one for so many turns, and somebody computes.
const TOLERATED: u64 = 2;

/// How long a thread is normal after it has waited too long: twice as long each time, until it has given way for as long without it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

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
    policy: Policy,
    since: Instant,
    /// When to look next.
    next: Instant,
    /// As of the last look.
    waits: Waits,
    /// For how many turns there have been long waits already.
    debt: u64,
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
        Some(Self { statistics, judge: Judge::new(Instant::now()) })
    }

    /// Looks at how long this thread has waited, where it is time to, and changes its policy accordingly. To be called often, on the thread that made it.
    ///
    /// # Errors
    /// Where the system does not permit it. The policy is the normal one then, or nothing was changed.
    pub(crate) fn review(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if now < self.judge.next {
            return Ok(());
        }
        let verdict = self.waits().map(|waits| self.judge.judge(now, waits));
        if let Some(policy) = verdict.as_ref().map_or(Some(Policy::Normal), |verdict| *verdict) {
            tracing::debug!(?policy, pause = ?self.judge.pause, "this thread is scheduled differently");
            system::set_policy(policy)?;
        }
        verdict.map(|_| ())
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
    fn new(now: Instant) -> Self {
        let waits = Waits { waited: Duration::ZERO, turns: 0 };
        Self { policy: Policy::Normal, since: now, next: now + FIRST_PAUSE, waits, debt: 0, pause: FIRST_PAUSE }
    }

    /// Says what is to be another policy from now on.
    fn judge(&mut self, now: Instant, waits: Waits) -> Option<Policy> {
        let turns = waits.turns.saturating_sub(self.waits.turns);
        let waited = waits.waited.saturating_sub(self.waits.waited);
        (self.waits, self.next) = (waits, now + LOOK);
        match self.policy {
            // A kernel that counts nothing says that this thread never had a turn.
            Policy::Normal if turns == 0 => return None,
            Policy::Normal => self.policy = Policy::Batch,
            Policy::Batch => {
                self.debt = self.debt.saturating_sub(turns);
                if waited >= LONG + SHORT * u32::try_from(turns).unwrap_or(u32::MAX) {
                    self.debt += TURNS;
                }
                if self.debt <= TOLERATED * TURNS {
                    if now - self.since >= self.pause {
                        self.pause = FIRST_PAUSE;
                    }
                    return None;
                }
                (self.policy, self.debt, self.next) = (Policy::Normal, 0, now + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
        self.since = now;
        Some(self.policy)
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;

    use super::Policy;

    /// The calling thread's policy; `None` where it is none of these.
    #[expect(unsafe_code, reason = "a function of C that no crate wraps")]
    pub(super) fn policy() -> Option<Policy> {
        let mut policy = 0;
        let mut parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: both are written to and not kept, and the calling thread lives (pthread_getschedparam(3)).
        let failed = unsafe { libc::pthread_getschedparam(libc::pthread_self(), &raw mut policy, &raw mut parameters) };
        match policy {
            libc::SCHED_OTHER if failed == 0 => Some(Policy::Normal),
            libc::SCHED_BATCH if failed == 0 => Some(Policy::Batch),
            _ => None,
        }
    }

    /// Sets the calling thread's policy. Its nice value stays.
    #[expect(unsafe_code, reason = "a function of C that no crate wraps")]
    pub(super) fn set_policy(policy: Policy) -> io::Result<()> {
        let policy = match policy {
            Policy::Normal => libc::SCHED_OTHER,
            Policy::Batch => libc::SCHED_BATCH,
        };
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: the parameters are read and not kept, and the calling thread lives (pthread_setschedparam(3)).
        match unsafe { libc::pthread_setschedparam(libc::pthread_self(), policy, &raw const parameters) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
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
            Self { judge: Judge::new(now), now, waits: Waits { waited: Duration::ZERO, turns: 1 } }
        }

        /// What is decided when it looks next, after so many turns with so long a wait before each.
        fn next(&mut self, turns: u32, wait: Duration) -> Option<Policy> {
            self.now = self.judge.next;
            self.waits = Waits { waited: self.waits.waited + wait * turns, turns: self.waits.turns + u64::from(turns) };
            self.judge.judge(self.now, self.waits)
        }

        /// What is decided after as many long waits as are too many.
        fn kept_waiting(&mut self) -> Option<Policy> {
            (0..=TOLERATED).map(|_| self.next(1, LONG + SHORT)).last().flatten()
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
        assert_eq!(court.judge.next - court.now, FIRST_PAUSE);
        assert_eq!(court.next(0, SHORT), None, "nothing was done, so nobody can be in its way");
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
            assert_eq!(court.next(10, SHORT), None, "a short while without long waits changes nothing");
            assert_eq!(court.kept_waiting(), Some(Policy::Normal));
            pauses.push((court.judge.next - court.now).as_millis());
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
        assert_eq!(court.next(10, SHORT), Some(Policy::Batch));
        let batch = court.now;
        while court.now - batch < LONGEST_PAUSE {
            assert_eq!(court.next(10, SHORT), None);
        }
        assert_eq!(court.kept_waiting(), Some(Policy::Normal));
        assert_eq!(court.judge.next - court.now, FIRST_PAUSE, "as long without long waits as the pause was");
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
        let thread = || {
            assert_eq!(system::policy(), Some(Policy::Normal));
            system::set_policy(Policy::Batch).unwrap();
            assert_eq!(system::policy(), Some(Policy::Batch));
            assert!(Scheduling::of_this_thread().is_none(), "whoever set it may have had a reason");
            system::set_policy(Policy::Normal).unwrap();
            system::policy()
        };
        assert_eq!(std::thread::spawn(thread).join().unwrap(), Some(Policy::Normal));
        assert_eq!(system::policy(), Some(Policy::Normal));
        let scheduling = Scheduling::of_this_thread().unwrap();
        assert!(scheduling.waits().unwrap().turns > 0);
    }
}
