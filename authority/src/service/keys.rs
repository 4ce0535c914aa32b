//! The keys that sign credentials: one is prepared, so that everybody knows it, then signs, and the one before it is retired when
//! everybody has something newer. Nobody's streams notice.

use std::time::Duration;

use postern_proto::authority::{Answer, KeyState, Refusal, RingKey};
use postern_proto::credential::MAX_RING_KEYS;
use postern_proto::sign::SigningKey;
use postern_proto::time::{CLOCK_TOLERANCE, Timestamp};

use super::tickets::{no_key, no_project};
use super::{Caller, Service, calling, kept};
use crate::ActError;
use crate::keys::KeysError;
use crate::rules;
use crate::store::{Action, Connection, Entry, Project, StoreError, Write, credentials};

/// How long a credential-signing key is trusted. It is replaced by hand, long before.
pub(crate) const SIGNING_KEY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Until when what the key that signs in `ring` has signed is good: for a lifetime, and longer where a longer one was set when it signed.
pub(crate) async fn signed_until(
    from: &mut impl Connection,
    ring: &[RingKey],
    now: Timestamp,
    credential_lifetime: Duration,
) -> Result<Timestamp, StoreError> {
    let until = now.plus(credential_lifetime);
    let Some(active) = ring.iter().find(|key| key.state == KeyState::Active) else { return Ok(until) };
    Ok(credentials::last_expiry(from, active.id).await?.map_or(until, |last| until.max(last)))
}

/// Takes the place of the key that signs: from now on it is good only for what it has signed, which is good `until` then, and no longer than
/// that.
pub(crate) fn replaced(key: RingKey, until: Timestamp) -> RingKey {
    RingKey { not_after: key.not_after.min(until.plus(CLOCK_TOLERANCE)), ..key.in_state(KeyState::Replaced) }
}

/// The ring in a word each, for the audit.
fn said(ring: &[RingKey]) -> String {
    ring.iter().map(|key| format!("{} {}", key.id, key.state.as_str())).collect::<Vec<_>>().join(", ")
}

impl Service {
    /// Makes the next key and tells everybody of it.
    pub(super) async fn prepare_key(&self, caller: &Caller) -> Result<Answer, ActError> {
        let (write, project) = self.begin_with_keys(caller).await?;
        let now = self.now();
        let mut ring = project.key_ring.clone();
        if ring.iter().any(|key| key.state == KeyState::Prepared) {
            return Ok(Answer::SigningKeys { keys: ring });
        }
        // What it signed has expired.
        ring.retain(|key| key.state != KeyState::Replaced || key.not_after.plus(CLOCK_TOLERANCE) > now);
        if ring.len() >= MAX_RING_KEYS {
            let reason = format!("a project has at most {MAX_RING_KEYS} keys at a time: retire those that were replaced");
            return Err(Refusal::Invalid { reason }.into());
        }
        let key = SigningKey::generate();
        let entry = RingKey::new(&key.public(), now, now.plus(SIGNING_KEY_LIFETIME)).in_state(KeyState::Prepared);
        self.0.keys.signing.add(key, &ring).map_err(unwritten)?;
        let subject = entry.id;
        ring.push(entry);
        let entry = Entry::ok(now, Some(caller.identifier), Action::PrepareKey, subject);
        change_ring(write, &project, &ring, entry).await?;
        self.republish().await?;
        tracing::info!(key = %subject, "a key to sign credentials was prepared");
        Ok(Answer::SigningKeys { keys: ring })
    }

    /// The prepared key signs from here on.
    pub(super) async fn activate_key(&self, caller: &Caller) -> Result<Answer, ActError> {
        let (mut write, project) = self.begin_with_keys(caller).await?;
        let now = self.now();
        let until = signed_until(&mut write, &project.key_ring, now, self.0.credential_lifetime).await?;
        let prepared = project.key_ring.iter().find(|key| key.state == KeyState::Prepared);
        let next = prepared.ok_or_else(|| Refusal::NotFound { what: "a prepared key; prepare one first".to_owned() })?.id;
        let ring: Vec<RingKey> = project
            .key_ring
            .iter()
            .cloned()
            .map(|key| match key.state {
                KeyState::Active => replaced(key, until),
                KeyState::Prepared => key.in_state(KeyState::Active),
                KeyState::Replaced => key,
            })
            .collect();
        let entry = Entry::ok(now, Some(caller.identifier), Action::ActivateKey, next);
        change_ring(write, &project, &ring, entry).await?;
        self.republish().await?;
        tracing::info!(key = %next, "another key signs credentials");
        Ok(Answer::SigningKeys { keys: ring })
    }

    /// Ends the keys that were replaced. Without `force`, only where no node would be left without a credential.
    pub(super) async fn retire_key(&self, caller: &Caller, force: bool) -> Result<Answer, ActError> {
        let (mut write, project) = self.begin_with_keys(caller).await?;
        let now = self.now();
        let (old, ring): (Vec<RingKey>, Vec<RingKey>) =
            project.key_ring.iter().cloned().partition(|key| key.state == KeyState::Replaced);
        let first =
            old.first().ok_or_else(|| Refusal::NotFound { what: "a replaced key; activate another first".to_owned() })?.id;
        // All that were replaced end together, so what another of them has signed helps nobody.
        let stays = ring.iter().find(|key| key.state == KeyState::Active).ok_or_else(no_key)?.id;
        for key in &old {
            let nodes = credentials::nodes_with_only(&mut write, key.id, stays, now).await?;
            if nodes > 0 && !force {
                return Err(Refusal::KeyInUse { key: key.id, nodes }.into());
            }
        }
        let entry = Entry::ok(now, Some(caller.identifier), Action::RetireKey, first);
        change_ring(write, &project, &ring, entry).await?;
        // It is in no ring any more, so it signs nothing; now nobody can have it either.
        if let Err(error) = self.0.keys.signing.keep(&ring) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a retired key is still in its file; the next start removes it"
            );
        }
        self.republish().await?;
        tracing::info!(key = %first, "a key was retired");
        Ok(Answer::SigningKeys { keys: ring })
    }

    async fn begin_with_keys(&self, caller: &Caller) -> Result<(Write, Project), ActError> {
        let mut write = self.0.store.write().await?;
        let caller = calling(&mut write, caller).await?;
        rules::administrators_only(&caller, "change the keys that sign credentials")?;
        let project = kept::load(&mut write).await?.ok_or_else(no_project)?;
        Ok((write, project))
    }
}

/// Commits the new ring, with its row in the audit: `entry` says whose act it is.
async fn change_ring(mut write: Write, project: &Project, ring: &[RingKey], entry: Entry) -> Result<(), StoreError> {
    write.update_project(&project.addresses, ring).await?;
    write.raise_sequence(entry.at).await?;
    write.audit(&entry.before(said(&project.key_ring)).after(said(ring))).await?;
    write.commit().await
}

fn unwritten(error: KeysError) -> StoreError {
    match error {
        KeysError::File(error) => StoreError::Keys(Box::new(error)),
        error => StoreError::Damaged { what: error.to_string() },
    }
}
