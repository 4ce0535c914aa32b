//! What comes over the wire before and between streams: handshakes, sessions, the frames and messages of links.

use std::sync::LazyLock;

use postern_proto::aead::{Sealer, Suite};
use postern_proto::channel::Side;
use postern_proto::handshake::{Choice, Finished, Initiator, Label, Responder, StaticKey};
use postern_proto::link::{Frame, FromRelay, Hello, Instance, LinkFrames, MAX_KNOCK, Opening, ToRelay};
use postern_proto::path::ChannelHello;
use postern_proto::secret::SecretBytes;
use postern_proto::session;

static INITIATOR: LazyLock<StaticKey> = LazyLock::new(|| StaticKey::from_secret(&SecretBytes::new([1; 32])));
static RESPONDER: LazyLock<StaticKey> = LazyLock::new(|| StaticKey::from_secret(&SecretBytes::new([2; 32])));

/// Runs a handshake in which `change` sees each body on its way; what both sides end with.
fn run(choice: Choice, mut change: impl FnMut(u8, &mut Vec<u8>)) -> Option<(Finished, Finished)> {
    let mut pass = |number, mut body| {
        change(number, &mut body);
        body
    };
    let (initiator, first) = Initiator::new(Label::Channel, choice, &INITIATOR, RESPONDER.public()).expect("a good key");
    let (responder, second) =
        Responder::read_offer(Label::Channel, &pass(0, first), &[&RESPONDER]).ok()?.answer(b"two").expect("a short payload");
    let (initiator, payload) = initiator.read_answer(&pass(1, second)).ok()?;
    assert_eq!(payload, b"two");
    let (third, ours) = initiator.finish(b"three").expect("a short payload");
    let (theirs, payload) = responder.read_final(&pass(2, third)).ok()?;
    assert_eq!(payload, b"three");
    Some((ours, theirs))
}

/// `u8 how ‖ rest`. Either the rest takes the place of one body, or it is a list of changes to one. A handshake that was touched
/// does not finish; one that was not does, and both sides agree.
pub fn handshake(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    let choice = Choice::ALL[usize::from(how >> 3 & 3)];
    let mut touched = false;
    let finished = run(choice, |number, body| {
        if number != how & 3 {
            return;
        }
        let before = body.clone();
        if how & 4 == 0 {
            *body = rest.to_vec();
        } else {
            for change in rest.chunks_exact(3) {
                let place = usize::from(u16::from_be_bytes([change[0], change[1]]));
                match change[2] {
                    0 => body.truncate(place),
                    mask => {
                        if let Some(byte) = body.get_mut(place) {
                            *byte ^= mask;
                        }
                    }
                }
            }
        }
        touched |= *body != before;
    });
    match finished {
        Some((ours, theirs)) => {
            // Whoever wrote a whole first message holds the keys of that handshake; this run's initiator does not.
            assert!(!touched);
            assert_eq!(ours.hash, theirs.hash);
            assert_eq!(ours.secret.id(), theirs.secret.id());
            assert_eq!((ours.remote_static, theirs.remote_static), (RESPONDER.public(), INITIATOR.public()));
        }
        None => assert!(touched),
    }
}

/// Frames of an authentic peer that writes what it likes: `u16 length ‖ plaintext`, over and over, each sealed. Whatever it writes,
/// messages stay under the limit, and an error is final. A length of more than is left stands for unsealed bytes.
pub fn session(data: &[u8]) {
    const LIMIT: usize = 1000;
    static FINISHED: LazyLock<Finished> =
        LazyLock::new(|| run(Choice::hybrid(Suite::AesGcm), |_, _| {}).expect("nobody touched this handshake").0);
    let (_, mut opener) = session::session(&FINISHED.secret, Side::Responder, LIMIT);
    let mut sealer = Sealer::new(Suite::AesGcm, &FINISHED.secret.session_keys().initiator);
    let mut rest = data;
    let mut failed = None;
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let wire = match behind.split_at_checked(usize::from(u16::from_be_bytes(*length))) {
            Some((body, behind)) => {
                rest = behind;
                let length = ((body.len() + 16) as u16).to_be_bytes();
                [&length[..], &sealer.seal_vec(&length, body.to_vec()).expect("few messages")].concat()
            }
            None => std::mem::take(&mut rest).to_vec(),
        };
        // In two pieces, as networks do.
        let (first, second) = wire.split_at(wire.len() / 2);
        for piece in [first, second] {
            opener.handle_input(piece);
            loop {
                match opener.poll_message() {
                    Ok(Some(message)) => {
                        assert!(failed.is_none() && message.len() <= LIMIT);
                    }
                    Ok(None) => {
                        assert!(failed.is_none());
                        break;
                    }
                    Err(error) => {
                        assert_eq!(*failed.get_or_insert(error), error);
                        break;
                    }
                }
            }
        }
    }
    assert!(failed.is_none() || !opener.is_between_messages());
}

/// A frame has one form; an opening is any bytes. What nobody sealed for a link does not open on it.
pub fn link_frame(data: &[u8]) {
    static FINISHED: LazyLock<Finished> =
        LazyLock::new(|| run(Choice::hybrid(Suite::ChaChaPoly), |_, _| {}).expect("nobody touched this handshake").0);
    if let Some(bytes) = data.first_chunk::<{ Opening::LEN }>() {
        assert_eq!(Opening::decode(bytes).encode(), *bytes);
    }
    let Some(plain) = data.first_chunk::<{ Frame::LEN }>() else { return };
    let session = FINISHED.secret.link_session();
    if let Ok(frame) = Frame::decode(plain) {
        assert_eq!(frame.encode(), *plain);
        let sealed = LinkFrames::new(&session, 7, Side::Initiator).seal(&frame).expect("the first of its key");
        assert_eq!(LinkFrames::new(&session, 7, Side::Responder).open(sealed), Ok(frame));
    }
    if let Some(sealed) = data.first_chunk::<{ Frame::SEALED_LEN }>() {
        assert!(LinkFrames::new(&session, 7, Side::Responder).open(*sealed).is_err());
    }
}

/// Control messages: what decodes encodes to something that decodes to the same.
pub fn link_message(data: &[u8]) {
    fn check<T>(data: &[u8])
    where
        T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()> + PartialEq + std::fmt::Debug,
    {
        if let Ok(message) = minicbor::decode::<T>(data) {
            let bytes = minicbor::to_vec(&message).expect("a message that was decoded");
            assert_eq!(minicbor::decode::<T>(&bytes).expect("our own encoding"), message);
        }
    }
    check::<ToRelay>(data);
    check::<FromRelay>(data);
    check::<Hello>(data);
}

/// What a dialler says of itself at the end of a channel's handshake: what decodes encodes to something that decodes to the same.
pub fn channel_hello(data: &[u8]) {
    let Ok(hello) = minicbor::decode::<ChannelHello>(data) else { return };
    assert!(hello.credential.len() <= data.len());
    let bytes = minicbor::to_vec(&hello).expect("a message that was decoded");
    assert_eq!(minicbor::decode::<ChannelHello>(&bytes).expect("our own encoding"), hello);
}

/// The first bytes of a path without a relay, `u16 length ‖ body`: no length makes a listener hold more than its limit, and who was read
/// knocks again with what reads as the same.
pub fn knock(data: &[u8]) {
    let Some((first, rest)) = data.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_be_bytes(*first));
    assert_eq!(Instance::knock_length(*first), Some(length).filter(|length| *length <= MAX_KNOCK));
    let Some(instance) = rest.get(..length).and_then(Instance::of_knock) else { return };
    let again = instance.knock();
    let (first, body) = again.split_first_chunk::<2>().expect("a length");
    assert_eq!(usize::from(u16::from_be_bytes(*first)), body.len());
    assert_eq!(Instance::of_knock(body), Some(instance));
}
