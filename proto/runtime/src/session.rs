//! A handshake and the session after it, over a connection: control links and authority sessions.
//!
//! Handshake bodies travel as `u16 length ‖ body`; what comes after is [`postern_proto::session`].

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use postern_proto::aead::Suite;
use postern_proto::channel::Side;
use postern_proto::handshake::{
    Choice, Finished, HandshakeError, Initiator, Label, MAX_FIRST, MAX_SECOND, MAX_THIRD, Responder, StaticKey,
};
use postern_proto::id::StaticPublic;
use postern_proto::preface::Service;
use postern_proto::session::{SessionError as FramingError, SessionOpener, SessionSealer, session};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

/// How long a handshake may take. Two round trips and three X25519 a side take far less on any network that carries a portal.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// How much is read at once. Messages are small; a large one takes several reads.
const READ: usize = 16 * 1024;

/// What an initiator brings to a handshake.
#[derive(Debug, Clone, Copy)]
pub struct Connect<'a> {
    pub service: Service,
    pub label: Label,
    pub local: &'a StaticKey,
    /// The static key that the peer must prove to hold.
    pub remote: StaticPublic,
    /// Payload of message 3: shown to the peer only after that proof.
    pub payload: &'a [u8],
    /// Longest message of the session, either way.
    pub limit: usize,
}

/// What a responder brings to a handshake.
#[derive(Debug, Clone, Copy)]
pub struct Accept<'a> {
    pub label: Label,
    /// The current static key, and the next and previous ones where there are.
    pub statics: &'a [&'a StaticKey],
    /// Payload of message 2: readable by whoever knows one of the static keys.
    pub payload: &'a [u8],
    /// Longest message of the session, either way.
    pub limit: usize,
    /// When the handshake must be over; [`HANDSHAKE_DEADLINE`] after the connection came in.
    pub deadline: Instant,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// What a responder does that was not meant: it says nothing of why.
    #[error(
        "the peer closed the connection during the handshake: it does not hold the expected key, serves something else, or has too much to do"
    )]
    Closed,
    #[error("the handshake was not finished in time")]
    Timeout,
    #[error("the connection broke during the handshake")]
    Io(#[source] io::Error),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The peer's bytes are not what its session sends, or a message is over the limit.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// The message came from the peer as it was sent, and means nothing.
    #[error("the peer sent a malformed message")]
    Malformed(#[source] minicbor::decode::Error),
    /// The connection ended inside a message.
    #[error("the connection ended inside a message")]
    Cut,
    #[error("the connection broke")]
    Io(#[from] io::Error),
}

/// A session whose peer has proven who it is.
pub struct Session {
    pub sender: SessionSender,
    pub receiver: SessionReceiver,
    /// Who the peer is, and what further keys come from.
    pub finished: Finished,
}

/// What this program picks: the hybrid exchange, with the cipher that is faster on this machine: AES where the processor has
/// instructions for it.
#[must_use]
pub fn preferred_choice() -> Choice {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let accelerated = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let accelerated = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let accelerated = false;
    Choice::hybrid(if accelerated { Suite::AesGcm } else { Suite::ChaChaPoly })
}

/// Says what the connection is for and does the handshake, within [`HANDSHAKE_DEADLINE`]. Gives the session and the payload of
/// message 2. The peer may still refuse what message 3 said: it closes then, or says so in the session.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect<S>(mut stream: S, how: Connect<'_>) -> Result<(Session, Vec<u8>), ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = async {
        let (initiator, first) = Initiator::new(how.label, preferred_choice(), how.local, how.remote)?;
        // One write, so that it is one segment.
        let mut bytes = how.service.preface().to_vec();
        push_frame(&mut bytes, &first);
        stream.write_all(&bytes).await?;
        let (initiator, payload) = initiator.read_answer(&read_frame(&mut stream, MAX_SECOND).await?)?;
        let (third, finished) = initiator.finish(how.payload)?;
        write_frame(&mut stream, &third).await?;
        Ok((finished, payload))
    };
    let (finished, payload) = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await.unwrap_or(Err(ConnectError::Timeout))?;
    Ok((Session::new(stream, finished, Side::Initiator, how.limit), payload))
}

/// Answers a handshake, after [`crate::net::read_preface`]. Gives the session and the payload of message 3, which the caller
/// verifies against [`Finished::remote_static`] before it believes anything in it.
///
/// # Errors
/// [`ConnectError`].
pub async fn accept<S>(mut stream: S, how: Accept<'_>) -> Result<(Session, Vec<u8>), ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = async {
        let first = read_frame(&mut stream, MAX_FIRST).await?;
        let responder = match Responder::read_offer(how.label, &first, how.statics) {
            Ok(responder) => responder,
            Err(error) => {
                if let Some(reply) = error.reply() {
                    write_frame(&mut stream, &reply).await?;
                }
                return Err(error.into());
            }
        };
        let (responder, second) = responder.answer(how.payload)?;
        write_frame(&mut stream, &second).await?;
        Ok(responder.read_final(&read_frame(&mut stream, MAX_THIRD).await?)?)
    };
    let (finished, payload) = tokio::time::timeout_at(how.deadline, handshake).await.unwrap_or(Err(ConnectError::Timeout))?;
    Ok((Session::new(stream, finished, Side::Responder, how.limit), payload))
}

impl Session {
    fn new<S>(stream: S, finished: Finished, side: Side, limit: usize) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sealer, opener) = session(&finished.secret, side, limit);
        let (reader, writer) = tokio::io::split(stream);
        Self {
            sender: SessionSender { sealer, writer: Box::new(writer), outgoing: Vec::new(), written: 0 },
            receiver: SessionReceiver { opener, reader: Box::new(reader) },
            finished,
        }
    }
}

/// The half of a session that sends.
pub struct SessionSender {
    sealer: SessionSealer,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// The message on its way, sealed.
    outgoing: Vec<u8>,
    written: usize,
}

impl SessionSender {
    /// Sends one whole message. Where this is cancelled after the message was sealed, its rest goes out before the next one.
    ///
    /// # Errors
    /// [`SessionError::Framing`] where the message is over the limit, after which the session goes on;
    /// [`SessionError::Io`].
    pub async fn send(&mut self, message: &[u8]) -> Result<(), SessionError> {
        self.flush().await?;
        self.sealer.seal(message, &mut self.outgoing)?;
        self.flush().await
    }

    /// Puts a message behind those that wait for [`Self::flush`]. The caller sees to it that they are few.
    ///
    /// # Errors
    /// [`SessionError::Framing`] where the message is over the limit, after which the session goes on.
    pub fn queue_message<T: minicbor::Encode<()>>(&mut self, message: &T) -> Result<(), SessionError> {
        Ok(self.sealer.seal(&encoded(message), &mut self.outgoing)?)
    }

    /// As [`Self::send`], in CBOR.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_message<T: minicbor::Encode<()> + Sync>(&mut self, message: &T) -> Result<(), SessionError> {
        self.send(&encoded(message)).await
    }

    /// Says that nothing more comes. A peer that reads on sees the end between two messages.
    ///
    /// # Errors
    /// [`SessionError::Io`].
    pub async fn close(&mut self) -> Result<(), SessionError> {
        self.flush().await?;
        Ok(self.writer.shutdown().await?)
    }

    /// Sends all that waits. Where this is cancelled, the rest goes out before the next message.
    ///
    /// # Errors
    /// [`SessionError::Io`].
    pub async fn flush(&mut self) -> Result<(), SessionError> {
        while self.written < self.outgoing.len() {
            match self.writer.write(&self.outgoing[self.written..]).await? {
                0 => return Err(SessionError::Io(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        // Most messages are small and far between: a session that waits keeps no room for the last one.
        self.outgoing = Vec::new();
        self.written = 0;
        Ok(self.writer.flush().await?)
    }
}

/// The half of a session that receives.
pub struct SessionReceiver {
    opener: SessionOpener,
    reader: Box<dyn AsyncRead + Send + Unpin>,
}

impl SessionReceiver {
    /// The next whole message; `None` where the peer ended the connection between two. Such an end is not authenticated: it
    /// says no more than that nothing comes. Cancelling loses nothing.
    ///
    /// # Errors
    /// [`SessionError`], final.
    pub async fn receive(&mut self) -> Result<Option<Vec<u8>>, SessionError> {
        loop {
            if let Some(message) = self.opener.poll_message()? {
                return Ok(Some(message));
            }
            match poll_fn(|context| self.poll_read(context)).await? {
                0 if self.opener.is_between_messages() => return Ok(None),
                0 => return Err(SessionError::Cut),
                _ => {}
            }
        }
    }

    /// Reads what has arrived, through a buffer that is on the stack only while it is read: a session that waits holds none.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = [MaybeUninit::uninit(); READ];
        let mut buffer = ReadBuf::uninit(&mut buffer);
        ready!(Pin::new(&mut self.reader).poll_read(context, &mut buffer))?;
        self.opener.handle_input(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// As [`Self::receive`], in CBOR, all of the message.
    ///
    /// # Errors
    /// As [`Self::receive`], and [`SessionError::Malformed`].
    pub async fn receive_message<T>(&mut self) -> Result<Option<T>, SessionError>
    where
        T: for<'b> minicbor::Decode<'b, ()>,
    {
        let Some(bytes) = self.receive().await? else { return Ok(None) };
        let mut decoder = minicbor::Decoder::new(&bytes);
        let message = decoder.decode().map_err(SessionError::Malformed)?;
        if decoder.position() != bytes.len() {
            return Err(SessionError::Malformed(minicbor::decode::Error::message("bytes behind the message")));
        }
        Ok(Some(message))
    }
}

/// `message` in CBOR, wiped when dropped: some messages carry secrets.
pub(crate) fn encoded<T: minicbor::Encode<()>>(message: &T) -> zeroize::Zeroizing<Vec<u8>> {
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    minicbor::encode(message, &mut *bytes).expect("no encoder of a message fails, nor does writing to memory");
    bytes
}

fn push_frame(out: &mut Vec<u8>, body: &[u8]) {
    // Every body of a handshake has a limit far below.
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(body);
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(2 + body.len());
    push_frame(&mut bytes, body);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// A body of at most `limit` bytes; nothing is allocated for a longer one.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Vec<u8>, ConnectError> {
    let length = usize::from(stream.read_u16().await?);
    if length > limit {
        return Err(HandshakeError::Malformed("a handshake message over its limit").into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

#[cfg(test)]
mod tests;
