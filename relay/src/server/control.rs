//! A control link: the handshake, then messages until either side ends it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use postern_proto::credential::{Audience, CredentialError, Holder, VerifiedCredential};
use postern_proto::handshake::{Label, StaticKey};
use postern_proto::id::{Identifier, SessionId, StaticPublic};
use postern_proto::link::{CLOSING, FromRelay, Hello, MAX_CONTROL_MESSAGE, Refusal, ToRelay};
use postern_runtime::net::Accepted;
use postern_runtime::session::{self, Accept, ConnectError, HANDSHAKE_DEADLINE, SessionReceiver, SessionSender};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, timeout};
use tracing::{Instrument as _, Span};

use super::Shared;
use super::descriptors::Descriptor;
use super::drops::DropReason;
use super::link::{Link, WRITE_DEADLINE};
use crate::registry::Peer;

/// How long a node that was told the last word may take to close, so that no reset overtakes the word.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Most messages behind the first that leave with it. Each is at most [`MAX_CONTROL_MESSAGE`] long.
const AT_ONCE: usize = 3;

/// The registry's hold on a control link.
#[derive(Default)]
pub(super) struct Control {
    pub(super) notify: Notify,
    /// Set when the session is gone: the last word, if there is one.
    pub(super) end: OnceLock<Option<Refusal>>,
}

/// Serves a control link until it ends, and says why.
pub(super) async fn serve(shared: &Arc<Shared>, link: Link) -> DropReason {
    // In an allocation of its own that is gone once the node has proven who it is, so that a session holds no room for its beginning.
    match Box::pin(admit(shared, link)).await {
        Ok(admitted) => {
            let span = admitted.span.clone();
            admitted.run().instrument(span).await
        }
        Err(reason) => reason,
    }
}

/// A node whose session the registry knows.
struct Admitted<'a> {
    served: Served<'a>,
    conversation: Conversation,
    observed: SocketAddr,
    span: Span,
}

/// Does the handshake, and opens the session that the node's credential is good for.
async fn admit(shared: &Arc<Shared>, link: Link) -> Result<Box<Admitted<'_>>, DropReason> {
    let Link { accepted: Accepted { stream, peer: address, permit, .. }, counted } = link;
    let half_open = shared.half_open_sessions.enter(address.ip());
    let keys = (shared.statics)();
    let statics: Vec<&StaticKey> = keys.iter().collect();
    let how = Accept {
        label: Label::RelayLink,
        statics: &statics,
        payload: &[],
        limit: MAX_CONTROL_MESSAGE,
        deadline: Instant::now() + HANDSHAKE_DEADLINE,
    };
    let accepted = half_open.run(session::accept(stream, how)).await;
    shared.metrics.handshake(matches!(accepted, Ok(Ok(_))));
    let (session, hello) = match accepted {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(ConnectError::Timeout)) => return Err(DropReason::Deadline),
        Ok(Err(error)) => {
            tracing::debug!(peer = %address, %error, "a handshake failed");
            return Err(DropReason::Handshake);
        }
        Err(_) => return Err(DropReason::Evicted),
    };
    drop((half_open, statics));

    let (remote_static, links) = (session.finished.remote_static, session.finished.secret.link_session());
    let mut conversation = Conversation { sender: session.sender, receiver: session.receiver };
    let Ok(Hello { credential, node_id, instance }) = minicbor::decode(&hello) else { return Err(DropReason::Handshake) };
    let credential = match verify(shared, &credential, remote_static) {
        Ok(credential) => credential,
        Err(error) => {
            let reason = Refusal::BadCredential;
            shared.with(|registry, _| registry.count_refusal(reason));
            shared.note_because(links.id, CLOSING, None, reason, &format!("{reason}: {error}"));
            conversation.close(Some(reason)).await;
            return Err(DropReason::Closed);
        }
    };
    let identifier = credential.subject();
    let span = tracing::info_span!("session", %identifier, node = %node_id);
    let control = Arc::new(Control::default());
    let id = links.id;
    let peer = Peer { identifier, node_id, instance, credential };
    let served = Served { shared, id, identifier, control: Arc::clone(&control), remote_static, _held: (permit, counted) };
    if let Err(reason) = shared.with(|registry, now| registry.handle_open(now, peer, links, control)) {
        span.in_scope(|| shared.note(id, CLOSING, Some(identifier), reason));
        conversation.close(Some(reason)).await;
        return Err(DropReason::Closed);
    }
    Ok(Box::new(Admitted { served, conversation, observed: address, span }))
}

impl Admitted<'_> {
    /// Serves the node until either side ends its session.
    async fn run(mut self: Box<Self>) -> DropReason {
        tracing::info!(address = %self.observed, "a node connected");
        let Self { served, conversation, observed, .. } = &mut *self;
        let reason = served.converse(*observed, conversation).await;
        tracing::info!(?reason, "a node's session ended");
        reason
    }
}

fn verify(shared: &Shared, credential: &[u8], remote_static: StaticPublic) -> Result<VerifiedCredential, CredentialError> {
    shared.trust().verifier(shared.clock.now()).verify(credential, Audience::Relay, Holder::Handshake(remote_static))
}

struct Conversation {
    sender: SessionSender,
    receiver: SessionReceiver,
}

impl Conversation {
    /// Says why, where there is a reason, and closes once the node has heard it.
    async fn close(&mut self, reason: Option<Refusal>) {
        let last = async {
            if let Some(reason) = reason {
                self.sender.send_message(&FromRelay::Closing { reason }).await?;
            }
            self.sender.close().await?;
            while self.receiver.receive().await?.is_some() {}
            Ok::<_, session::SessionError>(())
        };
        // A node that is gone or does not listen has missed it.
        let _ = timeout(LAST_WORD, last).await;
    }
}

/// A session that the registry knows. However its task ends, the registry hears of it.
struct Served<'a> {
    shared: &'a Arc<Shared>,
    id: SessionId,
    identifier: Identifier,
    control: Arc<Control>,
    remote_static: StaticPublic,
    /// What its connection counts as, for as long as the session lives.
    _held: (OwnedSemaphorePermit, Descriptor),
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        // The id is of this handshake alone, so a session that was never opened, or is gone, is not another's.
        self.shared.with(|registry, now| registry.handle_closed(now, self.id));
    }
}

impl Served<'_> {
    async fn converse(&self, observed: SocketAddr, conversation: &mut Conversation) -> DropReason {
        let Conversation { sender, receiver } = conversation;
        let ended = tokio::select! {
            ended = self.speak(observed, sender) => ended,
            reason = self.listen(receiver) => Err(reason),
        };
        match ended {
            Ok(last) => {
                if let Some(reason) = last {
                    self.shared.note(self.id, CLOSING, Some(self.identifier), reason);
                }
                Box::pin(conversation.close(last)).await;
                match last {
                    None => DropReason::Silent,
                    Some(Refusal::ShuttingDown) => DropReason::Draining,
                    Some(Refusal::Malformed) => DropReason::Malformed,
                    Some(_) => DropReason::Closed,
                }
            }
            Err(reason) => {
                if matches!(reason, DropReason::Silent | DropReason::WriteStalled) {
                    self.shared.with(|registry, now| registry.handle_silent(now, self.id));
                }
                reason
            }
        }
    }

    /// Says what there is to say, until the registry ends the session: then returns the last word.
    async fn speak(&self, observed: SocketAddr, sender: &mut SessionSender) -> Result<Option<Refusal>, DropReason> {
        let mut next = Some(FromRelay::Welcome { observed: observed.to_string() });
        loop {
            if let Some(message) = next.take() {
                // What is said stands apart: while a session waits it holds no room for that.
                Box::pin(self.say(message, sender)).await?;
            }
            if let Some(last) = self.control.end.get() {
                return Ok(*last);
            }
            self.control.notify.notified().await;
            next = self.shared.with(|registry, now| registry.poll_transmit(now, self.id));
        }
    }

    /// Says `message`, and what else there is to say, with as few writes as may be.
    async fn say(&self, message: FromRelay, sender: &mut SessionSender) -> Result<(), DropReason> {
        let mut next = Some(message);
        while let Some(message) = next.take() {
            self.note(&message);
            // What does not leave with the others is not asked for before they have left.
            let mut more = 0;
            sender.queue_message(&message).map_err(|_| DropReason::Closed)?;
            while more < AT_ONCE
                && let Some(message) = self.shared.with(|registry, now| registry.poll_transmit(now, self.id))
            {
                self.note(&message);
                sender.queue_message(&message).map_err(|_| DropReason::Closed)?;
                more += 1;
            }
            match timeout(WRITE_DEADLINE, sender.flush()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(DropReason::Closed),
                Err(_) => return Err(DropReason::WriteStalled),
            }
            if more == AT_ONCE {
                next = self.shared.with(|registry, now| registry.poll_transmit(now, self.id));
            }
        }
        Ok(())
    }

    fn note(&self, message: &FromRelay) {
        if let FromRelay::Answer { request, refused: Some(reason) } = message {
            self.shared.note(self.id, *request, Some(self.identifier), *reason);
        }
    }

    /// Hears what comes, until the node closes the link. Returns no more once the registry has ended the session.
    async fn listen(&self, receiver: &mut SessionReceiver) -> DropReason {
        loop {
            match receiver.receive().await {
                Ok(Some(message)) => self.handle(&message),
                // What the kernel says when nothing that was sent is acknowledged.
                Err(session::SessionError::Io(error)) if is_silence(&error) => return DropReason::Silent,
                Ok(None) | Err(session::SessionError::Io(_) | session::SessionError::Cut) => return DropReason::Closed,
                Err(_) => return DropReason::Malformed,
            }
            if self.control.end.get().is_some() {
                std::future::pending::<()>().await;
            }
            // A peer that always has more to say lets others have their turn, too.
            tokio::task::consume_budget().await;
        }
    }

    fn handle(&self, message: &[u8]) {
        match minicbor::decode::<ToRelay>(message) {
            Ok(ToRelay::Renew { credential }) => {
                let verified = verify(self.shared, &credential, self.remote_static);
                if let Err(error) = &verified {
                    // That its session ended for it is noted where it ends.
                    tracing::debug!(%error, "a newer credential was refused");
                }
                self.shared.with(|registry, now| match verified {
                    Ok(newer) if registry.peer(self.id).is_some_and(|peer| peer.identifier == newer.subject()) => {
                        registry.handle_renewed(now, self.id, newer);
                    }
                    _ => registry.end(now, self.id, Some(Refusal::BadCredential)),
                });
            }
            Ok(message) => self.shared.with(|registry, now| registry.handle_message(now, self.id, message)),
            Err(_) => self.shared.with(|registry, now| registry.end(now, self.id, Some(Refusal::Malformed))),
        }
    }
}

/// Whether a connection broke because nothing was heard of the peer, not because the peer, or somebody in its place, closed it.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)
}
