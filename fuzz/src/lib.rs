//! What the fuzz targets check: a function per target, from any bytes. `proto/tests/corpus.rs` includes this file and runs the same
//! functions over the committed corpus.

mod authority;
mod streams;
mod wire;

use std::collections::BTreeMap;

use postern_proto::authority::RingKey;
use postern_proto::credential::{self, Audience, Holder, KeyRing, Verifier, Voided};
use postern_proto::id::{Identifier, ProjectId, StaticPublic};
use postern_proto::identity::{History, Identity, Order};
use postern_proto::policy::{self, Action, Decision, Facts, Request};
use postern_proto::secret::SecretBytes;
use postern_proto::sign::{self, Purpose, SigningKey};
use postern_proto::ticket::Ticket;
use postern_proto::time::Timestamp;

pub use self::authority::{audit, authority_message, statement, voiding};
pub use self::streams::{record, stream};
pub use self::wire::{channel_hello, handshake, knock, link_frame, link_message, session};

/// Any text parses or is refused with a place in it. What parses prints to a form that parses back, and decides alike; a refusal
/// names terms of that form.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let expr = match policy::parse(text) {
        Ok(expr) => expr,
        Err(error) => {
            assert!(text.get(error.span()).is_some(), "the place {:?} is not in the text", error.span());
            assert!(error.to_string().contains('^'));
            return;
        }
    };
    let canonical = expr.to_string();
    let again = policy::parse(&canonical).expect("the canonical form parses");
    assert_eq!(again, expr);
    let attributes = BTreeMap::from([("a", "true"), ("b", "5"), ("identifier", "x")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    for has_credential in [false, true] {
        let subject = Facts { identifier: None, has_credential, attributes: &attributes };
        let request = Request { subject, resource: "db", action: Action::AcceptStream };
        if let Decision::Denied(reason) = expr.evaluate(&request) {
            assert!(!reason.terms.is_empty());
            assert!(reason.terms.iter().all(|term| canonical.get(term.span.clone()) == Some(&term.text)));
            assert!(!reason.to_string().contains(char::is_control));
        }
    }
}

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

fn key() -> SigningKey {
    SigningKey::from_seed(&SecretBytes::new([1; 32]))
}

/// Any bytes are refused as a credential, unless the project's key signed them; and what it signs is refused, unless it keeps
/// every limit. So the bytes are tried as they are, and as claims that were signed.
pub fn credential(data: &[u8]) {
    let ring_key = RingKey::new(&key().public(), NOW, Timestamp::from_unix(1_900_000_000));
    let ring = KeyRing::new(ProjectId::from_bytes([0x10; 16]), Identifier::from_bytes([2; 32]), vec![ring_key]).unwrap();
    let verifier = Verifier { ring: &ring, voided: &Voided::default(), now: NOW };
    let signed = sign::sign(Purpose::Credential, &key(), data);
    for bytes in [data, &signed] {
        let _ = sign::peek_key_id(bytes);
        for audience in [Audience::Member, Audience::Relay] {
            let Ok(verified) = verifier.verify(bytes, audience, Holder::Published) else { continue };
            assert_eq!(verified.bytes(), bytes);
            assert_eq!(verified.audience(), audience);
            credential::check_attributes(verified.attributes()).expect("the limits hold");
            assert!(audience == Audience::Member || verified.attributes().is_empty());
            assert!(audience == Audience::Relay || verified.relay_names().is_empty());
            assert!(verified.relay_names().is_sorted());
            verifier.recheck(&verified).expect("nothing changed");
            let other = Holder::Handshake(StaticPublic::from_bytes([8; 32]));
            assert!(
                verified.static_key() == StaticPublic::from_bytes([8; 32]) || verifier.verify(bytes, audience, other).is_err()
            );
        }
    }
}

/// Any text is refused as a ticket, or is the one text of what it says. No refusal repeats it.
pub fn ticket(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Ticket>() {
        Ok(ticket) => assert_eq!(ticket.to_text().expect("it was read").expose_secret(), text.trim()),
        Err(error) => assert!(error.to_string().is_ascii()),
    }
}

/// Any bytes are refused as a history, or are the one encoding of it. They are tried as they are, as a first record signed by its
/// key, and as an attestation of an identity.
pub fn history(data: &[u8]) {
    let record = sign::sign(Purpose::Change, &key(), data);
    // An array of one byte string.
    let mut signed = vec![0x81, 0x59];
    signed.extend_from_slice(&u16::try_from(record.len()).unwrap_or(u16::MAX).to_be_bytes());
    signed.extend_from_slice(&record);
    for bytes in [data, &signed] {
        if let Ok(history) = History::decode(bytes) {
            assert_eq!(history.encode(), bytes);
            assert_eq!(history.succeeds(&history), Ok(Order::Same));
        }
    }
    let identity = Identity::from_seed(&SecretBytes::new([1; 32]), NOW);
    for bytes in [data, &identity.sign(Purpose::Attestation, data)] {
        if let Ok(attestation) = identity.history().verify_attestation(bytes, NOW) {
            assert_eq!(attestation.identifier, identity.identifier());
            assert_eq!(identity.attest(&attestation), bytes, "one encoding, and signatures are deterministic");
        }
    }
    let _ = Identity::from_secret_bytes(data);
}
