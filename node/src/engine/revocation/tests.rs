//! Statements that are not of this project's authority, by either road.

use postern_proto::authority::VoidEntry;
use postern_proto::identity::Identity;
use postern_proto::statement::Statement;

use super::*;
use crate::engine::tests::TestHome;

const PROJECT: ProjectId = ProjectId::from_bytes([1; 16]);
const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

/// Of another network, for another project, old, or of a lower epoch: nothing becomes void by it, nobody is believed longer, and it is
/// told of once.
#[tokio::test]
async fn statements_that_are_not_for_this_node_change_nothing() {
    let home = TestHome::new();
    let node = home.node("n").await;
    let shared = &node.shared;
    shared.trust.watch_own().wait_for(Option::is_some).await.unwrap();
    let project = shared.trust.domain().unwrap().ring.project();
    let (authority, other) = (Identity::generate(NOW), Identity::generate(NOW));
    let member = shared.trust.identifier;
    let voiding = |project, epoch| Voiding {
        project,
        epoch,
        time: NOW,
        entries: vec![VoidEntry { member, not_before: VoidEntry::FOR_EVER }],
        since: 0,
    };
    let heartbeat = |project, epoch| Heartbeat { project, epoch, time: shared.trust.now() };
    fn signed<T: Statement>(by: &Identity, statement: &T) -> Vec<u8> {
        statement::sign(by, statement).unwrap()
    }
    let foreign = [
        signed(&other, &voiding(project, 1)),
        signed(&other, &voiding(PROJECT, 1)),
        signed(&authority, &voiding(PROJECT, 1)),
        signed(&other, &heartbeat(project, 0)),
        signed(&authority, &heartbeat(PROJECT, 0)),
    ];
    // Of an authority that this node does not know yet, everything is.
    for statement in &foreign {
        take_from_relay(shared, statement);
    }
    assert!(!lock(&shared.revocation.state).odd);
    lock(&shared.revocation.state).authority = Some((authority.history().clone(), project));
    for statement in &foreign {
        lock(&shared.revocation.state).odd = false;
        take_from_relay(shared, statement);
        assert!(lock(&shared.revocation.state).odd, "it is told of");
        take_voiding(shared, statement, Road::Authority);
        take_heartbeat(shared, statement, Road::Authority);
        assert_eq!(shared.trust.domain().unwrap().voided.epoch(), 0);
        assert!(!shared.trust.is_revoked() && shared.trust.freshness().is_none());
    }
    // Good ones, passed on by a relay.
    take_from_relay(shared, &signed(&authority, &heartbeat(project, 0)));
    assert!(!lock(&shared.revocation.state).odd && shared.trust.freshness().is_some());
    let second = signed(&authority, &Voiding { entries: Vec::new(), ..voiding(project, 2) });
    take_from_relay(shared, &second);
    assert_eq!(shared.trust.domain().unwrap().voided.epoch(), 2);
    // An older one, said again, and a heartbeat from before it: this node is not revoked by what was taken back since.
    let heard = shared.trust.freshness().unwrap().heard;
    for old in [signed(&authority, &voiding(project, 1)), signed(&authority, &heartbeat(project, 1)), second] {
        take_from_relay(shared, &old);
        assert_eq!(shared.trust.domain().unwrap().voided.epoch(), 2);
        assert!(!shared.trust.is_revoked());
    }
    assert_eq!(shared.trust.freshness().unwrap().heard, heard);
    // A relay that keeps old ones makes no alarm of a rollback, which only the authority's own road can, nor ends one.
    let told = || lock(&shared.revocation.state).told;
    let at = |seconds| Heartbeat { time: heard.plus(Duration::from_secs(seconds)), ..heartbeat(project, 2) };
    let old = signed(&authority, &heartbeat(project, 1));
    take_heartbeat(shared, &old, Road::Relay);
    assert!(!told());
    take_heartbeat(shared, &old, Road::Authority);
    assert!(told());
    take_heartbeat(shared, &signed(&authority, &at(1)), Road::Relay);
    assert!(told());
    take_heartbeat(shared, &signed(&authority, &at(2)), Road::Authority);
    assert!(!told());
    // Nor does it fill the log with what is not the authority's, by saying something known in between.
    take_from_relay(shared, &foreign[0]);
    let odd = || lock(&shared.revocation.state).odd;
    let voided = signed(&authority, &Voiding { entries: Vec::new(), ..voiding(project, 2) });
    for known in [signed(&authority, &at(2)), voided, signed(&authority, &heartbeat(project, 9))] {
        take_from_relay(shared, &known);
        assert!(odd());
    }
    take_from_relay(shared, &signed(&authority, &at(3)));
    assert!(!odd());
    take_from_relay(shared, &signed(&authority, &voiding(project, 3)));
    assert!(shared.trust.is_revoked());
}
