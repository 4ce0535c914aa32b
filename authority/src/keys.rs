//! The authority's keys, each in a file of its own beside the database. Without them the database mints nothing, and without
//! the database they admit nobody.

use postern_proto::handshake::StaticKey;
use postern_proto::identity::{Identity, IdentityError};
use postern_proto::secret::SecretBytes;
use postern_proto::time::Timestamp;
use postern_runtime::files::{Dir, FileError, MAX_SMALL_FILE};
use postern_runtime::home::authority::{IDENTITY, SIGNING, STATIC};

use crate::signing::SigningKeys;

/// The secrets of an authority. No `Debug`; each is wiped when it is dropped.
pub struct Keys {
    /// Signs project information, heartbeats and voidings. Tickets pin it.
    pub identity: Identity,
    /// Answers handshakes. Tickets and members pin it, so it is never replaced.
    pub static_key: StaticKey,
    /// Sign credentials, one at a time. Members know them from the key ring, so they can be replaced.
    pub signing: SigningKeys,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    File(#[from] FileError),
    /// New keys would not help: every ticket and member knows the old ones.
    #[error("the key file `{name}` of the authority is missing, while its database is there: restore the file from a back-up")]
    Missing { name: &'static str },
    #[error("the key file `{name}` of the authority is damaged: restore it from a back-up")]
    Damaged { name: &'static str },
    #[error("the identity of the authority cannot be used")]
    Identity(#[from] IdentityError),
}

impl Keys {
    /// Reads the keys; makes those that are missing, but only for a project that does not exist yet.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn open_or_create(dir: &Dir, project_exists: bool, now: Timestamp) -> Result<Self, KeysError> {
        if !project_exists {
            // A first start that was interrupted left some of them: those are kept.
            create(dir, IDENTITY, &Identity::generate(now).to_secret_bytes())?;
            create(dir, STATIC, SecretBytes::<32>::random().expose_secret())?;
            create(dir, SIGNING, SecretBytes::<32>::random().expose_secret())?;
        }
        let identity = dir.read_secret(IDENTITY, MAX_SMALL_FILE)?.ok_or(KeysError::Missing { name: IDENTITY })?;
        Ok(Self {
            identity: Identity::from_secret_bytes(&identity)?,
            static_key: StaticKey::from_secret(&secret(dir, STATIC)?),
            signing: SigningKeys::open(dir)?,
        })
    }
}

fn create(dir: &Dir, name: &str, bytes: &[u8]) -> Result<(), KeysError> {
    if !dir.contains(name)? {
        dir.write_new_secret(name, bytes)?;
    }
    Ok(())
}

fn secret(dir: &Dir, name: &'static str) -> Result<SecretBytes<32>, KeysError> {
    let bytes = dir.read_secret(name, MAX_SMALL_FILE)?.ok_or(KeysError::Missing { name })?;
    bytes[..].try_into().map(SecretBytes::new).map_err(|_| KeysError::Damaged { name })
}
