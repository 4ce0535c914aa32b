//! The authority as the rest of the program holds it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::authority::{KeyState, RingKey};
use postern_proto::credential::MAX_RING_KEYS;
use postern_proto::id::{Identifier, ProjectId};
use postern_proto::name::ProjectName;
use postern_proto::ticket::MAX_ADDRESSES;
use postern_proto::time::Timestamp;
use postern_runtime::files::Dir;
use postern_runtime::home::RefusalLog;
use postern_runtime::home::authority::DATABASE;

use crate::ActError;
use crate::clock::Clock;
use crate::enrol::Newcomer;
use crate::keys::{Keys, KeysError};
use crate::server::Server;
use crate::service::{MAX_CREDENTIAL_LIFETIME, SIGNING_KEY_LIFETIME, Service, ServiceError, is_damaged, replaced, signed_until};
use crate::store::{Action, Entry, Project, Store, StoreError, Write, members, project};

/// How long a credential is valid, unless it is set.
pub const DEFAULT_CREDENTIAL_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// A file of this name in the authority's directory says that the database was restored from a back-up: the next start calls
/// [`Authority::recover`] and removes it.
pub const RESTORED: &str = "restored";

/// What an authority is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the project, when it is made; ignored for one that exists.
    pub project: ProjectName,
    /// Where members reach the authority; tickets name these. At most [`MAX_ADDRESSES`].
    pub addresses: Vec<HostPort>,
    /// At most [`MAX_CREDENTIAL_LIFETIME`].
    pub credential_lifetime: Duration,
    pub clock: Clock,
    /// Where refusals are kept, for `explain`.
    pub refusals: RefusalLog,
}

impl Settings {
    /// Settings for a project that nobody can reach yet.
    #[must_use]
    pub fn new(project: ProjectName) -> Self {
        Self {
            project,
            addresses: Vec::new(),
            credential_lifetime: DEFAULT_CREDENTIAL_LIFETIME,
            clock: Clock::system(),
            refusals: RefusalLog::default(),
        }
    }
}

/// Why an authority does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("the authority has {count} addresses; tickets hold at most {MAX_ADDRESSES}")]
    Addresses { count: usize },
    #[error("port 0 of `{address}` cannot be dialled")]
    PortZero { address: HostPort },
    #[error("credentials may live from 1 s to {} h", MAX_CREDENTIAL_LIFETIME.as_secs() / 3600)]
    CredentialLifetime,
}

/// A running authority. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    service: Service,
    server: Server,
}

/// What an authority says about itself.
#[derive(Debug, Clone)]
pub struct Status {
    pub project: ProjectId,
    pub name: ProjectName,
    pub authority: Identifier,
    pub addresses: Vec<HostPort>,
    pub members: u64,
    pub sessions: usize,
    pub epoch: u64,
    pub sequence: u64,
    pub time: Timestamp,
}

impl Authority {
    /// Opens the authority that lives in `dir` (the home's `authority` directory), or makes one with a new project.
    ///
    /// # Errors
    /// [`OpenError`]. An existing authority is changed by none of them.
    pub async fn open_or_create(dir: &Dir, settings: Settings) -> Result<Self, OpenError> {
        check_addresses(&settings.addresses)?;
        if settings.credential_lifetime < Duration::from_secs(1) || settings.credential_lifetime > MAX_CREDENTIAL_LIFETIME {
            return Err(OpenError::CredentialLifetime);
        }
        let now = settings.clock.now();
        let store = Store::open(&dir.path().join(DATABASE)).await?;
        let mut write = store.write().await?;
        let existing = project::load(&mut write).await?;
        let keys = Keys::open_or_create(dir, existing.is_some(), now)?;
        let restored = dir.contains(RESTORED).map_err(KeysError::from)?;
        match existing {
            Some(existing) => update(&mut write, &existing, &keys, &settings, (now, restored)).await?,
            None => create(&mut write, &keys, &settings, now).await?,
        }
        if let Some(project) = project::load(&mut write).await?
            && !restored
        {
            // A start or an act that was interrupted left a key behind that is in no ring.
            keys.signing.keep(&project.key_ring)?;
        }
        write.commit().await?;
        let service = Service::start(store, keys, settings.clock, settings.credential_lifetime).await?;
        let authority = Self { server: Server::new(service.clone(), settings.refusals), service };
        if restored {
            authority.recover().await?;
            tracing::warn!("the database was restored from a back-up: epoch and sequence now begin above the clock");
            // Last: a start that is interrupted before does it again, which harms nothing.
            dir.remove(RESTORED).map_err(KeysError::from)?;
        }
        // Whoever connects is told what the log is from the first moment on.
        match authority.service.checkpoint().await {
            // It has been said. Whoever asks what became of the log needs an authority that answers.
            Err(error) if is_damaged(&error) => {}
            other => other?,
        }
        authority.server.keep_up();
        Ok(authority)
    }

    /// What answers members, for callers in the same process.
    #[must_use]
    pub const fn service(&self) -> &Service {
        &self.service
    }

    #[must_use]
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// Makes an identity of this machine an administrator that may have any relay name. Idempotent.
    ///
    /// # Errors
    /// Where the identity is a member of another role, and what the database reports.
    pub async fn bootstrap_administrator(&self, identity: &Newcomer) -> Result<(), ActError> {
        self.service.bootstrap_administrator(identity).await
    }

    /// Admits the relay server of this process without a ticket, or changes its address and static key. Idempotent.
    ///
    /// # Errors
    /// Where the identity is a member of another role, and what the database reports.
    pub async fn admit_relay(&self, identity: &Newcomer, address: &HostPort) -> Result<(), ActError> {
        self.service.admit_relay(identity, address).await
    }

    /// Changes where members reach the authority, and tells those that are connected.
    ///
    /// # Errors
    /// [`OpenError::Addresses`], [`OpenError::PortZero`], and what the database reports.
    pub async fn advertise(&self, addresses: &[HostPort]) -> Result<(), OpenError> {
        check_addresses(addresses)?;
        Ok(self.service.set_addresses(addresses).await?)
    }

    /// Raises epoch and sequence above the clock. To be called once after the database was restored from a back-up: members
    /// refuse statements with numbers below those that they have seen.
    ///
    /// # Errors
    /// What the database reports.
    pub async fn recover(&self) -> Result<(), OpenError> {
        Ok(self.service.recover().await?)
    }

    /// Writes a copy of the database as of one moment to `path`, mode 0600, while the authority goes on. The key files beside the
    /// database are not in it.
    ///
    /// # Errors
    /// Where something of that name exists, or it cannot be written.
    pub async fn back_up(&self, path: &Path) -> Result<(), StoreError> {
        self.service.store().back_up(path).await
    }

    /// # Errors
    /// What the database reports.
    pub async fn status(&self) -> Result<Status, StoreError> {
        let members = members::count(&mut self.service.store().read().await?).await?;
        let published = self.service.published().borrow().clone();
        let info = published.info();
        Ok(Status {
            project: info.project,
            name: info.name.clone(),
            authority: info.authority,
            addresses: info.authority_addresses.clone(),
            members,
            sessions: self.server.sessions(),
            epoch: info.epoch,
            sequence: info.sequence,
            time: self.service.now(),
        })
    }

    /// Ends all sessions and closes the database. Requests that are being answered have until `deadline`.
    pub async fn shutdown(&self, deadline: Duration) {
        self.server.shutdown(deadline).await;
        self.service.store().close().await;
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("info", self.service.published().borrow().info()).finish_non_exhaustive()
    }
}

fn check_addresses(addresses: &[HostPort]) -> Result<(), OpenError> {
    if addresses.len() > MAX_ADDRESSES {
        return Err(OpenError::Addresses { count: addresses.len() });
    }
    match addresses.iter().find(|address| address.port() == 0) {
        Some(address) => Err(OpenError::PortZero { address: address.clone() }),
        None => Ok(()),
    }
}

async fn create(write: &mut Write, keys: &Keys, settings: &Settings, now: Timestamp) -> Result<(), StoreError> {
    let made = Project {
        id: ProjectId::random(),
        name: settings.project.clone(),
        authority: keys.identity.identifier(),
        static_key: keys.static_key.public(),
        addresses: settings.addresses.clone(),
        key_ring: key_ring(&[], keys, now, now),
        sequence: 1,
        epoch: 0,
        changed_at: now,
    };
    write.insert_project(&made).await?;
    write.audit(&Entry::ok(now, None, Action::CreateProject, made.id).because(made.name.to_string())).await
}

async fn update(
    write: &mut Write,
    known: &Project,
    keys: &Keys,
    settings: &Settings,
    (now, restored): (Timestamp, bool),
) -> Result<(), OpenError> {
    if known.authority != keys.identity.identifier() || known.static_key != keys.static_key.public() {
        return Err(ServiceError::OtherKeys.into());
    }
    let mut before = known.key_ring.clone();
    if restored {
        // The database may be from before a key was retired, perhaps because it was stolen. Of the keys that are trusted, each has its seed in
        // the file until it is retired.
        before.retain(|key| keys.signing.get(key.id).is_some());
    }
    let until = signed_until(write, &before, now, settings.credential_lifetime).await?;
    let ring = key_ring(&before, keys, until, now);
    // Whoever starts without addresses (a tool on the database) leaves those that are known.
    let addresses = if settings.addresses.is_empty() { &known.addresses } else { &settings.addresses };
    if ring != known.key_ring || *addresses != known.addresses {
        write.update_project(addresses, &ring).await?;
        write.raise_sequence(now).await?;
        let listed: Vec<String> = addresses.iter().map(HostPort::to_string).collect();
        let before = known.addresses.iter().map(HostPort::to_string).collect::<Vec<_>>().join(", ");
        let what = if ring == known.key_ring { "addresses" } else { "key ring, addresses" };
        write
            .audit(&Entry::ok(now, None, Action::ChangeProject, known.id).because(what).before(before).after(listed.join(", ")))
            .await?;
    }
    Ok(())
}

/// The key ring as it is to be when the authority starts. Where the file has no key that signs, as when it was replaced by hand, its
/// first one signs from now on; the one before stays until the last credential that it signed has expired, at `until`.
fn key_ring(known: &[RingKey], keys: &Keys, until: Timestamp, now: Timestamp) -> Vec<RingKey> {
    let Some(active) = keys.signing.active(known).or_else(|| keys.signing.first()) else { return known.to_vec() };
    let current = active.key_id();
    let state = |key: RingKey| match key.state {
        KeyState::Active if key.id == current => Some(key),
        // It signs again, so it is good for longer than for what it had signed.
        _ if key.id == current => Some(RingKey { not_after: now.plus(SIGNING_KEY_LIFETIME), ..key.in_state(KeyState::Active) }),
        KeyState::Active => Some(replaced(key, until)),
        // Nobody can sign with it any more.
        KeyState::Prepared if keys.signing.get(key.id).is_none() => None,
        KeyState::Prepared | KeyState::Replaced => Some(key),
    };
    let mut ring: Vec<RingKey> = known.iter().filter(|key| key.not_after > now).cloned().filter_map(state).collect();
    if !ring.iter().any(|key| key.id == current) {
        // Members take no longer ring; the oldest keys go first.
        ring.drain(..(ring.len() + 1).saturating_sub(MAX_RING_KEYS));
        ring.push(RingKey::new(&active.public(), now, now.plus(SIGNING_KEY_LIFETIME)));
    }
    ring
}
