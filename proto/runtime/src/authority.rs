//! A session with the authority, as members and relays keep it: calls with answers, and what the authority pushes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::authority::{Answer, Call, Hello, MAX_MESSAGE, Refusal, Reply, Request};
use postern_proto::handshake::{Label, StaticKey};
use postern_proto::id::{RefusalId, StaticPublic};
use postern_proto::preface::Service;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backoff::Backoff;
use crate::net::{DialError, SocketKind, dial};
use crate::session::{self, Connect, ConnectError, Session, SessionError, SessionReceiver, SessionSender};
use crate::supervise::Supervisor;

/// How long one address of the authority gets to be reached.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// Whoever closes a connection after so long without having shown who it is had too much to do, until its own deadline for that
/// ([`crate::session::HANDSHAKE_DEADLINE`]) passed; who does not hold the key closes at once.
const OVERWORKED: Duration = Duration::from_secs(4);

/// How long a command waits at most until it asks such an authority again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the authority gets to answer. It answers from one database; longer means that it is gone.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Most calls that wait for their answers. A node has a handful; a console shows pages.
const MAX_CALLS: usize = 64;

/// Most pushed answers that wait to be taken. One comes every 10 s; who is 64 behind has stopped taking them.
const MAX_PUSHED: usize = 64;

/// Where an authority is, and the key that it must hold.
#[derive(Debug, Clone, Copy)]
pub struct Pinned<'a> {
    /// Tried in order.
    pub addresses: &'a [HostPort],
    pub static_key: StaticPublic,
}

/// Why the authority did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthorityError {
    /// No address was reached.
    #[error("cannot reach the authority at {address}")]
    Unreachable { address: HostPort, source: Arc<DialError> },
    /// Somebody was reached who is not the pinned authority, or does not let this process in.
    #[error("{address} did not prove to be this project's authority")]
    Handshake { address: HostPort, source: Arc<ConnectError> },
    /// Somebody was reached who said too little, too late, to show who it is.
    #[error("{address} did not answer in time who it is")]
    Unproven { address: HostPort },
    /// It understood, and refuses. Its log has the refusal under the same id.
    #[error("{0}")]
    Refused(Refusal, RefusalId),
    #[error("the authority did not answer within {} s", CALL_DEADLINE.as_secs())]
    Timeout,
    /// The authority ended the session.
    #[error("the authority closed the session")]
    Closed,
    #[error("the session with the authority broke")]
    Broken(#[source] Arc<SessionError>),
    /// This process did not take what was pushed.
    #[error("the session was ended: {MAX_PUSHED} pushed messages were not taken")]
    NotTaken,
    /// This process asks too much at once.
    #[error("{MAX_CALLS} calls are waiting for the authority already")]
    TooManyCalls,
    /// No address was given.
    #[error("no address of the authority is known")]
    NoAddress,
}

impl AuthorityError {
    /// `other`, unless the attempt that this is of came further: a wrong key somewhere says more than silence or a closed port elsewhere.
    fn or_further(self, other: Self) -> Self {
        let how_far = |error: &Self| match error {
            Self::NoAddress => 0,
            Self::Unreachable { .. } => 1,
            Self::Unproven { .. } => 2,
            _ => 3,
        };
        if how_far(&self) > how_far(&other) { self } else { other }
    }
}

impl From<SessionError> for AuthorityError {
    fn from(error: SessionError) -> Self {
        Self::Broken(Arc::new(error))
    }
}

/// What the authority says unasked, in order. Ends with the session.
pub type Pushed = mpsc::Receiver<Answer>;

/// A live session with the authority. Clones share it; it ends when the last is dropped.
#[derive(Clone)]
pub struct AuthorityClient {
    calls: mpsc::Sender<Call>,
    shared: Arc<Shared>,
    _ends: Arc<DropGuard>,
}

impl AuthorityClient {
    /// Connects to the first address that answers and proves to be the authority, and says `hello`. With an enrolment in it,
    /// waits for the authority's decision, which then is the first thing pushed. The session's tasks hang on `supervisor`.
    ///
    /// # Errors
    /// [`AuthorityError`]; of several addresses, that of the one that came furthest.
    pub async fn connect(
        supervisor: &Supervisor,
        authority: Pinned<'_>,
        local: &StaticKey,
        hello: &Hello,
    ) -> Result<(Self, Pushed), AuthorityError> {
        let mut session = reach(authority, local, hello).await?;
        let (pushes, pushed) = mpsc::channel(MAX_PUSHED);
        if hello.enrolment.is_some() {
            let decision = session.receiver.receive_message::<Reply>();
            let decision = tokio::time::timeout(CALL_DEADLINE, decision).await.map_err(|_| AuthorityError::Timeout)??;
            match decision.ok_or(AuthorityError::Closed)?.answer {
                Answer::Refused(refusal) => {
                    return Err(AuthorityError::Refused(refusal, RefusalId::of_request(&session.finished.hash, 0)));
                }
                answer => pushes.try_send(answer).map_err(|_| AuthorityError::NotTaken)?,
            }
        }
        let ends = supervisor.stopping().child_token();
        let shared = Arc::new(Shared { session: session.finished.hash, ends: ends.clone(), state: Mutex::default() });
        let (calls, outgoing) = mpsc::channel(MAX_CALLS);
        supervisor.spawn("authority session: send", send(session.sender, outgoing, Arc::clone(&shared)));
        supervisor.spawn("authority session: receive", receive(session.receiver, pushes, Arc::clone(&shared)));
        Ok((Self { calls, shared, _ends: Arc::new(ends.drop_guard()) }, pushed))
    }

    /// As [`Self::connect`], and once more where the authority had no time: for who has somebody waiting, and does not try again by itself.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_for_a_command(
        supervisor: &Supervisor,
        authority: Pinned<'_>,
        local: &StaticKey,
        hello: &Hello,
    ) -> Result<(Self, Pushed), AuthorityError> {
        match Self::connect(supervisor, authority, local, hello).await {
            Err(AuthorityError::Unproven { .. }) => {
                tokio::time::sleep(Backoff::new(AGAIN, AGAIN).next_delay()).await;
                Self::connect(supervisor, authority, local, hello).await
            }
            connected => connected,
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`AuthorityError::Refused`] where the authority refuses this; [`AuthorityError::Timeout`], after which the session may
    /// still live; or what ended the session.
    pub async fn call(&self, request: Request) -> Result<Answer, AuthorityError> {
        let (number, answer) = self.shared.register()?;
        let _forget = Forget { shared: &self.shared, number };
        let exchange = async {
            // Fails only where the session has ended, which has told `answer` why.
            let _ = self.calls.send(Call { number, request }).await;
            answer.await.unwrap_or_else(|_| Err(self.shared.ended_by()))
        };
        match tokio::time::timeout(CALL_DEADLINE, exchange).await.map_err(|_| AuthorityError::Timeout)?? {
            Answer::Refused(refusal) => {
                Err(AuthorityError::Refused(refusal, RefusalId::of_request(&self.shared.session, number)))
            }
            answer => Ok(answer),
        }
    }

    /// Waits for the end of the session and says why.
    pub async fn ended(&self) -> AuthorityError {
        self.shared.ends.cancelled().await;
        self.shared.ended_by()
    }
}

async fn reach(authority: Pinned<'_>, local: &StaticKey, hello: &Hello) -> Result<Session, AuthorityError> {
    let payload = session::encoded(hello);
    let mut failed = AuthorityError::NoAddress;
    for address in authority.addresses {
        match prove(address, authority.static_key, local, &payload).await {
            Ok(session) => return Ok(session),
            Err(error) => failed = failed.or_further(error),
        }
    }
    Err(failed)
}

/// Connects to one address, where the authority must be.
async fn prove(address: &HostPort, remote: StaticPublic, local: &StaticKey, payload: &[u8]) -> Result<Session, AuthorityError> {
    let stream = dial(address, SocketKind::Link, DIAL_DEADLINE)
        .await
        .map_err(|error| AuthorityError::Unreachable { address: address.clone(), source: Arc::new(error) })?;
    let (service, label, begun) = (Service::Authority, Label::Authority, Instant::now());
    match session::connect(stream, Connect { service, label, local, remote, payload, limit: MAX_MESSAGE }).await {
        Ok((session, _)) => Ok(session),
        Err(ConnectError::Timeout) => Err(AuthorityError::Unproven { address: address.clone() }),
        Err(ConnectError::Closed) if begun.elapsed() >= OVERWORKED => Err(AuthorityError::Unproven { address: address.clone() }),
        Err(error) => Err(AuthorityError::Handshake { address: address.clone(), source: Arc::new(error) }),
    }
}

type Waiting = oneshot::Sender<Result<Answer, AuthorityError>>;

#[derive(Default)]
struct State {
    /// Number of the last call; 0 is the authority's own.
    last: u32,
    waiting: HashMap<u32, Waiting>,
    ended_by: Option<AuthorityError>,
}

struct Shared {
    /// What names the session: the hash of its handshake.
    session: [u8; 32],
    ends: CancellationToken,
    state: Mutex<State>,
}

impl Shared {
    fn register(&self) -> Result<(u32, oneshot::Receiver<Result<Answer, AuthorityError>>), AuthorityError> {
        let mut state = self.lock();
        if let Some(error) = &state.ended_by {
            return Err(error.clone());
        }
        if state.waiting.len() >= MAX_CALLS {
            return Err(AuthorityError::TooManyCalls);
        }
        // After 2³² calls numbers come again; one that still waits is passed over.
        loop {
            state.last = state.last.wrapping_add(1);
            if state.last != 0 && !state.waiting.contains_key(&state.last) {
                break;
            }
        }
        let (answered, answer) = oneshot::channel();
        let number = state.last;
        state.waiting.insert(number, answered);
        Ok((number, answer))
    }

    /// Ends the session, for the first reason that is given, and tells all who wait.
    fn end(&self, reason: AuthorityError) {
        let mut state = self.lock();
        let reason = state.ended_by.get_or_insert(reason).clone();
        for (_, waiting) in state.waiting.drain() {
            // One that gave up is not told.
            let _ = waiting.send(Err(reason.clone()));
        }
        drop(state);
        self.ends.cancel();
    }

    fn ended_by(&self) -> AuthorityError {
        self.lock().ended_by.clone().unwrap_or(AuthorityError::Closed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a call whose caller waits no longer.
struct Forget<'a> {
    shared: &'a Shared,
    number: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.lock().waiting.remove(&self.number);
    }
}

async fn send(mut sender: SessionSender, mut calls: mpsc::Receiver<Call>, shared: Arc<Shared>) {
    let sending = async {
        while let Some(call) = calls.recv().await {
            sender.send_message(&call).await?;
        }
        sender.close().await
    };
    match shared.ends.run_until_cancelled(sending).await {
        Some(Err(error)) => shared.end(error.into()),
        Some(Ok(())) | None => shared.end(AuthorityError::Closed),
    }
}

async fn receive(mut receiver: SessionReceiver, pushes: mpsc::Sender<Answer>, shared: Arc<Shared>) {
    let receiving = async {
        loop {
            let reply = match receiver.receive_message::<Reply>().await {
                Ok(Some(reply)) => reply,
                Ok(None) => return AuthorityError::Closed,
                Err(error) => return error.into(),
            };
            match (reply.number, reply.answer) {
                // Refused as a whole: not a member any more, or too many sessions.
                (0, Answer::Refused(refusal)) => {
                    return AuthorityError::Refused(refusal, RefusalId::of_request(&shared.session, 0));
                }
                (0, answer) => match pushes.try_send(answer) {
                    Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                    // What is pushed is state: a session with a hole in it is worse than a new one.
                    Err(mpsc::error::TrySendError::Full(_)) => return AuthorityError::NotTaken,
                },
                (number, answer) => {
                    let waiting = shared.lock().waiting.remove(&number);
                    // One that gave up has left nothing to answer.
                    if let Some(waiting) = waiting {
                        let _ = waiting.send(Ok(answer));
                    }
                }
            }
        }
    };
    let reason = shared.ends.run_until_cancelled(receiving).await.unwrap_or(AuthorityError::Closed);
    shared.end(reason);
}

#[cfg(test)]
mod tests;
