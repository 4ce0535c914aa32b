//! What the authority signs for everybody: project information, heartbeats and voidings.

use postern_proto::address::HostPort;
use postern_proto::authority::{Answer, Heartbeat, ProjectInfo, Voiding};
use postern_proto::id::ProjectId;
use postern_proto::statement::{self, StatementError};

use super::tickets::no_project;
use super::{Caller, Service, ServiceError, calling, kept};
use crate::ActError;
use crate::keys::Keys;
use crate::store::project::Void;
use crate::store::{Action, Entry, Store, project};

/// Most entries of one voiding statement, so that it stays within a statement's length (120 KiB) at 50 bytes each. What is void
/// is the sum of all statements, so the rest go into further ones.
const MAX_ENTRIES: usize = 2_000;

/// The signed statements that every session is told.
#[derive(Debug)]
pub struct Published {
    info: ProjectInfo,
    /// The signed [`ProjectInfo`].
    pub statement: Vec<u8>,
    /// The change history of the authority's identity, encoded.
    pub history: Vec<u8>,
    /// All that is void, in the order in which it was voided; none where nothing is.
    pub voidings: Vec<Voidings>,
    /// What was voided since the statements that these took the place of.
    pub news: Option<Voidings>,
}

/// A signed [`Voiding`]: what was voided behind epoch `since`, up to and with `epoch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voidings {
    pub since: u64,
    pub epoch: u64,
    pub statement: Vec<u8>,
}

impl Published {
    #[must_use]
    pub const fn project(&self) -> ProjectId {
        self.info.project
    }

    /// What [`Self::statement`] says.
    #[must_use]
    pub const fn info(&self) -> &ProjectInfo {
        &self.info
    }

    /// As the answer that members get.
    #[must_use]
    pub fn to_answer(&self) -> Answer {
        Answer::ProjectInfo { statement: self.statement.clone(), history: self.history.clone() }
    }

    /// What one must be told that was told everything up to epoch `told`; all of it, if it was told nothing.
    pub fn voided_since(&self, told: Option<u64>) -> &[Voidings] {
        match (told, &self.news) {
            (Some(told), Some(news)) if news.since == told => std::slice::from_ref(news),
            (told, _) => {
                let known = self.voidings.iter().take_while(|part| told.is_some_and(|told| part.epoch <= told)).count();
                &self.voidings[known..]
            }
        }
    }

    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        // Every voiding raises the sequence too.
        self.info.sequence > other.info.sequence
    }
}

/// Reads the project and signs what it says. `known` is what was published before.
pub(super) async fn publish(store: &Store, keys: &Keys, known: Option<&Published>) -> Result<Published, ServiceError> {
    let mut read = store.read().await?;
    let project = kept::load(&mut read).await?.ok_or_else(no_project)?;
    if project.authority != keys.identity.identifier() || project.static_key != keys.static_key.public() {
        return Err(ServiceError::OtherKeys);
    }
    let info = ProjectInfo {
        project: project.id,
        name: project.name,
        authority: project.authority,
        authority_static: project.static_key,
        authority_addresses: project.addresses,
        key_ring: project.key_ring,
        relays: project::relays(&mut read).await?,
        epoch: project.epoch,
        sequence: project.sequence,
        issued_at: project.changed_at,
    };
    let statement = statement::sign(&keys.identity, &info)?;
    let sign = |since, epoch, void: &[Void]| -> Result<Voidings, StatementError> {
        let entries = void.iter().map(|void| void.entry).collect();
        let voiding = Voiding { project: info.project, epoch, time: info.issued_at, entries, since };
        Ok(Voidings { since, epoch, statement: statement::sign(&keys.identity, &voiding)? })
    };
    // Most changes void nothing.
    if let Some(known) = known.filter(|known| known.info.epoch == info.epoch) {
        let (voidings, history) = (known.voidings.clone(), keys.identity.history().encode());
        return Ok(Published { info, statement, history, voidings, news: None });
    }
    let voided = project::voided(&mut read).await?;
    let mut voidings = Vec::new();
    let (mut since, mut rest) = (0, &voided[..]);
    // Though nothing is void, the epoch is told.
    while since < info.epoch {
        let (part, behind) = rest.split_at(rest.len().min(MAX_ENTRIES));
        let epoch = if behind.is_empty() { info.epoch } else { part.last().map_or(info.epoch, |last| last.epoch) };
        voidings.push(sign(since, epoch, part)?);
        (since, rest) = (epoch, behind);
    }
    let news = match known.map(|known| known.info.epoch) {
        None => None,
        Some(before) => {
            let new = &voided[voided.partition_point(|void| void.epoch <= before)..];
            // More than one statement holds at once is told as to one who knows nothing of it.
            if new.len() > MAX_ENTRIES { None } else { Some(sign(before, info.epoch, new)?) }
        }
    };
    Ok(Published { info, statement, history: keys.identity.history().encode(), voidings, news })
}

impl Service {
    pub(super) async fn project_info(&self, caller: &Caller) -> Result<Answer, ActError> {
        calling(&mut self.0.store.read().await?, caller).await?;
        Ok(self.0.published.borrow().to_answer())
    }

    /// Changes where members reach the authority.
    pub(crate) async fn set_addresses(&self, addresses: &[HostPort]) -> Result<(), ServiceError> {
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let known = kept::load(&mut write).await?.ok_or_else(no_project)?;
        if known.addresses == addresses {
            return Ok(());
        }
        write.update_project(addresses, &known.key_ring).await?;
        write.raise_sequence(now).await?;
        let listed: Vec<String> = addresses.iter().map(HostPort::to_string).collect();
        let before = known.addresses.iter().map(HostPort::to_string).collect::<Vec<_>>().join(", ");
        write.audit(&Entry::ok(now, None, Action::ChangeProject, known.id).before(before).after(listed.join(", "))).await?;
        write.commit().await?;
        self.republish().await
    }

    /// Raises epoch and sequence above everything that members can have seen before the clock's time.
    pub(crate) async fn recover(&self) -> Result<(), ServiceError> {
        let now = self.now();
        let mut write = self.0.store.write().await?;
        let known = kept::load(&mut write).await?.ok_or_else(no_project)?;
        write.raise_epoch(now).await?;
        write.audit(&Entry::ok(now, None, Action::RecoverProject, known.id)).await?;
        write.commit().await?;
        self.republish().await
    }

    /// A signed heartbeat of this moment.
    ///
    /// # Errors
    /// Never in practice: its length is fixed.
    pub fn heartbeat(&self) -> Result<Vec<u8>, StatementError> {
        let (project, epoch) = {
            let published = self.0.published.borrow();
            (published.project(), published.info.epoch)
        };
        statement::sign(&self.0.keys.identity, &Heartbeat { project, epoch, time: self.now() })
    }
}
