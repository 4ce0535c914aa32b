//! Sessions of members: a handshake under the half-open caps, admission, then requests and answers, with what changes pushed.

mod admission;
mod limits;
pub mod metrics;
mod registry;
mod session;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_proto::authority::{MAX_MESSAGE, Refusal};
use postern_proto::handshake::Label;
use postern_proto::id::{Identifier, RefusalId};
use postern_runtime::home::{RefusalLog, RefusalRecord};
use postern_runtime::net::HalfOpen;
use postern_runtime::session::{Accept, ConnectError, HANDSHAKE_DEADLINE, accept};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::limits::Failures;
use self::metrics::Metrics;
use self::registry::Registry;
use crate::service::{PUBLISH_AGAIN, Service};

/// Half-open handshakes in all, and from one /24 or /56. One is a handshake state and at most 4 KiB, for at most 5 s.
const MAX_HALF_OPEN: usize = 1_024;
const MAX_HALF_OPEN_PER_SOURCE: usize = 256;

/// What serves members. Cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    service: Service,
    half_open: HalfOpen,
    failures: Mutex<Failures>,
    sessions: Registry,
    metrics: Metrics,
    refusals: RefusalLog,
    /// No session begins, and each ends after the request that it is answering.
    stopping: CancellationToken,
    /// The deadline has passed: sessions end where they are.
    aborting: CancellationToken,
    running: TaskTracker,
}

impl Server {
    pub(crate) fn new(service: Service, refusals: RefusalLog) -> Self {
        Self(Arc::new(Shared {
            service,
            half_open: HalfOpen::new(MAX_HALF_OPEN, MAX_HALF_OPEN_PER_SOURCE),
            failures: Mutex::new(Failures::new(Instant::now().into_std())),
            sessions: Registry::default(),
            metrics: Metrics::default(),
            refusals,
            stopping: CancellationToken::new(),
            aborting: CancellationToken::new(),
            running: TaskTracker::new(),
        }))
    }

    /// Serves one connection until it ends, after its preface was read and said that it is for the authority. The accept loop
    /// must not wait for it. One port serves relay and authority: whoever accepts reads the preface and hands the stream over.
    pub async fn serve_connection<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let _running = self.0.running.token();
        if self.0.stopping.is_cancelled() {
            return;
        }
        let serving = self.serve(stream, peer);
        if self.0.aborting.run_until_cancelled(serving).await.is_none() {
            tracing::warn!(%peer, "a session was cut: it did not end in time");
        }
    }

    async fn serve<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let half_open = self.0.half_open.enter(peer.ip());
        let statics = [&self.0.service.keys().static_key];
        let how = Accept {
            label: Label::Authority,
            statics: &statics,
            payload: &[],
            limit: MAX_MESSAGE,
            deadline: Instant::now() + HANDSHAKE_DEADLINE,
        };
        let handshake = self.0.stopping.run_until_cancelled(accept(stream, how));
        let accepted = half_open.run(handshake).await;
        if !matches!(accepted, Ok(None)) {
            self.0.metrics.handshake(matches!(accepted, Ok(Some(Ok(_)))));
        }
        let (mut session, hello) = match accepted {
            Ok(Some(Ok(accepted))) => accepted,
            Ok(Some(Err(error))) => return log_handshake(peer, &error),
            Ok(None) => return,
            Err(evicted) => {
                tracing::debug!(%peer, error = %evicted, "a handshake gave way");
                return;
            }
        };
        drop(half_open);
        // Before admission, so that no change between it and the first push is missed.
        let feed = session::Feed::subscribe(&self.0.service);
        match self.admit(&hello, session.finished.remote_static, peer.ip()).await {
            Ok(admitted) => self.run(session, admitted, feed).await,
            Err(refusal) => {
                self.0.metrics.refused(&refusal);
                self.note(&session.finished.hash, 0, None, "connect", &refusal);
                session::refuse(&mut session, refusal).await;
            }
        }
    }

    /// Has the audit log signed, and all that is decided published, for as long as the server runs.
    pub(crate) fn keep_up(&self) {
        let (service, stopping) = (self.0.service.clone(), self.0.stopping.clone());
        self.0.running.spawn(async move {
            tokio::join!(service.keep_checkpoints(stopping.clone()), service.keep_published(PUBLISH_AGAIN, stopping));
        });
    }

    /// How many sessions there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.0.sessions.count()
    }

    /// Ends all sessions: each finishes the request that it is answering; what has not ended at `deadline` is cut.
    pub(crate) async fn shutdown(&self, deadline: Duration) {
        self.0.stopping.cancel();
        self.0.running.close();
        if tokio::time::timeout(deadline, self.0.running.wait()).await.is_err() {
            tracing::warn!(sessions = self.sessions(), "sessions did not end in time");
            self.0.aborting.cancel();
            self.0.running.wait().await;
        }
    }

    /// Keeps a refusal under the id that the caller knows, too.
    fn note(&self, session: &[u8], number: u32, peer: Option<Identifier>, action: &str, refusal: &Refusal) {
        // The caller asks again by itself; there is nothing to explain.
        if let Refusal::Busy { .. } = refusal {
            return;
        }
        let id = RefusalId::of_request(session, number);
        let (code, meaning) = refusal.code();
        let record = RefusalRecord {
            node: "servers".to_owned(),
            peer,
            code: code.to_owned(),
            meaning: format!("{meaning}."),
            told: Some(code.to_owned()),
            reason: format!("{action}: {refusal}"),
            ..RefusalRecord::new(id, "authority", self.0.service.now())
        };
        // Whoever is refused again and again does not fill the log.
        if let Some(unlogged) = self.0.refusals.note(peer, &record) {
            let peer = peer.map(tracing::field::display);
            tracing::info!(refusal = %id, by = "authority", code, peer, action, reason = %refusal, unlogged, "refused");
        }
    }

    fn failures<T>(&self, of: impl FnOnce(&mut Failures) -> T) -> T {
        of(&mut self.0.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Strangers fail in many ways, none of which is for anybody to act on.
fn log_handshake(peer: SocketAddr, error: &ConnectError) {
    tracing::debug!(%peer, %error, "no session");
}

#[cfg(test)]
mod tests;
