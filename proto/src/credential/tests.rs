use minicbor::Encoder;
use proptest::prelude::*;

use super::*;
use crate::authority::{Attributes, KeyState, RingKey, VoidEntry, Voiding};
use crate::id::{CredentialId, Identifier, KeyId, ProjectId, SigningPublic, StaticPublic};
use crate::secret::SecretBytes;
use crate::sign::{InvalidKey, Purpose, SignError, SigningKey, sign};
use crate::time::{CLOCK_TOLERANCE, Timestamp};

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);
const STATIC: StaticPublic = StaticPublic::from_bytes([9; 32]);
const PROJECT: ProjectId = ProjectId::from_bytes([1; 16]);
const AUTHORITY: Identifier = Identifier::from_bytes([2; 32]);
const MEMBER: Identifier = Identifier::from_bytes([3; 32]);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(NOW.as_unix().checked_add_signed(seconds).unwrap())
}

fn signer(seed: u8) -> SigningKey {
    SigningKey::from_seed(&SecretBytes::new([seed; 32]))
}

fn key() -> SigningKey {
    signer(1)
}

fn ring_key(key: &SigningKey) -> RingKey {
    RingKey::new(&key.public(), at(-86_400), at(86_400 * 30))
}

fn ring() -> KeyRing {
    KeyRing::new(PROJECT, AUTHORITY, vec![ring_key(&key())]).unwrap()
}

fn attributes<const N: usize>(pairs: [(&str, &str); N]) -> Attributes {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn claims() -> Claims {
    Claims {
        issuer: AUTHORITY,
        subject: MEMBER,
        project: PROJECT,
        audience: Audience::Member,
        not_before: NOW,
        expires: at(86_400),
        id: CredentialId::from_bytes([4; 16]),
        confirmation: STATIC,
        attributes: attributes([("app", "app1"), ("inlet-to-saas", "true"), ("z", "")]),
        relay_names: Vec::new(),
    }
}

fn relay_claims() -> Claims {
    let relay_names = vec!["saas-relay".parse().unwrap(), "db".parse().unwrap(), "db".parse().unwrap()];
    Claims { audience: Audience::Relay, attributes: Attributes::new(), relay_names, ..claims() }
}

fn verify_at(bytes: &[u8], now: Timestamp) -> Result<VerifiedCredential, CredentialError> {
    Verifier { ring: &ring(), voided: &Voided::default(), now }.verify(bytes, Audience::Member, Holder::Handshake(STATIC))
}

fn verify(bytes: &[u8]) -> Result<VerifiedCredential, CredentialError> {
    verify_at(bytes, NOW)
}

/// `payload` signed as a credential by the project's key, whatever it says.
fn signed(payload: &[u8]) -> Vec<u8> {
    sign(Purpose::Credential, &key(), payload)
}

/// A credential that [`issue`] would refuse.
fn unchecked(edit: impl FnOnce(&mut Claims)) -> Vec<u8> {
    let mut claims = claims();
    edit(&mut claims);
    signed(&claims.encode())
}

#[test]
fn a_credential_verifies() {
    let bytes = issue(&key(), &claims()).unwrap();
    let verified = verify(&bytes).unwrap();
    assert_eq!(verified.attributes(), &claims().attributes);
    assert_eq!((verified.subject(), verified.static_key(), verified.bytes()), (MEMBER, STATIC, bytes.as_slice()));
    let facts = verified.facts();
    assert_eq!((facts.identifier, facts.has_credential, facts.attributes), (Some(MEMBER), true, &claims().attributes));

    let bytes = issue(&key(), &relay_claims()).unwrap();
    let verifier = Verifier { ring: &ring(), voided: &Voided::default(), now: NOW };
    let verified = verifier.verify(&bytes, Audience::Relay, Holder::Published).unwrap();
    assert_eq!(verified.relay_names().iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["db", "saas-relay"]);
    assert!(!verified.facts().has_credential, "no policy takes it for a member's");
}

/// Another implementation of CWT reads the same claims.
#[test]
fn it_is_a_cwt() {
    use coset::cbor::value::Value;
    use coset::cwt::{ClaimName, ClaimsSet, Timestamp as Seconds};
    use coset::{CborSerializable, iana};
    let set = ClaimsSet::from_slice(&claims().encode()).unwrap();
    assert_eq!((set.issuer, set.subject), (Some(AUTHORITY.to_string()), Some(MEMBER.to_string())));
    assert_eq!(set.audience, Some(format!("postern:{PROJECT}/member")));
    assert_eq!(set.expiration_time, Some(Seconds::WholeSeconds(1_800_086_400)));
    assert_eq!(set.not_before, Some(Seconds::WholeSeconds(1_800_000_000)));
    assert_eq!((set.issued_at, set.cwt_id), (None, Some(vec![4; 16])));
    let [(cnf, Value::Map(confirmation)), (private, Value::Map(attributes))] = set.rest.as_slice() else {
        panic!("{:?}", set.rest)
    };
    assert_eq!(*cnf, ClaimName::Assigned(iana::CwtClaimName::Cnf));
    assert_eq!(*private, ClaimName::PrivateUse(-65_537));
    let [(_, cose_key)] = confirmation.as_slice() else { panic!("{confirmation:?}") };
    let cose_key = <coset::CoseKey as coset::AsCborValue>::from_cbor_value(cose_key.clone()).unwrap();
    assert_eq!(cose_key.kty, coset::KeyType::Assigned(iana::KeyType::OKP));
    let names: Vec<_> = attributes.iter().map(|(key, _)| key.as_text().unwrap()).collect();
    assert_eq!(names, ["z", "app", "inlet-to-saas"], "deterministic order is by length first");
}

// One test for each step, in the order of the steps.

#[test]
fn step_1_size() {
    let long = vec![0; MAX_CREDENTIAL + 1];
    let error = SignError::TooLarge { len: MAX_CREDENTIAL + 1, max: MAX_CREDENTIAL };
    assert_eq!(verify(&long), Err(CredentialError::Sign(error)));
}

#[test]
fn step_2_tag() {
    let good = issue(&key(), &claims()).unwrap();
    assert_eq!(verify(&good[1..]), Err(CredentialError::Sign(SignError::NotSigned)));
}

#[test]
fn step_3_type() {
    for purpose in Purpose::ALL.into_iter().filter(|purpose| *purpose != Purpose::Credential) {
        let other = sign(purpose, &key(), &claims().encode());
        let error = SignError::Type { expected: Purpose::Credential };
        assert_eq!(verify(&other), Err(CredentialError::Sign(error)), "{purpose:?}");
    }
}

#[test]
fn step_4_key_ring() {
    // The key of another project is unknown here, whatever it says.
    let stranger = signer(2);
    let bytes = issue(&stranger, &claims()).unwrap();
    assert_eq!(verify(&bytes), Err(CredentialError::UnknownKey(stranger.key_id())));

    let bytes = issue(&key(), &Claims { not_before: at(-100), ..claims() }).unwrap();
    let with = |begin: i64, end: i64| {
        let ring = KeyRing::new(PROJECT, AUTHORITY, vec![RingKey::new(&key().public(), at(begin), at(end))]).unwrap();
        let verifier = Verifier { ring: &ring, voided: &Voided::default(), now: NOW };
        verifier.verify(&bytes, Audience::Member, Holder::Handshake(STATIC))
    };
    assert!(with(60, 1000).is_ok());
    assert!(matches!(with(61, 1000), Err(CredentialError::KeyNotYetValid { by, .. }) if by.as_secs() == 61));
    assert!(with(-1000, -59).is_ok());
    assert!(matches!(with(-1000, -60), Err(CredentialError::KeyRetired { by, .. }) if by.as_secs() == 60));
}

#[test]
fn step_5_signature() {
    let mut bytes = issue(&key(), &claims()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(verify(&bytes), Err(CredentialError::Sign(SignError::Signature)));
    // A stranger who puts the ring's kid on it: the kid selects, and authorises nothing.
    let stolen = issue(&signer(2), &claims()).unwrap();
    let (mine, theirs) = (key().key_id(), signer(2).key_id());
    let position = stolen.windows(8).position(|window| window == theirs.as_bytes()).unwrap();
    let mut stolen = stolen;
    stolen[position..position + 8].copy_from_slice(mine.as_bytes());
    assert_eq!(verify(&stolen), Err(CredentialError::Sign(SignError::Signature)));
}

#[test]
fn step_6_claims_that_cannot_be_read() {
    for payload in [
        vec![],
        vec![0xa0],
        vec![0xbf, 0xff],
        vec![0x81; 3000],
        vec![0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        claims().encode()[1..].to_vec(),
        [claims().encode(), vec![0]].concat(),
    ] {
        assert_eq!(
            verify(&signed(&payload)),
            Err(CredentialError::Malformed),
            "{}",
            hex::encode(&payload[..payload.len().min(9)])
        );
    }
}

/// The claims as items, for tests that put them together in another way.
fn items() -> Vec<(i64, Vec<u8>)> {
    let text = |text: String| minicbor::to_vec(text).unwrap();
    let bytes = |bytes: &[u8]| minicbor::to_vec(minicbor::bytes::ByteVec::from(bytes.to_vec())).unwrap();
    let mut cnf = vec![0xa1, 0x01, 0xa3, 0x01, 0x01, 0x20, 0x04, 0x21];
    cnf.extend(bytes(&[9; 32]));
    vec![
        (1, text(AUTHORITY.to_string())),
        (2, text(MEMBER.to_string())),
        (3, text(format!("postern:{PROJECT}/member"))),
        (4, minicbor::to_vec(1_800_086_400u64).unwrap()),
        (5, minicbor::to_vec(1_800_000_000u64).unwrap()),
        (7, bytes(&[4; 16])),
        (8, cnf),
        (-65_537, vec![0xa1, 0x61, b'a', 0x61, b'b']),
    ]
}

fn assembled(items: &[(i64, Vec<u8>)]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.map(items.len() as u64).unwrap();
    for (key, value) in items {
        encoder.i64(*key).unwrap();
        encoder.writer_mut().extend_from_slice(value);
    }
    encoder.into_writer()
}

#[test]
fn step_6_claims_that_are_missing_repeated_or_unknown() {
    assert!(verify(&signed(&assembled(&items()))).is_ok(), "the assembled form is the real one");
    for missing in 0..7 {
        let mut items = items();
        items.remove(missing);
        assert_eq!(verify(&signed(&assembled(&items))), Err(CredentialError::Malformed), "without claim {missing}");
    }
    for twice in 0..8 {
        let mut items = items();
        items.insert(twice, items[twice].clone());
        assert_eq!(verify(&signed(&assembled(&items))), Err(CredentialError::Malformed), "claim {twice} twice");
    }
    for unknown in [6, 9, -65_539] {
        let mut items = items();
        items.push((unknown, vec![0]));
        items.sort_by_key(|(key, _)| if *key < 0 { 1_000_000 - key } else { *key });
        assert_eq!(verify(&signed(&assembled(&items))), Err(CredentialError::Malformed), "claim {unknown}");
    }
    let mut reversed = items();
    reversed.reverse();
    assert_eq!(verify(&signed(&assembled(&reversed))), Err(CredentialError::Malformed));
}

#[test]
fn step_6_values_of_other_types() {
    // Times: negative, a float, NaN, a bignum of 2¹⁰⁰, a tagged time, text.
    let bad_times: [&[u8]; 6] = [
        &[0x20],
        &[0xfb, 0x41, 0xda, 0xd2, 0x74, 0x80, 0, 0, 0],
        &[0xf9, 0x7e, 0],
        &[0xc2, 0x4d, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0xc1, 0x1a, 0x6b, 0x49, 0xd2, 0],
        &[0x61, b'1'],
    ];
    for claim in [3, 4] {
        for value in bad_times {
            let mut items = items();
            items[claim].1 = value.to_vec();
            assert_eq!(verify(&signed(&assembled(&items))), Err(CredentialError::Malformed), "{}", hex::encode(value));
        }
    }
    let ed25519 = [&[0xa1, 0x01, 0xa3, 0x01, 0x01, 0x20, 0x06, 0x21, 0x58, 32][..], &[9; 32]].concat();
    let short = [&[0xa1, 0x01, 0xa3, 0x01, 0x01, 0x20, 0x04, 0x21, 0x58, 31][..], &[9; 31]].concat();
    let by_kid = vec![0xa1, 0x03, 0x41, 1];
    for (what, value) in [("another curve", ed25519), ("a short key", short), ("a key id", by_kid)] {
        let mut items = items();
        items[6].1 = value;
        assert_eq!(verify(&signed(&assembled(&items))), Err(CredentialError::Malformed), "{what}");
    }
    for audience in ["postern:", "postern:01/member", "01010101010101010101010101010101/member"] {
        let mut items = items();
        items[2].1 = minicbor::to_vec(audience).unwrap();
        assert_eq!(verify(&signed(&assembled(&items))), Err(CredentialError::Malformed), "{audience}");
    }
}

#[test]
fn step_7_one_encoding() {
    // The same claims with another encoding of something: a long integer, an upper-case identifier, unsorted attributes.
    let long_integer = vec![0x1b, 0, 0, 0, 0, 0x6b, 0x4b, 0x23, 0x80];
    let upper_case = minicbor::to_vec(Identifier::from_bytes([0xab; 32]).to_string().replace('a', "A")).unwrap();
    let unsorted = vec![0xa2, 0x62, b'a', b'a', 0x60, 0x61, b'b', 0x60];
    for (claim, value) in [(3, long_integer), (1, upper_case), (7, unsorted)] {
        let mut items = items();
        items[claim].1 = value;
        assert_eq!(verify(&signed(&assembled(&items))), Err(CredentialError::NotDeterministic), "claim {claim}");
    }
    let mut long_map = claims().encode();
    long_map.splice(..1, [0xb8, 8]);
    assert_eq!(verify(&signed(&long_map)), Err(CredentialError::NotDeterministic));
    // An attribute twice, an indefinite map, and no attributes where the claim is there.
    for value in [vec![0xa2, 0x61, b'a', 0x60, 0x61, b'a', 0x60], vec![0xbf, 0x61, b'a', 0x60, 0xff], vec![0xa0]] {
        let mut items = items();
        items[7].1 = value;
        assert_eq!(verify(&signed(&assembled(&items))), Err(CredentialError::Malformed));
    }
}

#[test]
fn step_8_limits_hold_where_issued_and_where_verified() {
    type Edit = fn(&mut Claims);
    let cases: [(Edit, ClaimsError); 10] = [
        (
            |c| drop(c.attributes.insert("postern-role".into(), "x".into())),
            AttributeError::Reserved { key: "postern-role".into() }.into(),
        ),
        (|c| drop(c.attributes.insert("a\0".into(), "x".into())), AttributeError::ControlInKey { key: "a\\0".into() }.into()),
        (|c| drop(c.attributes.insert("a".into(), "\u{1b}".into())), AttributeError::ControlInValue { key: "a".into() }.into()),
        (
            |c| drop(c.attributes.insert("a".into(), "v".repeat(257))),
            AttributeError::LongValue { key: "a".into(), len: 257 }.into(),
        ),
        (|c| c.audience = Audience::Relay, ClaimsError::AttributesForRelay),
        (|c| c.relay_names = vec!["db".parse().unwrap()], ClaimsError::RelayNamesForMember),
        (|c| c.expires = c.not_before, ClaimsError::EmptyValidity { not_before: NOW, expires: NOW }),
        (|c| c.expires = at(-1), ClaimsError::EmptyValidity { not_before: NOW, expires: at(-1) }),
        (|c| c.expires = at(7 * 86_400 + 1), ClaimsError::LongValidity { lifetime: at(7 * 86_400 + 1).since(NOW) }),
        (|c| c.confirmation = StaticPublic::from_bytes([0; 32]), ClaimsError::UnusableStatic),
    ];
    for (edit, error) in cases {
        let mut claims = claims();
        edit(&mut claims);
        assert_eq!(issue(&key(), &claims), Err(error.clone()));
        assert_eq!(verify(&unchecked(edit)), Err(CredentialError::Claims(error)));
    }
    assert!(issue(&key(), &Claims { expires: at(7 * 86_400), ..claims() }).is_ok());

    let too_many = |claims: &mut Claims| claims.attributes = (0..33).map(|i| (format!("a{i}"), String::new())).collect();
    let mut many = claims();
    too_many(&mut many);
    assert_eq!(issue(&key(), &many), Err(AttributeError::TooMany { count: 33 }.into()));
    assert_eq!(verify(&unchecked(too_many)), Err(CredentialError::Malformed), "not even read");

    let names = |count: usize| (0..count).map(|i| format!("relay-{i}").parse().unwrap()).collect::<Vec<_>>();
    assert!(issue(&key(), &Claims { relay_names: names(32), ..relay_claims() }).is_ok());
    let long = Claims { relay_names: names(33), ..relay_claims() };
    assert_eq!(issue(&key(), &long), Err(ClaimsError::TooManyRelayNames { count: 33 }));
}

#[test]
fn the_longest_credential_is_exact() {
    let full = |last: usize| {
        let mut claims = claims();
        claims.attributes = (0..9).map(|i| (format!("{i:064}"), "v".repeat(256))).collect();
        // Values of 24 to 255 bytes have a header of the same length.
        claims.attributes.insert("the-last-one".to_owned(), "v".repeat(last));
        issue(&key(), &claims)
    };
    let len = full(100).unwrap().len();
    let room = MAX_CREDENTIAL - len;
    assert!(room < 155, "the test fills what is left with one value: {room}");
    let longest = full(100 + room).unwrap();
    assert_eq!(longest.len(), MAX_CREDENTIAL);
    assert!(verify(&longest).is_ok());
    assert_eq!(full(101 + room), Err(ClaimsError::TooLarge { len: MAX_CREDENTIAL + 1 }));
}

#[test]
fn step_9_times_are_exact_and_the_error_names_the_difference() {
    let bytes = issue(&key(), &claims()).unwrap();
    let tolerance = CLOCK_TOLERANCE.as_secs() as i64;
    assert!(verify_at(&bytes, at(-tolerance + 1)).is_ok());
    assert!(verify_at(&bytes, at(-tolerance)).is_ok());
    let early = verify_at(&bytes, at(-tolerance - 1)).unwrap_err();
    assert!(matches!(early, CredentialError::NotYetValid { by, .. } if by.as_secs() == 61));
    assert_eq!(
        early.to_string(),
        "the credential is valid from 2027-01-15T08:00:00Z on, 61 s from now by the authority's clock (2027-01-15T07:58:59Z)"
    );
    assert!(verify_at(&bytes, at(86_400 + tolerance - 1)).is_ok());
    let late = verify_at(&bytes, at(86_400 + tolerance)).unwrap_err();
    assert!(matches!(late, CredentialError::Expired { by, .. } if by.as_secs() == 60));
    assert_eq!(
        late.to_string(),
        "the credential expired at 2027-01-16T08:00:00Z, 60 s ago by the authority's clock (2027-01-16T08:01:00Z)"
    );
    assert!(verify_at(&bytes, Timestamp::from_unix(u64::MAX)).is_err());
    assert!(verify_at(&bytes, Timestamp::from_unix(0)).is_err());
}

#[test]
fn step_10_issuer_project_and_audience() {
    let other = Identifier::from_bytes([7; 32]);
    assert_eq!(verify(&unchecked(|claims| claims.issuer = other)), Err(CredentialError::OtherIssuer(other)));
    let other = ProjectId::from_bytes([7; 16]);
    assert_eq!(verify(&unchecked(|claims| claims.project = other)), Err(CredentialError::OtherProject(other)));
    let relay = issue(&key(), &relay_claims()).unwrap();
    let error = CredentialError::OtherAudience { expected: Audience::Member, found: Audience::Relay };
    assert_eq!(verify(&relay), Err(error));
    let member = issue(&key(), &claims()).unwrap();
    let verifier = Verifier { ring: &ring(), voided: &Voided::default(), now: NOW };
    let error = CredentialError::OtherAudience { expected: Audience::Relay, found: Audience::Member };
    assert_eq!(verifier.verify(&member, Audience::Relay, Holder::Published), Err(error));
}

#[test]
fn step_11_holder() {
    let bytes = issue(&key(), &claims()).unwrap();
    let verifier = Verifier { ring: &ring(), voided: &Voided::default(), now: NOW };
    let thief = Holder::Handshake(StaticPublic::from_bytes([8; 32]));
    assert_eq!(verifier.verify(&bytes, Audience::Member, thief), Err(CredentialError::OtherHolder));
}

fn voiding(epoch: u64, entries: &[(Identifier, Timestamp)]) -> Voiding {
    let entries = entries.iter().map(|(member, not_before)| VoidEntry { member: *member, not_before: *not_before }).collect();
    Voiding { project: PROJECT, epoch, time: NOW, entries, since: epoch - 1 }
}

#[test]
fn step_12_voided() {
    let bytes = issue(&key(), &claims()).unwrap();
    let with = |limit: Timestamp| {
        let mut voided = Voided::default();
        voided.apply(&voiding(1, &[(MEMBER, limit)])).unwrap();
        Verifier { ring: &ring(), voided: &voided, now: NOW }.verify(&bytes, Audience::Member, Holder::Handshake(STATIC))
    };
    assert!(with(NOW).is_ok(), "not earlier than the limit");
    let limit = at(1);
    assert_eq!(with(limit), Err(CredentialError::Void { member: MEMBER, limit, not_before: NOW }));
    for for_ever in [VoidEntry::FOR_EVER, Timestamp::from_unix(u64::MAX)] {
        assert_eq!(with(for_ever), Err(CredentialError::Revoked(MEMBER)));
    }
}

#[test]
fn what_was_verified_is_checked_again() {
    let credential = verify(&issue(&key(), &claims()).unwrap()).unwrap();
    let mut voided = Voided::default();
    let recheck = |voided: &Voided, now| Verifier { ring: &ring(), voided, now }.recheck(&credential);
    assert_eq!(recheck(&voided, NOW), Ok(()));
    assert!(matches!(recheck(&voided, at(86_460)), Err(CredentialError::Expired { .. })));
    voided.apply(&voiding(1, &[(MEMBER, at(1))])).unwrap();
    assert!(matches!(recheck(&voided, NOW), Err(CredentialError::Void { .. })));
    let other = KeyRing::new(PROJECT, AUTHORITY, vec![ring_key(&signer(2))]).unwrap();
    let gone = Verifier { ring: &other, voided: &Voided::default(), now: NOW }.recheck(&credential);
    assert_eq!(gone, Err(CredentialError::UnknownKey(key().key_id())));
}

#[test]
fn of_a_member_voided_twice_the_last_counts_and_the_epoch_never_goes_back() {
    let mut voided = Voided::default();
    let other = Identifier::from_bytes([5; 32]);
    assert_eq!(voided.apply(&Voiding { since: 0, ..voiding(3, &[(MEMBER, VoidEntry::FOR_EVER)]) }), Ok(true));
    assert_eq!(voided.apply(&voiding(3, &[(MEMBER, VoidEntry::FOR_EVER)])), Ok(false), "again");
    assert_eq!(voided.apply(&voiding(2, &[(MEMBER, at(1))])), Err(VoidedError::Rollback { known: 3, got: 2 }));
    assert!(voided.is_revoked(&MEMBER));
    assert_eq!(voided.apply(&voiding(4, &[(MEMBER, at(5)), (other, at(1))])), Ok(true));
    assert_eq!(voided.not_before(&MEMBER), Some(at(5)), "it was admitted again");
    assert_eq!(voided.epoch(), 4);

    let stored = minicbor::to_vec(&voided).unwrap();
    assert_eq!(minicbor::decode::<Voided>(&stored).unwrap(), voided);
}

#[test]
fn a_revoked_member_is_refused_whatever_it_shows() {
    let mut voided = Voided::default();
    voided.apply(&voiding(1, &[(MEMBER, VoidEntry::FOR_EVER)])).unwrap();
    let (later, relay) = (at(86_000), Audience::Relay);
    let other_node = StaticPublic::from_bytes([7; 32]);
    let shown = [
        ("what it had", claims()),
        (
            "a renewed one",
            Claims { not_before: later, expires: later.plus(MAX_LIFETIME), id: CredentialId::random(), ..claims() },
        ),
        ("one of another node of its", Claims { confirmation: other_node, id: CredentialId::random(), ..claims() }),
        ("one for relays", Claims { audience: relay, attributes: Attributes::new(), ..claims() }),
    ];
    for (what, claims) in shown {
        let bytes = issue(&key(), &claims).unwrap();
        let verifier = Verifier { ring: &ring(), voided: &voided, now: claims.not_before };
        let holder = Holder::Handshake(claims.confirmation);
        assert_eq!(verifier.verify(&bytes, claims.audience, holder), Err(CredentialError::Revoked(MEMBER)), "{what}");
    }
    // The same in other bytes: none is believed, and none for another reason than it has.
    let bytes = issue(&key(), &claims()).unwrap();
    let verifier = Verifier { ring: &ring(), voided: &voided, now: NOW };
    for place in 0..bytes.len() {
        let mut other = bytes.clone();
        other[place] ^= 0x20;
        assert!(verifier.verify(&other, Audience::Member, Holder::Handshake(STATIC)).is_err());
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(verifier.verify(&longer, Audience::Member, Holder::Handshake(STATIC)).is_err());
}

#[test]
fn what_is_voided_is_kept_as_long_as_it_matters() {
    let mut voided = Voided::default();
    let other = Identifier::from_bytes([5; 32]);
    voided.apply(&voiding(1, &[(MEMBER, at(10)), (other, VoidEntry::FOR_EVER)])).unwrap();
    voided.forget_expired(NOW.plus(MAX_LIFETIME));
    assert!(voided.not_before(&MEMBER).is_some());
    voided.forget_expired(NOW.plus(MAX_LIFETIME).plus(CLOCK_TOLERANCE * 3));
    assert_eq!((voided.not_before(&MEMBER), voided.epoch()), (None, 1));
    assert!(voided.is_revoked(&other), "for ever");
}

#[test]
fn voidings_add_up_to_the_same_in_any_order() {
    let statements = [
        Voiding { since: 0, ..voiding(2, &[(MEMBER, at(5))]) },
        Voiding { since: 2, ..voiding(3, &[(MEMBER, VoidEntry::FOR_EVER)]) },
        Voiding { since: 3, ..voiding(5, &[(Identifier::from_bytes([5; 32]), at(1))]) },
        Voiding { since: 5, ..voiding(6, &[(MEMBER, at(9))]) },
    ];
    let mut in_order = Voided::default();
    for statement in &statements {
        in_order.apply(statement).unwrap();
    }
    // Two roads: one is some statements behind the other, and both are heard to the end.
    for order in [[3, 0, 1, 2, 3, 3], [1, 0, 1, 3, 2, 3], [0, 2, 1, 0, 2, 3], [2, 3, 0, 1, 2, 3]] {
        let mut voided = Voided::default();
        for number in order {
            let before = voided.epoch();
            match voided.apply(&statements[number]) {
                Ok(_) => {}
                Err(VoidedError::Rollback { known, got }) => assert!(known == before && got < known),
                Err(error) => panic!("{error}"),
            }
            assert!(voided.epoch() >= before);
        }
        assert_eq!(voided, in_order, "{order:?}");
    }
    // What lies in the gap is not refused as old.
    let mut gap = Voided::default();
    gap.apply(&statements[0]).unwrap();
    gap.apply(&statements[2]).unwrap();
    assert_eq!(gap.epoch(), 2);
    assert_eq!(gap.apply(&statements[1]), Ok(true));
    assert!(gap.is_revoked(&MEMBER));
}

/// An authority that was set back may say another thing under an epoch that it has used; a statement may name a member twice.
#[test]
fn of_two_truths_of_one_epoch_the_stricter_counts() {
    let (revoked, changed) = (voiding(4, &[(MEMBER, VoidEntry::FOR_EVER)]), voiding(4, &[(MEMBER, at(9))]));
    for order in [[&revoked, &changed], [&changed, &revoked]] {
        let mut voided = Voided::default();
        for statement in order {
            voided.apply(statement).unwrap();
        }
        assert!(voided.is_revoked(&MEMBER));
        assert_eq!(voided.apply(&changed), Ok(false), "it says nothing new");
    }
    let mut voided = Voided::default();
    let twice = voiding(4, &[(MEMBER, VoidEntry::FOR_EVER), (MEMBER, at(9))]);
    assert_eq!((voided.apply(&twice), voided.apply(&twice)), (Ok(true), Ok(false)));
    assert!(voided.is_revoked(&MEMBER));
}

#[test]
fn the_oldest_that_cannot_matter_make_room() {
    let member = |number: usize| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
        Identifier::from_bytes(bytes)
    };
    let mut voided = Voided::default();
    let entries: Vec<_> = (0..MAX_VOIDED).map(|number| (member(number), VoidEntry::FOR_EVER)).collect();
    voided.apply(&voiding(1, &entries)).unwrap();
    let one_more = voiding(2, &[(MEMBER, VoidEntry::FOR_EVER)]);
    assert_eq!(voided.apply(&one_more), Err(VoidedError::TooMany), "each of them may have a credential");
    let later = NOW.plus(MAX_LIFETIME * 2);
    assert_eq!(voided.apply(&Voiding { time: later, ..one_more }), Ok(true));
    assert!(voided.is_revoked(&MEMBER) && !voided.is_revoked(&member(0)) && voided.is_revoked(&member(1)));
}

#[test]
fn rings() {
    let make = |keys: Vec<RingKey>| KeyRing::new(PROJECT, AUTHORITY, keys).map(|_| ());
    let good = ring_key(&key());
    assert_eq!(make(vec![]), Err(RingError::Count { count: 0 }));
    let state = |seed| if seed == 1 { KeyState::Active } else { KeyState::Replaced };
    let keys = |count: u8| (1..=count).map(|seed| ring_key(&signer(seed)).in_state(state(seed))).collect::<Vec<_>>();
    assert_eq!(make(keys(8)), Ok(()));
    assert_eq!(make(keys(9)), Err(RingError::Count { count: 9 }));
    assert_eq!(make(vec![good.clone(), good.clone()]), Err(RingError::Duplicate { id: good.id }));
    // Two keys with one kid cannot be: the id is computed from the key.
    let twin = RingKey { id: good.id, ..ring_key(&signer(2)) };
    assert_eq!(make(vec![twin]), Err(RingError::Id { id: good.id, computed: signer(2).key_id() }));
    let id = KeyId::from_bytes([0; 8]);
    let weak = RingKey { id, public: SigningPublic::from_bytes([0; 32]), ..good.clone() };
    assert_eq!(make(vec![weak]), Err(RingError::Key { id, error: InvalidKey::LowOrder }));
    let never = RingKey { not_after: good.not_before, ..good.clone() };
    assert_eq!(make(vec![never]), Err(RingError::Times { id: good.id }));
    // It is one that signs.
    assert_eq!(make(vec![good.clone().in_state(KeyState::Prepared)]), Err(RingError::Active { count: 0 }));
    assert_eq!(make(vec![good, ring_key(&signer(2))]), Err(RingError::Active { count: 2 }));
}

#[test]
fn all_keys_of_a_ring_are_believed_and_none_that_left_it() {
    let states = [KeyState::Replaced, KeyState::Active, KeyState::Prepared];
    let ring = |seeds: &[u8]| {
        let keys = seeds.iter().map(|seed| ring_key(&signer(*seed)).in_state(states[usize::from(*seed) - 1]));
        KeyRing::new(PROJECT, AUTHORITY, keys.collect()).unwrap()
    };
    let credential = |seed| issue(&signer(seed), &claims()).unwrap();
    let (all, later) = (ring(&[1, 2, 3]), ring(&[2, 3]));
    let voided = Voided::default();
    let by = |ring| Verifier { ring, voided: &voided, now: NOW };
    for seed in 1..=3 {
        let verified = by(&all).verify(&credential(seed), Audience::Member, Holder::Handshake(STATIC)).unwrap();
        assert_eq!(all.is_active(verified.signing_key()), seed == 2);
        let gone = Err(CredentialError::UnknownKey(signer(1).key_id()));
        assert_eq!(by(&later).recheck(&verified), if seed == 1 { gone.clone() } else { Ok(()) });
        let again = by(&later).verify(&credential(seed), Audience::Member, Holder::Handshake(STATIC)).map(drop);
        assert_eq!(again, if seed == 1 { gone } else { Ok(()) });
    }
    assert!(all.has_keys_of(&later) && !later.has_keys_of(&all) && all.has_keys_of(&all));
}

#[test]
fn every_changed_byte_of_a_credential_is_refused() {
    let good = issue(&key(), &claims()).unwrap();
    for position in 0..good.len() {
        for change in [1, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[position] ^= change;
            assert!(verify(&bad).is_err(), "byte {position} ^ {change:#x}");
        }
    }
    for len in 0..good.len() {
        assert!(verify(&good[..len]).is_err(), "cut at {len}");
    }
}

proptest! {
    #[test]
    fn any_claims_are_refused_or_verify_to_what_they_say(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(verify(&signed(&payload)).is_err());
        prop_assert!(verify(&payload).is_err());
    }

    #[test]
    fn changed_claims_are_refused_even_where_signed(position in 0usize..1000, byte in any::<u8>()) {
        let mut payload = claims().encode();
        let position = position % payload.len();
        payload[position] = byte;
        // Signed, so what it says is what the authority says: it is taken as such, or refused, and never means what it does not say.
        if let Ok(credential) = verify(&signed(&payload)) {
            prop_assert_eq!(credential.claims().encode(), payload);
        }
    }

    #[test]
    fn what_is_issued_verifies(
        attributes in proptest::collection::btree_map("[a-z][a-z0-9._é-]{0,20}", "[^\\p{C}\\p{Zl}\\p{Zp}]{0,20}", 0..20),
        names in proptest::collection::vec("[a-z0-9]{1,20}", 0..20),
        lifetime in 1i64..604_800,
    ) {
        let attributes: Attributes = attributes.into_iter().filter(|(key, _)| !key.starts_with(RESERVED_PREFIX)).collect();
        let member = Claims { attributes: attributes.clone(), expires: at(lifetime), ..claims() };
        let verified = verify(&issue(&key(), &member).unwrap()).unwrap();
        prop_assert_eq!(verified.attributes(), &attributes);
        let names: Vec<crate::name::RelayName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let relay = issue(&key(), &Claims { relay_names: names.clone(), ..relay_claims() }).unwrap();
        let verifier = Verifier { ring: &ring(), voided: &Voided::default(), now: NOW };
        let verified = verifier.verify(&relay, Audience::Relay, Holder::Published).unwrap();
        prop_assert!(names.iter().all(|name| verified.relay_names().contains(name)));
    }
}
