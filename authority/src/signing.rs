//! The keys that sign credentials, in one file beside the database, which says which of them signs. The file is written before a key
//! gets into the database and after it left it, so whenever the process ends, the database names no key that is not in the file.

use std::sync::{Mutex, MutexGuard, PoisonError};

use postern_proto::authority::{KeyState, RingKey};
use postern_proto::credential::MAX_RING_KEYS;
use postern_proto::id::KeyId;
use postern_proto::secret::SecretBytes;
use postern_proto::sign::SigningKey;
use postern_runtime::files::{Dir, MAX_SMALL_FILE};
use postern_runtime::home::authority::SIGNING;
use zeroize::Zeroizing;

use crate::keys::KeysError;

/// Length of a key's seed, of which the file is a sequence.
const SEED: usize = 32;

/// The keys that are in the file. Each is wiped when it is dropped.
pub struct SigningKeys {
    dir: Dir,
    keys: Mutex<Vec<SigningKey>>,
}

impl SigningKeys {
    /// Reads the file.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn open(dir: &Dir) -> Result<Self, KeysError> {
        let bytes = dir.read_secret(SIGNING, MAX_SMALL_FILE)?.ok_or(KeysError::Missing { name: SIGNING })?;
        let (seeds, rest) = bytes.as_chunks::<SEED>();
        // One more than a ring has: that of a key which was to be prepared when the process ended.
        if !rest.is_empty() || seeds.is_empty() || seeds.len() > MAX_RING_KEYS + 1 {
            return Err(KeysError::Damaged { name: SIGNING });
        }
        let keys = seeds.iter().map(|seed| SigningKey::from_seed(&SecretBytes::new(*seed))).collect();
        Ok(Self { dir: dir.try_clone()?, keys: Mutex::new(keys) })
    }

    /// The key of this id.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<SigningKey> {
        self.lock().iter().find(|key| key.key_id() == id).cloned()
    }

    /// The key that signs, as `ring` says; `None` where it is not here.
    #[must_use]
    pub fn active(&self, ring: &[RingKey]) -> Option<SigningKey> {
        ring.iter().find(|key| key.state == KeyState::Active).and_then(|key| self.get(key.id))
    }

    /// The first key of the file, for a project that knows none of them.
    #[must_use]
    pub fn first(&self) -> Option<SigningKey> {
        self.lock().first().cloned()
    }

    /// Adds a new key, in the file too. Keys that are not in `ring` are wiped.
    ///
    /// # Errors
    /// Where the file cannot be written; nothing changed then.
    pub fn add(&self, key: SigningKey, ring: &[RingKey]) -> Result<(), KeysError> {
        let mut keys = self.lock();
        let mut newer = kept(&keys, ring);
        newer.push(key);
        self.write(&newer)?;
        *keys = newer;
        Ok(())
    }

    /// Wipes the keys that are not in `ring`.
    ///
    /// # Errors
    /// Where the file cannot be written. They sign nothing all the same, and are wiped at the next start.
    pub fn keep(&self, ring: &[RingKey]) -> Result<(), KeysError> {
        let mut keys = self.lock();
        let newer = kept(&keys, ring);
        if newer.len() < keys.len() {
            self.write(&newer)?;
            *keys = newer;
        }
        Ok(())
    }

    fn write(&self, keys: &[SigningKey]) -> Result<(), KeysError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(keys.len() * SEED));
        for key in keys {
            bytes.extend_from_slice(key.seed().expose_secret());
        }
        Ok(self.dir.write_secret(SIGNING, &bytes)?)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SigningKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kept(keys: &[SigningKey], ring: &[RingKey]) -> Vec<SigningKey> {
    keys.iter().filter(|key| ring.iter().any(|known| known.id == key.key_id())).cloned().collect()
}
