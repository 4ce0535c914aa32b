//! That no key meets a nonce twice, whoever seals: two nodes in their channels, streams and paths, and both with a relay.

use crate::aead::{Suite, once};
use crate::channel::{ChannelSecret, Side};
use crate::id::ChannelId;
use crate::link::{Frame, LinkFrames};
use crate::path::{AttachHead, Open, OpenHead};
use crate::record::{DataSealer, DataType, OVERHEAD};
use crate::secret::SecretBytes;
use crate::session;
use crate::stream::{self, ControlKeys, Stream, StreamKeys};

/// Records of one stream: its data key changes on the way.
const RECORDS: usize = (1 << 19) + 200_000;

fn of_a_session(secret: &ChannelSecret, side: Side) {
    let (mut sealer, _) = session::session(secret, side, 1000);
    let mut out = Vec::new();
    for _ in 0..1_000 {
        sealer.seal(b"message", &mut out).unwrap();
    }
    for counter in 0..1_000 {
        let mut frames = LinkFrames::new(&secret.link_session(), counter, side);
        frames.seal(&Frame::Park).unwrap();
    }
}

fn of_a_stream(secret: &ChannelSecret, id: u64, side: Side) {
    let part = if side == Side::Initiator { stream::Side::Opener } else { stream::Side::Acceptor };
    let mut stream = Stream::new(part, StreamKeys::derive(secret, id, side));
    let head = OpenHead { channel: ChannelId::from_bytes([1; 16]), stream: id };
    let mut out = Vec::new();
    if side == Side::Initiator {
        stream.seal_open(&head.to_bytes(), b"open".to_vec(), &mut out).unwrap();
    } else {
        stream.accept();
        stream.poll_transmit(&mut out).unwrap();
    }
    for _ in 0..100 {
        stream.seal_data(&mut [0; OVERHEAD + 1]).unwrap();
    }
    stream.seal_fin().unwrap();
    if side == Side::Initiator {
        for attach in 1..20 {
            let keys = ControlKeys::derive(secret, id, side, attach);
            let open = Open { outlet: "echo".parse().unwrap(), probe: false, hops: 0, mark: None };
            stream.seal_attach(&keys, AttachHead { head, attach }, Some(open), &mut out).unwrap();
        }
    }
}

#[test]
fn no_key_meets_one_nonce_twice() {
    let (sealed, twice) = once::watch(|| {
        for (channel, suite) in [(1, Suite::AesGcm), (2, Suite::ChaChaPoly), (3, Suite::AesGcm)] {
            let outputs = [10, 20].map(|fill| SecretBytes::new([fill + channel; 32]));
            let secret = ChannelSecret::extract(suite, [channel; 32], &outputs[0], &outputs[1]);
            for side in [Side::Initiator, Side::Responder] {
                of_a_session(&secret, side);
                (0..500).for_each(|number| of_a_stream(&secret, 2 * number, side));
            }
            let mut sealer = DataSealer::new(suite, StreamKeys::derive(&secret, 1 << 32, Side::Initiator).send_data);
            // One stream is enough that lives so long.
            for _ in 0..if channel == 1 { RECORDS } else { 0 } {
                sealer.seal(DataType::Data, &mut [0; OVERHEAD + 1]).unwrap();
            }
        }
    });
    assert!(sealed > 1_000_000, "{sealed}");
    assert_eq!(twice, 0, "of {sealed}");
}

/// That it would be seen.
#[test]
fn a_nonce_that_is_used_twice_is_found_out() {
    let seal = || {
        let mut sealer = DataSealer::new(Suite::AesGcm, SecretBytes::new([1; 32]));
        sealer.seal(DataType::Data, &mut [0; OVERHEAD + 1]).unwrap();
    };
    assert_eq!(once::watch(|| [(); 2].into_iter().for_each(|()| seal())), (2, 1));
}
