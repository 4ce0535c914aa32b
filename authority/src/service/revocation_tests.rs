//! Members that are revoked or changed: what becomes void, who may do it, who comes back, and who is told.

use postern_proto::authority::{Attributes, Enforcement as Report, Grant, TicketRequest, VoidEntry, Voiding};
use postern_proto::credential::{Audience, CredentialError};
use postern_proto::statement;

use super::tests::{audit, credentials, enroller, info, members, verify, voided};
use super::*;
use crate::testing::{Fixture, Person, request};

fn attributes<const N: usize>(of: [(&str, &str); N]) -> Attributes {
    of.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn revoke(who: &Person) -> Request {
    Request::RevokeMember { member: who.id() }
}

fn delete(who: &Person) -> Request {
    Request::DeleteMember { member: who.id() }
}

fn update<const N: usize>(who: &Person, to: [(&str, &str); N]) -> Request {
    Request::UpdateMember { member: who.id(), attributes: attributes(to) }
}

fn epoch(answer: Result<Answer, Refusal>) -> u64 {
    match answer {
        Ok(Answer::Voided { epoch }) => epoch,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_revoked_member_stays_in_the_list_until_it_is_deleted() {
    let f = Fixture::new().await;
    let person = f.enrol("vendor", request()).await;
    let (old, _) = credentials(&f, &person, &[]).await.unwrap();
    let first = epoch(f.ask(&f.administrator, revoke(&person)).await);
    assert_eq!(first, info(&f).epoch);
    assert!(matches!(verify(&f, &person, &old, Audience::Member), Err(CredentialError::Revoked(_))));
    assert_eq!(credentials(&f, &person, &[]).await.unwrap_err(), Refusal::NotAMember, "nor is it given another one");
    let listed = members(&f, &f.administrator).await.unwrap();
    let row = listed.iter().find(|row| row.identifier == person.id()).unwrap();
    assert_eq!((row.revoked_at, row.expires_at), (Some(f.now()), None));

    assert_eq!(epoch(f.ask(&f.administrator, revoke(&person)).await), first, "again: nothing changes");
    assert_eq!(epoch(f.ask(&f.administrator, delete(&person)).await), first, "it was void before");
    assert!(members(&f, &f.administrator).await.unwrap().iter().all(|row| row.identifier != person.id()));
    assert!(matches!(f.ask(&f.administrator, delete(&person)).await, Err(Refusal::NotFound { .. })));
    assert!(voided(&f).is_revoked(&person.id()));
    let acts: Vec<_> = audit(&f)
        .await
        .into_iter()
        .filter(|row| row.subject == person.id().to_string() && row.result == "ok")
        .map(|row| row.action)
        .collect();
    assert_eq!(acts[acts.len() - 2..], ["revoke-member", "delete-member"]);
}

#[tokio::test]
async fn only_a_ticket_issued_after_the_revocation_admits_again() {
    let f = Fixture::new().await;
    let person = f.enrol("vendor", request()).await;
    let (old, _) = credentials(&f, &person, &[]).await.unwrap();
    // Issued in the same second, and before.
    let early = f.issue(&f.administrator, TicketRequest { max_uses: 9, ..request() }).await.unwrap();
    let revoked = epoch(f.ask(&f.administrator, revoke(&person)).await);
    let late = f.issue(&f.administrator, request()).await.unwrap();
    assert!(matches!(f.join(&person, &early).await, Err(Refusal::NotPermitted { .. })));
    assert!(f.join(&Person::new("other"), &early).await.is_ok(), "others may still use it");
    let before = f.authority.service().published().borrow().info().epoch;
    assert_eq!(before, revoked);
    f.join(&person, &late).await.unwrap();
    assert!(info(&f).epoch > revoked, "everybody is told that it is back");
    let (new, _) = credentials(&f, &person, &[]).await.unwrap();
    verify(&f, &person, &new, Audience::Member).unwrap();
    assert!(matches!(verify(&f, &person, &old, Audience::Member), Err(CredentialError::Void { .. })));
    assert!(members(&f, &f.administrator).await.unwrap().iter().all(|row| row.revoked_at.is_none()));

    // One that never heard of the authority again until now learns it too, however late.
    f.advance(postern_proto::credential::MAX_LIFETIME * 3);
    f.ask(&f.administrator, revoke(&f.enrol("third", request()).await)).await.unwrap();
    assert!(voided(&f).not_before(&person.id()).is_some_and(|limit| limit < VoidEntry::FOR_EVER));
}

/// Under another key, it is somebody else to the authority; what is left of its ticket must not let that one in.
#[tokio::test]
async fn what_is_left_of_a_member_s_own_ticket_goes_with_it() {
    let f = Fixture::new().await;
    let [its_own, of_others] = [(); 2].map(|()| TicketRequest { max_uses: 3, ..request() });
    let its_own = f.issue(&f.administrator, its_own).await.unwrap();
    let of_others = f.issue(&f.administrator, of_others).await.unwrap();
    let person = Person::new("vendor");
    f.join(&person, &its_own).await.unwrap();
    epoch(f.ask(&f.administrator, revoke(&person)).await);
    assert_eq!(f.join(&Person::new("vendor-again"), &its_own).await, Err(Refusal::TicketRevoked));
    let back = f.join(&person, &its_own).await;
    assert!(matches!(&back, Err(Refusal::NotPermitted { reason }) if reason.contains("was revoked at")), "{back:?}");
    f.join(&Person::new("other"), &of_others).await.unwrap();

    // A used-up one of its own is no alarm; for anybody else it is.
    let once = f.issue(&f.administrator, request()).await.unwrap();
    let second = Person::new("second");
    f.join(&second, &once).await.unwrap();
    epoch(f.ask(&f.administrator, revoke(&second)).await);
    let back = f.join(&second, &once).await;
    assert!(matches!(&back, Err(Refusal::NotPermitted { reason }) if reason.contains("was revoked at")), "{back:?}");
    assert!(matches!(f.join(&Person::new("thief"), &once).await, Err(Refusal::TicketUsedUp { .. })));
}

#[tokio::test]
async fn a_start_does_not_undo_a_revocation() {
    let f = Fixture::new().await;
    let second = f.enrol("second", TicketRequest { role: Role::Administrator, ..request() }).await;
    f.ask(&second, revoke(&f.administrator)).await.unwrap();
    f.authority.bootstrap_administrator(&f.administrator.newcomer).await.unwrap();
    assert_eq!(f.ask(&f.administrator, Request::ProjectInfo).await.unwrap_err(), Refusal::NotAMember);
}

#[tokio::test]
async fn changed_attributes_void_what_was_and_come_with_the_next_credentials() {
    let f = Fixture::new().await;
    let person = f.enrol("vendor", TicketRequest { attributes: attributes([("app", "one")]), ..request() }).await;
    let (first, _) = credentials(&f, &person, &[]).await.unwrap();
    // Twice within a second.
    let mut before = first;
    for value in ["two", "three"] {
        let changed = epoch(f.ask(&f.administrator, update(&person, [("app", value), ("more", "true")])).await);
        assert_eq!(changed, info(&f).epoch);
        assert!(matches!(verify(&f, &person, &before, Audience::Member), Err(CredentialError::Void { .. })));
        let (now, relay) = credentials(&f, &person, &[]).await.unwrap();
        let verified = verify(&f, &person, &now, Audience::Member).unwrap();
        assert_eq!(*verified.attributes(), attributes([("app", value), ("more", "true")]));
        verify(&f, &person, &relay, Audience::Relay).unwrap();
        before = now;
    }
    let same = epoch(f.ask(&f.administrator, update(&person, [("app", "three"), ("more", "true")])).await);
    assert_eq!(same, info(&f).epoch, "no change voids nothing");
    verify(&f, &person, &before, Audience::Member).unwrap();
    let rows = audit(&f).await;
    assert_eq!(rows.iter().filter(|row| row.action == "update-member" && row.result == "ok").count(), 2);
    assert!(rows.iter().any(|row| row.reason.contains("app=two more=true instead of app=one")));
}

#[tokio::test]
async fn who_may_change_and_revoke_whom() {
    let f = Fixture::new().await;
    let may_grant = vec![Grant::Attribute { key: "app".to_owned(), value: None }];
    let limited = f.enrol("limited", TicketRequest { role: Role::Enroller { may_grant }, ..request() }).await;
    let other = f.enrol("other", enroller()).await;
    let ticket = f.issue(&limited, TicketRequest { attributes: attributes([("app", "a")]), ..request() }).await.unwrap();
    let person = Person::new("person");
    f.join(&person, &ticket).await.unwrap();
    let (relay, plain) = (f.enrol("relay", super::tests::relay_server("r.example:1")).await, f.enrol("plain", request()).await);

    for act in [update(&person, [("app", "b")]), revoke(&person)] {
        assert!(matches!(f.ask(&other, act.clone()).await, Err(Refusal::NotFound { .. })), "of somebody else");
        assert!(matches!(f.ask(&plain, act.clone()).await, Err(Refusal::NotPermitted { .. })));
        assert!(matches!(f.ask(&relay, act).await, Err(Refusal::NotPermitted { .. })));
    }
    assert!(matches!(f.ask(&limited, update(&person, [("admin", "true")])).await, Err(Refusal::NotPermitted { .. })));
    epoch(f.ask(&limited, update(&person, [("app", "b")])).await);
    // What an administrator gave, an enroller may leave, but neither change nor take.
    epoch(f.ask(&f.administrator, update(&person, [("app", "b"), ("admin", "true")])).await);
    epoch(f.ask(&limited, update(&person, [("app", "c"), ("admin", "true")])).await);
    assert!(matches!(f.ask(&limited, update(&person, [("admin", "false")])).await, Err(Refusal::NotPermitted { .. })));
    assert!(matches!(f.ask(&limited, update(&person, [])).await, Err(Refusal::NotPermitted { .. })));
    epoch(f.ask(&limited, update(&person, [("admin", "true")])).await);
    let reserved = f.ask(&f.administrator, update(&person, [("postern-role", "x")])).await;
    assert!(matches!(reserved, Err(Refusal::Invalid { .. })), "{reserved:?}");
    assert!(matches!(f.ask(&f.administrator, update(&relay, [("a", "b")])).await, Err(Refusal::NotPermitted { .. })));
    epoch(f.ask(&limited, revoke(&person)).await);
    assert!(matches!(f.ask(&f.administrator, revoke(&f.administrator)).await, Err(Refusal::NotPermitted { .. })), "the last one");
}

#[tokio::test]
async fn who_was_told_hears_only_the_news() {
    let f = Fixture::new().await;
    let service = f.authority.service();
    let published = || service.published().borrow().clone();
    assert!(published().voided_since(None).is_empty());
    let people = [f.enrol("a", request()).await, f.enrol("b", request()).await];
    let mut told = published().info().epoch;
    for person in &people {
        f.ask(&f.administrator, revoke(person)).await.unwrap();
        let now = published();
        let news = now.voided_since(Some(told));
        assert_eq!((news.len(), news[0].since, news[0].epoch), (1, told, now.info().epoch));
        let history = History::decode(&now.history).unwrap();
        let said: Voiding = statement::verify(&history, now.project(), &news[0].statement).unwrap();
        assert_eq!(said.entries, [VoidEntry { member: person.id(), not_before: VoidEntry::FOR_EVER }]);
        told = now.info().epoch;
    }
    // Who missed one is told from there on, and who knows nothing, all.
    assert_eq!(published().voided_since(Some(0)), published().voided_since(None));
    assert_eq!(published().voided_since(None).last().map(|part| part.epoch), Some(told));
    // A change that voids nothing is no news.
    f.authority.advertise(&["gate.example:4000".parse().unwrap()]).await.unwrap();
    assert!(published().voided_since(Some(told)).is_empty());
}

#[tokio::test]
async fn it_is_known_who_enforces_a_revocation() {
    let f = Fixture::new().await;
    let (node, away, gone) =
        (f.enrol("node", request()).await, f.enrol("away", request()).await, f.enrol("gone", request()).await);
    for person in [&node, &away, &gone] {
        credentials(&f, person, &[]).await.unwrap();
    }
    let service = f.authority.service();
    let _presence = service.enforcement().enter(node.key.public(), false);
    let revoked = epoch(f.ask(&f.administrator, revoke(&gone)).await);
    let report = async || match f.ask(&f.administrator, Request::Enforcement { epoch: revoked }).await.unwrap() {
        Answer::Enforcement(report) => report,
        other => panic!("{other:?}"),
    };
    let before = report().await;
    assert_eq!((before.nodes, before.waiting, before.offline), (0, 1, 1), "the revoked one is nobody's concern: {before:?}");
    let beyond = f.ask(&node, Request::Acknowledge { epoch: revoked + 1 }).await;
    assert!(matches!(beyond, Err(Refusal::Invalid { .. })), "{beyond:?}");
    f.ask(&node, Request::Acknowledge { epoch: revoked }).await.unwrap();
    let Report { nodes, waiting, offline, times, missing, .. } = report().await;
    assert_eq!((nodes, waiting, offline), (1, 0, 1));
    assert!(times.is_some());
    assert_eq!(missing.iter().map(|missing| missing.name.as_str()).collect::<Vec<_>>(), ["away"]);
    let asked = f.ask(&node, Request::Enforcement { epoch: revoked }).await;
    assert!(matches!(asked, Err(Refusal::NotPermitted { .. })), "{asked:?}");
    // Who has a credential that somebody takes by a late clock is asked; also after another of its member was issued.
    f.advance(f.settings().credential_lifetime + Duration::from_secs(1));
    assert_eq!(report().await.offline, 1);
    f.advance(postern_proto::time::CLOCK_TOLERANCE);
    assert_eq!(report().await.offline, 0);
}
