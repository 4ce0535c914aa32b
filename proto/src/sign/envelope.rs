//! The envelope of every signed statement. Bytes are checked for shape and lengths without allocating before `coset`, which
//! builds a tree of them, sees them.

use coset::cbor::value::Value;
use coset::{Algorithm, CoseSign1, CoseSign1Builder, Header, HeaderBuilder, Label, TaggedCborSerializable, iana};
use minicbor::Decoder;
use minicbor::data::Tag;

use super::{PublicKey, Purpose, SignError, SigningKey};
use crate::id::KeyId;

/// Label of `typ` in a COSE header (RFC 9596).
const TYP: i64 = 16;

/// Longest protected header that is looked at: `alg`, `kid` and the longest `typ` need 56 bytes. It also bounds how deep a
/// header can be nested.
const MAX_PROTECTED: usize = 80;

const SIGNATURE_LEN: usize = 64;

fn header(purpose: Purpose, key_id: KeyId) -> Header {
    HeaderBuilder::new()
        .algorithm(iana::Algorithm::Ed25519)
        .key_id(key_id.as_bytes().to_vec())
        .value(TYP, Value::Text(purpose.typ().to_owned()))
        .build()
}

fn encode(sign1: CoseSign1) -> Vec<u8> {
    sign1.to_tagged_vec().expect("a map of three different labels, written to memory")
}

pub(super) fn seal(purpose: Purpose, key: &SigningKey, payload: &[u8]) -> Vec<u8> {
    let sign1 = CoseSign1Builder::new()
        .protected(header(purpose, key.key_id()))
        .payload(payload.to_vec())
        .create_signature(purpose.context().as_bytes(), |message| key.sign_raw(message).to_vec())
        .build();
    encode(sign1)
}

/// Signed bytes of the right size, shape and type, whose signature was not looked at.
pub(crate) struct Envelope<'a> {
    received: &'a [u8],
    purpose: Purpose,
    key_id: KeyId,
    signature: [u8; SIGNATURE_LEN],
    sign1: CoseSign1,
}

impl<'a> Envelope<'a> {
    /// Checks the size, the tag, and that the headers are those of `purpose`.
    pub(crate) fn parse(purpose: Purpose, received: &'a [u8]) -> Result<Self, SignError> {
        let max = purpose.max_len();
        if received.len() > max {
            return Err(SignError::TooLarge { len: received.len(), max });
        }
        let signature = check_shape(received)?;
        let sign1 = CoseSign1::from_tagged_slice(received).map_err(|_| SignError::ProtectedHeader)?;
        let key_id = check_header(purpose, &sign1.protected.header)?;
        Ok(Self { received, purpose, key_id, signature, sign1 })
    }

    /// The key that it says it was signed by.
    pub(crate) fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The payload, which proves nothing yet.
    pub(crate) fn into_unverified_payload(self) -> Vec<u8> {
        self.sign1.payload.unwrap_or_default()
    }

    /// Verifies the signature over the received bytes, then that the envelope has its one encoding. Returns the payload.
    pub(crate) fn open(self, key: &PublicKey) -> Result<Vec<u8>, SignError> {
        if !key.verify_raw(&self.sign1.tbs_data(self.purpose.context().as_bytes()), &self.signature) {
            return Err(SignError::Signature);
        }
        let payload = self.sign1.payload.ok_or(SignError::NotSigned)?;
        let again = CoseSign1Builder::new()
            .protected(header(self.purpose, self.key_id))
            .payload(payload)
            .signature(self.signature.to_vec())
            .build();
        let payload = again.payload.clone().unwrap_or_default();
        if encode(again) != self.received {
            return Err(SignError::NotDeterministic);
        }
        Ok(payload)
    }
}

/// That `received` is `18([bytes, map, bytes, 64 bytes])` and nothing else; returns the signature. Allocates nothing and does
/// not recurse.
fn check_shape(received: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignError> {
    let malformed = |_: minicbor::decode::Error| SignError::NotSigned;
    let mut decoder = Decoder::new(received);
    if decoder.tag().map_err(malformed)? != Tag::new(18) || decoder.array().map_err(malformed)? != Some(4) {
        return Err(SignError::NotSigned);
    }
    if decoder.bytes().map_err(malformed)?.len() > MAX_PROTECTED {
        return Err(SignError::ProtectedHeader);
    }
    if decoder.map().map_err(malformed)? != Some(0) {
        return Err(SignError::UnprotectedHeader);
    }
    decoder.bytes().map_err(malformed)?;
    let signature = decoder.bytes().map_err(malformed)?.try_into().map_err(|_| SignError::NotSigned)?;
    if decoder.position() != received.len() {
        return Err(SignError::NotSigned);
    }
    Ok(signature)
}

fn check_header(purpose: Purpose, header: &Header) -> Result<KeyId, SignError> {
    let Header { alg, crit, content_type, key_id, iv, partial_iv, counter_signatures, rest } = header;
    let [(Label::Int(TYP), Value::Text(typ))] = rest.as_slice() else { return Err(SignError::ProtectedHeader) };
    let others =
        content_type.is_some() || !(crit.is_empty() && iv.is_empty() && partial_iv.is_empty() && counter_signatures.is_empty());
    let Ok(key_id) = <[u8; KeyId::LEN]>::try_from(key_id.as_slice()) else { return Err(SignError::ProtectedHeader) };
    if others {
        return Err(SignError::ProtectedHeader);
    }
    if *alg != Some(Algorithm::Assigned(iana::Algorithm::Ed25519)) {
        return Err(SignError::Algorithm);
    }
    if typ != purpose.typ() {
        return Err(SignError::Type { expected: purpose });
    }
    Ok(KeyId::from_bytes(key_id))
}
