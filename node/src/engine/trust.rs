//! Whom this node believes and what it shows: the key ring of its domain of trust, and its own credentials.
//!
//! A domain of trust is a project, or a home that has joined none.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postern_proto::credential::{Audience, CredentialError, Holder, KeyRing, VerifiedCredential, Verifier, Voided};
use postern_proto::handshake::StaticKey;
use postern_proto::id::{Identifier, InstanceId, NodeId, ProjectId, StaticPublic};
use postern_proto::link::Instance;
use postern_proto::name::RelayName;
use postern_proto::spec::MaxStaleness;
use postern_proto::time::Timestamp;
use postern_runtime::clock::Clock;
use postern_runtime::statics::Statics;
use tokio::sync::watch;

use super::code;
use crate::code::Code;

/// Most published credentials that are remembered as verified; each has at most 3.5 KiB.
const MAX_PUBLISHED: usize = 1024;

/// What credentials are verified against.
#[derive(Debug, Clone)]
pub struct Domain {
    pub ring: KeyRing,
    pub voided: Voided,
}

/// This node's own credentials, both for one of its static keys.
#[derive(Debug, Clone)]
pub struct OwnCredentials {
    pub member: VerifiedCredential,
    pub relay: VerifiedCredential,
    /// For the static key that it showed before, while channels with that key live.
    pub before: Option<VerifiedCredential>,
}

impl OwnCredentials {
    /// What a peer is shown whose channel has this static key of the node.
    #[must_use]
    pub fn member_for(&self, static_key: StaticPublic) -> Option<&VerifiedCredential> {
        std::iter::once(&self.member).chain(&self.before).find(|credential| credential.static_key() == static_key)
    }
}

/// Why a credential was not believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("this node has no key ring yet: it has not reached its authority")]
    NoDomain,
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error("the credential is of {found}, not of {expected}")]
    OtherIdentity { expected: Identifier, found: Identifier },
    #[error("the credential does not permit the relay name `{0}`")]
    OtherName(RelayName),
    #[error("nothing was heard of the authority for {} s, more than `max-staleness` ({} s): it may have revoked anybody since", age.as_secs(), max.as_secs())]
    Stale { age: Duration, max: Duration },
}

impl TrustError {
    /// How it is listed.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Stale { .. } => code::STALE,
            _ => code::CREDENTIAL,
        }
    }

    /// Whether a newer credential would do: the member was changed, or the key that signed this one is retired, and it has one by now.
    #[must_use]
    pub const fn wants_newer(&self) -> bool {
        use CredentialError::{KeyRetired, UnknownKey, Void};
        matches!(self, Self::Credential(Void { .. } | UnknownKey(_) | KeyRetired { .. }))
    }
}

/// How old the newest word of the authority is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// When the authority said it, by its clock.
    pub heard: Timestamp,
    pub age: Duration,
    /// Past this age nothing new is let in.
    pub max: Duration,
}

impl Freshness {
    /// How long until nothing new is let in.
    #[must_use]
    pub const fn left(&self) -> Duration {
        self.max.saturating_sub(self.age)
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        self.age > self.max
    }
}

/// A run of a peer's node as look-up published it, its credential verified. Nothing was proven yet: the handshake will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPeer {
    pub identifier: Identifier,
    pub node_id: NodeId,
    pub instance: InstanceId,
    pub static_key: StaticPublic,
}

/// The node's identity in the network, its keys and what it believes. Shared by everything in the engine.
pub struct Trust {
    pub identifier: Identifier,
    pub node_id: NodeId,
    pub instance: InstanceId,
    pub statics: Arc<Statics>,
    clock: Arc<Clock>,
    domain: watch::Sender<Option<Arc<Domain>>>,
    own: watch::Sender<Option<Arc<OwnCredentials>>>,
    /// Published credentials that were verified, so that each is verified once and not for each connection.
    published: Mutex<HashMap<Vec<u8>, VerifiedCredential>>,
    max_staleness: Duration,
    /// The newest time that the authority was heard to say, in seconds; 0 where there is no authority, and none is needed.
    heard: AtomicU64,
}

impl Trust {
    #[must_use]
    pub fn new(
        identifier: Identifier,
        node_id: NodeId,
        statics: Arc<Statics>,
        clock: Arc<Clock>,
        max_staleness: MaxStaleness,
    ) -> Self {
        Self {
            identifier,
            node_id,
            instance: InstanceId::random(),
            statics,
            clock,
            domain: watch::Sender::new(None),
            own: watch::Sender::new(None),
            published: Mutex::default(),
            max_staleness: max_staleness.get(),
            heard: AtomicU64::new(0),
        }
    }

    /// The authority said, at this moment of its clock, what is void. What it said earlier counts no more.
    pub fn heard(&self, at: Timestamp) {
        self.heard.fetch_max(at.as_unix(), Ordering::Relaxed);
    }

    /// How old the newest word of the authority is; `None` where none is needed, or none was heard yet.
    #[must_use]
    pub fn freshness(&self) -> Option<Freshness> {
        let heard = Timestamp::from_unix(Some(self.heard.load(Ordering::Relaxed)).filter(|heard| *heard > 0)?);
        Some(Freshness { heard, age: self.now().since(heard), max: self.max_staleness })
    }

    fn check_fresh(&self) -> Result<(), TrustError> {
        match self.freshness() {
            Some(freshness) if freshness.is_over() => Err(TrustError::Stale { age: freshness.age, max: freshness.max }),
            _ => Ok(()),
        }
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    #[must_use]
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// Believes `domain` from now on. What is known to be void of the same project stays void, whatever `domain` says: it may have been read
    /// before that became known.
    pub fn set_domain(&self, domain: Domain) {
        self.domain.send_modify(|known| {
            let voided = match known {
                Some(known) if known.ring.project() == domain.ring.project() => known.voided.clone(),
                _ => domain.voided,
            };
            *known = Some(Arc::new(Domain { ring: domain.ring, voided }));
        });
    }

    /// Takes `voided` for what is void in `project`. The key ring stays as it is now, which may be newer than when that was decided.
    pub fn set_voided(&self, project: ProjectId, voided: Voided) {
        self.domain.send_if_modified(|known| match known {
            Some(domain) if domain.ring.project() == project => {
                *known = Some(Arc::new(Domain { ring: domain.ring.clone(), voided }));
                true
            }
            _ => false,
        });
    }

    #[must_use]
    pub fn domain(&self) -> Option<Arc<Domain>> {
        self.domain.borrow().clone()
    }

    /// Verifies what this node's issuer gave it, for the static key `of`, and shows it from now on. Channels with the key before keep what they
    /// have.
    ///
    /// # Errors
    /// [`TrustError`] where the issuer gave something that peers would not believe.
    pub fn set_own(&self, member: &[u8], relay: &[u8], of: StaticPublic) -> Result<(), TrustError> {
        let member = self.verify_own(member, of)?;
        let relay = self.verify(relay, Audience::Relay, Holder::Handshake(of))?;
        let known = self.own.borrow().clone();
        let before = known.and_then(|known| {
            let known = [Some(known.member.clone()), known.before.clone()];
            known.into_iter().flatten().find(|known| known.static_key() != of)
        });
        self.own.send_replace(Some(Arc::new(OwnCredentials { member, relay, before })));
        Ok(())
    }

    /// A newer credential for the static key before, which channels with that key show from now on; `None` where there are no such any more.
    ///
    /// # Errors
    /// As [`Self::set_own`].
    pub fn set_before(&self, before: Option<(&[u8], StaticPublic)>) -> Result<(), TrustError> {
        let before = before.map(|(member, of)| self.verify_own(member, of)).transpose()?;
        self.own.send_if_modified(|own| {
            let Some(known) = own.as_ref().filter(|known| known.before != before) else { return false };
            *own = Some(Arc::new(OwnCredentials { before, ..OwnCredentials::clone(known) }));
            true
        });
        Ok(())
    }

    fn verify_own(&self, member: &[u8], of: StaticPublic) -> Result<VerifiedCredential, TrustError> {
        let member = self.verify(member, Audience::Member, Holder::Handshake(of))?;
        if member.subject() != self.identifier {
            return Err(TrustError::OtherIdentity { expected: self.identifier, found: member.subject() });
        }
        Ok(member)
    }

    /// The key that `own` is for.
    #[must_use]
    pub fn key_of(&self, own: &OwnCredentials) -> Option<StaticKey> {
        self.statics.get(own.member.static_key())
    }

    /// This node's credentials, where it has some that are still valid.
    #[must_use]
    pub fn own(&self) -> Option<Arc<OwnCredentials>> {
        self.own.borrow().clone().filter(|own| own.member.expires() > self.now() && !self.is_void(&own.member))
    }

    /// Whether what this node has, if anything, is by the key that signs now, for the static key that it shows now.
    #[must_use]
    pub fn own_is_current(&self) -> bool {
        let (own, domain) = (self.own.borrow(), self.domain.borrow());
        let (Some(own), Some(domain)) = (&*own, &*domain) else { return true };
        domain.ring.is_active(own.member.signing_key()) && own.member.static_key() == *self.statics.watch().borrow()
    }

    /// Whether this node has credentials that became void: it was changed, or revoked.
    #[must_use]
    pub fn own_is_void(&self) -> bool {
        self.own.borrow().as_ref().is_some_and(|own| self.is_void(&own.member))
    }

    /// Whether this node's identity was revoked, as far as it has heard.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.domain().is_some_and(|domain| domain.voided.is_revoked(&self.identifier))
    }

    fn is_void(&self, credential: &VerifiedCredential) -> bool {
        let limit = self.domain().and_then(|domain| domain.voided.not_before(&credential.subject()));
        limit.is_some_and(|limit| credential.not_before() < limit)
    }

    /// Tells when this node's credentials change.
    #[must_use]
    pub fn watch_own(&self) -> watch::Receiver<Option<Arc<OwnCredentials>>> {
        self.own.subscribe()
    }

    /// The `member` credential of a peer whose handshake proved `static_key`.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn verify_member(&self, bytes: &[u8], static_key: StaticPublic) -> Result<VerifiedCredential, TrustError> {
        self.check_fresh()?;
        self.verify(bytes, Audience::Member, Holder::Handshake(static_key))
    }

    /// A `relay` credential that the peer's node published; `name` is the relay name that it was looked up under.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn verify_published(&self, instance: &Instance, name: Option<&RelayName>) -> Result<PublishedPeer, TrustError> {
        let credential = self.published(&instance.credential)?;
        if credential.subject() != instance.identifier {
            return Err(TrustError::OtherIdentity { expected: instance.identifier, found: credential.subject() });
        }
        if let Some(name) = name
            && !credential.relay_names().contains(name)
        {
            return Err(TrustError::OtherName(name.clone()));
        }
        Ok(PublishedPeer {
            identifier: credential.subject(),
            node_id: instance.node_id,
            instance: instance.instance,
            static_key: credential.static_key(),
        })
    }

    /// Whether a credential that was verified before would be again.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn recheck(&self, credential: &VerifiedCredential) -> Result<(), TrustError> {
        self.check_fresh()?;
        self.recheck_at(credential, self.now())
    }

    /// As [`Self::recheck`], at another time than now.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn recheck_at(&self, credential: &VerifiedCredential, now: Timestamp) -> Result<(), TrustError> {
        let domain = self.domain().ok_or(TrustError::NoDomain)?;
        let verifier = Verifier { ring: &domain.ring, voided: &domain.voided, now };
        Ok(verifier.recheck(credential)?)
    }

    fn published(&self, bytes: &[u8]) -> Result<VerifiedCredential, TrustError> {
        self.check_fresh()?;
        let known = lock(&self.published).get(bytes).cloned();
        if let Some(known) = known.filter(|known| self.recheck(known).is_ok()) {
            return Ok(known);
        }
        let credential = self.verify(bytes, Audience::Relay, Holder::Published)?;
        let mut published = lock(&self.published);
        if published.len() >= MAX_PUBLISHED {
            published.clear();
        }
        published.insert(bytes.to_vec(), credential.clone());
        Ok(credential)
    }

    fn verify(&self, bytes: &[u8], audience: Audience, holder: Holder) -> Result<VerifiedCredential, TrustError> {
        let domain = self.domain().ok_or(TrustError::NoDomain)?;
        let verifier = Verifier { ring: &domain.ring, voided: &domain.voided, now: self.now() };
        Ok(verifier.verify(bytes, audience, holder)?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use postern_proto::authority::{RingKey, VoidEntry, Voiding};
    use postern_proto::sign::SigningKey;
    use postern_runtime::files::Dir;
    use tempfile::TempDir;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

    /// Two tasks change the domain: one what is void, one the keys. Each read it before the other wrote it.
    #[test]
    fn of_two_changes_at_a_time_none_is_lost() {
        let home = TempDir::new().unwrap();
        let dir = Dir::open_or_take_over(home.path()).unwrap();
        let statics = Arc::new(Statics::open(&dir, "static", NOW).unwrap());
        let (one, project) = (Identifier::from_bytes([1; 32]), ProjectId::from_bytes([1; 16]));
        let trust = Trust::new(one, NodeId::random(), statics, Arc::default(), MaxStaleness::default());
        let ring = || {
            let key = RingKey::new(&SigningKey::generate().public(), NOW, NOW.plus(Duration::from_secs(1)));
            KeyRing::new(project, one, vec![key]).unwrap()
        };
        let (first, second) = (ring(), ring());
        trust.set_domain(Domain { ring: first, voided: Voided::default() });
        let entries = vec![VoidEntry { member: one, not_before: VoidEntry::FOR_EVER }];
        let mut voided = Voided::default();
        voided.apply(&Voiding { project, epoch: 1, time: NOW, entries, since: 0 }).unwrap();
        trust.set_voided(project, voided.clone());
        trust.set_domain(Domain { ring: second.clone(), voided: Voided::default() });
        let known = trust.domain().unwrap();
        assert!(known.voided.is_revoked(&one) && known.ring.has_keys_of(&second) && second.has_keys_of(&known.ring));
        trust.set_voided(ProjectId::from_bytes([2; 16]), Voided::default());
        assert!(trust.domain().unwrap().voided.is_revoked(&one), "of another project");
    }
}
