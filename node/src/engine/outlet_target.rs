//! The way from an outlet to its target.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postern_proto::address::HostPort;
use postern_proto::name::OutletName;
use postern_proto::record::RejectCode;
use postern_proto::spec::OutletSpec;
use postern_proto::time::Timestamp;
use postern_runtime::net::{DialError, dial_target};
use tokio::net::TcpStream;

use super::code;
use super::failure::{Failure, Step, reject_of_dial};
use super::shared::Shared;
use crate::code::Code;

/// How long an outlet's target may take to accept.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// Why a target was not reached.
pub struct Unreached {
    /// What this node's operator is told.
    pub code: Code,
    /// What the peer may be told.
    pub reject: RejectCode,
    pub reason: String,
}

/// When a target was dialled last, and why it was not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFailure {
    pub at: Timestamp,
    pub failure: Failure,
}

/// The outlets whose target was not reached when it was dialled last. Nothing is dialled for this: what peers and `explain` ask for is
/// remembered.
#[derive(Debug, Default)]
pub struct LastFailures(Mutex<HashMap<OutletName, LastFailure>>);

impl LastFailures {
    #[must_use]
    pub fn of(&self, outlet: &OutletName) -> Option<LastFailure> {
        self.lock().get(outlet).cloned()
    }

    /// Its target was reached, or it is another outlet now.
    pub fn forget(&self, outlet: &OutletName) {
        self.lock().remove(outlet);
    }

    fn note(&self, outlet: &OutletName, last: LastFailure) {
        self.lock().insert(outlet.clone(), last);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OutletName, LastFailure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to the target of `outlet`, and remembers what came of it.
///
/// # Errors
/// [`Unreached`].
pub async fn reach(shared: &Shared, outlet: &OutletSpec) -> Result<TcpStream, Unreached> {
    let reached = dial(shared, &outlet.to).await;
    // The outlet may have been deleted or replaced meanwhile.
    let outlets = shared.outlets();
    if outlets.get(&outlet.name).is_some_and(|now| now.to == outlet.to) {
        match &reached {
            Ok(_) => shared.unreached.forget(&outlet.name),
            Err(Unreached { code, reason, .. }) => {
                let failure = Failure::new(Step::Target, *code, reason.clone());
                shared.unreached.note(&outlet.name, LastFailure { at: shared.trust.now(), failure });
            }
        }
    }
    reached
}

/// Connects to the target `to` of an outlet. An inlet of this node is none, and is not even connected to: it would take the connection for an
/// application's, open a stream for it, and so come here again before anybody could say no, for ever.
async fn dial(shared: &Shared, to: &HostPort) -> Result<TcpStream, Unreached> {
    let inlets: Vec<SocketAddr> = shared.inlets().values().map(|inlet| inlet.bound).collect();
    dial_beside(&inlets, to).await
}

/// Connects to `to`, unless that is one of `inlets`.
async fn dial_beside(inlets: &[SocketAddr], to: &HostPort) -> Result<TcpStream, Unreached> {
    let leads_back = |address: SocketAddr| inlets.iter().any(|inlet| is_listened_at(address, *inlet));
    dial_target(to, DIAL_DEADLINE, |address| !leads_back(address)).await.map_err(|error| match error {
        DialError::Forbidden { address, .. } if leads_back(address) => {
            Unreached { code: code::LOOP, reject: RejectCode::Loop, reason: format!("the target {to} is an inlet of this node") }
        }
        error => {
            let reject = reject_of_dial(&error);
            // What the name means here is not for the peer to know.
            let code =
                if matches!(error, DialError::Forbidden { .. }) { code::TARGET_NOT_FOLLOWED } else { Failure::code_of(reject) };
            Unreached { code, reject, reason: format!("the target {to} was not reached: {error}") }
        }
    })
}

/// Whether who dials `address` comes to a socket that listens at `bound`.
fn is_listened_at(address: SocketAddr, bound: SocketAddr) -> bool {
    let (to, at) = (address.ip().to_canonical(), bound.ip().to_canonical());
    // Linux takes the unspecified address for this machine's own.
    address.port() == bound.port()
        && (to == at || (to.is_unspecified() && at.is_loopback()) || (at.is_unspecified() && is_of_this_machine(to)))
}

fn is_of_this_machine(address: IpAddr) -> bool {
    // Only an address of one's own can be bound; a port of no service is taken for that, for no time.
    address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// B5: nothing answers. The kernel takes no more connections than fit the queue of who does not accept them.
    #[tokio::test(start_paused = true)]
    async fn a_target_that_does_not_answer_is_given_up_after_ten_seconds() {
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        silent.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        silent.listen(0).unwrap();
        let address = silent.local_addr().unwrap().as_socket().unwrap();
        let _queued = std::net::TcpStream::connect(address).unwrap();
        let begun = Instant::now();
        let Err(unreached) = dial_beside(&[], &HostPort::from(address)).await else { panic!("it was reached") };
        assert_eq!((unreached.code, unreached.reject), (code::TARGET_TIMEOUT, RejectCode::TargetTimeout));
        assert!(unreached.reason.ends_with(&format!("{address} did not answer within 10 s")), "{}", unreached.reason);
        assert!((10..11).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    #[test]
    fn where_an_inlet_listens() {
        let is = |address: &str, bound: &str| is_listened_at(address.parse().unwrap(), bound.parse().unwrap());
        for (address, bound) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "0.0.0.0:80"),
            ("127.0.0.9:80", "0.0.0.0:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::1]:80", "[::]:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "[::]:80"),
        ] {
            assert!(is(address, bound), "{address} at {bound}");
        }
        for (address, bound) in [
            ("127.0.0.1:80", "127.0.0.1:81"),
            ("127.0.0.2:80", "127.0.0.1:80"),
            ("192.0.2.1:80", "0.0.0.0:80"),
            ("0.0.0.0:80", "192.0.2.1:80"),
        ] {
            assert!(!is(address, bound), "{address} at {bound}");
        }
    }
}
