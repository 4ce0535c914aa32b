//! The opener's side of a stream that lost its path: finds another one, through any relay, and attaches the stream to it.

use std::sync::Arc;
use std::time::Duration;

use postern_proto::path::{AttachHead, Open, OpenHead};
use postern_proto::spec::ResumeTimeout;
use postern_proto::stream::{Stream, StreamError};
use postern_runtime::backoff::Backoff;
use tokio::time::Instant;

use super::channel::Channel;
use super::code;
use super::failure::Failure;
use super::live::{Event, NoPath, Signal};
use super::pump::Resume;
use super::shared::Shared;

/// First and longest delay before a path is tried again, each with full jitter.
const DELAYS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How long a stream may be without a path where its portal says nothing else; a control stream may be, while nobody waits longer.
pub const RESUME_TIMEOUT: Duration = ResumeTimeout::DEFAULT.get();

/// Times that paths may change what they carry before a stream, or a control stream, is given up.
pub const MAX_CORRUPTIONS: u32 = 64;

/// A stream that this side opened, as far as another path needs it.
pub struct Opener {
    pub shared: Arc<Shared>,
    pub channel: Arc<Channel>,
    pub id: u64,
    pub open: Open,
    pub signal: Arc<Signal>,
}

impl Resume for Opener {
    fn ask(&self, attempt: u32, since: Instant) {
        let (shared, channel, signal) = (Arc::clone(&self.shared), Arc::clone(&self.channel), Arc::clone(&self.signal));
        self.shared.spawn("attach", async move {
            tokio::time::sleep(delay(attempt)).await;
            let event = match shared.peers.path(&shared, &channel).await {
                Ok(link) => Event::Path(link, None),
                Err(failure) => Event::NoPath(NoPath { gone: is_gone(&shared, &failure, since), failure }),
            };
            signal.send(event);
        });
    }

    fn attach(&self, stream: &mut Stream, out: &mut Vec<u8>) -> Result<(), StreamError> {
        let attach = stream.attach_number() + 1;
        let head = AttachHead { head: OpenHead { channel: self.channel.id(), stream: self.id }, attach };
        stream.seal_attach(&self.channel.control_keys(self.id, attach), head, Some(self.open.clone()), out)
    }

    fn is_followed(&self) -> bool {
        self.channel.is_busy()
    }
}

/// How long to wait before attempt number `attempt`; the first is made at once, but not by all who lost a path together.
pub fn delay(attempt: u32) -> Duration {
    let mut backoff = Backoff::new(DELAYS.0, DELAYS.1);
    for _ in 1..attempt.min(8) {
        backoff.next_delay();
    }
    let delay = backoff.next_delay();
    if attempt == 0 { delay / 10 } else { delay }
}

/// Whether `failure` says that the run of the peer's node is gone for good: another one has its place, nothing listens any more
/// where it did, or relays that were connected since before the path was lost know nothing of it.
fn is_gone(shared: &Shared, failure: &Failure, since: Instant) -> bool {
    failure.code == code::OTHER_NODE
        || failure.code == code::NOT_LISTENING
        || (failure.code == code::NOT_CONNECTED && shared.relays.were_up_since(since))
}
