//! Handshakes of thieves: they run Noise with the secret that they have, and show the public key of somebody else.

use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};

use super::*;
use crate::channel::hybrid_key;
use crate::handshake::dh::Resolver;

/// The cryptography of who shows `StaticPublic` for its static key, whatever its secret is.
struct Claiming(StaticPublic);

impl CryptoResolver for Claiming {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Resolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(ClaimedDh { own: Resolver.resolve_dh(choice)?, claimed: *self.0.as_bytes(), is_static: false }))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        Resolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        Resolver.resolve_cipher(choice)
    }
}

struct ClaimedDh {
    own: Box<dyn Dh>,
    claimed: [u8; 32],
    /// Its secret was set, and not generated: it is the static key's.
    is_static: bool,
}

impl Dh for ClaimedDh {
    fn name(&self) -> &'static str {
        self.own.name()
    }

    fn pub_len(&self) -> usize {
        self.own.pub_len()
    }

    fn priv_len(&self) -> usize {
        self.own.priv_len()
    }

    fn set(&mut self, secret: &[u8]) {
        self.own.set(secret);
        self.is_static = true;
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        self.own.generate(random)
    }

    fn pubkey(&self) -> &[u8] {
        if self.is_static { &self.claimed } else { self.own.pubkey() }
    }

    fn privkey(&self) -> &[u8] {
        self.own.privkey()
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        self.own.dh(public, out)
    }
}

/// Longest message here: message 1 with an encapsulation key, and room.
const ROOM: usize = 4096;

/// What `responder` makes of somebody who has the secret of `held`, claims to be `claimed`, and does everything else rightly.
fn claims_to_be(
    choice: Choice,
    held: &StaticKey,
    claimed: StaticPublic,
    responder: &StaticKey,
) -> Result<(Finished, Vec<u8>), HandshakeError> {
    let first = offer::encode(choice);
    let prologue = offer::prologue(Label::Channel, &first[..first.len() - 1], choice);
    let (secret, remote) = (held.secret(), responder.public());
    let mut thief = snow::Builder::with_resolver(choice.noise_name().parse().unwrap(), Box::new(Claiming(claimed)))
        .prologue(&prologue)
        .and_then(|builder| builder.local_private_key(secret.expose_secret()))
        .and_then(|builder| builder.remote_public_key(remote.as_bytes()))
        .and_then(snow::Builder::build_initiator)
        .unwrap();
    let (kem, payload) = match choice.exchange {
        KeyExchange::X25519 => (None, Vec::new()),
        KeyExchange::Hybrid => kem::Decapsulator::generate().map(|(key, public)| (Some(key), public)).unwrap(),
    };
    let mut message = [0; ROOM];
    let length = thief.write_message(&payload, &mut message).unwrap();
    let body = [&first, &message[..length]].concat();
    let (waiting, second) = Responder::read_offer(Label::Channel, &body, &[responder])?.answer(&[]).unwrap();
    let length = thief.read_message(&second[1..], &mut message).unwrap();
    if let Some(kem) = kem {
        let shared = kem.open(&message[..length]).unwrap();
        let key = hybrid_key(thief.get_handshake_hash(), shared.as_ref());
        thief.set_psk(3, key.expose_secret()).unwrap();
    }
    let length = thief.write_message(b"I am who I say", &mut message).unwrap();
    waiting.read_final(&message[..length])
}

/// Key compromise impersonation: whoever holds the responder's static key can compute all of message 3 but `se`, for which it needs the secret
/// of the static key that it claims, or the responder's ephemeral one.
#[test]
fn a_stolen_responder_key_impersonates_no_initiator() {
    let (victim, responder, other) = (key(1), key(2), key(9));
    for choice in Choice::ALL {
        for held in [&responder, &other] {
            let forged = claims_to_be(choice, held, victim.public(), &responder).map(|_| ());
            assert_eq!(forged, Err(HandshakeError::NotAuthentic), "{choice:?}");
        }
        // The same words of who has what it claims: nothing else is wrong with them.
        let (finished, payload) = claims_to_be(choice, &victim, victim.public(), &responder).unwrap();
        assert_eq!((finished.remote_static, payload.as_slice()), (victim.public(), &b"I am who I say"[..]));
        // And who holds the responder's key is the responder, which may dial itself.
        let own = claims_to_be(choice, &responder, responder.public(), &responder).unwrap().0;
        assert_eq!(own.remote_static, responder.public());
    }
}

/// The other direction: who holds the static key of the dialler passes for nobody that it dials.
#[test]
fn a_stolen_initiator_key_impersonates_no_responder() {
    let (victim, responder) = (key(1), key(2));
    for choice in Choice::ALL {
        let dial = || Initiator::new(Label::Channel, choice, &victim, responder.public()).unwrap();
        let (dialling, first) = dial();
        let (offer, message) = offer::Offer::decode(&first).unwrap();
        let prologue = offer::prologue(Label::Channel, offer.offer, choice);
        let listen = |held: &StaticKey| {
            let secret = held.secret();
            snow::Builder::with_resolver(choice.noise_name().parse().unwrap(), Box::new(Claiming(responder.public())))
                .prologue(&prologue)
                .and_then(|builder| builder.local_private_key(secret.expose_secret()))
                .and_then(snow::Builder::build_responder)
                .unwrap()
        };
        let mut text = [0; ROOM];
        assert!(matches!(listen(&victim).read_message(message, &mut text), Err(snow::Error::Decrypt)), "message 1 is not for it");
        assert!(listen(&responder).read_message(message, &mut text).is_ok());
        // The best answer that it has: one to a message 1 of its own, which is for the key that it holds.
        let (_, own) = Initiator::new(Label::Channel, choice, &victim, victim.public()).unwrap();
        let (_, forged) = Responder::read_offer(Label::Channel, &own, &[&victim]).unwrap().answer(&[]).unwrap();
        assert_eq!(dialling.read_answer(&forged).map(|_| ()), Err(HandshakeError::NotAuthentic), "{choice:?}");
        let (dialling, first) = dial();
        let (_, honest) = Responder::read_offer(Label::Channel, &first, &[&responder]).unwrap().answer(&[]).unwrap();
        assert!(dialling.read_answer(&honest).is_ok());
    }
}

/// The static key of an initiator stands in message 3 alone, sealed: there, too, it must be one that somebody can hold.
#[test]
fn a_bad_static_key_in_message_3_is_refused() {
    let (held, responder) = (key(1), key(2));
    let mut top_bit = *held.public().as_bytes();
    top_bit[31] |= 0x80;
    let one: [u8; 32] = std::array::from_fn(|at| u8::from(at == 0));
    for choice in Choice::ALL {
        for bad in [[0; 32], one, [0xff; 32], top_bit] {
            let refused = claims_to_be(choice, &held, StaticPublic::from_bytes(bad), &responder).map(|_| ());
            assert_eq!(refused, Err(HandshakeError::BadPublicKey), "{choice:?} {bad:02x?}");
        }
    }
}
