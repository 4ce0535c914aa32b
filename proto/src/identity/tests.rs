use minicbor::Encoder;
use proptest::prelude::*;

use super::change::{Change, RecordHash, VerifiedChange};
use super::*;
use crate::id::{NodeId, StaticPublic};
use crate::sign::{InvalidKey, SignError};
use crate::time::CLOCK_TOLERANCE;

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(NOW.as_unix().checked_add_signed(seconds).unwrap())
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&SecretBytes::new([seed; 32]))
}

fn identity() -> Identity {
    Identity::from_seed(&SecretBytes::new([1; 32]), NOW)
}

fn encoded(records: &[Vec<u8>]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.array(records.len() as u64).unwrap();
    for record in records {
        encoder.bytes(record).unwrap();
    }
    encoder.into_writer()
}

/// A history of two records, the second with `edit` applied to its fields, signed as it should be.
fn second_record(edit: impl FnOnce(&mut Change)) -> Result<History, HistoryError> {
    let (old, new) = (key(1), key(2));
    let first = VerifiedChange::first(&old, NOW);
    let second = first.next(first.identifier(), &old, &new, at(10), ChangeReason::Renewed);
    let mut change = second.change;
    edit(&mut change);
    let by_new = sign::sign(Purpose::Change, &new, &change.encode());
    let signed = sign::sign(Purpose::ChangeApproval, &old, &by_new);
    History::decode(&encoded(&[first.signed, signed]))
}

/// A history of one record with `edit` applied to its fields, signed as it should be.
fn first_record(edit: impl FnOnce(&mut Change)) -> Result<History, HistoryError> {
    let mut change = VerifiedChange::first(&key(1), NOW).change;
    edit(&mut change);
    History::decode(&encoded(&[sign::sign(Purpose::Change, &key(1), &change.encode())]))
}

#[test]
fn an_identity_keeps_its_identifier_when_its_key_is_replaced() {
    let mut identity = Identity::generate(NOW);
    let before = identity.history().clone();
    identity.rotate(NOW, ChangeReason::Renewed).unwrap();
    let history = History::decode(&identity.history().encode()).unwrap();
    assert_eq!(history.identifier(), before.identifier());
    assert_ne!(history.current_key(), before.current_key());
    let payload = history.verify(Purpose::Heartbeat, &identity.sign(Purpose::Heartbeat, b"x"));
    assert_eq!(payload.as_deref(), Ok(&b"x"[..]), "the new key signs");
}

#[test]
fn the_identifier_is_the_hash_of_the_first_record() {
    use sha2::Digest;
    let identity = identity();
    let record = VerifiedChange::first(&key(1), NOW).change.encode();
    assert_eq!(identity.identifier().as_bytes(), sha2::Sha256::digest(&record).as_slice());
}

#[test]
fn rollback_and_fork_are_refused() {
    let mut identity = identity();
    let first = identity.history().clone();
    let mut twin = identity.clone();
    identity.rotate(NOW, ChangeReason::Renewed).unwrap();
    let second = identity.history().clone();
    assert_eq!(second.succeeds(&first), Ok(Order::Newer));
    assert_eq!(second.succeeds(&second), Ok(Order::Same));
    assert_eq!(first.succeeds(&second), Err(ForkOrRollback::Rollback { known: 1, got: 0 }));

    twin.rotate(NOW, ChangeReason::Compromised).unwrap();
    twin.rotate(NOW, ChangeReason::Renewed).unwrap();
    assert_eq!(twin.history().succeeds(&second), Err(ForkOrRollback::Fork { sequence: 1 }), "longer, and yet a fork");
    assert_eq!(second.succeeds(twin.history()), Err(ForkOrRollback::Fork { sequence: 1 }));
    assert_eq!(Identity::generate(NOW).history().succeeds(&first), Err(ForkOrRollback::OtherIdentity));
}

#[test]
fn a_first_record_links_to_nothing() {
    assert!(first_record(|_| {}).is_ok());
    let link = Err(HistoryError::Link { sequence: 0 });
    assert_eq!(first_record(|change| change.identifier = Some(Identifier::from_bytes([0; 32]))), link);
    assert_eq!(first_record(|change| change.previous = Some(RecordHash::of(b""))), link);
    assert_eq!(first_record(|change| change.sequence = 1), link);
    assert_eq!(first_record(|change| change.typ = 2), link);
    assert_eq!(first_record(|change| change.reason = ChangeReason::Renewed), link);
    assert_eq!(first_record(|change| change.expires = change.created), Err(HistoryError::Times { sequence: 0 }));
}

#[test]
fn a_later_record_follows_the_one_before() {
    assert!(second_record(|_| {}).is_ok());
    let link = Err(HistoryError::Link { sequence: 1 });
    assert_eq!(second_record(|change| change.identifier = None), link);
    assert_eq!(second_record(|change| change.identifier = Some(Identifier::from_bytes([0; 32]))), link);
    assert_eq!(second_record(|change| change.previous = None), link);
    assert_eq!(second_record(|change| change.previous = Some(RecordHash::of(b""))), link);
    assert_eq!(second_record(|change| change.sequence = 0), link);
    assert_eq!(second_record(|change| change.sequence = 2), link);
    assert_eq!(second_record(|change| change.typ = 0), link);
    assert_eq!(second_record(|change| change.reason = ChangeReason::Created), link);
    let times = Err(HistoryError::Times { sequence: 1 });
    assert_eq!(second_record(|change| change.created = at(-1)), times);
    assert!(second_record(|change| change.created = NOW).is_ok(), "at the same second");
    let last = NOW.plus(KEY_LIFETIME);
    let made_at =
        |created: Timestamp| move |change: &mut Change| (change.created, change.expires) = (created, created.plus(KEY_LIFETIME));
    assert!(second_record(made_at(last)).is_ok());
    let late = Timestamp::from_unix(last.as_unix() + 1);
    assert_eq!(second_record(made_at(late)), times, "by a key that had expired");
}

#[test]
fn both_keys_must_sign() {
    let (old, new, other) = (key(1), key(2), key(3));
    let first = VerifiedChange::first(&old, NOW);
    let second = first.next(first.identifier(), &old, &new, NOW, ChangeReason::Renewed);
    let record = second.change.encode();
    let history = |signed: Vec<u8>| History::decode(&encoded(&[first.signed.clone(), signed]));
    let by_new = sign::sign(Purpose::Change, &new, &record);

    let other_key =
        |expected: &SigningKey, found: &SigningKey| SignError::OtherKey { expected: expected.key_id(), found: found.key_id() };
    let approved_by_other = sign::sign(Purpose::ChangeApproval, &other, &by_new);
    let error = other_key(&old, &other);
    assert_eq!(history(approved_by_other), Err(HistoryError::OldSignature { sequence: 1, error }));
    let by_other = sign::sign(Purpose::Change, &other, &record);
    let error = other_key(&new, &other);
    let stolen = sign::sign(Purpose::ChangeApproval, &old, &by_other);
    assert_eq!(history(stolen), Err(HistoryError::NewSignature { sequence: 1, error }), "a key that is not held");
    let error = SignError::Type { expected: Purpose::ChangeApproval };
    assert_eq!(history(by_new.clone()), Err(HistoryError::OldSignature { sequence: 1, error }), "without the old key");
    // Each signature has a context of its own, so neither stands for the other.
    let swapped = sign::sign(Purpose::Change, &old, &sign::sign(Purpose::ChangeApproval, &new, &record));
    assert!(matches!(history(swapped), Err(HistoryError::OldSignature { sequence: 1, .. })));
}

#[test]
fn keys_must_be_usable_and_new() {
    let weak = crate::id::SigningPublic::from_bytes([0; 32]);
    let error = HistoryError::Key { sequence: 0, error: InvalidKey::LowOrder };
    assert_eq!(first_record(|change| change.new_key = weak), Err(error));

    let (one, two) = (key(1), key(2));
    let first = VerifiedChange::first(&one, NOW);
    let id = first.identifier();
    let second = first.next(id, &one, &two, NOW, ChangeReason::Renewed);
    let third = second.next(id, &two, &one, NOW, ChangeReason::Renewed);
    let history = encoded(&[first.signed.clone(), second.signed.clone(), third.signed]);
    assert_eq!(History::decode(&history), Err(HistoryError::KeyReused { sequence: 2 }));
    let same = first.next(id, &one, &one, NOW, ChangeReason::Renewed);
    assert_eq!(History::decode(&encoded(&[first.signed, same.signed])), Err(HistoryError::KeyReused { sequence: 1 }));
}

#[test]
fn a_record_has_one_encoding() {
    let change = VerifiedChange::first(&key(1), NOW).change;
    let mut unknown = change.encode();
    unknown[0] += 1;
    unknown.extend([8, 0]);
    let signed = sign::sign(Purpose::Change, &key(1), &unknown);
    assert_eq!(History::decode(&encoded(&[signed])), Err(HistoryError::Record { sequence: 0 }), "an unknown field");
    let mut longer = change.encode();
    longer.push(0);
    let signed = sign::sign(Purpose::Change, &key(1), &longer);
    assert_eq!(History::decode(&encoded(&[signed])), Err(HistoryError::Record { sequence: 0 }), "bytes after the end");
}

#[test]
fn limits_of_a_history() {
    assert_eq!(History::decode(&[0x80]), Err(HistoryError::Count { count: 0 }));
    assert_eq!(History::decode(&[0x91]), Err(HistoryError::Count { count: 17 }));
    let endless = [0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(History::decode(&endless), Err(HistoryError::Count { count: u64::MAX }));
    assert_eq!(History::decode(&[0x9f]), Err(HistoryError::Malformed));
    assert_eq!(History::decode(&[]), Err(HistoryError::Malformed));
    assert_eq!(History::decode(&vec![0; MAX_HISTORY + 1]), Err(HistoryError::TooLarge { len: MAX_HISTORY + 1 }));

    let mut identity = identity();
    let mut changes = 0;
    let full = loop {
        match identity.rotate(NOW, ChangeReason::Renewed) {
            Ok(()) => changes += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, RotateError::Full);
    assert_eq!(changes, 9);
    assert_eq!(identity.history().sequence(), changes, "a refusal changes nothing");
    assert_eq!(&History::decode(&identity.history().encode()).unwrap(), identity.history());
}

#[test]
fn rotation_needs_a_key_that_is_valid_now() {
    let mut identity = identity();
    assert_eq!(identity.rotate_to(key(1), NOW, ChangeReason::Renewed), Err(RotateError::KeyReused));
    assert_eq!(identity.rotate(at(-1), ChangeReason::Renewed), Err(RotateError::BeforeLastChange { at: NOW }));
    let end = NOW.plus(KEY_LIFETIME);
    let late = Timestamp::from_unix(end.as_unix() + 1);
    assert_eq!(identity.rotate(late, ChangeReason::Renewed), Err(RotateError::Expired { at: end }));
    assert_eq!(identity.rotate(end, ChangeReason::Created), Ok(()));
    assert!(History::decode(&identity.history().encode()).is_ok());
}

#[test]
fn stored_identities() {
    let mut identity = identity();
    identity.rotate(NOW, ChangeReason::Renewed).unwrap();
    let stored = identity.to_secret_bytes();
    let again = Identity::from_secret_bytes(&stored).unwrap();
    assert_eq!(again.history(), identity.history());
    assert_eq!(again.sign(Purpose::Heartbeat, b"x"), identity.sign(Purpose::Heartbeat, b"x"));

    let read = |bytes: &[u8]| Identity::from_secret_bytes(bytes).err();
    for len in 0..stored.len() {
        assert_eq!(read(&stored[..len]), Some(IdentityError::Malformed), "cut at {len}");
    }
    let mut newer = stored.to_vec();
    newer[2] = 2;
    assert_eq!(read(&newer), Some(IdentityError::NewerForm(2)));
    let history = identity.history().encode();
    let other = Stored { form: STORED_FORM, seed: SecretBytes::new([9; 32]), history: &history };
    assert_eq!(read(&minicbor::to_vec(other).unwrap()), Some(IdentityError::OtherKey));
    let wrong = Stored { form: STORED_FORM, seed: SecretBytes::new([9; 32]), history: &[0x80] };
    assert_eq!(read(&minicbor::to_vec(wrong).unwrap()), Some(IdentityError::History(HistoryError::Count { count: 0 })));
}

fn attestation() -> Attestation {
    Attestation {
        identifier: identity().identifier(),
        node_id: NodeId::from_bytes([3; 16]),
        static_key: StaticPublic::from_bytes([9; 32]),
        created: NOW,
        expires: at(1000),
    }
}

fn attested(attestation: &Attestation, now: Timestamp) -> Result<Attestation, AttestationError> {
    identity().history().verify_attestation(&identity().attest(attestation), now)
}

#[test]
fn attestations_are_verified_step_by_step() {
    let good = attestation();
    assert_eq!(attested(&good, NOW), Ok(good));

    let stranger = Identity::generate(NOW);
    let signed = stranger.attest(&good);
    let refused = identity().history().verify_attestation(&signed, NOW);
    assert!(matches!(refused, Err(AttestationError::Sign(SignError::OtherKey { .. }))));
    let other = Attestation { identifier: stranger.identifier(), ..good };
    assert_eq!(attested(&other, NOW), Err(AttestationError::OtherIdentity));
    assert_eq!(attested(&Attestation { expires: NOW, ..good }, NOW), Err(AttestationError::Times));
    let low_order = Attestation { static_key: StaticPublic::from_bytes([0; 32]), ..good };
    assert_eq!(attested(&low_order, NOW), Err(AttestationError::UnusableStatic));

    let mut unknown = good.encode();
    unknown[0] += 1;
    unknown.extend([5, 0]);
    let signed = identity().sign(Purpose::Attestation, &unknown);
    assert_eq!(identity().history().verify_attestation(&signed, NOW), Err(AttestationError::Malformed));
}

#[test]
fn attestation_times_are_exact() {
    let good = attestation();
    let tolerance = CLOCK_TOLERANCE.as_secs() as i64;
    assert!(attested(&good, at(-tolerance)).is_ok());
    let error = attested(&good, at(-tolerance - 1)).unwrap_err();
    assert!(matches!(error, AttestationError::NotYetValid { .. }));
    assert!(error.to_string().contains("61 s from now"), "{error}");
    assert!(attested(&good, at(1000 + tolerance - 1)).is_ok());
    let error = attested(&good, at(1000 + tolerance)).unwrap_err();
    assert!(error.to_string().contains("60 s ago by the authority's clock"), "{error}");

    let end = NOW.plus(KEY_LIFETIME);
    let late = Attestation { created: NOW, expires: end.plus(KEY_LIFETIME), ..good };
    assert!(attested(&late, Timestamp::from_unix(end.as_unix() + 59)).is_ok());
    let refused = attested(&late, Timestamp::from_unix(end.as_unix() + 60));
    assert!(matches!(refused, Err(AttestationError::KeyExpired { .. })));
}

#[test]
fn every_changed_byte_of_a_history_is_refused() {
    let mut identity = identity();
    identity.rotate(NOW, ChangeReason::Renewed).unwrap();
    let good = identity.history().encode();
    for position in 0..good.len() {
        for change in [1, 0x80] {
            let mut bad = good.clone();
            bad[position] ^= change;
            // A change of the first record would make another identity, were it signed; it is not.
            assert!(History::decode(&bad).is_err(), "byte {position} ^ {change}");
        }
    }
    for len in 0..good.len() {
        assert!(History::decode(&good[..len]).is_err(), "cut at {len}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_no_history(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(History::decode(&bytes).is_err());
        prop_assert!(Identity::from_secret_bytes(&bytes).is_err());
        prop_assert!(identity().history().verify_attestation(&bytes, NOW).is_err());
    }

    #[test]
    fn changed_attestations_are_refused(position in 0usize..300, change in 1u8..) {
        let mut signed = identity().attest(&attestation());
        let position = position % signed.len();
        signed[position] ^= change;
        prop_assert!(identity().history().verify_attestation(&signed, NOW).is_err());
    }
}
