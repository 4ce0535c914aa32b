//! A control link: the handshake, then messages until either side ends it.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use postern_proto::channel::Side;
use postern_proto::credential::{Audience, Holder, VerifiedCredential};
use postern_proto::handshake::{Finished, Label, MAX_FIRST, MAX_THIRD, Responder, StaticKey};
use postern_proto::id::{SessionId, StaticPublic};
use postern_proto::link::{FromRelay, Hello, MAX_CONTROL_MESSAGE, Refusal, ToRelay};
use postern_proto::session::{SessionOpener, SessionSealer, session};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::Shared;
use super::drops::DropReason;
use super::link::{Link, frame, read_frame, write_all};
use crate::ending;
use crate::registry::Peer;

/// From the first byte to an authenticated peer.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// The registry's hold on a control link.
#[derive(Default)]
pub(super) struct Control {
    pub(super) notify: Notify,
    /// Set when the session is gone: the last word, if there is one.
    pub(super) end: OnceLock<Option<Refusal>>,
}

/// A link that proved who it is.
struct Admitted {
    finished: Finished,
    hello: Hello,
}

/// Serves a control link until it ends, and says why.
pub(super) async fn serve(shared: &Arc<Shared>, mut link: Link) -> DropReason {
    let half_open = shared.half_open_sessions.enter(link.accepted.peer.ip());
    let handshake = timeout(HANDSHAKE, shake_hands(&shared.statics, &mut link.accepted.stream));
    let Admitted { finished, hello } = match half_open.run(handshake).await {
        Ok(Ok(Ok(admitted))) => admitted,
        Ok(Ok(Err(error))) => {
            tracing::debug!(peer = %link.accepted.peer, %error, "a handshake failed");
            return DropReason::Handshake;
        }
        Ok(Err(_)) => return DropReason::Deadline,
        Err(_) => return DropReason::Evicted,
    };
    drop(half_open);

    let (mut sealer, opener) = session(&finished.secret, Side::Responder, MAX_CONTROL_MESSAGE);
    let credential = match verify(shared, &hello.credential, finished.remote_static) {
        Ok(credential) => credential,
        Err(reason) => {
            refuse(link.stream(), &mut sealer, reason).await;
            return DropReason::Handshake;
        }
    };
    let identifier = credential.subject();
    let peer = Peer { identifier, node_id: hello.node_id, instance: hello.instance, credential };
    let span = tracing::info_span!("session", %identifier, node = %hello.node_id);
    let (link_session, control) = (finished.secret.link_session(), Arc::new(Control::default()));
    let id = link_session.id;
    let session = Session { shared, id, control: Arc::clone(&control), remote_static: finished.remote_static };
    drop(finished.secret);
    let opened = shared.with(|registry, now| registry.handle_open(now, peer, link_session, control));
    async move {
        if let Err(reason) = opened {
            tracing::info!(%reason, "a node was refused");
            refuse(link.stream(), &mut sealer, reason).await;
            return DropReason::Closed;
        }
        tracing::info!(address = %link.accepted.peer, "a node connected");
        let reason = session.run(&link, sealer, opener).await;
        tracing::info!(?reason, "a node's session ended");
        reason
    }
    .instrument(span)
    .await
}

/// A handshake that failed. The peer learns nothing but, perhaps, which version this program speaks.
#[derive(Debug, thiserror::Error)]
enum ShakeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] postern_proto::handshake::HandshakeError),
    #[error("the payload is no greeting of a node")]
    Hello,
}

async fn shake_hands(statics: &[StaticKey], stream: &mut TcpStream) -> Result<Admitted, ShakeError> {
    let first = read_frame(stream, MAX_FIRST).await?;
    let statics: Vec<&StaticKey> = statics.iter().collect();
    let responder = match Responder::read_offer(Label::RelayLink, &first, &statics) {
        Ok(responder) => responder,
        Err(error) => {
            if let Some(reply) = error.reply() {
                write_all(stream, &frame(&reply)).await?;
            }
            return Err(error.into());
        }
    };
    let (answered, second) = responder.answer(&[])?;
    write_all(stream, &frame(&second)).await?;
    let third = read_frame(stream, MAX_THIRD).await?;
    let (finished, payload) = answered.read_final(&third)?;
    let hello = minicbor::decode(&payload).map_err(|_| ShakeError::Hello)?;
    Ok(Admitted { finished, hello })
}

fn verify(shared: &Shared, credential: &[u8], remote_static: StaticPublic) -> Result<VerifiedCredential, Refusal> {
    let trust = shared.trust();
    trust.verifier((shared.clock)()).verify(credential, Audience::Relay, Holder::Handshake(remote_static)).map_err(|error| {
        tracing::info!(%error, "a credential was refused");
        Refusal::BadCredential
    })
}

async fn refuse(stream: &TcpStream, sealer: &mut SessionSealer, reason: Refusal) {
    if send(stream, sealer, &FromRelay::Closing { reason }).await.is_ok() {
        ending::close_one(stream).await;
    }
}

async fn send(stream: &TcpStream, sealer: &mut SessionSealer, message: &FromRelay) -> io::Result<()> {
    let (mut encoded, mut sealed) = (Vec::new(), Vec::new());
    minicbor::encode(message, &mut encoded).map_err(io::Error::other)?;
    sealer.seal(&encoded, &mut sealed).map_err(io::Error::other)?;
    write_all(stream, &sealed).await
}

/// A session that the registry knows. However its task ends, the registry hears of it.
struct Session<'a> {
    shared: &'a Arc<Shared>,
    id: SessionId,
    control: Arc<Control>,
    remote_static: StaticPublic,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // The id is of this handshake alone, so a session that was never opened, or is gone, is not another's.
        self.shared.with(|registry, now| registry.handle_closed(now, self.id));
    }
}

impl Session<'_> {
    async fn run(&self, link: &Link, sealer: SessionSealer, opener: SessionOpener) -> DropReason {
        tokio::select! {
            reason = self.write(link, sealer) => reason,
            reason = self.read(link.stream(), opener) => reason,
        }
    }

    async fn write(&self, link: &Link, mut sealer: SessionSealer) -> DropReason {
        let stream = link.stream();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::TimedOut => DropReason::WriteStalled,
            _ => DropReason::Closed,
        };
        let welcome = FromRelay::Welcome { observed: link.accepted.peer.to_string() };
        if let Err(error) = send(stream, &mut sealer, &welcome).await {
            return failed(error);
        }
        loop {
            while let Some(message) = self.shared.with(|registry, now| registry.poll_transmit(now, self.id)) {
                if let Err(error) = send(stream, &mut sealer, &message).await {
                    return failed(error);
                }
            }
            match self.control.end.get() {
                Some(Some(reason)) => {
                    refuse(stream, &mut sealer, *reason).await;
                    return if *reason == Refusal::ShuttingDown { DropReason::Draining } else { DropReason::Closed };
                }
                Some(None) => return DropReason::Silent,
                None => self.control.notify.notified().await,
            }
        }
    }

    async fn read(&self, stream: &TcpStream, mut opener: SessionOpener) -> DropReason {
        loop {
            if stream.readable().await.is_err() {
                return DropReason::Closed;
            }
            match read_some(stream, &mut opener) {
                Ok(0) => return DropReason::Closed,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return DropReason::Closed,
            }
            loop {
                match opener.poll_message() {
                    Ok(Some(message)) => self.handle(&message),
                    Ok(None) => break,
                    Err(_) => return DropReason::Malformed,
                }
            }
            if self.control.end.get().is_some() {
                // The last word is being said; what comes now is too late.
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

/// Reads once. Its buffer is no part of the task's memory while the task waits.
fn read_some(stream: &TcpStream, opener: &mut SessionOpener) -> io::Result<usize> {
    let mut bytes = [0; 8 * 1024];
    let count = stream.try_read(&mut bytes)?;
    opener.handle_input(&bytes[..count]);
    Ok(count)
}
