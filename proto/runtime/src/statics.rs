//! The static keys of a node or a relay, and how they follow one another. Each has three in its file: the one that it shows, the one that
//! it will show next, and the one that it showed before. Peers may know any of them, so all three answer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use minicbor::{Decode, Encode};
use postern_proto::handshake::StaticKey;
use postern_proto::id::StaticPublic;
use postern_proto::secret::SecretBytes;
use postern_proto::time::{Timestamp, parse_duration};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::files::{Dir, FileError, MAX_SMALL_FILE};
use crate::home::HomeError;

/// How long a static key is shown, unless [`PERIOD_VARIABLE`] says otherwise. The next one was announced so long before.
pub const DEFAULT_PERIOD: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The environment variable that sets it, for nodes and relays that start with it.
pub const PERIOD_VARIABLE: &str = "POSTERN_STATIC_KEY_PERIOD";

/// Shorter periods would replace a key before everybody has heard of it. One second is for tests.
const SHORTEST_PERIOD: Duration = Duration::from_secs(1);

/// The clock is looked at so often: it may be set meanwhile.
const LOOK: Duration = Duration::from_secs(600);

/// When a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(60);

const FORM: u8 = 1;

#[derive(Encode, Decode)]
#[cbor(map)]
struct Stored {
    #[n(0)]
    form: u8,
    /// Since when the current one is shown.
    #[n(1)]
    since: Timestamp,
    #[n(2)]
    current: SecretBytes<32>,
    #[n(3)]
    next: SecretBytes<32>,
    #[n(4)]
    previous: Option<SecretBytes<32>>,
}

#[derive(Clone)]
struct Keys {
    since: Timestamp,
    current: StaticKey,
    next: StaticKey,
    previous: Option<StaticKey>,
}

/// The static keys of one node or relay.
pub struct Statics {
    dir: Dir,
    name: &'static str,
    keys: Mutex<Keys>,
    /// The one that is shown.
    current: watch::Sender<StaticPublic>,
}

impl Statics {
    /// The keys in the file `name`, made if there is none.
    ///
    /// # Errors
    /// Where it cannot be read or written, or is damaged.
    pub fn open(dir: &Dir, name: &'static str, now: Timestamp) -> Result<Self, HomeError> {
        let keys = match read(dir, name)? {
            Some(keys) => keys,
            None => {
                let keys = Keys { since: now, current: StaticKey::generate(), next: StaticKey::generate(), previous: None };
                match dir.write_new_secret(name, &keys.encode()) {
                    Ok(()) => keys,
                    // Somebody else was first.
                    Err(fault @ FileError::Exists { .. }) => read(dir, name)?.ok_or(fault)?,
                    Err(fault) => return Err(fault.into()),
                }
            }
        };
        let current = watch::Sender::new(keys.current.public());
        Ok(Self { dir: dir.try_clone()?, name, keys: Mutex::new(keys), current })
    }

    /// The key that is shown.
    #[must_use]
    pub fn current(&self) -> StaticKey {
        self.lock().current.clone()
    }

    /// The key that is shown next.
    #[must_use]
    pub fn next(&self) -> StaticKey {
        self.lock().next.clone()
    }

    /// The key that was shown before.
    #[must_use]
    pub fn previous(&self) -> Option<StaticKey> {
        self.lock().previous.clone()
    }

    /// All keys that answer: current, next, previous.
    #[must_use]
    pub fn all(&self) -> Vec<StaticKey> {
        let keys = self.lock();
        [Some(&keys.current), Some(&keys.next), keys.previous.as_ref()].into_iter().flatten().cloned().collect()
    }

    /// The key with this public half, if it is one of them.
    #[must_use]
    pub fn get(&self, public: StaticPublic) -> Option<StaticKey> {
        self.all().into_iter().find(|key| key.public() == public)
    }

    /// Tells when another one is shown.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<StaticPublic> {
        self.current.subscribe()
    }

    /// Shows the next key from now on, and makes the one after it. In the file before anywhere else, all at once: whenever the process
    /// ends, it goes on with the keys of before or with those of after.
    ///
    /// # Errors
    /// Where the file cannot be written; nothing changed then.
    pub fn advance(&self, now: Timestamp) -> Result<(), HomeError> {
        let mut keys = self.lock();
        let newer =
            Keys { since: now, current: keys.next.clone(), next: StaticKey::generate(), previous: Some(keys.current.clone()) };
        self.dir.write_secret(self.name, &newer.encode())?;
        *keys = newer;
        let current = keys.current.public();
        drop(keys);
        self.current.send_replace(current);
        Ok(())
    }

    /// A moment that has not come yet is no time since when a key is shown: the clock went wrong, and is right now. It counts from now on,
    /// or the key would be shown until that moment, which may be years away.
    fn since_no_later_than(&self, now: Timestamp) {
        let mut keys = self.lock();
        if keys.since <= now {
            return;
        }
        keys.since = now;
        // It holds until this process ends in any case.
        if let Err(error) = self.dir.write_secret(self.name, &keys.encode()) {
            tracing::warn!(%error, "since when the static key is shown was not written");
        }
    }

    /// Replaces the key every `period`, until it is dropped. `now` tells the time.
    pub async fn keep(&self, period: Duration, now: impl Fn() -> Timestamp) {
        loop {
            let due = self.lock().since.plus(period);
            let left = Duration::from_secs(due.as_unix().saturating_sub(now().as_unix()));
            if !left.is_zero() {
                tokio::time::sleep(left.min(LOOK)).await;
                // Not before: a machine may begin with a clock that is far behind, until somebody tells it the time.
                self.since_no_later_than(now());
                continue;
            }
            match self.advance(now()) {
                Ok(()) => tracing::info!(key = %self.current().public(), "another static key is shown from now on"),
                Err(error) => {
                    tracing::warn!(%error, "the static key was not replaced; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let stored = Stored {
            form: FORM,
            since: self.since,
            current: self.current.secret(),
            next: self.next.secret(),
            previous: self.previous.as_ref().map(StaticKey::secret),
        };
        // The whole capacity at once, so that no copy is left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(160));
        // Writing to a vector does not fail.
        let _ = minicbor::encode(&stored, &mut *bytes);
        bytes
    }
}

fn read(dir: &Dir, name: &str) -> Result<Option<Keys>, HomeError> {
    let Some(bytes) = dir.read_secret(name, MAX_SMALL_FILE)? else { return Ok(None) };
    let damaged = || HomeError::Malformed { path: dir.path().join(name), reason: "it holds no static keys".to_owned() };
    let stored: Stored = minicbor::decode(&bytes).map_err(|_| damaged())?;
    if stored.form != FORM {
        return Err(damaged());
    }
    let key = |secret: &SecretBytes<32>| StaticKey::from_secret(secret);
    Ok(Some(Keys {
        since: stored.since,
        current: key(&stored.current),
        next: key(&stored.next),
        previous: stored.previous.as_ref().map(key),
    }))
}

/// How long each static key of this process is shown.
#[must_use]
pub fn period() -> Duration {
    let Ok(text) = std::env::var(PERIOD_VARIABLE) else { return DEFAULT_PERIOD };
    match parse_duration(&text) {
        Ok(period) if period >= SHORTEST_PERIOD => period,
        _ => {
            tracing::warn!(%text, "{PERIOD_VARIABLE} is no time of a second or more; static keys are shown for 30 days");
            DEFAULT_PERIOD
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

    fn publics(statics: &Statics) -> Vec<StaticPublic> {
        statics.all().iter().map(StaticKey::public).collect()
    }

    #[test]
    fn a_key_is_next_then_current_then_previous_also_over_restarts() {
        let home = TempDir::new().unwrap();
        let dir = Dir::open_or_take_over(home.path()).unwrap();
        let statics = Statics::open(&dir, "static", NOW).unwrap();
        let mut changes = statics.watch();
        let (first, second) = (statics.current().public(), statics.next().public());
        assert_eq!(publics(&Statics::open(&dir, "static", NOW.plus(DEFAULT_PERIOD)).unwrap()), [first, second]);
        statics.advance(NOW).unwrap();
        assert_eq!(*changes.borrow_and_update(), second);
        let third = statics.next().public();
        assert_eq!(publics(&statics), [second, third, first]);
        assert!(statics.get(first).is_some() && third != first);
        let again = Statics::open(&dir, "static", NOW).unwrap();
        assert_eq!(publics(&again), publics(&statics));
        again.advance(NOW).unwrap();
        assert!(again.get(first).is_none() && again.previous().unwrap().public() == second);
    }

    #[test]
    fn a_change_that_cannot_be_kept_is_none_and_damage_is_told() {
        let home = TempDir::new().unwrap();
        let dir = Dir::open_or_take_over(home.path()).unwrap();
        let statics = Statics::open(&dir, "static", NOW).unwrap();
        let before = publics(&statics);
        std::fs::remove_file(home.path().join("static")).unwrap();
        // What cannot be replaced: a directory stands there.
        std::fs::create_dir(home.path().join("static")).unwrap();
        assert!(statics.advance(NOW).is_err());
        assert_eq!(publics(&statics), before);
        std::fs::remove_dir(home.path().join("static")).unwrap();
        for damage in [&b"\xa0"[..], &[7; 32], b""] {
            dir.write("static", damage).unwrap();
            assert!(matches!(Statics::open(&dir, "static", NOW), Err(HomeError::Malformed { .. })));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_follow_one_another_as_time_passes() {
        let home = TempDir::new().unwrap();
        let dir = Dir::open_or_take_over(home.path()).unwrap();
        let statics = Statics::open(&dir, "static", NOW).unwrap();
        let begun = tokio::time::Instant::now();
        let mut seen = vec![statics.current().public()];
        let mut changes = statics.watch();
        let follow = async {
            while seen.len() < 4 {
                changes.changed().await.unwrap();
                seen.push(*changes.borrow_and_update());
            }
        };
        tokio::select! {
            () = statics.keep(DEFAULT_PERIOD, || NOW.plus(begun.elapsed())) => {}
            () = follow => {}
        }
        assert!(begun.elapsed() >= 3 * DEFAULT_PERIOD && begun.elapsed() < 4 * DEFAULT_PERIOD);
        seen.dedup();
        assert_eq!(seen.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_ahead_keeps_no_key_for_years() {
        let home = TempDir::new().unwrap();
        let dir = Dir::open_or_take_over(home.path()).unwrap();
        let statics = Statics::open(&dir, "static", NOW.plus(100 * DEFAULT_PERIOD)).unwrap();
        let mut changes = statics.watch();
        let begun = tokio::time::Instant::now();
        tokio::select! {
            () = statics.keep(DEFAULT_PERIOD, || NOW.plus(begun.elapsed())) => {}
            changed = changes.changed() => changed.unwrap(),
        }
        assert!(begun.elapsed() >= DEFAULT_PERIOD && begun.elapsed() < 2 * DEFAULT_PERIOD);
    }
}
