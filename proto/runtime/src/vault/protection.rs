//! The file `protection`: the home key, sealed under what argon2id makes of the passphrase.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use postern_proto::secret::{SecretBytes, random_array};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{HomeKey, Passphrase};

const VERSION: u8 = 1;
const ALGORITHM: &str = "argon2id";
/// RFC 9106, section 4, second recommended option: 64 MiB, 3 passes, 4 lanes, a salt of 128 bits. The first one takes 2 GiB, which the small
/// machines that nodes run on do not have, and every command that acts as the identity would take.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;
const SALT: usize = 16;
/// What is read: whoever changes the file must not make a daemon take all memory or days.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 16;
const MAX_LANES: u32 = 16;
const NONCE: usize = 24;
const CONTEXT: &str = "postern home key";

/// How far the secrets of a protected home are sealed. It is bound to the sealed home key, so nobody without the passphrase can change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All of them are.
    Whole,
    /// Some may not be: the home is being protected, or opened for good, or that was interrupted.
    Changing,
}

#[derive(Debug, thiserror::Error)]
pub enum ProtectionError {
    #[error("{0}")]
    Malformed(String),
    #[error("it is of version {0}, which this program does not know")]
    Version(u8),
    #[error("its parameters cannot be used: {0}")]
    Parameters(String),
}

/// The content of the file. Nothing in it is secret without the passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protection {
    version: u8,
    state: State,
    algorithm: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    /// In hexadecimal digits, as the two below.
    salt: String,
    nonce: String,
    /// The home key, sealed.
    key: String,
}

/// What the text of the file stands for, within its limits.
struct Parts {
    params: Params,
    salt: [u8; SALT],
    nonce: [u8; NONCE],
    sealed: Vec<u8>,
}

/// What the passphrase became.
type Kek = SecretBytes<32>;

/// A home key together with what seals it, by which the state can be changed.
pub struct Unlocked {
    pub key: HomeKey,
    kek: Kek,
    protection: Protection,
}

impl Protection {
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtectionError> {
        let protection: Self = serde_json::from_slice(bytes).map_err(|error| ProtectionError::Malformed(error.to_string()))?;
        if protection.version != VERSION {
            return Err(ProtectionError::Version(protection.version));
        }
        protection.parts()?;
        Ok(protection)
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    pub const fn state(&self) -> State {
        self.state
    }

    fn parts(&self) -> Result<Parts, ProtectionError> {
        if self.algorithm != ALGORITHM {
            return Err(ProtectionError::Parameters(format!("`{}` is not {ALGORITHM}", self.algorithm)));
        }
        if self.memory_kib > MAX_MEMORY_KIB || self.passes > MAX_PASSES || self.lanes > MAX_LANES {
            let limits = format!("more than {MAX_MEMORY_KIB} KiB, {MAX_PASSES} passes or {MAX_LANES} lanes");
            return Err(ProtectionError::Parameters(limits));
        }
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32));
        let params = params.map_err(|error| ProtectionError::Parameters(error.to_string()))?;
        let malformed = |error: hex::FromHexError| ProtectionError::Malformed(error.to_string());
        let (mut salt, mut nonce) = ([0; SALT], [0; NONCE]);
        hex::decode_to_slice(&self.salt, &mut salt).map_err(malformed)?;
        hex::decode_to_slice(&self.nonce, &mut nonce).map_err(malformed)?;
        Ok(Parts { params, salt, nonce, sealed: hex::decode(&self.key).map_err(malformed)? })
    }

    /// All that is said beside the sealed key.
    fn associated(&self) -> String {
        let Self { version, state, algorithm, memory_kib, passes, lanes, salt, .. } = self;
        format!("{CONTEXT}|{version}|{state:?}|{algorithm}|{memory_kib}|{passes}|{lanes}|{salt}")
    }

    /// The home key; `None` where this is another passphrase, or the file was changed.
    pub fn unlock(&self, passphrase: &Passphrase) -> Result<Option<Unlocked>, ProtectionError> {
        let Parts { params, salt, nonce, sealed } = self.parts()?;
        let kek = stretch(passphrase, &salt, params)?;
        let bound = self.associated();
        let cipher = XChaCha20Poly1305::new(kek.expose_secret().into());
        let opened = cipher.decrypt(XNonce::from_slice(&nonce), Payload { msg: &sealed, aad: bound.as_bytes() });
        let Some(opened) = opened.ok().map(Zeroizing::new) else { return Ok(None) };
        let Ok(key) = <[u8; 32]>::try_from(opened.as_slice()) else { return Ok(None) };
        Ok(Some(Unlocked { key: SecretBytes::new(key), kek, protection: self.clone() }))
    }
}

impl Unlocked {
    /// `key` under a new passphrase.
    ///
    /// # Errors
    /// Where the memory for it cannot be had.
    pub fn new(passphrase: &Passphrase, key: HomeKey) -> Result<Self, ProtectionError> {
        let salt: [u8; SALT] = random_array();
        let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(32));
        let kek = stretch(passphrase, &salt, params.map_err(|error| ProtectionError::Parameters(error.to_string()))?)?;
        let protection = Protection {
            version: VERSION,
            state: State::Changing,
            algorithm: ALGORITHM.to_owned(),
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            lanes: LANES,
            salt: hex::encode(salt),
            nonce: String::new(),
            key: String::new(),
        };
        Ok(Self { key, kek, protection })
    }

    /// The file that says `state`.
    #[must_use]
    pub(crate) fn file(&self, state: State) -> Protection {
        let nonce: [u8; NONCE] = random_array();
        let mut protection = Protection { state, nonce: hex::encode(nonce), ..self.protection.clone() };
        let bound = protection.associated();
        let cipher = XChaCha20Poly1305::new(self.kek.expose_secret().into());
        let sealed = cipher.encrypt(XNonce::from_slice(&nonce), Payload { msg: self.key.expose_secret(), aad: bound.as_bytes() });
        // It fails for what is longer than 256 GiB only.
        protection.key = hex::encode(sealed.unwrap_or_default());
        protection
    }
}

/// Argon2id, RFC 9106.
fn stretch(passphrase: &Passphrase, salt: &[u8], params: Params) -> Result<Kek, ProtectionError> {
    let mut memory: Vec<Block> = Vec::new();
    memory.try_reserve_exact(params.block_count()).map_err(|error| ProtectionError::Parameters(error.to_string()))?;
    memory.resize(params.block_count(), Block::default());
    let mut key = Zeroizing::new([0; 32]);
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let made = argon.hash_password_into_with_memory(passphrase.expose_secret(), salt, key.as_mut_slice(), &mut memory);
    memory.iter_mut().for_each(Zeroize::zeroize);
    made.map_err(|error| ProtectionError::Parameters(error.to_string()))?;
    Ok(SecretBytes::new(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_passphrase_opens_it_and_nothing_else_does() {
        let made = Unlocked::new(&passphrase("correct horse"), SecretBytes::new([9; 32])).unwrap();
        let file = made.file(State::Whole).encode();
        let read = Protection::decode(&file).unwrap();
        assert_eq!(read.state(), State::Whole);
        assert!(read.unlock(&passphrase("correct horsE")).unwrap().is_none());
        let again = read.unlock(&passphrase("correct horse")).unwrap().unwrap();
        assert!(again.key == SecretBytes::new([9; 32]));
        assert_eq!(again.file(State::Changing).state(), State::Changing);
    }

    #[test]
    fn what_it_says_cannot_be_changed() {
        let made = Unlocked::new(&passphrase("correct horse"), SecretBytes::random()).unwrap();
        let file = String::from_utf8(made.file(State::Whole).encode()).unwrap();
        for (from, to) in
            [("whole", "changing"), ("\"passes\": 3", "\"passes\": 2"), ("\"lanes\": 4", "\"lanes\": 1"), ("65536", "65528")]
        {
            let changed = Protection::decode(file.replacen(from, to, 1).as_bytes()).unwrap();
            assert!(changed.unlock(&passphrase("correct horse")).unwrap().is_none(), "{from} → {to}");
        }
        for (from, to) in [
            ("65536", "4194304"),
            ("\"passes\": 3", "\"passes\": 999"),
            ("argon2id", "argon2d"),
            ("\"version\": 1", "\"version\": 2"),
        ] {
            assert!(Protection::decode(file.replacen(from, to, 1).as_bytes()).is_err(), "{from} → {to}");
        }
    }

    /// RFC 9106, section 5.3, without its secret and associated data, which this use has none of: the algorithm and version are the named ones.
    #[test]
    fn argon2id_is_that_of_the_rfc() {
        let params = Params::new(32, 3, 4, Some(32)).unwrap();
        let key = stretch(&Passphrase::new(&[1; 32]).unwrap(), &[2; 16], params).unwrap();
        assert_eq!(hex::encode(key.expose_secret()), "03aab965c12001c9d7d0d2de33192c0494b684bb148196d73c1df1acaf6d0c2e");
    }
}
