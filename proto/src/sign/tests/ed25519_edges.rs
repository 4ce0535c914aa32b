//! Where implementations of Ed25519 differ: points of low order, other encodings of them, and equations that hold only up to the cofactor.
//!
//! What [`verify`] promises is *strict* verification (`verify_strict` of ed25519-dalek, behind the checks of [`PublicKey`]). It refuses a key
//! or an R of low order, in whatever encoding; every other encoding than the canonical one; S ≥ L; and what satisfies the equation only
//! after multiplication by the cofactor. So a signature cannot be changed into another one, and none fits two messages or two keys. It
//! accepts a key or an R that has a part of low order beside one of high order, where the equation holds exactly: only who has the secret
//! can make such a signature, such a key is merely another key with its own id, and `R` is hashed as it stands.

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use sha2::{Digest, Sha256, Sha512};

use super::*;

/// What the library accepts without strictness.
fn permissive(public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(public).is_ok_and(|key| key.verify(message, &Signature::from_bytes(signature)).is_ok())
}

/// Cases 0 to 9 of an earlier edition of <https://github.com/novifinancial/ed25519-speccheck> ("Taming the many EdDSAs", 2020/1244), and 8 to 11
/// of the last, which differ. Each with what strict and permissive verification say.
const SPECCHECK: [(bool, bool, &str); 14] = [
    (false, true, "A and R of low order, S = 0: an eighth of all messages, without any secret"),
    (false, true, "A of low order, R mixed: likewise"),
    (false, true, "R of low order, A mixed"),
    (true, true, "A and R mixed, and the equation holds exactly: no malleability, and made by who has the secret"),
    (false, false, "A and R mixed: holds only times the cofactor"),
    (false, false, "A mixed: holds only times the cofactor, and not if 8k is reduced first"),
    (false, false, "S > L"),
    (false, false, "S far above L"),
    (false, false, "R not canonical, of low order, and hashed in canonical form"),
    (false, false, "R not canonical, of low order, and hashed as it is"),
    (false, false, "R = (0, −1) with the sign of x, and hashed in canonical form"),
    (false, false, "R = (0, −1) with the sign of x, and hashed as it is"),
    (false, false, "A = (0, −1) with the sign of x, and hashed in canonical form"),
    (false, true, "A = (0, −1) with the sign of x, and hashed as it is"),
];

#[test]
fn speccheck() {
    #[derive(serde::Deserialize)]
    struct Case {
        message: String,
        pub_key: String,
        signature: String,
    }
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../../tests/vectors/ed25519-speccheck.json")).unwrap();
    assert_eq!(cases.len(), SPECCHECK.len());
    for (case, (strict, loose, why)) in cases.iter().zip(SPECCHECK) {
        let message = hex::decode(&case.message).unwrap();
        let public: [u8; 32] = hex::decode(&case.pub_key).unwrap().try_into().unwrap();
        let signature: [u8; 64] = hex::decode(&case.signature).unwrap().try_into().unwrap();
        let ours = PublicKey::try_from(SigningPublic::from_bytes(public)).is_ok_and(|key| key.verify_raw(&message, &signature));
        assert_eq!((ours, permissive(&public, &message, &signature)), (strict, loose), "{why}");
    }
}

/// The other encodings of points of low order that decoders accept: y ≥ p, and x = 0 with its sign.
fn other_encodings() -> [[u8; 32]; 6] {
    let (mut one, mut minus_one) = ([0; 32], [0xff; 32]);
    (one[0], one[31], minus_one[0]) = (1, 0x80, 0xec);
    let above = |first, last| {
        let mut bytes = [0xff; 32];
        (bytes[0], bytes[31]) = (first, last);
        bytes
    };
    [above(0xed, 0x7f), above(0xed, 0xff), above(0xee, 0x7f), above(0xee, 0xff), one, minus_one]
}

/// A key or an R: `scalar`·B and `torsion` times a point of order 8.
struct Point {
    bytes: [u8; 32],
    canonical: [u8; 32],
    scalar: Scalar,
    torsion: u8,
}

impl Point {
    /// Every point of low order in every encoding, and `scalar`·B with every part of low order, and without.
    fn all(scalar: Scalar) -> Vec<Self> {
        let of = |bytes: [u8; 32], scalar: Scalar| {
            let point = CompressedEdwardsY(bytes).decompress().unwrap();
            let low = point - EdwardsPoint::mul_base(&scalar);
            let torsion = EIGHT_TORSION.iter().position(|torsion| *torsion == low).unwrap() as u8;
            Self { bytes, canonical: point.compress().to_bytes(), scalar, torsion }
        };
        let canonical = EIGHT_TORSION.map(|torsion| torsion.compress().to_bytes());
        let low = canonical.into_iter().chain(other_encodings()).map(|bytes| of(bytes, Scalar::ZERO));
        let high = EIGHT_TORSION.map(|torsion| of((EdwardsPoint::mul_base(&scalar) + torsion).compress().to_bytes(), scalar));
        low.chain(high).collect()
    }

    fn is_low(&self) -> bool {
        self.scalar == Scalar::ZERO
    }

    fn is_canonical(&self) -> bool {
        self.bytes == self.canonical
    }
}

/// A statement whose signature satisfies the equation times the cofactor.
struct Crafted {
    payload: [u8; 2],
    /// What is signed.
    message: Vec<u8>,
    signature: [u8; 64],
    k: Scalar,
}

/// By which flags of the C2SP CCTV vectors a case is told: `low_order_residue`, and `reencoded_k`. The others are those of the points.
#[derive(Debug, Clone, Copy)]
struct Flags {
    residue: bool,
    reencoded: bool,
}

fn protected_for(purpose: Purpose, public: &[u8; 32]) -> Vec<u8> {
    protected(-19, &Sha256::digest(public)[..KeyId::LEN], purpose.typ())
}

/// A statement with these points, or none where there is none with these flags.
fn craft(purpose: Purpose, a: &Point, r: &Point, flags: Flags) -> Option<Crafted> {
    let residue = |k: u8| !(r.torsion + k * a.torsion).is_multiple_of(8);
    if !(0..8).any(|k| residue(k) == flags.residue) || (flags.reencoded && a.is_canonical() && r.is_canonical()) {
        return None;
    }
    let header = protected_for(purpose, &a.bytes);
    let (hashed_r, hashed_a) = if flags.reencoded { (r.canonical, a.canonical) } else { (r.bytes, a.bytes) };
    (0..u16::MAX).find_map(|number| {
        let payload = number.to_be_bytes();
        let message = to_be_signed(purpose, &header, &payload);
        let k = challenge(&hashed_r, &hashed_a, &message);
        if residue(k.as_bytes()[0] % 8) != flags.residue {
            return None;
        }
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&r.bytes);
        signature[32..].copy_from_slice((r.scalar + k * a.scalar).as_bytes());
        Some(Crafted { payload, message, signature, k })
    })
}

fn challenge(r: &[u8; 32], a: &[u8; 32], message: &[u8]) -> Scalar {
    let digest = Sha512::new().chain_update(r).chain_update(a).chain_update(message).finalize();
    Scalar::from_bytes_mod_order_wide(&digest.into())
}

/// Whether 8·S·B = 8·R + 8·k·A.
fn holds_times_the_cofactor(a: &Point, r: &Point, crafted: &Crafted) -> bool {
    let point = |bytes| CompressedEdwardsY(bytes).decompress().unwrap();
    let s = Scalar::from_canonical_bytes(crafted.signature[32..].try_into().unwrap()).unwrap();
    (EdwardsPoint::mul_base(&s) - point(r.bytes) - point(a.bytes) * crafted.k).mul_by_cofactor().is_identity()
}

/// The kinds of case of <https://github.com/C2SP/CCTV> (`ed25519`), all of them: every key with every R, with and without what is left of low
/// order, hashed as they are and in canonical form; as a statement of every purpose.
#[test]
fn every_combination_of_low_order_and_encoding() {
    let (keys, nonces) = (Point::all(Scalar::from(0x1234_5678_u64)), Point::all(Scalar::from(0x8765_4321_u64)));
    assert_eq!((keys.len(), nonces.len()), (22, 22));
    let (mut accepted, mut refused, mut loose) = (0, 0, 0);
    let flags =
        [(false, false), (true, false), (false, true), (true, true)].map(|(residue, reencoded)| Flags { residue, reencoded });
    for (a, r) in keys.iter().flat_map(|a| nonces.iter().map(move |r| (a, r))) {
        let public = PublicKey::try_from(SigningPublic::from_bytes(a.bytes));
        assert_eq!(public.is_err(), a.is_low(), "a key of low order is none, in no encoding");
        for (flags, purpose) in flags.into_iter().flat_map(|flags| Purpose::ALL.map(|purpose| (flags, purpose))) {
            let Some(crafted) = craft(purpose, a, r, flags) else { continue };
            let signed = envelope(&protected_for(purpose, &a.bytes), &[0xa0], &crafted.payload, &crafted.signature);
            let case = || format!("{purpose:?} {flags:?} A {} R {}", hex::encode(a.bytes), hex::encode(r.bytes));
            let verdict = public.as_ref().ok().map(|public| verify(purpose, public, &signed));
            // That nothing else is wrong with it.
            if purpose == Purpose::Credential {
                assert!(holds_times_the_cofactor(a, r, &crafted), "{}", case());
                let would = permissive(&a.bytes, &crafted.message, &crafted.signature);
                // Non-canonical points have low order, so that the part of high order fits whatever is hashed.
                let k = challenge(&r.bytes, &a.bytes, &crafted.message).as_bytes()[0] % 8;
                assert_eq!(would, r.is_canonical() && (r.torsion + k * a.torsion).is_multiple_of(8), "{}", case());
                loose += usize::from(would && !matches!(verdict, Some(Ok(_))));
            }
            if a.is_low() || r.is_low() || flags.residue || flags.reencoded {
                assert!(matches!(verdict, None | Some(Err(SignError::Signature))), "{}: {verdict:?}", case());
                refused += 1;
            } else {
                assert_eq!(verdict, Some(Ok(crafted.payload.to_vec())), "{}", case());
                accepted += 1;
            }
        }
    }
    println!("{accepted} accepted, {refused} refused, of which the library would take {loose} of credentials");
    assert!(accepted > 200 && refused > 4_000 && loose > 100);
}
