use super::*;
use crate::id::{NodeId, StaticPublic};

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

#[test]
fn an_identity_keeps_its_identifier_when_its_key_is_replaced() {
    let mut identity = Identity::generate(NOW);
    let before = identity.history().clone();
    identity.rotate(NOW, ChangeReason::Renewed).unwrap();
    let history = History::decode(&identity.history().encode()).unwrap();
    assert_eq!(history.identifier(), before.identifier());
    assert_ne!(history.current_key(), before.current_key());
    assert_eq!(history.succeeds(&before), Ok(Order::Newer));
    assert_eq!(before.succeeds(&history), Err(ForkOrRollback::Rollback { known: 1, got: 0 }));
    let again = Identity::from_secret_bytes(&identity.to_secret_bytes()).unwrap();
    assert_eq!(again.history(), identity.history());
}

fn attestation(identity: &Identity) -> Attestation {
    Attestation {
        identifier: identity.identifier(),
        node_id: NodeId::from_bytes([3; 16]),
        static_key: StaticPublic::from_bytes([9; 32]),
        created: NOW,
        expires: Timestamp::from_unix(NOW.as_unix() + 1000),
    }
}

#[test]
fn attestations() {
    let identity = Identity::generate(NOW);
    let made = attestation(&identity);
    assert_eq!(identity.history().verify_attestation(&identity.attest(&made), NOW), Ok(made));
}
