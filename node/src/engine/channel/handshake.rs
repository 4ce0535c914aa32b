//! How two nodes make a channel: the handshake on a fresh path, which becomes the path of the control stream.

use std::sync::Arc;

use postern_proto::channel::Side as Part;
use postern_proto::handshake::{HandshakeError, Initiator, Label, Responder};
use postern_proto::id::{Identifier, InstanceId};
use postern_proto::path::{ChannelHello, ChannelMessage};
use postern_proto::record::{HEADER_LEN, Header, Kind};
use postern_proto::stream::{Side, Stream, StreamKeys};
use postern_runtime::session::preferred_choice;

use super::control::{Control, Wire};
use super::{Channel, ChannelError, HANDSHAKE_DEADLINE};
use crate::engine::link::{Link, LinkError};
use crate::engine::trust::{PublishedPeer, Trust};

/// Makes a channel to `peer` over a fresh path, which becomes the path of its control stream. `joined` says that a relay joined the path.
///
/// The peer's credential arrives as the first message of the control stream; it must be of the identity that look-up named.
///
/// # Errors
/// [`ChannelError`].
pub async fn dial(
    trust: &Trust,
    peer: &PublishedPeer,
    mut link: Link,
    joined: bool,
) -> Result<(Arc<Channel>, Control), ChannelError> {
    let own = trust.own().ok_or(ChannelError::NoCredential)?;
    // The key that the credentials are for: a newer one has none for a moment.
    let key = trust.key_of(&own).ok_or(ChannelError::NoCredential)?;
    let (initiator, offer) = Initiator::new(Label::Channel, preferred_choice(), &key, peer.static_key)?;
    write_handshake(&mut link, &offer).await?;
    // Not authenticated; without an answer there is no channel in any case. Only a relay can have joined another node.
    let no_channel = if joined { ChannelError::NotAskedFor } else { ChannelError::Unexpected };
    let (answered, _) = initiator.read_answer(&read_handshake(&mut link, no_channel).await?)?;
    let hello = ChannelHello { credential: own.member.bytes().to_vec(), node_id: trust.node_id, instance: trust.instance };
    let (message, finished) = answered.finish(&minicbor::to_vec(&hello).map_err(|_| ChannelError::Unexpected)?)?;
    write_handshake(&mut link, &message).await?;
    let stream = Stream::new(Side::Opener, StreamKeys::derive(&finished.secret, 0, Part::Initiator));
    let mut wire = Wire::new(link, stream);
    let credential = match tokio::time::timeout(HANDSHAKE_DEADLINE, wire.receive()).await {
        Ok(Ok(ChannelMessage::Credential { credential })) => trust.verify_member(&credential, finished.remote_static)?,
        Ok(Ok(_)) => return Err(ChannelError::Unexpected),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(LinkError::Timeout.into()),
    };
    if credential.subject() != peer.identifier {
        return Err(ChannelError::Mispaired { expected: peer.identifier, found: credential.subject() });
    }
    let control = Control::new(wire, trust, Some(own.member.id()));
    Ok((Channel::new(Part::Initiator, finished, key.public(), (peer.node_id, peer.instance), credential), control))
}

/// Answers the handshake whose first message is `offer`. `joined` is whom the relay says that it joined, if a relay did.
///
/// # Errors
/// [`ChannelError`].
pub async fn answer(
    trust: &Trust,
    offer: &[u8],
    joined: Option<(Identifier, InstanceId)>,
    mut link: Link,
) -> Result<(Arc<Channel>, Control), ChannelError> {
    // Without a credential of its own, this node has nothing to answer with.
    trust.own().ok_or(ChannelError::NoCredential)?;
    let statics = trust.statics.all();
    let responder = match Responder::read_offer(Label::Channel, offer, &statics.iter().collect::<Vec<_>>()) {
        Ok(responder) => responder,
        Err(error) => {
            // Whether the answer leaves or not, what is to be written down is the handshake's error: a peer that resets its path, before
            // or after it, does not hide it.
            if let Some(reply) = error.reply() {
                let _ = write_handshake(&mut link, &reply).await;
            } else if joined.is_some() && matches!(error, HandshakeError::NotAuthentic) {
                // Meant for another node, by who is a member. Strangers, who come without a relay, are told nothing.
                let _ = link.write_all(&Header { kind: Kind::NoChannel, length: 0 }.to_bytes(), HANDSHAKE_DEADLINE).await;
            }
            return Err(error.into());
        }
    };
    drop(statics);
    let own_static = responder.local_static();
    let (answered, message) = responder.answer(&[])?;
    write_handshake(&mut link, &message).await?;
    let (finished, payload) = answered.read_final(&read_handshake(&mut link, ChannelError::Unexpected).await?)?;
    let hello: ChannelHello = minicbor::decode(&payload).map_err(|_| ChannelError::Unexpected)?;
    let credential = trust.verify_member(&hello.credential, finished.remote_static)?;
    match joined {
        Some((expected, _)) if expected != credential.subject() => {
            return Err(ChannelError::Mispaired { expected, found: credential.subject() });
        }
        Some((_, run)) if run != hello.instance => return Err(ChannelError::OtherRun(credential.subject())),
        _ => {}
    }
    let mut stream = Stream::new(Side::Acceptor, StreamKeys::derive(&finished.secret, 0, Part::Responder));
    stream.accept();
    let control = Control::new(Wire::new(link, stream), trust, None);
    Ok((Channel::new(Part::Responder, finished, own_static, (hello.node_id, hello.instance), credential), control))
}

async fn write_handshake(link: &mut Link, body: &[u8]) -> Result<(), LinkError> {
    let mut frame = Header { kind: Kind::Handshake, length: body.len() }.to_bytes().to_vec();
    frame.extend_from_slice(body);
    link.write_all(&frame, HANDSHAKE_DEADLINE).await
}

/// The next message. `no_channel` is what a NO_CHANNEL in its place says.
async fn read_handshake(link: &mut Link, no_channel: ChannelError) -> Result<Vec<u8>, ChannelError> {
    let (header, frame) = link.read_frame(HANDSHAKE_DEADLINE).await?;
    match header.kind {
        Kind::Handshake => Ok(frame[HEADER_LEN..].to_vec()),
        Kind::NoChannel => Err(no_channel),
        _ => Err(ChannelError::Unexpected),
    }
}
