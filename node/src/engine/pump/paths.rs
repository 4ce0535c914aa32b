//! How a stream comes to another path when its own is lost.

use std::io;
use std::time::Duration;

use postern_proto::stream::{Attachment, StreamError};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{End, State};
use crate::engine::attach::MAX_CORRUPTIONS;
use crate::engine::link::Link;
use crate::engine::live::NoPath;

/// How long a stream whose peer's run is said to be gone waits for it to be seen again: a node that changes its network is away for
/// as long as it takes to connect anew.
const GONE_PATIENCE: Duration = Duration::from_secs(2);

/// Since when, and why, a stream has no path that works.
pub(super) struct Lost {
    pub(super) since: Instant,
    pub(super) attempts: u32,
    pub(super) error: io::Error,
    /// Since when the peer's run is said to be gone.
    pub(super) gone: Option<Instant>,
}

impl Lost {
    /// When the stream is given up.
    pub(super) fn until(&self, patience: Duration) -> Instant {
        let until = self.since + patience;
        self.gone.map_or(until, |gone| until.min(gone + GONE_PATIENCE))
    }
}

impl State<'_> {
    /// The opener has brought another path. What is still on the old one is not read any more.
    pub(super) fn attached(&mut self, link: Link, attachment: Attachment) -> Result<(), End> {
        let number = attachment.attach();
        match self.stream.attach(attachment) {
            Ok(received) => {
                debug!(number, received, "the peer attached the stream to another path");
                self.outbox.rewind(received);
                self.take_path(link);
                self.lost = None;
                self.resumed.add(1);
                Ok(())
            }
            // Somebody says again what was said: nothing is answered.
            Err(StreamError::AttachOld { .. }) => Ok(()),
            Err(error) => Err(self.protocol(error)),
        }
    }

    /// This side has found another path and says so on it.
    pub(super) fn attach(&mut self, link: Link) -> Result<(), End> {
        let Some(resume) = self.resume.filter(|_| self.link.is_none()) else { return Ok(()) };
        self.take_path(link);
        if let Some(lost) = &mut self.lost {
            lost.gone = None;
        }
        resume.attach(self.stream, &mut self.small).map_err(End::Protocol)?;
        self.asked = Some(Instant::now());
        Ok(())
    }

    fn take_path(&mut self, link: Link) {
        self.link = Some(link);
        self.small.clear();
        self.small_position = 0;
    }

    pub(super) fn no_path(&mut self, NoPath { failure, gone }: NoPath) -> Result<(), End> {
        if !self.stream.is_accepted() {
            return Err(End::NotOpened(Box::new(failure)));
        }
        let Some(lost) = &mut self.lost else { return Ok(()) };
        if gone {
            lost.error = io::Error::other(failure.reason);
        }
        lost.gone = gone.then(|| lost.gone.unwrap_or_else(Instant::now));
        lost.attempts += 1;
        if let Some(resume) = self.resume {
            // There is not long to find out whether it comes back.
            resume.ask(if gone { lost.attempts.min(2) } else { lost.attempts }, lost.since);
        }
        Ok(())
    }

    /// There will be no other path. Where both applications have ended and this one was given everything, only the peer's word for it
    /// is missing, and nobody is to be told of that.
    pub(super) fn forsaken(&self, error: io::Error) -> End {
        let done = self.application_ended && self.told_end && self.backlog.is_empty();
        if done { End::Clean } else { End::PathLost { error } }
    }

    /// What arrived was not sealed by the peer: the path is at fault, and another one may not be. A network that does it again and
    /// again ends the stream.
    pub(super) fn corrupted(&mut self, error: StreamError) -> Result<(), End> {
        self.corruptions += 1;
        if self.corruptions > MAX_CORRUPTIONS {
            return Err(self.protocol(error));
        }
        // Once for each stream: a network that does this does it often.
        if self.corruptions == 1 {
            warn!(%error, "the path changed what it carried; the stream goes on with another one");
        } else {
            debug!(%error, count = self.corruptions, "the path changed what it carried");
        }
        self.path_lost(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// The path is of no use any more. The stream goes on with another one, unless it may not wait for one.
    pub(super) fn path_lost(&mut self, error: io::Error) -> Result<(), End> {
        if let Some((code, _)) = self.given_up {
            return Err(End::ResetByPeer(code));
        }
        if self.patience.is_zero() {
            return Err(self.forsaken(error));
        }
        self.link = None;
        // Said anew on the next one.
        self.answer_by = None;
        self.small.clear();
        self.small_position = 0;
        self.asked = None;
        let (attempts, since) = match &mut self.lost {
            // An attach that was not answered: the same loss.
            Some(lost) => {
                lost.attempts += 1;
                (lost.attempts, lost.since)
            }
            None => {
                debug!(%error, "the stream lost its path");
                let now = Instant::now();
                self.lost = Some(Lost { since: now, attempts: 0, error, gone: None });
                (0, now)
            }
        };
        if let Some(resume) = self.resume {
            resume.ask(attempts, since);
        }
        Ok(())
    }
}
