//! Whom this node believes and what it shows: the key ring of its domain of trust, and its own credentials.
//!
//! A domain of trust is a project, or a home that has joined none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_proto::credential::{Audience, CredentialError, Holder, KeyRing, VerifiedCredential, Verifier, Voided};
use postern_proto::handshake::StaticKey;
use postern_proto::id::{Identifier, InstanceId, NodeId, StaticPublic};
use postern_proto::link::Instance;
use postern_proto::name::RelayName;
use postern_proto::time::Timestamp;
use postern_runtime::clock::Clock;
use tokio::sync::watch;

/// Most published credentials that are remembered as verified; each has at most 3.5 KiB.
const MAX_PUBLISHED: usize = 1024;

/// What credentials are verified against.
#[derive(Debug, Clone)]
pub struct Domain {
    pub ring: KeyRing,
    pub voided: Voided,
}

/// This node's own credentials, both for its static key.
#[derive(Debug, Clone)]
pub struct OwnCredentials {
    pub member: VerifiedCredential,
    pub relay: VerifiedCredential,
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
    pub static_key: StaticKey,
    clock: Arc<Clock>,
    domain: watch::Sender<Option<Arc<Domain>>>,
    own: watch::Sender<Option<Arc<OwnCredentials>>>,
    /// Published credentials that were verified, so that each is verified once and not for each connection.
    published: Mutex<HashMap<Vec<u8>, VerifiedCredential>>,
}

impl Trust {
    #[must_use]
    pub fn new(identifier: Identifier, node_id: NodeId, static_key: StaticKey, clock: Arc<Clock>) -> Self {
        Self {
            identifier,
            node_id,
            instance: InstanceId::random(),
            static_key,
            clock,
            domain: watch::Sender::new(None),
            own: watch::Sender::new(None),
            published: Mutex::default(),
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

    pub fn set_domain(&self, domain: Domain) {
        self.domain.send_replace(Some(Arc::new(domain)));
    }

    #[must_use]
    pub fn domain(&self) -> Option<Arc<Domain>> {
        self.domain.borrow().clone()
    }

    /// Verifies what this node's issuer gave it, and shows it from now on.
    ///
    /// # Errors
    /// [`TrustError`] where the issuer gave something that peers would not believe.
    pub fn set_own(&self, member: &[u8], relay: &[u8]) -> Result<(), TrustError> {
        let holder = Holder::Handshake(self.static_key.public());
        let own = OwnCredentials {
            member: self.verify(member, Audience::Member, holder)?,
            relay: self.verify(relay, Audience::Relay, holder)?,
        };
        if own.member.subject() != self.identifier {
            return Err(TrustError::OtherIdentity { expected: self.identifier, found: own.member.subject() });
        }
        self.own.send_replace(Some(Arc::new(own)));
        Ok(())
    }

    /// This node's credentials, where it has some that are still valid.
    #[must_use]
    pub fn own(&self) -> Option<Arc<OwnCredentials>> {
        self.own.borrow().clone().filter(|own| own.member.expires() > self.now())
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
