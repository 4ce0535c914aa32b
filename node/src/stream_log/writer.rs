//! Writes the lines: many at once, to the end of a file that is put aside when it is long.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postern_runtime::clock::Clock;
use postern_runtime::files::Dir;
use postern_runtime::home::layout;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::line::{Killed, Lost, StreamLine};
use crate::control::document::ApiVersion;

/// The length from which a file is put aside. Of [`FILES`], the oldest is deleted: the log of a node takes at most 80 MiB, some 200,000
/// streams.
pub const MAX_FILE: u64 = 16 * 1024 * 1024;

/// The file that is written, and those that were put aside, newest first.
pub const FILES: [&str; 5] = layout::node::STREAMS;

/// Lines that are written by one call.
const BATCH: usize = 1_024;

/// How long lines gather behind one that was written: writing each by itself would wake a task, a thread and the disk for every stream.
pub const GATHER: Duration = Duration::from_millis(100);

/// How long lines of streams that end with the node may take to come.
const LAST_LINES: Duration = Duration::from_millis(200);

/// What takes lines from the queue and writes them.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<StreamLine>,
    lost: Arc<AtomicU64>,
    /// How many of the lost a line tells.
    told: u64,
    clock: Arc<Clock>,
}

impl Writer {
    pub(super) const fn new(queue: mpsc::Receiver<StreamLine>, lost: Arc<AtomicU64>, clock: Arc<Clock>) -> Self {
        Self { queue, lost, told: 0, clock }
    }

    /// Writes into `dir` until `stop`, and then what is left.
    pub async fn run(mut self, dir: Dir, stop: CancellationToken) {
        let mut target = Target { dir, file: None, failing: false };
        let at = self.clock.now().to_string();
        let begun = tokio::task::spawn_blocking(move || {
            let begun = target.begin(at);
            (target, begun)
        });
        let Ok((back, begun)) = begun.await else { return };
        target = back;
        if let Err(failed) = &begun {
            error!(error = %failed, "whether lines of the log of streams are missing is told at the next start");
        }
        let mut lines = Vec::with_capacity(BATCH);
        let mut closing = false;
        loop {
            let received = if closing {
                // Closed: ends with what is in the queue.
                self.queue.recv_many(&mut lines, BATCH).await
            } else {
                match stop.run_until_cancelled(self.queue.recv_many(&mut lines, BATCH)).await {
                    Some(received) => received,
                    None => {
                        // Streams that are cut now still say so.
                        tokio::time::sleep(LAST_LINES).await;
                        self.queue.close();
                        closing = true;
                        continue;
                    }
                }
            };
            let lost = self.lost.load(Ordering::Relaxed);
            if received == 0 {
                let rest = text(&mut lines, lost - self.told, &self.clock);
                let ended = tokio::task::spawn_blocking(move || target.end(&rest, begun.is_ok())).await;
                if let Ok(Err(failed)) = ended {
                    error!(error = %failed, "the log of streams could not be ended; the next start says that lines may be missing");
                }
                return;
            }
            let text = text(&mut lines, lost - self.told, &self.clock);
            // A disk that stalls holds this task, and nothing else.
            let written = tokio::task::spawn_blocking(move || {
                let written = target.write(&text);
                (target, written)
            });
            let Ok((back, written)) = written.await else { return };
            target = back;
            if let Err(failed) = written {
                self.lost.fetch_add(received as u64, Ordering::Relaxed);
                if !std::mem::replace(&mut target.failing, true) {
                    error!(error = %failed, "the log of streams cannot be written; what is missing will be counted");
                }
            } else {
                self.told = lost;
                if std::mem::take(&mut target.failing) {
                    warn!("the log of streams is written again");
                }
            }
            if received < BATCH && !closing {
                // `stop` is looked at above.
                let _ = stop.run_until_cancelled(tokio::time::sleep(GATHER)).await;
            }
        }
    }
}

fn text(lines: &mut Vec<StreamLine>, lost: u64, clock: &Clock) -> Vec<u8> {
    let mut text = Vec::with_capacity(lines.len() * 512);
    if lost > 0 {
        let line = Lost { api_version: ApiVersion, at: clock.now().to_string(), lost };
        append(&mut text, &line);
    }
    lines.drain(..).for_each(|line| append(&mut text, &line));
    text
}

fn append(text: &mut Vec<u8>, line: &impl serde::Serialize) {
    let start = text.len();
    // JSON escapes control characters: whatever a name holds, this is one line. Writing to a vector does not fail.
    if serde_json::to_writer(&mut *text, line).is_err() {
        text.truncate(start);
        return;
    }
    text.push(b'\n');
}

/// The file, and the directory that it is in.
#[derive(Debug)]
struct Target {
    dir: Dir,
    file: Option<File>,
    failing: bool,
}

impl Target {
    /// Says that lines may be missing, where the run before did not end by a stop. What is told of this one is there until it does.
    fn begin(&mut self, at: String) -> io::Result<()> {
        if !self.dir.contains(layout::node::STREAMS_OPEN).map_err(io::Error::other)? {
            return self.dir.write(layout::node::STREAMS_OPEN, b"").map_err(io::Error::other);
        }
        let mut text = Vec::new();
        append(&mut text, &Killed { api_version: ApiVersion, at, killed: true });
        self.write(&text)
    }

    /// Writes what is left. Where everything was said, nothing is missing.
    fn end(&mut self, rest: &[u8], begun: bool) -> io::Result<()> {
        if !rest.is_empty() {
            self.write(rest)?;
        }
        if begun {
            self.dir.remove(layout::node::STREAMS_OPEN).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let done = self.try_write(text);
        if done.is_err() {
            // Half a line may stand there; it is ended when the file is opened again.
            self.file = None;
        }
        done
    }

    fn try_write(&mut self, text: &[u8]) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open(&self.dir)?,
        };
        let file = if file.metadata()?.len() < MAX_FILE {
            file
        } else {
            self.rotate()?;
            open(&self.dir)?
        };
        self.file.insert(file).write_all(text)
    }

    /// Each file takes the name of the next older one.
    fn rotate(&self) -> io::Result<()> {
        for pair in FILES.windows(2).rev() {
            self.dir.rename(pair[0], pair[1]).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// The file to write to. A line that a crash or a full disk left unfinished is ended first.
fn open(dir: &Dir) -> io::Result<File> {
    use std::os::unix::fs::FileExt;
    let mut file = dir.append(FILES[0]).map_err(io::Error::other)?;
    let length = file.metadata()?.len();
    if length > 0 {
        let reading = File::open(dir.path().join(FILES[0]))?;
        let mut last = [0];
        reading.read_exact_at(&mut last, length - 1)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}
