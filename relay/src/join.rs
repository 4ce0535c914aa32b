//! The relay as a member of its project: it joins once, with a ticket, and from then on keeps one session with the authority,
//! over which everything new is pushed to it.

use std::sync::Arc;

use postern_proto::address::HostPort;
use postern_proto::authority::{Answer, Request};
use postern_proto::id::{NodeId, StaticPublic};
use postern_proto::identity::Identity;
use postern_proto::name::IdentityName;
use postern_proto::ticket::Ticket;
use postern_runtime::authority::{AuthorityClient, AuthorityError, Pinned, Pushed};
use postern_runtime::backoff::Backoff;
use postern_runtime::clock::Clock;
use postern_runtime::enrol::{self, EnrolError};
use postern_runtime::error::chain;
use postern_runtime::membership::Membership;
use postern_runtime::statics::{self, Statics};
use postern_runtime::supervise::Supervisor;
use tokio::sync::watch;

use crate::keeper::{KeepError, Keeper};
use crate::state::{RelayHome, StateError};
use crate::trust::{Statements, TrustState};

/// What the authority shows as this member's name.
const NAME: &str = "relay";

/// Why the relay is not a member of a project.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("this relay has joined no project: start it with a ticket from `postern project ticket --relay-server HOST:PORT`")]
    NoTicket,
    #[error(transparent)]
    State(#[from] StateError),
    /// The authority refuses the ticket, or its answer does not hold.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The process was told to stop while it waited for the authority.
    #[error("stopped before the authority could be reached")]
    Stopped,
}

/// A relay that is a member of its project.
pub struct Member {
    keeper: Keeper,
    identity: Identity,
    node_id: NodeId,
    statics: Arc<Statics>,
    /// The one of the session with the authority.
    shown: StaticPublic,
    /// The session in which the ticket was redeemed.
    first: Option<(AuthorityClient, Pushed)>,
    /// How far the relay is with what is void, where somebody says so.
    enforced: Option<watch::Receiver<u64>>,
}

impl Member {
    /// Joins with `ticket`, unless this relay has joined before: then the ticket is not looked at. While the authority cannot
    /// be reached, it is tried again until `supervisor` stops.
    ///
    /// # Errors
    /// [`JoinError`]; trying again does not help.
    pub async fn join(
        home: RelayHome,
        ticket: Option<&Ticket>,
        supervisor: &Supervisor,
        clock: &Clock,
    ) -> Result<Self, JoinError> {
        let (identity, node_id, statics) = (home.identity(clock.now())?, home.node_id()?, Arc::new(home.statics(clock.now())?));
        if let Some(trust) = home.trust()? {
            return Ok(Self {
                keeper: Keeper::new(home, trust),
                identity,
                node_id,
                shown: statics.current().public(),
                statics,
                first: None,
                enforced: None,
            });
        }
        let ticket = ticket.ok_or(JoinError::NoTicket)?;
        let Ok(name) = NAME.parse::<IdentityName>() else { unreachable!("a constant that is a name") };
        let key = statics.current();
        let mut backoff = Backoff::default();
        let mut told = false;
        let (membership, client, pushed) = loop {
            let attempt = enrol::enrol_relay_server(supervisor, (&identity, &name), (node_id, &key), ticket, clock.now());
            match supervisor.stopping().run_until_cancelled(attempt).await.ok_or(JoinError::Stopped)? {
                Ok(joined) => break joined,
                Err(error) if error.is_temporary() => {
                    if !told {
                        tracing::warn!(error = chain(&error), "cannot join the project yet; trying again");
                        told = true;
                    }
                    let delay = tokio::time::sleep(backoff.next_delay());
                    supervisor.stopping().run_until_cancelled(delay).await.ok_or(JoinError::Stopped)?;
                }
                Err(error) => return Err(error.into()),
            }
        };
        tracing::info!(project = %membership.project(), "joined the project");
        let keeper = adopted(home, membership)?;
        Ok(Self {
            keeper,
            identity,
            node_id,
            shown: statics.current().public(),
            statics,
            first: Some((client, pushed)),
            enforced: None,
        })
    }

    /// Joins without a ticket: for the relay beside its authority, which has made it a member itself.
    ///
    /// # Errors
    /// [`JoinError::State`].
    pub fn adopt(home: RelayHome, membership: Membership, clock: &Clock) -> Result<Self, JoinError> {
        let (identity, node_id, statics) = (home.identity(clock.now())?, home.node_id()?, Arc::new(home.statics(clock.now())?));
        let known = home.trust()?.filter(|trust| trust.membership.authority() == membership.authority());
        let keeper = match known {
            Some(trust) => Keeper::new(home, trust),
            None => adopted(home, membership)?,
        };
        Ok(Self { keeper, identity, node_id, shown: statics.current().public(), statics, first: None, enforced: None })
    }

    /// The authority is told how far `epoch` is: up to where the relay enforces what is void.
    #[must_use]
    pub fn telling(self, epoch: watch::Receiver<u64>) -> Self {
        Self { enforced: Some(epoch), ..self }
    }

    /// What the relay believes, now and later.
    #[must_use]
    pub fn trust(&self) -> watch::Receiver<Arc<TrustState>> {
        self.keeper.watch()
    }

    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The keys of which nodes expect one in the handshake.
    #[must_use]
    pub const fn statics(&self) -> &Arc<Statics> {
        &self.statics
    }

    /// Keeps one session with the authority until `supervisor` stops, and tells it at each beginning that nodes reach this
    /// relay at `advertised`; without one, the address that the ticket was made for stands. While the authority is away the relay
    /// goes on with what it knows.
    pub fn keep_session(self, supervisor: &Supervisor, clock: Clock, advertised: Option<HostPort>) {
        let stopping = supervisor.stopping().clone();
        let (statics, time, until) = (Arc::clone(&self.statics), clock.clone(), stopping.clone());
        supervisor.spawn("relay: static keys", async move {
            until.run_until_cancelled(statics.keep(statics::period(), || time.now())).await;
        });
        let keeping = self.keep(supervisor.clone(), clock, advertised);
        supervisor.spawn("relay: authority", async move {
            stopping.run_until_cancelled(keeping).await;
        });
    }

    async fn keep(mut self, supervisor: Supervisor, clock: Clock, advertised: Option<HostPort>) {
        let mut backoff = Backoff::default();
        let mut last_error = None;
        loop {
            let ended = match self.connect(&supervisor, &clock).await {
                Ok((client, mut pushed)) => {
                    let ended = self.converse(&client, &mut pushed, &clock, advertised.as_ref(), &mut backoff).await;
                    // The next failure is news again.
                    last_error = None;
                    // With the next static key, at once.
                    let Some(ended) = ended else { continue };
                    ended
                }
                Err(error) => error,
            };
            let text = chain(&ended);
            if last_error.as_ref() != Some(&text) {
                tracing::warn!(error = text, "no session with the authority; going on with what is known");
                last_error = Some(text);
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn connect(&mut self, supervisor: &Supervisor, clock: &Clock) -> Result<(AuthorityClient, Pushed), AuthorityError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let membership = Arc::clone(&self.keeper.trust().membership);
        let addresses = membership.authority_addresses();
        let authority = Pinned { addresses: &addresses, static_key: membership.authority_static() };
        // Its key may have been replaced since; the authority takes the newest alone.
        match self.keeper.home().identity(clock.now()) {
            Ok(identity) => self.identity = identity,
            Err(error) => tracing::warn!(%error, "the identity was not read again"),
        }
        let key = self.statics.current();
        self.shown = key.public();
        let hello = enrol::hello(&self.identity, self.node_id, &key, clock.now());
        AuthorityClient::connect(supervisor, authority, &key, &hello).await
    }

    /// Takes what is pushed until the session ends, and says why it did; `None` where the relay shows another static key from now on.
    async fn converse(
        &mut self,
        client: &AuthorityClient,
        pushed: &mut Pushed,
        clock: &Clock,
        advertised: Option<&HostPort>,
        backoff: &mut Backoff,
    ) -> Option<AuthorityError> {
        let mut statics = self.statics.watch();
        let shown = self.shown;
        let another = async move {
            // The sender is a part of `self`.
            let _ = statics.wait_for(|current| *current != shown).await;
        };
        let next = enrol::attest(&self.identity, self.node_id, self.statics.next().public(), clock.now());
        let (enforced, mut stored) = (self.enforced.clone(), self.keeper.stored());
        let tell = async {
            if let Some(address) = advertised {
                match client.call(Request::AdvertiseRelay { address: address.clone() }).await {
                    Ok(_) => tracing::info!(%address, "the authority knows where this relay is"),
                    Err(error) => tracing::warn!(error = chain(&error), "the authority did not take this relay's address"),
                }
            }
            if let Err(error) = client.call(Request::AnnounceStatic { next }).await {
                tracing::warn!(error = chain(&error), "the authority did not take this relay's static keys");
            }
            let Some(mut enforced) = enforced else { return std::future::pending().await };
            loop {
                let epoch = (*enforced.borrow_and_update()).min(*stored.borrow_and_update());
                if let Err(error) = client.call(Request::Acknowledge { epoch }).await {
                    tracing::debug!(epoch, error = chain(&error), "the authority did not hear what this relay enforces");
                }
                let changed = tokio::select! {
                    changed = enforced.changed() => changed,
                    changed = stored.changed() => changed,
                };
                if changed.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        let take = async {
            while let Some(answer) = pushed.recv().await {
                // The authority let this relay in, and speaks: the session holds.
                backoff.reset();
                match self.take(answer, clock) {
                    Ok(()) => {}
                    // Every heartbeat tries again, and says nothing before it is kept.
                    Err(KeepError::State(error)) => tracing::error!(
                        error = chain(&error),
                        "a statement of the authority is in force and cannot be kept: a restart would forget it"
                    ),
                    Err(error) => tracing::warn!(error = chain(&error), "a statement of the authority was not taken"),
                }
            }
        };
        tokio::select! {
            () = tell => {}
            () = take => {}
            () = another => return None,
        }
        Some(client.ended().await)
    }

    fn take(&mut self, answer: Answer, clock: &Clock) -> Result<(), KeepError> {
        match answer {
            Answer::ProjectInfo { statement, history } => self.keeper.project_info(statement, history),
            Answer::Voiding { statement } => self.keeper.voiding(statement),
            Answer::Heartbeat { statement } => {
                // It comes straight from the authority, which made it for this moment.
                clock.synchronise(self.keeper.heartbeat(statement)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn adopted(home: RelayHome, membership: Membership) -> Result<Keeper, StateError> {
    home.set_membership(&membership)?;
    let statements = Statements { project_info: membership.statement().into(), ..Statements::default() };
    let trust = TrustState { membership: Arc::new(membership), voided: Arc::default(), statements };
    Ok(Keeper::new(home, trust))
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
