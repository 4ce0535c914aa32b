//! What tests of several modules need: an authority that signs what it is told, at a fixed time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use postern_proto::authority::{Heartbeat, ProjectInfo, RingKey, VoidEntry, Voiding};
use postern_proto::credential::Voided;
use postern_proto::handshake::StaticKey;
use postern_proto::id::{Identifier, ProjectId};
use postern_proto::identity::Identity;
use postern_proto::sign::SigningKey;
use postern_proto::statement::{self, Statement};
use postern_proto::time::Timestamp;
use postern_runtime::clock::Clock;
use postern_runtime::membership::Membership;

use crate::trust::{PassedOn, Statements, TrustState};

/// A test that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("no hang") });
}

pub(crate) fn time() -> Timestamp {
    Timestamp::from_unix(1_800_000_000)
}

pub(crate) fn clock() -> Clock {
    let clock = Clock::new();
    clock.synchronise(time());
    clock
}

pub(crate) struct Authority {
    pub(crate) identity: Identity,
    pub(crate) key: SigningKey,
    pub(crate) static_key: StaticKey,
    pub(crate) info: ProjectInfo,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let (identity, key, static_key) = (Identity::generate(time()), SigningKey::generate(), StaticKey::generate());
        let info = ProjectInfo {
            project: ProjectId::random(),
            name: "default".parse().unwrap(),
            authority: identity.identifier(),
            authority_static: static_key.public(),
            authority_addresses: vec!["127.0.0.1:1".parse().unwrap()],
            key_ring: vec![RingKey::new(&key.public(), time(), time().plus(Duration::from_secs(1_000_000)))],
            relays: Vec::new(),
            epoch: 0,
            sequence: 1,
            issued_at: time(),
        };
        Self { identity, key, static_key, info }
    }

    pub(crate) fn project_info(&self) -> Vec<u8> {
        statement::sign(&self.identity, &self.info).unwrap()
    }

    pub(crate) fn history(&self) -> Vec<u8> {
        self.identity.history().encode()
    }

    pub(crate) fn heartbeat(&self, time: Timestamp) -> Vec<u8> {
        statement::sign(&self.identity, &Heartbeat { project: self.info.project, epoch: self.info.epoch, time }).unwrap()
    }

    /// That `member` is revoked.
    pub(crate) fn voiding(&self, epoch: u64, member: Identifier) -> Voiding {
        let entries = vec![VoidEntry { member, not_before: VoidEntry::FOR_EVER }];
        Voiding { project: self.info.project, epoch, time: time(), entries, since: epoch.saturating_sub(1) }
    }

    /// That the credentials that `member` has now are void, because it was changed.
    pub(crate) fn changing(&self, epoch: u64, member: Identifier) -> Voiding {
        let not_before = time().plus(Duration::from_secs(1));
        Voiding { entries: vec![VoidEntry { member, not_before }], ..self.voiding(epoch, member) }
    }

    pub(crate) fn sign(&self, said: &impl Statement) -> Vec<u8> {
        statement::sign(&self.identity, said).unwrap()
    }

    pub(crate) fn membership(&self) -> Membership {
        Membership::from_own_authority(&self.info, self.history(), self.project_info()).unwrap()
    }

    pub(crate) fn trust(&self, voidings: &[Voiding]) -> Arc<TrustState> {
        let mut voided = Voided::default();
        for voiding in voidings {
            voided.apply(voiding).unwrap();
        }
        let membership = self.membership();
        let statements = Statements {
            project_info: membership.statement().into(),
            voidings: voidings
                .iter()
                .map(|voiding| PassedOn { since: voiding.since, epoch: voiding.epoch, signed: self.sign(voiding).into() })
                .collect(),
            heartbeat: Some(self.heartbeat(time()).into()),
        };
        Arc::new(TrustState { membership: Arc::new(membership), voided: Arc::new(voided), statements })
    }
}
