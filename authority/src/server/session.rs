//! One member's session: its requests one after the other, and between them what the authority has to say.

use std::sync::Arc;
use std::time::Duration;

use postern_proto::authority::{Answer, Call, Refusal, Reply, Request};
use postern_runtime::bucket::Bucket;
use postern_runtime::session::{Session, SessionError, SessionSender};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::Server;
use super::admission::Admitted;
use crate::service::{Out, Published, Service, SignedCheckpoint, describe};

/// How often every session is told the time and the epoch.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);

/// How long a member may leave one message untaken. It always reads, so one that takes longer is gone.
const SEND_DEADLINE: Duration = Duration::from_secs(15);

/// Requests of one session: pages of a list in a row, and then more than any node or person asks.
const REQUEST_BURST: u32 = 128;
const REQUEST_EVERY: Duration = Duration::from_millis(50);

/// What a session is told without asking.
pub(super) struct Feed {
    published: watch::Receiver<Arc<Published>>,
    removals: broadcast::Receiver<Out>,
    checkpoints: watch::Receiver<Option<Arc<SignedCheckpoint>>>,
}

impl Feed {
    pub fn subscribe(service: &Service) -> Self {
        Self { published: service.published(), removals: service.removals(), checkpoints: service.checkpoints() }
    }
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the member closed it")]
    Closed,
    #[error("the authority stops")]
    Stopping,
    #[error("the member was removed")]
    Removed,
    #[error("the member's identity has another key, the one before being in other hands")]
    Rekeyed,
    #[error("the member takes no messages")]
    NotTaken,
    #[error("the member uses the number of the authority for a request")]
    Number,
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// After so many single statements a relay is told all that is void again, in few: it passes on what it was told, to whoever connects.
const MAX_NEWS: usize = 32;

/// What a session was told of what is void.
#[derive(Default)]
struct Told {
    /// Everything up to this epoch.
    epoch: Option<u64>,
    news: usize,
}

impl Told {
    /// Tells what has changed.
    async fn tell(&mut self, sender: &mut SessionSender, published: &Published, relay: bool) -> Result<(), End> {
        let first = self.epoch.is_none();
        if first {
            // With the history that everything else is verified by.
            send(sender, 0, published.to_answer()).await?;
        }
        let again = relay && self.news >= MAX_NEWS;
        let since = if again { None } else { self.epoch };
        self.news = if since.is_none() { 0 } else { self.news + 1 };
        for part in published.voided_since(since) {
            send(sender, 0, Answer::Voiding { statement: part.statement.clone() }).await?;
        }
        self.epoch = Some(published.info().epoch);
        if !first {
            // What ends streams goes first.
            send(sender, 0, published.to_answer()).await?;
        }
        Ok(())
    }
}

/// Tells a peer that it is not let in. Whether it hears it is its own affair.
pub(super) async fn refuse(session: &mut Session, refusal: Refusal) {
    if send(&mut session.sender, 0, Answer::Refused(refusal)).await.is_ok() {
        let _ = session.sender.close().await;
    }
}

async fn send(sender: &mut SessionSender, number: u32, answer: Answer) -> Result<(), End> {
    let reply = Reply { number, answer };
    Ok(tokio::time::timeout(SEND_DEADLINE, sender.send_message(&reply)).await.map_err(|_| End::NotTaken)??)
}

impl Server {
    pub(super) async fn run(&self, session: Session, admitted: Admitted, feed: Feed) {
        let member = admitted.caller.identifier;
        tracing::debug!(%member, "a session began");
        // Nothing more is to be done for it but to say why.
        let mut counted = self.0.metrics.session();
        let end = self.exchange(session, &admitted, feed).await;
        counted.ended(&end);
        drop(admitted.registered);
        match end {
            End::Closed | End::Stopping | End::Session(SessionError::Io(_)) => tracing::debug!(%member, %end, "a session ended"),
            end => tracing::info!(%member, %end, "a session ended"),
        }
    }

    async fn exchange(&self, mut session: Session, admitted: &Admitted, mut feed: Feed) -> End {
        let end = match self.exchange_or_end(&mut session, admitted, &mut feed).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        match end {
            End::Removed => {
                let (hash, member) = (session.finished.hash, admitted.caller.identifier);
                self.note(&hash, 0, Some(member), "session", &Refusal::NotAMember);
                refuse(&mut session, Refusal::NotAMember).await;
            }
            End::Stopping => {
                let _ = tokio::time::timeout(SEND_DEADLINE, session.sender.close()).await;
            }
            _ => {}
        }
        end
    }

    async fn exchange_or_end(
        &self,
        session: &mut Session,
        Admitted { caller, relay_server, sequence, registered: _ }: &Admitted,
        feed: &mut Feed,
    ) -> Result<std::convert::Infallible, End> {
        let Session { sender, receiver, finished } = session;
        let mut requests = Bucket::new(REQUEST_BURST, REQUEST_EVERY, Instant::now().into_std());
        // The first tick is at once: a member learns the time and the epoch before anything else is judged by them.
        let mut heartbeat = tokio::time::interval(HEARTBEAT_EVERY);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        feed.published.mark_changed();
        feed.checkpoints.mark_changed();
        let mut greeted = false;
        let mut told = Told::default();
        // From when on it speaks of epochs, as nodes and relays do and commands do not.
        let mut presence = None;
        loop {
            tokio::select! {
                // A change is told before the answers that come after it.
                biased;
                () = self.0.stopping.cancelled() => return Err(End::Stopping),
                removed = feed.removals.recv() => match removed {
                    Ok(Out::Removed(identifier)) if identifier == caller.identifier => return Err(End::Removed),
                    Ok(Out::Rekeyed { identifier, sequence: newer }) if identifier == caller.identifier && *sequence < newer => {
                        return Err(End::Rekeyed);
                    }
                    Ok(_) | Err(RecvError::Closed) => {}
                    Err(RecvError::Lagged(_)) => match self.0.service.changes_of(caller.identifier).await {
                        Ok(None) => return Err(End::Removed),
                        Ok(Some(newest)) if *sequence < newest => return Err(End::Rekeyed),
                        _ => {}
                    },
                },
                Ok(()) = feed.published.changed() => {
                    let published = Arc::clone(&feed.published.borrow_and_update());
                    told.tell(sender, &published, *relay_server).await?;
                }
                _ = heartbeat.tick() => {
                    match self.0.service.heartbeat() {
                        Ok(statement) => send(sender, 0, Answer::Heartbeat { statement }).await?,
                        Err(error) => tracing::error!(%error, "a heartbeat could not be signed"),
                    }
                    greeted = true;
                }
                Ok(()) = feed.checkpoints.changed(), if greeted => {
                    let newest = feed.checkpoints.borrow_and_update().clone();
                    if let Some(newest) = newest {
                        send(sender, 0, newest.to_answer()).await?;
                    }
                }
                call = receiver.receive_message::<Call>() => {
                    let Call { number, request } = call?.ok_or(End::Closed)?;
                    if number == 0 {
                        return Err(End::Number);
                    }
                    let (action, _) = describe(&request);
                    if let Request::Acknowledge { .. } = request {
                        let enter = || self.0.service.enforcement().enter(caller.static_key, *relay_server);
                        presence.get_or_insert_with(enter);
                    }
                    let answer = if requests.take(Instant::now().into_std()) {
                        self.0.service.answer(caller, request).await
                    } else {
                        Answer::Refused(Refusal::Busy { after: 1 })
                    };
                    self.0.metrics.answered(action, &answer);
                    if let Answer::Refused(refusal) = &answer {
                        self.note(&finished.hash, number, Some(caller.identifier), action.as_str(), refusal);
                    }
                    send(sender, number, answer).await?;
                }
            }
        }
    }
}
