//! A sealed file: `PSTNSEAL` ‖ version ‖ nonce ‖ XChaCha20-Poly1305 of the secret (draft-irtf-cfrg-xchacha-03). Nonces are random; of 192 bits they never
//! repeat. The associated data is the header with the file's place in the home, so that no file is taken for another.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use postern_proto::secret::random_array;
use zeroize::Zeroizing;

use super::HomeKey;

/// No secret begins so: they are random bytes of a fixed length, CBOR maps, and tickets.
const MAGIC: &[u8; 8] = b"PSTNSEAL";
const VERSION: u8 = 1;
const HEADER: usize = MAGIC.len() + 1;
const NONCE: usize = 24;
const TAG: usize = 16;
/// By how much a sealed file is longer than its secret.
pub const OVERHEAD: usize = HEADER + NONCE + TAG;

pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

pub fn seal(key: &HomeKey, place: &str, secret: &[u8]) -> Zeroizing<Vec<u8>> {
    let nonce: [u8; NONCE] = random_array();
    let mut sealed = Zeroizing::new(Vec::with_capacity(secret.len() + OVERHEAD));
    sealed.extend_from_slice(MAGIC);
    sealed.push(VERSION);
    sealed.extend_from_slice(&nonce);
    let bound = associated(place);
    let cipher = XChaCha20Poly1305::new(key.expose_secret().into());
    let body = cipher.encrypt(XNonce::from_slice(&nonce), Payload { msg: secret, aad: &bound });
    // It fails for what is longer than 256 GiB only.
    sealed.extend_from_slice(&body.unwrap_or_default());
    sealed
}

/// `None` where it was not sealed with this key for this place.
pub fn open(key: &HomeKey, place: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let body = sealed.strip_prefix(MAGIC)?.strip_prefix(&[VERSION])?;
    let (nonce, body) = body.split_at_checked(NONCE)?;
    let cipher = XChaCha20Poly1305::new(key.expose_secret().into());
    let bound = associated(place);
    cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: body, aad: &bound }).ok().map(Zeroizing::new)
}

fn associated(place: &str) -> Vec<u8> {
    [MAGIC, &[VERSION][..], place.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use postern_proto::secret::SecretBytes;

    use super::*;

    #[test]
    fn opens_only_where_it_was_sealed() {
        let key = SecretBytes::new([7; 32]);
        let sealed = seal(&key, "nodes/a/static", b"secret");
        assert!(is_sealed(&sealed) && sealed.len() == 6 + OVERHEAD);
        assert_eq!(open(&key, "nodes/a/static", &sealed).unwrap().as_slice(), b"secret");
        assert!(open(&key, "nodes/b/static", &sealed).is_none(), "brought from another place");
        assert!(open(&SecretBytes::new([8; 32]), "nodes/a/static", &sealed).is_none());
        assert_ne!(*sealed, *seal(&key, "nodes/a/static", b"secret"), "a nonce of its own");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&key, "nodes/a/static", &changed).is_none(), "byte {at}");
            assert!(open(&key, "nodes/a/static", &sealed[..at]).is_none(), "cut at {at}");
        }
    }
}
