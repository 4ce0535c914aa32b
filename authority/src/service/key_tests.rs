//! The keys that sign credentials: who signs when, whose credentials are good, and what an interrupted act leaves behind.

use postern_proto::authority::{KeyState, RingKey, TicketRequest};
use postern_proto::credential::{Audience, CredentialError, MAX_RING_KEYS};
use postern_proto::handshake::StaticKey;
use postern_proto::id::{KeyId, NodeId};
use postern_proto::identity::Identity;
use postern_proto::sign::peek_key_id;
use postern_proto::time::CLOCK_TOLERANCE;
use postern_runtime::enrol::attest;
use postern_runtime::home::authority::SIGNING;

use super::tests::{audit, credentials, info, verify};
use super::*;
use crate::testing::{Fixture, Person, directory, request};
use crate::{Authority, Settings};

async fn keys(f: &Fixture, request: Request) -> Vec<RingKey> {
    match f.ask(&f.administrator, request).await {
        Ok(Answer::SigningKeys { keys }) => {
            assert_eq!(keys, info(f).key_ring, "it is published");
            keys
        }
        other => panic!("{other:?}"),
    }
}

fn in_state(keys: &[RingKey], state: KeyState) -> Option<KeyId> {
    keys.iter().find(|key| key.state == state).map(|key| key.id)
}

fn file(f: &Fixture) -> Vec<u8> {
    directory(&f.home).read(SIGNING, 4096).unwrap().unwrap().to_vec()
}

#[tokio::test]
async fn a_key_is_prepared_then_signs_then_ends_the_one_before() {
    let f = Fixture::new().await;
    let person = f.enrol("node", request()).await;
    let (old, _) = credentials(&f, &person, &[]).await.unwrap();
    let first = peek_key_id(&old).unwrap();
    let seed = file(&f);
    assert!(matches!(f.ask(&f.administrator, Request::ActivateKey).await, Err(Refusal::NotFound { .. })));
    let retire = Request::RetireKey { force: true };
    assert!(matches!(f.ask(&f.administrator, retire.clone()).await, Err(Refusal::NotFound { .. })));

    let sequence = info(&f).sequence;
    let ring = keys(&f, Request::PrepareKey).await;
    let next = in_state(&ring, KeyState::Prepared).unwrap();
    assert_eq!(in_state(&ring, KeyState::Active), Some(first));
    assert!(info(&f).sequence > sequence);
    assert_eq!(keys(&f, Request::PrepareKey).await, ring, "again: nothing changes");
    let (still, _) = credentials(&f, &person, &[]).await.unwrap();
    assert_eq!(peek_key_id(&still).unwrap(), first);

    let ring = keys(&f, Request::ActivateKey).await;
    assert_eq!((in_state(&ring, KeyState::Active), in_state(&ring, KeyState::Replaced)), (Some(next), Some(first)));
    assert!(verify(&f, &person, &old, Audience::Member).is_ok(), "what it signed is good");
    let f = f.reopen().await;
    assert_eq!(info(&f).key_ring, ring, "a restart changes nothing");
    let used = Refusal::KeyInUse { key: first, nodes: 1 };
    assert_eq!(f.ask(&f.administrator, Request::RetireKey { force: false }).await.unwrap_err(), used);
    let (new, relay) = credentials(&f, &person, &[]).await.unwrap();
    assert_eq!((peek_key_id(&new).unwrap(), peek_key_id(&relay).unwrap()), (next, next));

    let ring = keys(&f, Request::RetireKey { force: false }).await;
    assert_eq!(ring.iter().map(|key| key.id).collect::<Vec<_>>(), [next]);
    assert_eq!(verify(&f, &person, &old, Audience::Member).unwrap_err(), CredentialError::UnknownKey(first));
    assert!(verify(&f, &person, &new, Audience::Member).is_ok());
    assert!(file(&f).len() == 32 && file(&f) != seed, "the retired key is gone");
    let (newest, _) = credentials(&f, &person, &[]).await.unwrap();
    assert_eq!(peek_key_id(&newest).unwrap(), next);

    let rows = audit(&f).await;
    let acts: Vec<_> = rows.iter().filter(|row| row.action.ends_with("-key") && row.result == "ok").collect();
    assert_eq!(acts.iter().map(|row| row.action.as_str()).collect::<Vec<_>>(), ["prepare-key", "activate-key", "retire-key"]);
    assert_eq!(acts[1].subject, next.to_string());
    assert_eq!(acts[1].before, Some(format!("{first} active, {next} prepared")));
    assert_eq!(acts[1].after, Some(format!("{first} replaced, {next} active")));
    assert!(acts.iter().all(|row| row.actor == f.administrator.id().to_string()));
}

#[tokio::test]
async fn a_key_in_use_is_retired_by_force_only() {
    let f = Fixture::new().await;
    let person = f.enrol("node", request()).await;
    let (old, _) = credentials(&f, &person, &[]).await.unwrap();
    keys(&f, Request::PrepareKey).await;
    keys(&f, Request::ActivateKey).await;
    let gone = keys(&f, Request::RetireKey { force: true }).await;
    assert_eq!(gone.len(), 1);
    assert!(matches!(verify(&f, &person, &old, Audience::Member), Err(CredentialError::UnknownKey(_))));
    let (new, _) = credentials(&f, &person, &[]).await.unwrap();
    assert!(verify(&f, &person, &new, Audience::Member).is_ok());

    // Whose credentials have expired is not waited for.
    keys(&f, Request::PrepareKey).await;
    keys(&f, Request::ActivateKey).await;
    f.advance(f.settings().credential_lifetime + Duration::from_secs(1));
    // By a clock that is late within reason they have not.
    let refused = f.ask(&f.administrator, Request::RetireKey { force: false }).await;
    assert!(matches!(refused, Err(Refusal::KeyInUse { nodes: 1, .. })), "{refused:?}");
    f.advance(CLOCK_TOLERANCE);
    keys(&f, Request::RetireKey { force: false }).await;
}

/// Credentials live as long as was set when they were signed.
#[tokio::test]
async fn a_replaced_key_is_good_for_all_that_it_signed() {
    for by_hand in [false, true] {
        let mut f = Fixture::new().await;
        let person = f.enrol("node", request()).await;
        let (old, _) = credentials(&f, &person, &[]).await.unwrap();
        let until = verify(&f, &person, &old, Audience::Member).unwrap().expires();
        let shorter = Settings { credential_lifetime: Duration::from_secs(600), ..f.settings() };
        f.authority.shutdown(Duration::from_secs(5)).await;
        if by_hand {
            directory(&f.home).write(SIGNING, &[7; 32]).unwrap();
        }
        f.authority = Authority::open_or_create(&directory(&f.home), shorter).await.unwrap();
        if !by_hand {
            keys(&f, Request::PrepareKey).await;
            keys(&f, Request::ActivateKey).await;
        }
        let ring = info(&f).key_ring;
        let replaced = ring.iter().find(|key| key.state == KeyState::Replaced).unwrap();
        assert_eq!(replaced.not_after, until.plus(CLOCK_TOLERANCE), "by hand: {by_hand}");
        f.advance(Duration::from_secs(1_200));
        assert!(verify(&f, &person, &old, Audience::Member).is_ok());
    }
}

#[tokio::test]
async fn only_administrators_change_keys() {
    let f = Fixture::new().await;
    let enroller = TicketRequest { role: Role::Enroller { may_grant: Vec::new() }, ..request() };
    for ticket in [request(), enroller] {
        let person = f.enrol("node", ticket).await;
        for request in [Request::PrepareKey, Request::ActivateKey, Request::RetireKey { force: true }] {
            assert!(matches!(f.ask(&person, request).await, Err(Refusal::NotPermitted { .. })));
        }
    }
    let stranger = Person::new("stranger");
    assert_eq!(f.ask(&stranger, Request::PrepareKey).await.unwrap_err(), Refusal::NotAMember);
    assert_eq!(info(&f).key_ring.len(), 1);
}

#[tokio::test]
async fn a_ring_does_not_outgrow_what_members_take() {
    let f = Fixture::new().await;
    for _ in 1..MAX_RING_KEYS {
        keys(&f, Request::PrepareKey).await;
        keys(&f, Request::ActivateKey).await;
    }
    assert!(matches!(f.ask(&f.administrator, Request::PrepareKey).await, Err(Refusal::Invalid { .. })));
    assert_eq!(keys(&f, Request::RetireKey { force: false }).await.len(), 1);
    keys(&f, Request::PrepareKey).await;
}

/// The file is written before the database when a key comes, and after it when one goes. Between the two the process may end.
#[tokio::test]
async fn an_interrupted_change_of_keys_leaves_one_that_signs() {
    let f = Fixture::new().await;
    let (before, ring) = (file(&f), info(&f).key_ring);
    // A key was to be prepared, or was just retired: it is in the file alone.
    directory(&f.home).write(SIGNING, &[before.clone(), vec![7; 32]].concat()).unwrap();
    let f = f.reopen().await;
    assert_eq!((info(&f).key_ring, file(&f)), (ring, before.clone()), "it is wiped");
    keys(&f, Request::PrepareKey).await;
    let (ring, both) = (info(&f).key_ring, file(&f));
    assert_eq!(both.len(), 64);

    // A file of before, with a database of after: the prepared key cannot sign any more, so it is taken back.
    directory(&f.home).write(SIGNING, &before).unwrap();
    let f = f.reopen().await;
    assert_eq!(info(&f).key_ring, ring[..1]);
    // A file that knows none of the database's keys, as when it was replaced by hand.
    directory(&f.home).write(SIGNING, &both[32..]).unwrap();
    let f = f.reopen().await;
    let now = info(&f).key_ring;
    assert_eq!(in_state(&now, KeyState::Replaced), Some(ring[0].id));
    assert_eq!(in_state(&now, KeyState::Active), Some(ring[1].id));
    let person = f.enrol("node", request()).await;
    let (member, _) = credentials(&f, &person, &[]).await.unwrap();
    assert!(verify(&f, &person, &member, Audience::Member).is_ok());
}

#[tokio::test]
async fn a_back_up_brings_no_retired_key_back() {
    let f = Fixture::new().await;
    let person = f.enrol("node", request()).await;
    let (stolen, _) = credentials(&f, &person, &[]).await.unwrap();
    let copy = f.home.path().join("copy");
    f.authority.back_up(&copy).await.unwrap();
    keys(&f, Request::PrepareKey).await;
    keys(&f, Request::ActivateKey).await;
    let ring = keys(&f, Request::RetireKey { force: true }).await;
    f.authority.shutdown(Duration::from_secs(5)).await;
    let database = f.home.path().join(postern_runtime::home::authority::DATABASE);
    for rest in ["-wal", "-shm"] {
        let mut name = database.clone().into_os_string();
        name.push(rest);
        let _ = std::fs::remove_file(name);
    }
    std::fs::rename(&copy, &database).unwrap();
    directory(&f.home).write(crate::RESTORED, b"").unwrap();
    let f = f.reopen().await;
    assert_eq!(info(&f).key_ring.iter().map(|key| key.id).collect::<Vec<_>>(), [ring[0].id]);
    assert!(matches!(verify(&f, &person, &stolen, Audience::Member), Err(CredentialError::UnknownKey(_))));
}

#[tokio::test]
async fn a_replaced_key_that_signs_again_is_good_for_long() {
    let f = Fixture::new().await;
    keys(&f, Request::PrepareKey).await;
    let ring = keys(&f, Request::ActivateKey).await;
    let before = ring.iter().find(|key| key.state == KeyState::Replaced).unwrap();
    // The file lost the key that signs.
    let first = file(&f)[..32].to_vec();
    directory(&f.home).write(SIGNING, &first).unwrap();
    let f = f.reopen().await;
    let again = info(&f).key_ring.into_iter().find(|key| key.state == KeyState::Active).unwrap();
    assert_eq!(again.id, before.id);
    assert_eq!(again.not_after, f.now().plus(SIGNING_KEY_LIFETIME));
}

#[tokio::test]
async fn a_node_gets_credentials_for_the_static_key_before_while_its_identity_attests_it() {
    let f = Fixture::new().await;
    let mut person = f.enrol("node", request()).await;
    credentials(&f, &person, &[]).await.unwrap();
    let (before, node_id) = (person.key.clone(), NodeId::random());
    person.key = StaticKey::generate();
    let attested = |identity: &Identity, key: &StaticKey| attest(identity, node_id, key.public(), f.now());
    let ask = |attestation| Request::CredentialBefore { attestation };
    let Ok(Answer::Credentials { member, relay }) = f.ask(&person, ask(attested(&person.identity, &before))).await else {
        panic!("a credential")
    };
    assert!(relay.is_empty());
    assert_eq!(verify(&f, &person, &member, Audience::Member).unwrap_err(), CredentialError::OtherHolder);
    let now = std::mem::replace(&mut person.key, before.clone());
    verify(&f, &person, &member, Audience::Member).unwrap();
    person.key = now;
    // All of it is the node's, which has the new key: it is one node, also to whoever counts.
    keys(&f, Request::PrepareKey).await;
    let ring = keys(&f, Request::ActivateKey).await;
    let used = Refusal::KeyInUse { key: ring[0].id, nodes: 1 };
    assert_eq!(f.ask(&f.administrator, Request::RetireKey { force: false }).await.unwrap_err(), used);
    credentials(&f, &person, &[]).await.unwrap();
    keys(&f, Request::RetireKey { force: false }).await;

    let stranger = Identity::generate(f.now());
    for wrong in [attested(&stranger, &before), Vec::new(), vec![0; 600]] {
        assert!(matches!(f.ask(&person, ask(wrong)).await, Err(Refusal::Invalid { .. })));
    }
    let relay = TicketRequest { role: Role::RelayServer { address: "h:1".parse().unwrap() }, ..request() };
    let relay = f.enrol("relay", relay).await;
    assert!(f.ask(&relay, ask(attested(&relay.identity, &before))).await.is_err(), "relays have none");
}

#[tokio::test]
async fn a_relay_announces_the_key_that_it_shows_next() {
    let f = Fixture::new().await;
    let relay = TicketRequest { role: Role::RelayServer { address: "h:1".parse().unwrap() }, ..request() };
    let mut relay = f.enrol("relay", relay).await;
    let next = StaticKey::generate();
    let announce =
        |identity: &Identity| Request::AnnounceStatic { next: attest(identity, NodeId::random(), next.public(), f.now()) };
    assert_eq!(info(&f).relays[0].next_static, None);
    let (first, sequence) = (relay.key.public(), info(&f).sequence);
    f.ask(&relay, announce(&relay.identity)).await.unwrap();
    let row = info(&f).relays[0].clone();
    assert_eq!((row.static_key, row.next_static), (first, Some(next.public())));
    assert!(info(&f).sequence > sequence, "everybody is told");
    let told = info(&f);
    f.ask(&relay, announce(&relay.identity)).await.unwrap();
    assert_eq!(info(&f), told, "again: nothing changes");

    relay.key = next.clone();
    assert!(matches!(f.ask(&relay, announce(&Identity::generate(f.now()))).await, Err(Refusal::Invalid { .. })));
    assert_eq!(info(&f), told);
    let third = StaticKey::generate();
    let attested = attest(&relay.identity, NodeId::random(), third.public(), f.now());
    f.ask(&relay, Request::AnnounceStatic { next: attested }).await.unwrap();
    let row = info(&f).relays[0].clone();
    assert_eq!((row.static_key, row.next_static), (next.public(), Some(third.public())));
    let person = f.enrol("node", request()).await;
    assert!(matches!(f.ask(&person, announce(&person.identity)).await, Err(Refusal::NotPermitted { .. })));
}
