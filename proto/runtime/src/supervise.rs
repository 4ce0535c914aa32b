//! Tasks on handles: a daemon is a tree of them. Stop, drain, deadline, abort.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument as _;

/// How long aborted tasks get to be dropped. They end at their next await; one that computes is left to the end of the process.
const ABORT_GRACE: Duration = Duration::from_secs(1);

type Panic = Box<dyn Any + Send>;

type BoxedTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// All tasks ended by themselves.
    Drained,
    /// So many were still running at the deadline.
    Aborted { tasks: usize },
}

/// A node of the tree: the tasks that hang on it and on its children. Clones are the same node.
#[derive(Debug, Clone)]
pub struct Supervisor {
    /// The trackers of this node and of all above it, this one last.
    lineage: Vec<TaskTracker>,
    own: TaskTracker,
    stop: CancellationToken,
    abort: CancellationToken,
    panics: Arc<AtomicU64>,
}

impl Default for Supervisor {
    fn default() -> Self {
        let own = TaskTracker::new();
        Self {
            lineage: vec![own.clone()],
            own,
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            panics: Arc::default(),
        }
    }
}

impl Supervisor {
    /// The root of a tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A node below this one: it stops with it, and can be stopped alone.
    #[must_use]
    pub fn child(&self) -> Self {
        let own = TaskTracker::new();
        let mut lineage = self.lineage.clone();
        lineage.push(own.clone());
        Self { lineage, own, stop: self.stop.child_token(), abort: self.abort.child_token(), panics: Arc::clone(&self.panics) }
    }

    /// Cancelled when this node is to stop: accept nothing new, finish what is at hand, end.
    #[must_use]
    pub const fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs `task` under this node. It is expected to heed [`Self::stopping`]. A panic in it ends it alone, and is counted.
    /// The handle aborts it: its state is dropped where it waits. Without that it makes no difference whether the handle is kept.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.spawn_boxed(name, self.abort.clone(), Box::pin(task))
    }

    /// As [`Self::spawn`], for a task that need not heed anything: it is dropped when `stop` is cancelled, which is
    /// [`Self::stopping`] or descends from it.
    pub fn spawn_until(&self, stop: &CancellationToken, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        // Nothing is aborted before it was told to stop.
        self.spawn_boxed(name, stop.clone(), Box::pin(task));
    }

    /// The task stands in an allocation of its own: a future that is handed on by value through several others takes its room once in
    /// each of them, for as long as it lives.
    fn spawn_boxed(&self, name: &'static str, end: CancellationToken, task: BoxedTask) -> AbortHandle {
        // By every node above, so that a parent drains when its children have.
        let mut tracked = Tracked { task, tokens: self.lineage.iter().map(TaskTracker::token).collect() };
        let panics = Arc::clone(&self.panics);
        let task = async move {
            let ended = supervised(&mut tracked.task, &end).await;
            let tokens = tracked.without_task();
            if let Err(panic) = ended {
                panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(task = name, panic = panic_text(panic.as_ref()), "a task panicked; only what it served is lost");
            }
            // Behind the count: whoever has waited for the end of tasks knows of every panic.
            drop(tokens);
        };
        tokio::spawn(task.instrument(tracing::Span::current())).abort_handle()
    }

    /// Tasks that run now, children's included.
    #[must_use]
    pub fn running(&self) -> usize {
        self.own.len()
    }

    /// How many tasks have panicked, anywhere in the tree.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Stops this node and its children: tells them, waits until they have ended, and aborts after `deadline` what has not.
    pub async fn shutdown(&self, deadline: Duration) -> Shutdown {
        self.stop.cancel();
        self.own.close();
        tracing::debug!(tasks = self.running(), "stopping");
        if tokio::time::timeout(deadline, self.own.wait()).await.is_ok() {
            tracing::debug!("all tasks have ended");
            return Shutdown::Drained;
        }
        let tasks = self.running();
        tracing::warn!(tasks, "the deadline has passed; what still runs is cut off");
        self.abort.cancel();
        if tokio::time::timeout(ABORT_GRACE, self.own.wait()).await.is_err() {
            tracing::error!(tasks = self.running(), "tasks do not end");
        }
        Shutdown::Aborted { tasks }
    }
}

/// A task and what counts it. Its state goes first, also where it is aborted: whoever waits for the end of tasks relies on that.
struct Tracked {
    task: BoxedTask,
    tokens: Box<[TaskTrackerToken]>,
}

impl Tracked {
    /// What still counts it, when its state is gone.
    fn without_task(self) -> Box<[TaskTrackerToken]> {
        self.tokens
    }
}

/// Runs `task` until it ends or panics, or `end` is cancelled.
async fn supervised(task: &mut BoxedTask, end: &CancellationToken) -> Result<(), Panic> {
    let mut cancelled = pin!(end.cancelled());
    poll_fn(|context| {
        if cancelled.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            // It is not polled again, so nothing half changed is seen again.
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn tasks_that_heed_the_stop_are_drained() {
        let root = Supervisor::new();
        let child = root.child();
        for node in [&root, &child] {
            let stop = node.stopping().clone();
            node.spawn("waits", async move { stop.cancelled().await });
        }
        assert_eq!((root.running(), child.running()), (2, 1));
        assert_eq!(child.shutdown(SECOND).await, Shutdown::Drained);
        assert!(!root.stopping().is_cancelled(), "a child stops alone");
        assert_eq!(root.running(), 1);
        assert_eq!(root.shutdown(SECOND).await, Shutdown::Drained);
    }

    #[tokio::test(start_paused = true)]
    async fn a_parent_waits_for_its_children_and_aborts_them() {
        let root = Supervisor::new();
        let child = root.child();
        let (dropped, notice) = oneshot::channel::<()>();
        child.spawn("deaf", async move {
            let _held = dropped;
            std::future::pending::<()>().await;
        });
        assert_eq!(root.shutdown(SECOND).await, Shutdown::Aborted { tasks: 1 });
        assert!(notice.await.is_err(), "the task was dropped");
        assert!(child.stopping().is_cancelled());
        assert_eq!(root.running(), 0);
    }

    #[tokio::test]
    async fn an_aborted_task_counts_until_its_state_is_gone() {
        struct Notes(Supervisor, Option<oneshot::Sender<usize>>);
        impl Drop for Notes {
            fn drop(&mut self) {
                self.1.take().unwrap().send(self.0.running()).unwrap();
            }
        }
        let root = Supervisor::new();
        let (note, noted) = oneshot::channel();
        let state = Notes(root.clone(), Some(note));
        let task = root.spawn("waits", async move {
            let _state = state;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        task.abort();
        assert_eq!(noted.await, Ok(1));
        assert_eq!((root.shutdown(SECOND).await, root.panics()), (Shutdown::Drained, 0));
    }

    #[test]
    fn what_a_task_takes_beside_its_own_is_small() {
        fn size<F: Future>(_: impl FnOnce(&'static mut BoxedTask, &'static CancellationToken) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(supervised);
        assert!(size <= 160, "{size} bytes of at most 160");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_one_task() {
        let root = Supervisor::new();
        let stop = root.stopping().clone();
        root.spawn("lives", async move { stop.cancelled().await });
        root.child().spawn("panics", async { panic!("on purpose") });
        while root.panics() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(root.shutdown(SECOND).await, Shutdown::Drained);
        assert_eq!(root.panics(), 1);
    }
}
