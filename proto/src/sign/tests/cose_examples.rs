//! The examples of the COSE working group (<https://github.com/cose-wg/Examples>, `sign1-tests`) that must fail, and what was done to each
//! done to statements of our own.

use super::*;

/// `sign-fail-01` to `-04`, `-06` and `-07`, and `sign-pass-01`, which is right. All are ES256, so that none is a statement here.
const PUBLISHED: [(&str, SignError, &str); 7] = [
    (
        "wrong tag",
        SignError::NotSigned,
        "D903E68443A10126A10442313154546869732069732074686520636F6E74656E742E5840EAE868ECC176883766C5DC5BA5B8DCA25DAB3C2E56A551CE5705B793914348E1\
         9F43D6C6BA654472DA301B645B293C9BA939295B97C4BDB847782BFF384C5794",
    ),
    (
        "changed content",
        SignError::UnprotectedHeader,
        "D28443A10126A10442313154546869732069732074686520636F6E74656E742F5840EAE868ECC176883766C5DC5BA5B8DCA25DAB3C2E56A551CE5705B793914348E1\
         9F43D6C6BA654472DA301B645B293C9BA939295B97C4BDB847782BFF384C5794",
    ),
    (
        "another algorithm",
        SignError::UnprotectedHeader,
        "D28445A1013903E6A10442313154546869732069732074686520636F6E74656E742E5840EAE868ECC176883766C5DC5BA5B8DCA25DAB3C2E56A551CE5705B7939143\
         48E19F43D6C6BA654472DA301B645B293C9BA939295B97C4BDB847782BFF384C5794",
    ),
    (
        "an algorithm that is a text",
        SignError::UnprotectedHeader,
        "D2844AA10167756E6B6E6F776EA10442313154546869732069732074686520636F6E74656E742E5840EAE868ECC176883766C5DC5BA5B8DCA25DAB3C2E56A551CE57\
         05B793914348E19F43D6C6BA654472DA301B645B293C9BA939295B97C4BDB847782BFF384C5794",
    ),
    (
        "an attribute more",
        SignError::UnprotectedHeader,
        "D28445A201260300A10442313154546869732069732074686520636F6E74656E742E5840EAE868ECC176883766C5DC5BA5B8DCA25DAB3C2E56A551CE5705B7939143\
         48E19F43D6C6BA654472DA301B645B293C9BA939295B97C4BDB847782BFF384C5794",
    ),
    (
        "an attribute less",
        SignError::UnprotectedHeader,
        "D28443A10126A10442313154546869732069732074686520636F6E74656E742E5840EAE868ECC176883766C5DC5BA5B8DCA25DAB3C2E56A551CE5705B793914348E1\
         72727F48461FABBBA2E343492DDECAC3983686250BC68E9F1A7A07D41225B59F",
    ),
    (
        "nothing wrong but ES256",
        SignError::UnprotectedHeader,
        "D28441A0A201260442313154546869732069732074686520636F6E74656E742E5840EAE868ECC176883766C5DC5BA5B8DCA25DAB3C2E56A551CE5705B793914348E1\
         1A02E5F0344BF2D4EE5C7FD75A68A9F5E0B3CC1F1FC1409C189566586FF9D610",
    ),
];

#[test]
fn the_published_ones_are_refused() {
    for (what, error, text) in PUBLISHED {
        let signed = hex::decode(text).unwrap();
        for purpose in Purpose::ALL {
            assert_eq!(verify(purpose, &key(1).public(), &signed), Err(error), "{what}, as {purpose:?}");
        }
        assert!(peek_key_id(&signed).is_err(), "{what}");
    }
}

/// A protected header of these parameters; `alg` and what is `more` are encoded.
fn header(count: u64, alg: &[u8], kid: KeyId, typ: Option<&str>, more: &[u8]) -> Vec<u8> {
    let mut out = cbor(|e| {
        e.map(count).unwrap().i64(1).unwrap();
    });
    out.extend_from_slice(alg);
    out.extend(cbor(|e| {
        e.i64(4).unwrap().bytes(kid.as_bytes()).unwrap();
        if let Some(typ) = typ {
            e.i64(16).unwrap().str(typ).unwrap();
        }
    }));
    out.extend_from_slice(more);
    out
}

/// Signed as one thing and shown as another. What has the right headers in the end is refused by its signature, and everything else before.
#[test]
fn what_they_do_is_refused_of_our_statements() {
    let key = key(1);
    let (kid, public, payload) = (key.key_id(), key.public(), b"payload");
    let (ed25519, eddsa, unassigned, text) = ([0x32], [0x27], [0x39, 0x03, 0xe6], *b"\x67unknown");
    let content_type = [0x03, 0x00];
    for (index, purpose) in Purpose::ALL.into_iter().enumerate() {
        let other = Purpose::ALL[(index + 1) % Purpose::ALL.len()];
        let typ = Some(purpose.typ());
        let right = header(3, &ed25519, kid, typ, &[]);
        let unsorted = cbor(|e| {
            e.map(3).unwrap().i64(4).unwrap().bytes(kid.as_bytes()).unwrap().i64(1).unwrap().i64(-19).unwrap();
            e.i64(16).unwrap().str(purpose.typ()).unwrap();
        });
        let shown = |signed_as: &[u8], shown_as: &[u8]| {
            let signature = key.sign_raw(&to_be_signed(purpose, signed_as, payload));
            verify(purpose, &public, &envelope(shown_as, &[0xa0], payload, &signature))
        };
        assert_eq!(shown(&right, &right), Ok(payload.to_vec()), "{purpose:?}: untouched");
        assert_eq!(right, protected(-19, kid.as_bytes(), purpose.typ()));

        let signature = key.sign_raw(&to_be_signed(purpose, &right, payload));
        let good = envelope(&right, &[0xa0], payload, &signature);
        let wrong_tag = [&[0xd9, 0x03, 0xe6], &good[1..]].concat();
        assert_eq!(verify(purpose, &public, &wrong_tag), Err(SignError::NotSigned), "{purpose:?}: fail-01");
        let changed = envelope(&right, &[0xa0], b"payloae", &signature);
        assert_eq!(verify(purpose, &public, &changed), Err(SignError::Signature), "{purpose:?}: fail-02");
        for at in [0, 31, 32, 63] {
            let mut signature = signature;
            signature[at] ^= 1;
            let changed = envelope(&right, &[0xa0], payload, &signature);
            assert_eq!(verify(purpose, &public, &changed), Err(SignError::Signature), "{purpose:?}: signature byte {at}");
        }

        let wrong_type = SignError::Type { expected: purpose };
        for (what, with, error) in [
            ("fail-03: an algorithm that nobody registered", header(3, &unassigned, kid, typ, &[]), SignError::ProtectedHeader),
            ("fail-03: EdDSA, which is the same mathematics", header(3, &eddsa, kid, typ, &[]), SignError::Algorithm),
            ("fail-04: an algorithm that is a text", header(3, &text, kid, typ, &[]), SignError::Algorithm),
            ("another type", header(3, &ed25519, kid, Some(other.typ()), &[]), wrong_type),
            ("fail-06: an attribute more", header(4, &ed25519, kid, typ, &content_type), SignError::ProtectedHeader),
            ("fail-07: an attribute less", header(2, &ed25519, kid, None, &[]), SignError::ProtectedHeader),
            ("protected again, in another order", unsorted, SignError::Signature),
            ("protected again, as an empty map", vec![0xa0], SignError::ProtectedHeader),
        ] {
            assert_eq!(shown(&right, &with), Err(error), "{purpose:?}: {what}");
            assert_eq!(shown(&with, &right), Err(SignError::Signature), "{purpose:?}: {what}, before it was signed");
        }
        // A map, and not the bytes of one.
        let bare = [&[0xd2, 0x84], &right[..], &envelope(&[], &[0xa0], payload, &signature)[3..]].concat();
        assert_eq!(verify(purpose, &public, &bare), Err(SignError::NotSigned), "{purpose:?}: not protected");
    }
}
