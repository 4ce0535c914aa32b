//! From a finished handshake to a member: what message 3 said is verified against the static key that the handshake proved.

use std::net::IpAddr;
use std::time::Instant;

use postern_proto::authority::{Enrolment, Hello, Refusal, Role};
use postern_proto::id::StaticPublic;
use postern_proto::identity::History;

use super::Server;
use super::registry::Registered;
use crate::enrol::Newcomer;
use crate::service::Caller;

/// A session that may begin.
#[derive(Debug)]
pub struct Admitted {
    pub caller: Caller,
    pub relay_server: bool,
    /// Number of the newest change of the identity, as the session began.
    pub sequence: u64,
    pub registered: Registered,
}

impl Server {
    pub(super) async fn admit(&self, hello: &[u8], remote: StaticPublic, address: IpAddr) -> Result<Admitted, Refusal> {
        let invalid = |reason: String| Refusal::Invalid { reason };
        let hello: Hello =
            minicbor::decode(hello).map_err(|_| invalid("the authority was greeted in an unknown form".to_owned()))?;
        let history = History::decode(&hello.history).map_err(|error| invalid(error.to_string()))?;
        let attestation =
            history.verify_attestation(&hello.attestation, self.0.service.now()).map_err(|error| invalid(error.to_string()))?;
        if attestation.static_key != remote {
            return Err(invalid("the identity attests another static key than the one of this connection".to_owned()));
        }
        let caller = Caller { identifier: history.identifier(), static_key: remote, sequence: history.sequence() };
        if let Some(enrolment) = &hello.enrolment {
            self.enrol(&caller, &history, enrolment, address).await?;
        }
        let member = self.0.service.recognise(caller.identifier, &history).await?;
        let relay_server = matches!(member.role, Role::RelayServer { .. });
        let registered = self.0.sessions.enter(caller.identifier).ok_or_else(|| {
            tracing::warn!(member = %caller.identifier, "too many sessions");
            Refusal::Busy { after: 10 }
        })?;
        Ok(Admitted { caller, relay_server, sequence: history.sequence(), registered })
    }

    async fn enrol(&self, caller: &Caller, history: &History, enrolment: &Enrolment, address: IpAddr) -> Result<(), Refusal> {
        // A member that shows its ticket again guesses nothing, wherever it comes from.
        if self.0.service.is_member(caller.identifier).await? {
            return Ok(());
        }
        if let Some(wait) = self.failures(|failures| failures.must_wait(address, Instant::now())) {
            tracing::debug!(%address, "too many failed redemptions");
            return Err(Refusal::Busy { after: wait.as_secs() as u32 });
        }
        let newcomer = Newcomer {
            identifier: caller.identifier,
            history: history.encode(),
            static_key: caller.static_key,
            name: enrolment.name.clone(),
            relay_server: enrolment.relay_server,
        };
        let redeemed = self.0.service.redeem(&newcomer, enrolment.ticket, &enrolment.secret).await;
        self.0.metrics.redeemed(redeemed.is_ok());
        if matches!(redeemed, Err(Refusal::TicketUnknown)) {
            self.failures(|failures| failures.count(address, Instant::now()));
        }
        redeemed.map(drop)
    }
}
