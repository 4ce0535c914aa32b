//! What was refused, kept in the home, so that `postern explain ID` finds it after a restart, and whichever process decided or was told it.
//!
//! A process that stays writes through a bounded queue: nobody who is refused, and nothing that refuses, waits for a disk. Of one peer no more is kept
//! than somebody looks at, so that it cannot push out what others met with.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postern_proto::id::{Identifier, RefusalId};
use postern_proto::time::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::layout::REFUSALS;
use super::{Home, HomeError};
use crate::bucket::Buckets;
use crate::files::FileError;
use crate::supervise::Supervisor;
use crate::trouble::Trouble;

/// The length from which the file is put aside: some 8,000 refusals.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Longest file that is read: the writers look at the length before they write, each a line.
const MAX_READ: usize = 2 * MAX_FILE as usize;

/// Refusals that wait to be written.
const QUEUE: usize = 256;

/// Refusals of one peer that are kept at once, and then one more in this time.
const BURST: u32 = 32;
const EVERY: Duration = Duration::from_secs(10);

/// Peers that are counted apart; the others share one count.
const MAX_PEERS: usize = 1_024;

/// A refusal by the authority or a relay, as it is kept on either side. The fields are those that `explain` prints of every refusal.
#[derive(Debug, Clone, Serialize)]
pub struct RefusalRecord {
    pub api_version: &'static str,
    pub id: RefusalId,
    /// Which process of the home wrote it.
    pub node: String,
    pub at: String,
    /// Who decided: `authority` or `relay`.
    pub by: &'static str,
    pub peer: Option<Identifier>,
    pub code: String,
    pub meaning: String,
    /// What the refused side was told; `null` on that side.
    pub told: Option<String>,
    pub reason: String,
}

impl RefusalRecord {
    /// A refusal by the authority (`by`), of what `reason` says.
    #[must_use]
    pub fn new(id: RefusalId, by: &'static str, at: Timestamp) -> Self {
        Self {
            api_version: "1",
            id,
            node: String::new(),
            at: at.to_string(),
            by,
            peer: None,
            code: String::new(),
            meaning: String::new(),
            told: None,
            reason: String::new(),
        }
    }
}

/// Where a process keeps refusals. Clones are the same; the empty one keeps nothing.
#[derive(Debug, Clone, Default)]
pub struct RefusalLog(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    lines: mpsc::Sender<Vec<u8>>,
    lost: AtomicU64,
    /// Those since the last one that was said in the log of the process.
    unsaid: AtomicU64,
    peers: Mutex<Buckets<Option<Identifier>>>,
}

impl RefusalLog {
    /// Starts to keep them in `home`, for as long as `supervisor` lets it.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn start(home: &Home, supervisor: &Supervisor) -> Result<Self, HomeError> {
        let home = Arc::new(home.try_clone()?);
        let (lines, queue) = mpsc::channel(QUEUE);
        let peers = Mutex::new(Buckets::new(BURST, EVERY, MAX_PEERS, Instant::now()));
        let stopping = supervisor.stopping().clone();
        supervisor.spawn("log of refusals", async move {
            let mut queue: mpsc::Receiver<Vec<u8>> = queue;
            let trouble = Trouble::default();
            loop {
                let next = stopping.run_until_cancelled(queue.recv()).await;
                let line = match next {
                    Some(Some(line)) => line,
                    Some(None) => return,
                    // What waits is written yet.
                    None => match queue.try_recv() {
                        Ok(line) => line,
                        Err(_) => return,
                    },
                };
                let home = Arc::clone(&home);
                let written = tokio::task::spawn_blocking(move || home.append_refusal(&line)).await;
                match written {
                    Ok(Err(error)) => {
                        if let Some(unsaid) = trouble.fails() {
                            let error = &error as &dyn std::error::Error;
                            tracing::warn!(error, unsaid, "refusals cannot be kept; `explain` will not know them");
                        }
                    }
                    Ok(Ok(())) => {
                        if let Some(failed) = trouble.succeeds() {
                            tracing::info!(failed, "refusals are kept again");
                        }
                    }
                    Err(_) => {}
                }
            }
        });
        Ok(Self(Some(Arc::new(Inner { lines, lost: AtomicU64::new(0), unsaid: AtomicU64::new(0), peers }))))
    }

    /// Keeps a refusal of `peer`, unless there were too many of it just now: all strangers, `None`, count as one. Where it is one to be said in
    /// the log of the process, too, how many before it were not.
    pub fn note(&self, peer: Option<Identifier>, record: &impl Serialize) -> Option<u64> {
        let Some(inner) = &self.0 else { return Some(0) };
        if !inner.peers.lock().unwrap_or_else(PoisonError::into_inner).take(peer, Instant::now()) {
            inner.lost.fetch_add(1, Ordering::Relaxed);
            inner.unsaid.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        // Full, or closed because the process ends.
        if line_of(record).is_none_or(|line| inner.lines.try_send(line).is_err()) {
            inner.lost.fetch_add(1, Ordering::Relaxed);
        }
        Some(inner.unsaid.swap(0, Ordering::Relaxed))
    }

    /// How many were not kept since the process started.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.lost.load(Ordering::Relaxed))
    }
}

fn line_of(record: &impl Serialize) -> Option<Vec<u8>> {
    // JSON escapes control characters: whatever a name holds, this is one line.
    let mut line = serde_json::to_vec(record).ok()?;
    line.push(b'\n');
    Some(line)
}

impl Home {
    /// Keeps a refusal that a command was told.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn note_refusal(&self, record: &impl Serialize) -> Result<(), HomeError> {
        match line_of(record) {
            Some(line) => self.append_refusal(&line),
            None => Ok(()),
        }
    }

    fn append_refusal(&self, line: &[u8]) -> Result<(), HomeError> {
        let fault = |error| FileError::io("write", &self.path().join(REFUSALS[0]), error);
        let mut file = self.dir.append(REFUSALS[0])?;
        if file.metadata().map_err(fault)?.len() >= MAX_FILE {
            let _lock = self.dir.lock_changes()?;
            // Another process may have put it aside meanwhile.
            if self.dir.append(REFUSALS[0])?.metadata().map_err(fault)?.len() >= MAX_FILE {
                self.dir.rename(REFUSALS[0], REFUSALS[1])?;
            }
            file = self.dir.append(REFUSALS[0])?;
        }
        // One write, which the system puts behind what others wrote.
        Ok(file.write_all(line).map_err(fault)?)
    }

    /// The refusals that are kept, a line of JSON each, the oldest first.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn refusals(&self) -> Result<Vec<Zeroizing<Vec<u8>>>, HomeError> {
        let mut lines = Vec::new();
        for name in REFUSALS.iter().rev() {
            let Some(bytes) = self.dir.read(name, MAX_READ)? else { continue };
            lines.extend(bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| line.to_vec().into()));
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_noted_is_read_again_and_one_peer_does_not_fill_it() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(&place.path().join("home")).unwrap();
        let supervisor = Supervisor::new();
        let log = RefusalLog::start(&home, &supervisor).unwrap();
        let (one, other) = (Identifier::from_bytes([1; 32]), Identifier::from_bytes([2; 32]));
        let said = (0..10 * BURST)
            .filter(|_| log.note(Some(one), &RefusalRecord::new(RefusalId::random(), "relay", Timestamp::from_unix(1))).is_some())
            .count();
        assert_eq!(said, BURST as usize, "nor does it fill the log of the process");
        let last =
            RefusalRecord { peer: Some(other), ..RefusalRecord::new(RefusalId::random(), "authority", Timestamp::from_unix(2)) };
        assert_eq!(log.note(Some(other), &last), Some(u64::from(9 * BURST)));
        supervisor.shutdown(Duration::from_secs(5)).await;
        let lines = home.refusals().unwrap();
        assert_eq!(lines.len(), BURST as usize + 1);
        assert_eq!(log.lost(), u64::from(9 * BURST));
        let read: serde_json::Value = serde_json::from_slice(lines.last().unwrap()).unwrap();
        assert_eq!(read["id"], last.id.to_string());
        assert_eq!(RefusalLog::default().note(None, &last), Some(0));
    }

    #[test]
    fn the_file_is_put_aside_when_it_is_long() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(&place.path().join("home")).unwrap();
        // The home is the one that was opened, wherever it was moved to, and whatever stands where it was.
        let moved = place.path().join("moved");
        std::fs::rename(home.path(), &moved).unwrap();
        std::fs::create_dir(home.path()).unwrap();
        std::fs::write(home.path().join(REFUSALS[0]), "of somebody else").unwrap();
        let long = vec![b'x'; 512 * 1024];
        for _ in 0..20 {
            home.append_refusal(&long).unwrap();
        }
        assert!(home.path().join(REFUSALS[0]).exists() && !home.path().join(REFUSALS[1]).exists());
        let lengths = REFUSALS.map(|name| std::fs::metadata(moved.join(name)).unwrap().len());
        assert!(lengths.iter().all(|length| *length <= MAX_FILE + long.len() as u64), "{lengths:?}");
        home.note_refusal(&RefusalRecord::new(RefusalId::random(), "relay", Timestamp::from_unix(1))).unwrap();
        assert!(home.refusals().is_ok());
    }
}
