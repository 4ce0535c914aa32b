//! A key in other hands: what was begun with it ends, also where the authority cannot tell everybody at once.

use postern_proto::identity::ChangeReason;

use super::tests::{audit, credentials, enroller, info, relay_server};
use super::*;
use crate::testing::{Fixture, Person, request};

/// Makes the project information impossible to sign, or possible again.
async fn relays_are_at(f: &Fixture, address: &str) {
    let mut write = f.authority.service().store().write().await.unwrap();
    sqlx::query("UPDATE relays SET address = ?").bind(address).execute(write.connection()).await.unwrap();
    write.commit().await.unwrap();
}

#[tokio::test]
async fn a_stolen_key_ends_with_what_was_begun_with_it() {
    let f = Fixture::new().await;
    f.enrol("relay", relay_server("r.example:1")).await;
    let mut person = f.enrol("person", enroller()).await;
    let service = f.authority.service().clone();
    let thief = Person { identity: person.identity.clone(), key: person.key.clone(), newcomer: person.newcomer.clone() };
    let ticket = f.issue(&thief, request()).await.unwrap();
    let before = info(&f).epoch;
    let mut out = service.removals();
    relays_are_at(&f, "nowhere").await;
    person.identity.rotate(f.now(), ChangeReason::Compromised).unwrap();
    service.recognise(person.id(), person.identity.history()).await.unwrap();
    assert_eq!(out.try_recv(), Ok(Out::Rekeyed { identifier: person.id(), sequence: 1 }), "though nothing can be published");
    assert_eq!(service.published().borrow().info().epoch, before);

    // What waited in a session of before when that was committed.
    for request in [Request::Credentials { relay_names: Vec::new() }, Request::IssueTicket(request()), Request::ProjectInfo] {
        assert!(matches!(f.ask(&thief, request).await, Err(Refusal::NotPermitted { .. })));
    }
    assert_eq!(f.join(&Person::new("friend"), &ticket).await.unwrap_err(), Refusal::TicketRevoked);
    credentials(&f, &person, &[]).await.unwrap();

    relays_are_at(&f, "r.example:1").await;
    service.recognise(person.id(), person.identity.history()).await.unwrap();
    assert!(info(&f).epoch > before, "told when it calls again");
    let rows = audit(&f).await;
    assert!(rows.iter().any(|row| row.reason == "compromised; 1 of its tickets revoked"));

    // A key that was only renewed ends nothing.
    let still = Person { identity: person.identity.clone(), key: person.key.clone(), newcomer: person.newcomer.clone() };
    person.identity.rotate(f.now(), ChangeReason::Renewed).unwrap();
    service.recognise(person.id(), person.identity.history()).await.unwrap();
    credentials(&f, &still, &[]).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_published_at_once_is_published_later() {
    let f = Fixture::new().await;
    f.enrol("relay", relay_server("r.example:1")).await;
    for request in [Request::PrepareKey, Request::ActivateKey] {
        f.ask(&f.administrator, request).await.unwrap();
    }
    relays_are_at(&f, "nowhere").await;
    let retired = f.ask(&f.administrator, Request::RetireKey { force: true }).await;
    assert_eq!(retired.unwrap_err(), Refusal::Internal);
    assert_eq!(info(&f).key_ring.len(), 2);
    relays_are_at(&f, "r.example:1").await;
    let service = f.authority.service().clone();
    let (mut published, stop) = (service.published(), CancellationToken::new());
    let keeping = tokio::spawn({
        let stop = stop.clone();
        async move { service.keep_published(Duration::from_millis(1), stop).await }
    });
    published.wait_for(|published| published.info().key_ring.len() == 1).await.unwrap();
    stop.cancel();
    keeping.await.unwrap();
}

#[tokio::test]
async fn a_replaced_key_admits_nobody_again() {
    let f = Fixture::new().await;
    let mut person = f.enrol("person", request()).await;
    let thief = Person { identity: person.identity.clone(), key: person.key.clone(), newcomer: person.newcomer.clone() };
    person.identity.rotate(f.now(), ChangeReason::Compromised).unwrap();
    person.newcomer.history = person.identity.history().encode();
    f.authority.service().recognise(person.id(), person.identity.history()).await.unwrap();
    f.ask(&f.administrator, Request::RevokeMember { member: person.id() }).await.unwrap();
    let ticket = f.issue(&f.administrator, request()).await.unwrap();
    assert!(matches!(f.join(&thief, &ticket).await, Err(Refusal::NotPermitted { .. })));
    f.join(&person, &ticket).await.unwrap();
}
