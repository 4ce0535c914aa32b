//! Two peers, and everything that may happen between them.

mod forged;

use super::noise::{Fixed, Noise};
use super::*;
use crate::aead;
use crate::secret::SecretBytes;

/// All three bodies of one handshake and how it ended.
struct Run {
    initiator: Result<Finished, HandshakeError>,
    responder: Result<(Finished, Vec<u8>), HandshakeError>,
    lengths: [usize; 3],
}

/// Both sides' fixed keys, so that a run can be repeated with one byte changed.
struct Peers {
    choice: Choice,
    initiator: StaticKey,
    responder: StaticKey,
}

impl Peers {
    fn new(choice: Choice) -> Self {
        Self { choice, initiator: key(1), responder: key(2) }
    }

    /// Runs a handshake; `change` sees each body (0, 1, 2) on its way.
    fn run(&self, change: impl Fn(usize, &mut Vec<u8>)) -> Run {
        let fixed = |ephemeral| Fixed { ephemeral: Some(ephemeral) };
        let mut lengths = [0; 3];
        let mut pass = |number: usize, mut body: Vec<u8>| {
            lengths[number] = body.len();
            change(number, &mut body);
            body
        };
        let (ephemeral_i, ephemeral_r) = ([3; 32], [4; 32]);
        let (initiator, first) =
            Initiator::start(Label::Channel, self.choice, &self.initiator, self.responder.public(), fixed(&ephemeral_i)).unwrap();
        let first = pass(0, first);
        let answered = Responder::start(Label::Channel, &first, &[&self.responder], fixed(&ephemeral_r))
            .and_then(|responder| responder.answer(b"two"));
        let (responder, second) = match answered {
            Ok(answered) => answered,
            // The initiator sees the connection close: it never gets what it could finish with.
            Err(error) => return Run { initiator: Err(error), responder: Err(error), lengths },
        };
        let finished = initiator.read_answer(&pass(1, second)).and_then(|(initiator, payload)| {
            assert_eq!(payload, b"two");
            initiator.finish(b"three")
        });
        match finished {
            Ok((third, finished)) => {
                let responder = responder.read_final(&pass(2, third));
                Run { initiator: Ok(finished), responder, lengths }
            }
            Err(error) => Run { initiator: Err(error), responder: Err(error), lengths },
        }
    }
}

const CLASSICAL: Choice = Choice { exchange: KeyExchange::X25519, suite: Suite::AesGcm };

fn key(fill: u8) -> StaticKey {
    StaticKey::from_secret(&SecretBytes::new([fill; 32]))
}

#[test]
fn two_peers_agree() {
    for choice in Choice::ALL {
        let peers = Peers::new(choice);
        let run = peers.run(|_, _| {});
        let (initiator, (responder, payload)) = (run.initiator.unwrap(), run.responder.unwrap());
        assert_eq!(payload, b"three");
        assert_eq!((initiator.suite, responder.suite), (choice.suite, choice.suite));
        assert_eq!((initiator.exchange, responder.exchange), (choice.exchange, choice.exchange));
        assert_eq!(initiator.remote_static, peers.responder.public());
        assert_eq!(responder.remote_static, peers.initiator.public());
        assert_eq!(initiator.hash, responder.hash);
        assert_eq!(initiator.hash, *initiator.secret.hash());
        assert_eq!(initiator.secret.id(), responder.secret.id());
        let (mine, theirs) = (initiator.secret.session_keys(), responder.secret.session_keys());
        assert!(mine.initiator == theirs.initiator && mine.responder == theirs.responder);
        assert!(mine.initiator != mine.responder);
    }
}

#[test]
fn two_runs_share_nothing() {
    let (initiator, responder) = (key(1), key(2));
    let run = || {
        let (i, first) = Initiator::new(Label::RelayLink, Choice::hybrid(Suite::AesGcm), &initiator, responder.public()).unwrap();
        let (r, second) = Responder::read_offer(Label::RelayLink, &first, &[&responder]).unwrap().answer(&[]).unwrap();
        let (third, finished) = i.read_answer(&second).unwrap().0.finish(&[]).unwrap();
        r.read_final(&third).unwrap();
        finished
    };
    let (a, b) = (run(), run());
    assert_ne!(a.hash, b.hash);
    assert_ne!(a.secret.id(), b.secret.id());
    assert!(a.secret.session_keys().initiator != b.secret.session_keys().initiator);
}

#[test]
fn any_flipped_byte_ends_the_handshake() {
    for choice in Choice::ALL {
        let peers = Peers::new(choice);
        let lengths = peers.run(|_, _| {}).lengths;
        for (number, length) in lengths.into_iter().enumerate() {
            // The long bodies of a hybrid exchange: everything around what ML-KEM brings, and some of that.
            let step = |position: usize| if length > 512 && (128..length - 128).contains(&position) { 97 } else { 1 };
            let mut next = 0;
            while next < length {
                let position = next;
                next += step(position);
                for bit in [0x01, 0x80] {
                    let run = peers.run(|n, body| {
                        if n == number {
                            body[position] ^= bit;
                        }
                    });
                    assert!(run.responder.is_err(), "{choice:?}: message {} byte {position}", number + 1);
                    // After message 3 nothing comes that the initiator could refuse: what it sends then, the responder cannot open.
                    assert!(number == 2 || run.initiator.is_err(), "{choice:?}: message {} byte {position}", number + 1);
                }
            }
        }
    }
}

#[test]
fn any_other_length_ends_the_handshake() {
    let peers = Peers::new(CLASSICAL);
    let lengths = peers.run(|_, _| {}).lengths;
    for (number, length) in lengths.into_iter().enumerate() {
        for new_length in (0..length).chain([length + 1, length + 16, 256, 257, 4096, 4097, 65_535, 70_000]) {
            let run = peers.run(|n, body| {
                if n == number {
                    body.resize(new_length, 0);
                }
            });
            assert!(run.responder.is_err(), "message {} with {new_length} bytes", number + 1);
        }
    }
}

#[test]
fn the_longest_payloads_fit_and_longer_ones_do_not() {
    let (initiator, responder) = (key(1), key(2));
    let start = || {
        let (i, first) = Initiator::new(Label::Authority, Choice::hybrid(Suite::AesGcm), &initiator, responder.public()).unwrap();
        (i, Responder::read_offer(Label::Authority, &first, &[&responder]).unwrap())
    };
    let (i, r) = start();
    let (r, second) = r.answer(&[7; MAX_PAYLOAD_2]).unwrap();
    assert_eq!(second.len(), MAX_SECOND);
    let (i, payload) = i.read_answer(&second).unwrap();
    assert_eq!(payload, [7; MAX_PAYLOAD_2]);
    let (third, _) = i.finish(&[8; MAX_PAYLOAD_3]).unwrap();
    assert_eq!(third.len(), MAX_THIRD);
    assert_eq!(r.read_final(&third).unwrap().1, [8; MAX_PAYLOAD_3]);

    let (i, r) = start();
    let (r, second) = r.answer(&[]).unwrap();
    drop(r);
    assert_eq!(
        i.read_answer(&second).unwrap().0.finish(&[0; MAX_PAYLOAD_3 + 1]).err(),
        Some(HandshakeError::PayloadTooLong { length: MAX_PAYLOAD_3 + 1, limit: MAX_PAYLOAD_3 })
    );
    assert!(matches!(start().1.answer(&[0; MAX_PAYLOAD_2 + 1]), Err(HandshakeError::PayloadTooLong { .. })));
}

#[test]
fn another_static_key_is_not_the_responder() {
    let (initiator, responder, other) = (key(1), key(2), key(3));
    let (i, first) = Initiator::new(Label::Channel, Choice::hybrid(Suite::AesGcm), &initiator, responder.public()).unwrap();
    let refused = Responder::read_offer(Label::Channel, &first, &[&other]).map(|_| ());
    assert_eq!(refused, Err(HandshakeError::NotAuthentic));
    // One who only saw message 1 cannot answer it either.
    let (_, again) = Initiator::new(Label::Channel, Choice::hybrid(Suite::AesGcm), &initiator, other.public()).unwrap();
    let (_, answer) = Responder::read_offer(Label::Channel, &again, &[&other]).unwrap().answer(&[]).unwrap();
    assert_eq!(i.read_answer(&answer).map(|_| ()), Err(HandshakeError::NotAuthentic));
}

#[test]
fn current_next_and_previous_static_are_tried() {
    let (initiator, current, next, previous) = (key(1), key(2), key(3), key(4));
    let statics = [&current, &next, &previous];
    for wanted in statics {
        let (i, first) =
            Initiator::new(Label::RelayLink, Choice::hybrid(Suite::ChaChaPoly), &initiator, wanted.public()).unwrap();
        let responder = Responder::read_offer(Label::RelayLink, &first, &statics).unwrap();
        assert_eq!(responder.local_static(), wanted.public());
        let (r, second) = responder.answer(&[]).unwrap();
        let (third, finished) = i.read_answer(&second).unwrap().0.finish(&[]).unwrap();
        assert_eq!(finished.remote_static, wanted.public());
        r.read_final(&third).unwrap();
    }
    let (_, first) = Initiator::new(Label::RelayLink, Choice::hybrid(Suite::AesGcm), &initiator, current.public()).unwrap();
    for wrong in [&[][..], &[&current; 4][..]] {
        assert_eq!(Responder::read_offer(Label::RelayLink, &first, wrong).map(|_| ()), Err(HandshakeError::StaticKeys));
    }
}

#[test]
fn a_replayed_first_message_gets_another_channel_and_a_replayed_third_none() {
    let (initiator, responder) = (key(1), key(2));
    let (i, first) = Initiator::new(Label::Channel, Choice::hybrid(Suite::AesGcm), &initiator, responder.public()).unwrap();
    let answer = || Responder::read_offer(Label::Channel, &first, &[&responder]).unwrap().answer(&[]).unwrap();
    let ((r, second), (replayed, other_second)) = (answer(), answer());
    assert_ne!(second, other_second);
    let (third, _) = i.read_answer(&second).unwrap().0.finish(b"secret").unwrap();
    assert_eq!(replayed.read_final(&third).map(|_| ()), Err(HandshakeError::NotAuthentic));
    assert!(r.read_final(&third).is_ok());
}

#[test]
fn reflected_messages_are_refused() {
    let initiator = key(1);
    let start = || Initiator::new(Label::Channel, Choice::hybrid(Suite::AesGcm), &initiator, key(2).public()).unwrap();
    let (i, first) = start();
    assert!(matches!(i.read_answer(&first), Err(HandshakeError::Malformed(_))));
    // Even dressed up as an answer, and even from a node that dials itself.
    let (i, first) = Initiator::new(Label::Channel, Choice::hybrid(Suite::AesGcm), &initiator, initiator.public()).unwrap();
    let mut answer = vec![0];
    answer.extend_from_slice(&first[offer_length()..]);
    assert_eq!(i.read_answer(&answer).map(|_| ()), Err(HandshakeError::NotAuthentic));
}

fn offer_length() -> usize {
    offer::encode(CLASSICAL).len()
}

#[test]
fn the_purpose_is_bound() {
    let (initiator, responder) = (key(1), key(2));
    let labels = [Label::Authority, Label::RelayLink, Label::Channel];
    for ours in labels {
        let (_, first) = Initiator::new(ours, Choice::hybrid(Suite::AesGcm), &initiator, responder.public()).unwrap();
        for theirs in labels {
            assert_eq!(Responder::read_offer(theirs, &first, &[&responder]).is_ok(), ours == theirs);
        }
    }
}

#[test]
fn an_edited_offer_fails_and_another_version_is_reported() {
    let peers = Peers::new(CLASSICAL);
    let edit = |edit: &dyn Fn(&mut Vec<u8>)| {
        peers
            .run(|n, body| {
                if n == 0 {
                    edit(body);
                }
            })
            .responder
            .map(|_| ())
    };
    // The offer is `1, 4, 1, 2, 3, 4`, the pick 1.
    assert_eq!(
        edit(&|body| {
            body.remove(3);
            body[1] = 3;
        }),
        Err(HandshakeError::NotAuthentic),
        "a suite struck out"
    );
    assert_eq!(edit(&|body| body[6] = 2), Err(HandshakeError::NotAuthentic), "the other suite picked");
    assert_eq!(
        edit(&|body| {
            body.insert(6, 9);
            body[1] = 5;
        }),
        Err(HandshakeError::NotAuthentic),
        "a suite added"
    );
    for (bytes, why) in [
        (&[1, 2, 1, 1, 1][..], "twice"),
        (&[1, 2, 1, 2, 3], "not offered"),
        (&[0, 1, 1, 1], "version 0"),
        (&[1, 0, 1], "none"),
        (&[1, 17, 1], "too many"),
    ] {
        let edited = edit(&|body| *body = bytes.iter().chain(&[0; 48]).copied().collect());
        assert!(matches!(edited, Err(HandshakeError::Malformed(_))), "{why}");
    }
    let newer = edit(&|body| body[0] = 2).unwrap_err();
    assert_eq!(newer, HandshakeError::Unsupported { version: 2 });
    assert_eq!(newer.reply(), Some([1, VERSION]));
    assert_eq!(HandshakeError::NotAuthentic.reply(), None);
    let unknown = edit(&|body| (body[5], body[6]) = (7, 7)).unwrap_err();
    assert_eq!(unknown, HandshakeError::Unsupported { version: 1 });

    let answered = peers.run(|n, body| {
        if n == 1 {
            *body = vec![1, 0];
        }
    });
    assert_eq!(answered.initiator.map(|_| ()), Err(HandshakeError::UnsupportedByPeer { max_version: 0 }));
}

#[test]
fn bad_public_keys_are_refused_wherever_they_stand() {
    let mut top_bit = *key(2).public().as_bytes();
    top_bit[31] |= 0x80;
    let mut one = [0; 32];
    one[0] = 1;
    let peers = Peers::new(CLASSICAL);
    for bad in [[0; 32], one, [0xff; 32], top_bit] {
        let remote = StaticPublic::from_bytes(bad);
        let dialled = Initiator::new(Label::Channel, Choice::hybrid(Suite::AesGcm), &peers.initiator, remote).map(|_| ());
        assert_eq!(dialled, Err(HandshakeError::BadPublicKey), "a remote static");
        let ephemeral = peers.run(|n, body| {
            if n == 0 {
                body[offer_length()..][..32].copy_from_slice(&bad);
            }
        });
        assert_eq!(ephemeral.responder.map(|_| ()), Err(HandshakeError::BadPublicKey), "the initiator's ephemeral");
        let ephemeral = peers.run(|n, body| {
            if n == 1 {
                body[1..][..32].copy_from_slice(&bad);
            }
        });
        assert_eq!(ephemeral.initiator.map(|_| ()), Err(HandshakeError::BadPublicKey), "the responder's ephemeral");
    }
}

/// The published vectors of both suites, through the wrapper that every handshake uses.
#[test]
fn noise_vectors() {
    let file: serde_json::Value = serde_json::from_str(include_str!("../../tests/vectors/noise-xk.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 6);
    for vector in vectors {
        let text = |field: &str| vector[field].as_str().unwrap();
        let bytes = |field: &str| hex::decode(text(field)).unwrap();
        let array = |field: &str| <[u8; 32]>::try_from(bytes(field)).unwrap();
        let static_key = |field: &str| StaticKey::from_secret(&SecretBytes::new(array(field)));
        let (exchange, suite) = match text("protocol_name") {
            "Noise_XK_25519_AESGCM_SHA256" => (KeyExchange::X25519, Suite::AesGcm),
            "Noise_XK_25519_ChaChaPoly_SHA256" => (KeyExchange::X25519, Suite::ChaChaPoly),
            "Noise_XKpsk3_25519_AESGCM_SHA256" => (KeyExchange::Hybrid, Suite::AesGcm),
            "Noise_XKpsk3_25519_ChaChaPoly_SHA256" => (KeyExchange::Hybrid, Suite::ChaChaPoly),
            other => panic!("{other}"),
        };
        let choice = Choice { exchange, suite };
        let remote = StaticPublic::from_bytes(array("init_remote_static"));
        let (ephemeral_i, ephemeral_r) = (array("init_ephemeral"), array("resp_ephemeral"));
        let fixed = |ephemeral| Fixed { ephemeral: Some(ephemeral) };
        let mut sender =
            Noise::initiator(choice, &bytes("init_prologue"), &static_key("init_static"), remote, fixed(&ephemeral_i)).unwrap();
        let mut receiver =
            Noise::responder(choice, &bytes("resp_prologue"), &static_key("resp_static"), fixed(&ephemeral_r)).unwrap();
        // In the place of what ML-KEM gives.
        for secret in vector["init_psks"].as_array().into_iter().flatten() {
            let secret = hex::decode(secret.as_str().unwrap()).unwrap().try_into().unwrap();
            sender.set_secret(&secret);
            receiver.set_secret(&secret);
        }
        let messages: Vec<(Vec<u8>, Vec<u8>)> = vector["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| ["payload", "ciphertext"].map(|field| hex::decode(m[field].as_str().unwrap()).unwrap()).into())
            .collect();
        for (payload, ciphertext) in &messages[..3] {
            let (written, message) = sender.write(payload, &[]).unwrap();
            assert_eq!(message, *ciphertext);
            let (read, got) = receiver.read(&message).unwrap();
            assert_eq!(got, *payload);
            // The other side's turn.
            (sender, receiver) = (read, written);
        }
        if let Some(hash) = vector["handshake_hash"].as_str() {
            assert_eq!(hex::encode(sender.hash()), hash);
        }
        assert_eq!(sender.hash(), receiver.hash());
        // The split: the first transport message of each side (the responder's comes first here) opens under it.
        let (from_initiator, from_responder) = sender.split();
        for ((payload, ciphertext), key) in messages[3..5].iter().zip([from_responder, from_initiator]) {
            assert_eq!(aead::open_at(&suite.key(&key), 0, &[], &mut ciphertext.clone()).unwrap(), payload);
        }
    }
}

/// A recorder who breaks X25519 later, and so knows every key that the handshake had but ML-KEM's, has the wrong secret.
#[test]
fn the_hybrid_secret_is_part_of_every_key() {
    let (initiator, responder) = (key(1), key(2));
    let fixed = |ephemeral| Fixed { ephemeral: Some(ephemeral) };
    let (ephemeral_i, ephemeral_r) = ([3; 32], [4; 32]);
    let finish = |choice| {
        let remote = responder.public();
        let (i, first) = Initiator::start(Label::Channel, choice, &initiator, remote, fixed(&ephemeral_i)).unwrap();
        let r = Responder::start(Label::Channel, &first, &[&responder], fixed(&ephemeral_r)).unwrap();
        let (r, second) = r.answer(&[]).unwrap();
        let (third, finished) = i.read_answer(&second).unwrap().0.finish(b"ticket").unwrap();
        assert_eq!(r.read_final(&third).unwrap().1, b"ticket");
        finished.secret.session_keys().initiator
    };
    // All X25519 keys are fixed, so that only ML-KEM's can make a difference.
    assert!(finish(CLASSICAL) == finish(CLASSICAL));
    let hybrid = Choice::hybrid(Suite::AesGcm);
    assert!(finish(hybrid) != finish(hybrid));
}

/// The third body is sealed under the hybrid secret already: a responder that has another one cannot open it.
#[test]
fn a_ciphertext_for_another_key_ends_the_handshake() {
    let (initiator, responder) = (key(1), key(2));
    let hybrid = Choice::hybrid(Suite::ChaChaPoly);
    let (i, first) = Initiator::new(Label::Authority, hybrid, &initiator, responder.public()).unwrap();
    let (offer, message) = offer::Offer::decode(&first).unwrap();
    let prologue = offer::prologue(Label::Authority, offer.offer, hybrid);
    let noise = Noise::responder(hybrid, &prologue, &responder, Fixed::default()).unwrap();
    let (noise, _) = noise.read(message).unwrap();
    // Sealed as it should be, by a responder who encapsulated to a key of its own.
    let (_, other) = kem::Decapsulator::generate().unwrap();
    let (ciphertext, secret) = kem::encapsulate(&other).unwrap();
    let (mut noise, second) = noise.write(&ciphertext, &[offer::ANSWER]).unwrap();
    noise.add_secret(secret.as_ref()).unwrap();
    let (third, _) = i.read_answer(&second).unwrap().0.finish(b"ticket").unwrap();
    assert_eq!(noise.read(&third).map(|_| ()), Err(HandshakeError::NotAuthentic));
}

#[test]
fn a_first_message_has_the_payload_of_its_choice() {
    let (initiator, responder) = (key(1), key(2));
    for choice in Choice::ALL {
        for payload in [vec![], vec![0; kem::ENCAPSULATION_KEY_LEN - 1], vec![0; kem::ENCAPSULATION_KEY_LEN], vec![0xff; 8]] {
            let first = offer::encode(choice);
            let prologue = offer::prologue(Label::Channel, &first[..first.len() - 1], choice);
            let noise = Noise::initiator(choice, &prologue, &initiator, responder.public(), Fixed::default()).unwrap();
            let (_, body) = noise.write(&payload, &first).unwrap();
            let read = Responder::read_offer(Label::Channel, &body, &[&responder]).map(|_| ());
            let right = payload.len() == if choice.exchange == KeyExchange::Hybrid { kem::ENCAPSULATION_KEY_LEN } else { 0 };
            assert_eq!(read.is_ok(), right, "{choice:?} with {} bytes: {read:?}", payload.len());
        }
    }
    // A key that is not one (its numbers are not below q) gets no answer (FIPS 203, section 7.2).
    assert_eq!(kem::encapsulate(&[0xff; kem::ENCAPSULATION_KEY_LEN]).map(|_| ()), Err(HandshakeError::BadPublicKey));
}
