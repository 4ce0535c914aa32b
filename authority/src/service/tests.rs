use std::fs;

use postern_proto::audit::AuditRow;
use postern_proto::authority::{Heartbeat, MemberRow, ProjectInfo, RelayPermission, TicketRequest, TicketRow, Voiding};
use postern_proto::credential::{Audience, CredentialError, Holder, KeyRing, VerifiedCredential, Verifier, Voided};
use postern_proto::id::TicketId;
use postern_proto::identity::ChangeReason;
use postern_proto::name::RelayName;
use postern_proto::statement;

use super::*;
use crate::keys::KeysError;
use crate::testing::{Fixture, Person, directory, request};
use crate::{Authority, OpenError, Settings};

fn name(text: &str) -> RelayName {
    text.parse().unwrap()
}

pub(super) fn enroller() -> TicketRequest {
    TicketRequest { role: Role::Enroller { may_grant: Vec::new() }, ..request() }
}

pub(super) fn relay_server(address: &str) -> TicketRequest {
    TicketRequest { role: Role::RelayServer { address: address.parse().unwrap() }, ..request() }
}

pub(super) async fn members(f: &Fixture, who: &Person) -> Result<Vec<MemberRow>, Refusal> {
    match f.ask(who, Request::ListMembers { after: None }).await? {
        Answer::Members { rows, more: false } => Ok(rows),
        other => panic!("{other:?}"),
    }
}

async fn tickets(f: &Fixture, who: &Person) -> Result<Vec<TicketRow>, Refusal> {
    match f.ask(who, Request::ListTickets { after: None }).await? {
        Answer::Tickets { rows, more: false } => Ok(rows),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn audit(f: &Fixture) -> Vec<AuditRow> {
    match f.ask(&f.administrator, Request::ListAudit { after: 0 }).await.unwrap() {
        Answer::Audit { rows, .. } => rows,
        other => panic!("{other:?}"),
    }
}

pub(super) fn info(f: &Fixture) -> ProjectInfo {
    let published = f.authority.service().published().borrow().clone();
    let history = History::decode(&published.history).unwrap();
    statement::verify(&history, published.project(), &published.statement).unwrap()
}

/// What a peer that was told everything knows to be void.
pub(super) fn voided(f: &Fixture) -> Voided {
    let published = f.authority.service().published().borrow().clone();
    let history = History::decode(&published.history).unwrap();
    let mut voided = Voided::default();
    for signed in &published.voidings {
        let statement: Voiding = statement::verify(&history, published.project(), &signed.statement).unwrap();
        voided.apply(&statement).unwrap();
    }
    voided
}

pub(super) async fn credentials(f: &Fixture, who: &Person, names: &[&str]) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
    let relay_names = names.iter().map(|text| name(text)).collect();
    match f.ask(who, Request::Credentials { relay_names }).await? {
        Answer::Credentials { member, relay } => Ok((member, relay)),
        other => panic!("{other:?}"),
    }
}

pub(super) fn verify(f: &Fixture, who: &Person, bytes: &[u8], audience: Audience) -> Result<VerifiedCredential, CredentialError> {
    let (ring, voided) = (KeyRing::of(&info(f)).unwrap(), voided(f));
    Verifier { ring: &ring, voided: &voided, now: f.now() }.verify(bytes, audience, Holder::Handshake(who.key.public()))
}

fn is_denied<T: std::fmt::Debug>(result: Result<T, Refusal>) -> bool {
    match result {
        Err(Refusal::NotPermitted { .. }) => true,
        Err(other) => panic!("{other:?}"),
        Ok(_) => false,
    }
}

fn is_absent<T: std::fmt::Debug>(result: Result<T, Refusal>) -> bool {
    matches!(result, Err(Refusal::NotFound { .. }))
}

#[tokio::test]
async fn enrollers_administer_what_is_theirs() {
    let f = Fixture::new().await;
    let vendor = f.enrol("vendor", enroller()).await;
    let other = f.enrol("other", enroller()).await;
    let acme = TicketRequest {
        attributes: [("inlet-to-saas".to_owned(), String::new())].into(),
        relays: vec![RelayPermission::Name(name("acme-relay"))],
        ..request()
    };
    let ticket = f.issue(&vendor, acme).await.unwrap();
    let customer = Person::new("customer");
    f.join(&customer, &ticket).await.unwrap();

    // Lists
    assert_eq!(members(&f, &f.administrator).await.unwrap().len(), 4);
    let seen = members(&f, &vendor).await.unwrap();
    assert_eq!(seen.iter().map(|row| row.identifier).collect::<Vec<_>>(), [customer.id()]);
    assert_eq!((seen[0].attested_by, seen[0].name.as_str()), (vendor.id(), "customer"));
    assert_eq!(members(&f, &other).await.unwrap(), []);
    let seen = tickets(&f, &vendor).await.unwrap();
    assert_eq!(
        (seen.len(), seen[0].id, seen[0].uses_by.iter().map(|used| used.by).collect::<Vec<_>>()),
        (1, ticket.id, vec![customer.id()])
    );
    assert_eq!(tickets(&f, &f.administrator).await.unwrap().len(), 3);
    assert_eq!(tickets(&f, &other).await.unwrap(), []);

    // Revoking
    let open = f.issue(&vendor, request()).await.unwrap();
    assert!(is_absent(f.ask(&other, Request::RevokeTicket { ticket: open.id }).await));
    assert!(is_absent(f.ask(&vendor, Request::RevokeTicket { ticket: TicketId::random() }).await));
    f.ask(&vendor, Request::RevokeTicket { ticket: open.id }).await.unwrap();
    assert_eq!(f.join(&Person::new("late"), &open).await, Err(Refusal::TicketRevoked));

    // Removing
    for target in [&f.administrator, &vendor, &other] {
        assert!(is_absent(f.ask(&other, Request::DeleteMember { member: target.id() }).await));
    }
    assert!(is_absent(f.ask(&other, Request::DeleteMember { member: customer.id() }).await));
    f.ask(&vendor, Request::DeleteMember { member: customer.id() }).await.unwrap();
    assert_eq!(members(&f, &vendor).await.unwrap(), []);
    assert_eq!(f.ask(&customer, Request::ProjectInfo).await.unwrap_err(), Refusal::NotAMember);
}

#[tokio::test]
async fn plain_members_and_relay_servers_administer_nothing() {
    let f = Fixture::new().await;
    let plain = f.enrol("plain", request()).await;
    let relay = f.enrol("relay", relay_server("relay.example:4000")).await;
    let ticket = f.issue(&f.administrator, request()).await.unwrap();
    for who in [&plain, &relay] {
        let asked = [
            Request::IssueTicket(request()),
            Request::ListTickets { after: None },
            Request::RevokeTicket { ticket: ticket.id },
            Request::ListMembers { after: None },
            Request::DeleteMember { member: f.administrator.id() },
            Request::ListAudit { after: 0 },
            Request::SetProjectPolicy { resource_type: "relay".to_owned(), expression: None, applies_to: None },
        ];
        for request in asked {
            assert!(is_denied(f.ask(who, request.clone()).await), "{request:?}");
        }
        assert!(f.ask(who, Request::ProjectInfo).await.is_ok());
    }
    // A relay is no peer: no credential, no name, and nothing that names attributes.
    for request in
        [Request::Credentials { relay_names: vec![] }, Request::ClaimRelayName { name: name("x") }, Request::ListProjectPolicies]
    {
        assert!(is_denied(f.ask(&relay, request).await));
    }
    assert!(is_denied(f.ask(&plain, Request::AdvertiseRelay { address: "elsewhere:1".parse().unwrap() }).await));
    let refused: Vec<_> = audit(&f).await.into_iter().filter(|row| row.result == "refused").collect();
    assert_eq!(refused.len(), 7 + 7 + 3 + 1);
    assert!(refused.iter().all(|row| !row.reason.is_empty() && row.actor.starts_with('P')));
}

#[tokio::test]
async fn strangers_get_nothing() {
    let f = Fixture::new().await;
    let stranger = Person::new("stranger");
    for request in [
        Request::ProjectInfo,
        Request::Credentials { relay_names: vec![] },
        Request::IssueTicket(request()),
        Request::ListMembers { after: None },
        Request::ListProjectPolicies,
        Request::ClaimRelayName { name: name("x") },
    ] {
        assert_eq!(f.ask(&stranger, request).await.unwrap_err(), Refusal::NotAMember);
    }
}

#[tokio::test]
async fn credentials_say_what_the_ticket_granted() {
    let f = Fixture::new().await;
    let granted = TicketRequest {
        attributes: [("inlet-to-saas".to_owned(), "yes".to_owned())].into(),
        relays: vec![RelayPermission::Name(name("acme-relay"))],
        ..request()
    };
    let node = f.enrol("node", granted.clone()).await;
    let (member, relay) = credentials(&f, &node, &["acme-relay"]).await.unwrap();
    let shown_to_peers = verify(&f, &node, &member, Audience::Member).unwrap();
    assert_eq!(shown_to_peers.subject(), node.id());
    assert_eq!(*shown_to_peers.attributes(), granted.attributes);
    assert!(shown_to_peers.relay_names().is_empty());
    let shown_to_relays = verify(&f, &node, &relay, Audience::Relay).unwrap();
    assert!(shown_to_relays.attributes().is_empty());
    assert_eq!(shown_to_relays.relay_names(), [name("acme-relay")]);
    assert_eq!(shown_to_relays.expires(), f.now().plus(crate::DEFAULT_CREDENTIAL_LIFETIME));
    let listed = members(&f, &f.administrator).await.unwrap();
    assert!(listed.iter().any(|row| row.identifier == node.id() && row.expires_at == Some(shown_to_relays.expires())));

    let thief = Person::new("thief");
    assert!(verify(&f, &thief, &member, Audience::Member).is_err(), "bound to the node's key");
    assert!(is_denied(credentials(&f, &node, &["acme-relay", "saas-relay"]).await));
    assert!(credentials(&f, &node, &[]).await.is_ok(), "presence without a name");
    f.advance(crate::DEFAULT_CREDENTIAL_LIFETIME + CLOCK_TOLERANCE);
    assert!(verify(&f, &node, &member, Audience::Member).is_err());
}

#[tokio::test]
async fn relay_names_belong_to_one_member() {
    let f = Fixture::new().await;
    let any = TicketRequest { relays: vec![RelayPermission::Any], ..request() };
    let (one, two) = (f.enrol("one", any.clone()).await, f.enrol("two", any).await);
    let none = f.enrol("none", request()).await;
    let claim = |text: &str| Request::ClaimRelayName { name: name(text) };
    let held = |text: &str| Refusal::RelayNameHeld { name: name(text) };

    f.ask(&one, claim("a")).await.unwrap();
    f.ask(&one, claim("a")).await.unwrap();
    assert_eq!(f.ask(&two, claim("a")).await.unwrap_err(), held("a"));
    assert_eq!(credentials(&f, &two, &["b", "a"]).await.unwrap_err(), held("a"));
    assert!(f.ask(&one, claim("b")).await.is_ok(), "the refused request took nothing");
    assert!(is_denied(f.ask(&none, claim("c")).await));
    assert!(is_denied(f.ask(&none, claim("a")).await));
    let name_of_one = TicketRequest { relays: vec![RelayPermission::Name(name("a"))], ..request() };
    assert_eq!(f.issue(&f.administrator, name_of_one.clone()).await.unwrap_err(), held("a"));

    f.ask(&two, Request::ReleaseRelayName { name: name("a") }).await.unwrap();
    assert_eq!(f.ask(&two, claim("a")).await.unwrap_err(), held("a"), "one cannot release what another holds");
    f.ask(&one, Request::ReleaseRelayName { name: name("a") }).await.unwrap();
    let owner = f.enrol("owner", name_of_one).await;
    f.ask(&owner, Request::ReleaseRelayName { name: name("a") }).await.unwrap();
    assert_eq!(f.ask(&two, claim("a")).await.unwrap_err(), held("a"), "what a ticket grants stays");
    f.ask(&f.administrator, Request::DeleteMember { member: owner.id() }).await.unwrap();
    f.ask(&two, claim("a")).await.unwrap();
}

#[tokio::test]
async fn the_names_of_one_member_are_bounded() {
    let f = Fixture::new().await;
    for number in 0..crate::rules::MAX_HELD_NAMES {
        f.ask(&f.administrator, Request::ClaimRelayName { name: name(&format!("n{number}")) }).await.unwrap();
    }
    assert!(is_denied(f.ask(&f.administrator, Request::ClaimRelayName { name: name("more") }).await));
}

/// Credentials are rows and a transaction each: a member that asks without end is told to wait, and keeps nobody else from theirs.
#[tokio::test]
async fn a_member_that_writes_without_end_waits() {
    let f = Fixture::new().await;
    let (busy, other) = (f.enrol("busy", enroller()).await, f.enrol("other", request()).await);
    let mut given = 0;
    while credentials(&f, &busy, &[]).await.is_ok() {
        given += 1;
        assert!(given < 1_000);
    }
    assert!(matches!(credentials(&f, &busy, &[]).await, Err(Refusal::Busy { .. })));
    assert!(matches!(f.issue(&busy, request()).await, Err(Refusal::Busy { .. })), "tickets are writes too");
    assert!(f.issue(&f.administrator, request()).await.is_ok());
    assert!(credentials(&f, &other, &[]).await.is_ok());
}

#[tokio::test]
async fn removal_voids_and_a_new_ticket_readmits() {
    let f = Fixture::new().await;
    let person = f.enrol("vendor", enroller()).await;
    let issued_by_it = f.issue(&person, request()).await.unwrap();
    let (old, _) = credentials(&f, &person, &[]).await.unwrap();
    verify(&f, &person, &old, Audience::Member).unwrap();
    let before = info(&f);
    assert_eq!(before.epoch, 0);
    let published = f.authority.service().published();

    f.ask(&f.administrator, Request::DeleteMember { member: person.id() }).await.unwrap();
    assert!(published.has_changed().unwrap());
    let after = info(&f);
    assert!(after.epoch > before.epoch && after.sequence > before.sequence);
    assert!(matches!(verify(&f, &person, &old, Audience::Member), Err(CredentialError::Revoked(_))));
    assert_eq!(credentials(&f, &person, &[]).await.unwrap_err(), Refusal::NotAMember);
    assert_eq!(f.join(&Person::new("friend"), &issued_by_it).await, Err(Refusal::TicketRevoked));

    let ticket = f.issue(&f.administrator, request()).await.unwrap();
    f.join(&person, &ticket).await.unwrap();
    let (new, _) = credentials(&f, &person, &[]).await.unwrap();
    verify(&f, &person, &new, Audience::Member).unwrap();
    assert!(verify(&f, &person, &old, Audience::Member).is_err());

    let published = f.authority.service().published().borrow().clone();
    let history = History::decode(&published.history).unwrap();
    let signed = f.authority.service().heartbeat().unwrap();
    let heartbeat: Heartbeat = statement::verify(&history, published.project(), &signed).unwrap();
    assert_eq!((heartbeat.epoch, heartbeat.time), (info(&f).epoch, f.now()));
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let f = Fixture::new().await;
    let remove = |who: &Person| Request::DeleteMember { member: who.id() };
    assert!(is_denied(f.ask(&f.administrator, remove(&f.administrator)).await));
    let second = f.enrol("second", TicketRequest { role: Role::Administrator, ..request() }).await;
    f.ask(&second, remove(&f.administrator)).await.unwrap();
    assert!(is_denied(f.ask(&second, remove(&second)).await));
}

#[tokio::test]
async fn relay_servers_are_listed() {
    let f = Fixture::new().await;
    let relay = f.enrol("relay", relay_server("relay.example:4000")).await;
    let listed = |f: &Fixture| info(f).relays;
    assert_eq!(listed(&f).len(), 1);
    assert_eq!(listed(&f)[0].static_key, relay.key.public());
    let sequence = info(&f).sequence;
    let advertise = |address: &str| Request::AdvertiseRelay { address: address.parse().unwrap() };
    f.ask(&relay, advertise("relay.example:4000")).await.unwrap();
    assert_eq!(info(&f).sequence, sequence, "nothing changed");
    f.ask(&relay, advertise("relay.example:5000")).await.unwrap();
    assert!(info(&f).sequence > sequence);
    assert_eq!(listed(&f)[0].address.port(), 5000);
    assert!(matches!(f.ask(&relay, advertise("relay.example:0")).await, Err(Refusal::Invalid { .. })));

    let own = Person::new("own");
    for port in [6000, 6000, 7000] {
        f.authority.admit_relay(&own.newcomer, &format!("127.0.0.1:{port}").parse().unwrap()).await.unwrap();
    }
    assert_eq!(listed(&f).iter().map(|row| row.address.port()).max(), Some(7000));
    assert_eq!(audit(&f).await.iter().filter(|row| row.action == "admit-relay").count(), 2);
    let plain = f.enrol("plain", request()).await;
    assert!(f.authority.admit_relay(&plain.newcomer, &"127.0.0.1:1".parse().unwrap()).await.is_err());
    f.ask(&f.administrator, Request::DeleteMember { member: relay.id() }).await.unwrap();
    assert_eq!(listed(&f).len(), 1);
}

async fn guardrails(f: &Fixture, who: &Person) -> postern_proto::authority::Guardrails {
    let Ok(Answer::Guardrails { statement }) = f.ask(who, Request::Guardrails).await else { panic!() };
    let published = f.authority.service().published().borrow().clone();
    let history = History::decode(&published.history).unwrap();
    statement::verify(&history, published.project(), &statement).unwrap()
}

#[tokio::test]
async fn policies_of_the_project() {
    let f = Fixture::new().await;
    let set = |resource_type: &str, expression: Option<&str>| Request::SetProjectPolicy {
        resource_type: resource_type.to_owned(),
        expression: expression.map(str::to_owned),
        applies_to: None,
    };
    f.ask(&f.administrator, set("tcp-outlet", Some("(=  subject.inlet-to-saas \"true\")"))).await.unwrap();
    let member = f.enrol("member", request()).await;
    let Ok(Answer::Policies { rows }) = f.ask(&member, Request::ListProjectPolicies).await else { panic!() };
    assert_eq!((rows.len(), rows[0].expression.as_str()), (1, "(= subject.inlet-to-saas \"true\")"));
    let bad = [
        set("tcp-door", Some("true")),
        set("relay", Some("true")),
        set("tcp-inlet", Some("(= subject.x")),
        set("tcp-inlet", Some(&" ".repeat(5_000))),
    ];
    for bad in bad {
        assert!(matches!(f.ask(&f.administrator, bad).await, Err(Refusal::Invalid { .. })));
    }
    // Signed, for nodes; beside it one for some nodes only.
    let before = guardrails(&f, &member).await;
    let some = Request::SetProjectPolicy {
        resource_type: "tcp-outlet".to_owned(),
        expression: Some("b".to_owned()),
        applies_to: Some("c".to_owned()),
    };
    f.ask(&f.administrator, some).await.unwrap();
    let after = guardrails(&f, &member).await;
    assert!(after.epoch > before.epoch && after.epoch == info(&f).sequence);
    assert_eq!((before.rows.len(), after.rows.len()), (1, 2));
    assert_eq!(after.rows[1].applies_to.as_deref(), Some("(= subject.c \"true\")"));
    f.ask(&f.administrator, set("tcp-outlet", None)).await.unwrap();
    assert!(is_absent(f.ask(&f.administrator, set("tcp-outlet", None)).await));
}

#[tokio::test]
async fn tickets_have_limits() {
    let f = Fixture::new().await;
    let long: std::collections::BTreeMap<_, _> = (0..32).map(|n| (format!("key-{n:02}"), "v".repeat(200))).collect();
    let refused = f.issue(&f.administrator, TicketRequest { attributes: long, ..request() }).await;
    assert!(matches!(refused, Err(Refusal::Invalid { .. })), "no credential could hold them: {refused:?}");
    let vendor = f.enrol("vendor", enroller()).await;
    let secret = SecretBytes::random();
    let mut write = f.authority.service().store().write().await.unwrap();
    for _ in 0..crate::rules::MAX_OPEN_TICKETS {
        let new = crate::store::NewTicket {
            id: TicketId::random(),
            secret: &secret,
            issued_by: vendor.id(),
            issued_at: f.now(),
            expires_at: f.now().plus(Duration::from_secs(600)),
            request: &request(),
        };
        write.insert_ticket(&new).await.unwrap();
    }
    write.commit().await.unwrap();
    assert!(is_denied(f.issue(&vendor, request()).await));
    f.advance(Duration::from_secs(600));
    f.issue(&vendor, request()).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let mut after = None;
    loop {
        let Ok(Answer::Tickets { rows, more }) = f.ask(&vendor, Request::ListTickets { after }).await else { panic!() };
        after = rows.last().map(|row| row.id);
        seen.extend(rows.into_iter().map(|row| row.id));
        if !more {
            break;
        }
    }
    assert_eq!(seen.len() as u64, crate::rules::MAX_OPEN_TICKETS + 1);
}

#[tokio::test]
async fn pages_fit_a_message() {
    let (rows, more) = page(vec!["x".repeat(10_000); 100]);
    assert_eq!((rows.len(), more), (52, true));
    let (rows, more) = page(vec!["x".to_owned(); 10]);
    assert_eq!((rows.len(), more), (10, false));
}

#[tokio::test]
async fn refusals_are_audited_once_a_burst() {
    let f = Fixture::new().await;
    let ticket = f.issue(&f.administrator, request()).await.unwrap();
    let guesser = Person::new("guesser");
    let wrong = SecretBytes::new([0; 32]);
    let guess = || f.authority.service().redeem(&guesser.newcomer, ticket.id, &wrong);
    for _ in 0..20 {
        assert_eq!(guess().await, Err(Refusal::TicketUnknown));
    }
    f.advance(Duration::from_secs(60));
    assert_eq!(guess().await, Err(Refusal::TicketUnknown));
    let rows: Vec<_> = audit(&f).await.into_iter().filter(|row| row.action == "redeem-ticket").collect();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].subject.clone(), rows[0].actor.clone()), (ticket.id.to_string(), guesser.id().to_string()));
    assert!(rows[1].reason.contains("19 more"), "{}", rows[1].reason);
}

#[tokio::test]
async fn an_identity_may_change_its_key_and_not_go_back() {
    let f = Fixture::new().await;
    let mut person = f.enrol("person", request()).await;
    let service = f.authority.service().clone();
    let (old, id) = (person.identity.clone(), person.id());
    service.recognise(id, old.history()).await.unwrap();
    person.identity.rotate(f.now(), ChangeReason::Renewed).unwrap();
    service.recognise(id, person.identity.history()).await.unwrap();
    assert!(is_denied(service.recognise(id, old.history()).await), "rolled back");
    let mut fork = old.clone();
    fork.rotate(f.now(), ChangeReason::Renewed).unwrap();
    assert!(is_denied(service.recognise(id, fork.history()).await), "forked");
    let before = info(&f).epoch;
    let mut out = service.removals();
    let (issued, _) = credentials(&f, &person, &[]).await.unwrap();
    let renewed = person.identity.clone();
    person.identity.rotate(f.now(), ChangeReason::Compromised).unwrap();
    person.identity.rotate(f.now(), ChangeReason::Renewed).unwrap();
    service.recognise(id, person.identity.history()).await.unwrap();
    assert!(is_denied(service.recognise(id, renewed.history()).await), "what the thief has");
    assert!(
        info(&f).epoch > before && matches!(verify(&f, &person, &issued, Audience::Member), Err(CredentialError::Void { .. }))
    );
    assert_eq!(out.try_recv(), Ok(Out::Rekeyed { identifier: id, sequence: 3 }));
    let (again, _) = credentials(&f, &person, &[]).await.unwrap();
    verify(&f, &person, &again, Audience::Member).unwrap();
    assert_eq!(audit(&f).await.iter().filter(|row| row.action == "change-identity" && row.result == "ok").count(), 2);
}

#[tokio::test]
async fn the_project_survives_a_restart() {
    let f = Fixture::new().await;
    let node = f.enrol("node", request()).await;
    let (member, _) = credentials(&f, &node, &[]).await.unwrap();
    let before = info(&f);
    let f = f.reopen().await;
    assert_eq!(info(&f), before, "nothing changed, so nothing is announced");
    verify(&f, &node, &member, Audience::Member).unwrap();
    f.authority.bootstrap_administrator(&f.administrator.newcomer).await.unwrap();
    assert_eq!(audit(&f).await.iter().filter(|row| row.action == "bootstrap-administrator").count(), 1);
    assert!(f.authority.bootstrap_administrator(&node.newcomer).await.is_err());

    f.authority.advertise(&["gate.example:4000".parse().unwrap()]).await.unwrap();
    let moved = info(&f);
    assert!(moved.sequence > before.sequence);
    assert_eq!(f.issue(&f.administrator, request()).await.unwrap().addresses[0].host(), "gate.example");
    f.authority.recover().await.unwrap();
    assert!(info(&f).epoch >= f.now().as_unix() && info(&f).sequence > moved.sequence);
    assert_eq!(voided(&f).epoch(), info(&f).epoch, "the epoch is stated though nothing is void");
    let status = f.authority.status().await.unwrap();
    assert_eq!((status.members, status.sessions, status.epoch), (2, 0, info(&f).epoch));
}

#[tokio::test]
async fn a_restored_back_up_goes_on_above_what_was_seen() {
    let f = Fixture::new().await;
    let (kept, lost) = (f.enrol("kept", request()).await, Person::new("lost"));
    let copy = f.home.path().join("copy.db");
    f.authority.back_up(&copy).await.unwrap();
    let ticket = f.issue(&f.administrator, request()).await.unwrap();
    f.join(&lost, &ticket).await.unwrap();
    f.ask(&f.administrator, Request::DeleteMember { member: kept.id() }).await.unwrap();
    let seen = info(&f);
    f.advance(Duration::from_secs(60));

    f.authority.shutdown(Duration::from_secs(5)).await;
    fs::rename(&copy, f.home.path().join("authority.db")).unwrap();
    directory(&f.home).write(crate::RESTORED, b"").unwrap();
    let f = f.reopen().await;
    let restored = info(&f);
    assert!(restored.epoch > seen.epoch && restored.sequence > seen.sequence);
    assert_eq!(f.ask(&lost, Request::ProjectInfo).await.unwrap_err(), Refusal::NotAMember, "it joined after the back-up");
    assert!(f.ask(&kept, Request::ProjectInfo).await.is_ok(), "it was removed after the back-up");
    assert_eq!(f.join(&lost, &ticket).await, Err(Refusal::TicketUnknown));
    assert!(!f.home.path().join(crate::RESTORED).exists());
    let f = f.reopen().await;
    assert_eq!(info(&f), restored, "once");
}

#[tokio::test]
async fn a_replaced_signing_key_overlaps() {
    let f = Fixture::new().await;
    let node = f.enrol("node", request()).await;
    let (old, _) = credentials(&f, &node, &[]).await.unwrap();
    directory(&f.home).write("signing", SecretBytes::<32>::random().expose_secret()).unwrap();
    let f = f.reopen().await;
    assert_eq!(info(&f).key_ring.len(), 2);
    let (new, _) = credentials(&f, &node, &[]).await.unwrap();
    for credential in [&old, &new] {
        verify(&f, &node, credential, Audience::Member).unwrap();
    }
    f.advance(crate::DEFAULT_CREDENTIAL_LIFETIME + 2 * CLOCK_TOLERANCE);
    let f = f.reopen().await;
    assert_eq!(info(&f).key_ring.len(), 1);
}

#[tokio::test]
async fn keys_and_database_belong_together() {
    for lost in ["identity", "static", "signing"] {
        let f = Fixture::new().await;
        f.authority.shutdown(Duration::from_secs(1)).await;
        fs::remove_file(f.home.path().join(lost)).unwrap();
        let error = Authority::open_or_create(&directory(&f.home), f.settings()).await.unwrap_err();
        assert!(matches!(error, OpenError::Keys(KeysError::Missing { name }) if name == lost), "{error:?}");
    }
    for (damaged, content) in [("static", &b"short"[..]), ("signing", b""), ("identity", b"\x83")] {
        let f = Fixture::new().await;
        f.authority.shutdown(Duration::from_secs(1)).await;
        directory(&f.home).write(damaged, content).unwrap();
        let error = Authority::open_or_create(&directory(&f.home), f.settings()).await.unwrap_err();
        assert!(matches!(error, OpenError::Keys(_)), "{error:?}");
    }
    let (f, other) = (Fixture::new().await, Fixture::new().await);
    f.authority.shutdown(Duration::from_secs(1)).await;
    directory(&f.home).write("static", &fs::read(other.home.path().join("static")).unwrap()).unwrap();
    let error = Authority::open_or_create(&directory(&f.home), f.settings()).await.unwrap_err();
    assert!(matches!(error, OpenError::Service(ServiceError::OtherKeys)), "{error:?}");
}

#[tokio::test]
async fn settings_are_checked_first() {
    let home = tempfile::TempDir::new().unwrap();
    let address = |text: &str| text.parse::<postern_proto::address::HostPort>().unwrap();
    let settings = || Settings::new("default".parse().unwrap());
    let cases = [
        Settings { addresses: vec![address("a:0")], ..settings() },
        Settings { addresses: vec![address("a:1"); 9], ..settings() },
        Settings { credential_lifetime: Duration::ZERO, ..settings() },
        Settings { credential_lifetime: MAX_LIFETIME, ..settings() },
    ];
    for wrong in cases {
        assert!(Authority::open_or_create(&directory(&home), wrong).await.is_err());
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_database_holds_no_secret() {
    let f = Fixture::new().await;
    let mut secrets = Vec::new();
    for number in 0..5 {
        let ticket = f.issue(&f.administrator, request()).await.unwrap();
        let person = Person::new(&format!("node-{number}"));
        f.join(&person, &ticket).await.unwrap();
        credentials(&f, &person, &[]).await.unwrap();
        secrets.push(ticket.secret.expose_secret().to_vec());
        secrets.push(person.key.secret().expose_secret().to_vec());
    }
    let keys = f.authority.service().keys();
    secrets.push(keys.static_key.secret().expose_secret().to_vec());
    secrets.push(keys.signing.first().unwrap().seed().expose_secret().to_vec());
    // The seed is the first 32-byte string of the stored form.
    let identity = keys.identity.to_secret_bytes();
    let at = identity.windows(2).position(|pair| pair == [0x58, 0x20]).unwrap();
    secrets.push(identity[at + 2..at + 34].to_vec());
    let mut searched = 0;
    for entry in fs::read_dir(f.home.path()).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().starts_with("authority.db") {
            continue;
        }
        searched += 1;
        let content = fs::read(entry.path()).unwrap();
        for secret in &secrets {
            assert!(!content.windows(secret.len()).any(|window| window == secret), "{:?}", entry.file_name());
        }
    }
    assert_eq!(searched, 3, "database, log and its index");
    assert!(fs::read(f.home.path().join("identity")).unwrap().windows(32).any(|window| secrets.contains(&window.to_vec())));
}
