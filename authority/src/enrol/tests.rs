use std::process::{Command, Stdio};
use std::time::Duration;

use postern_proto::authority::{Bound, TicketRequest};
use tempfile::TempDir;

use super::*;
use crate::store::{audit_log, tickets};
use crate::testing::{NOW, identifier, newcomer, request, store, ticket};

async fn refusal(store: &Store, who: u8, ticket: TicketId, secret: &SecretBytes<32>, now: Timestamp) -> Refusal {
    match redeem(store, &newcomer(who), ticket, secret, now).await {
        Err(ActError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Members that joined by ticket, uses of the ticket, audit rows of redemptions.
async fn counts(store: &Store, ticket: TicketId) -> (u64, u64, u64) {
    let mut read = store.read().await.unwrap();
    let members = members::count(&mut read).await.unwrap() - 1;
    let uses = tickets::find(&mut read, ticket).await.unwrap().unwrap();
    assert_eq!(uses.uses as usize, uses.uses_by.len());
    let audited = audit_log::list(&mut read, 0, 10_000).await.unwrap().iter().filter(|row| row.action == "redeem-ticket").count();
    (members, u64::from(uses.uses), audited as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_redemptions_never_exceed_the_uses() {
    for max_uses in [1, 5] {
        let home = TempDir::new().unwrap();
        let store = store(home.path()).await;
        let (id, secret) = ticket(&store, &TicketRequest { max_uses, ..request() }).await;
        let tasks: Vec<_> = (1..=64)
            .map(|who| {
                let (store, secret) = (store.clone(), secret.clone());
                tokio::spawn(async move { redeem(&store, &newcomer(who), id, &secret, NOW).await })
            })
            .collect();
        let mut joined = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(Redeemed::Joined(_)) => joined += 1,
                Err(ActError::Refused(Refusal::TicketUsedUp { .. })) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(joined, u64::from(max_uses));
        assert_eq!(counts(&store, id).await, (joined, joined, joined));
    }
}

/// Two processes, as far as the database can tell, and many tickets at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_handles_of_one_database_never_exceed_the_uses() {
    let count = 200;
    let home = TempDir::new().unwrap();
    let first = store(home.path()).await;
    let second = Store::open(&home.path().join("authority.db")).await.unwrap();
    let mut issued = Vec::new();
    for number in 0..count {
        let max_uses = if number % 2 == 0 { 1 } else { 5 };
        let (id, secret) = ticket(&first, &TicketRequest { max_uses, ..request() }).await;
        issued.push((id, secret, max_uses));
    }
    let mut joined = vec![0; count];
    // As many at once as somebody's patience with a busy database lets wait.
    for some in issued.iter().enumerate().collect::<Vec<_>>().chunks(20) {
        let mut tasks = tokio::task::JoinSet::new();
        for &(number, (id, secret, max_uses)) in some {
            for applicant in 0..max_uses + 2 {
                let store = if applicant % 2 == 0 { first.clone() } else { second.clone() };
                let mut applicant_number = [0; 32];
                applicant_number[..4].copy_from_slice(&((number as u32) << 8 | applicant).to_be_bytes());
                let (id, secret) = (*id, secret.clone());
                let who = Newcomer {
                    identifier: Identifier::from_bytes(applicant_number),
                    static_key: StaticPublic::from_bytes(applicant_number),
                    name: format!("identity-{number}-{applicant}").parse().unwrap(),
                    ..newcomer(1)
                };
                tasks.spawn(async move { (number, redeem(&store, &who, id, &secret, NOW).await) });
            }
        }
        while let Some(done) = tasks.join_next().await {
            match done.unwrap() {
                (number, Ok(Redeemed::Joined(_))) => joined[number] += 1,
                (_, Err(ActError::Refused(Refusal::TicketUsedUp { .. }))) => {}
                (number, other) => panic!("ticket {number}: {other:?}"),
            }
        }
    }
    for ((id, _, max_uses), joined) in issued.iter().zip(&joined) {
        assert_eq!(joined, max_uses);
        let uses = tickets::find(&mut second.read().await.unwrap(), *id).await.unwrap().unwrap();
        assert_eq!((uses.uses, uses.uses_by.len() as u32), (*max_uses, *max_uses));
    }
    let all: u32 = joined.iter().sum();
    let (members, _, audited) = counts(&second, issued[0].0).await;
    assert_eq!((members, audited), (u64::from(all), u64::from(all)));
    // Each handle's rows stand in one log.
    assert_eq!(crate::testing::checked_log(&first).await.unwrap(), u64::from(all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_identity_racing_itself_spends_one_use() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    let (id, secret) = ticket(&store, &TicketRequest { max_uses: 5, ..request() }).await;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (store, secret) = (store.clone(), secret.clone());
            tokio::spawn(async move { redeem(&store, &newcomer(1), id, &secret, NOW).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().member().identifier, identifier(1));
    }
    assert_eq!(counts(&store, id).await, (1, 1, 1));
}

#[tokio::test]
async fn each_refusal_is_its_own_and_spends_nothing() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    let (id, secret) = ticket(&store, &request()).await;
    let late = NOW.plus(Duration::from_secs(600));

    assert_eq!(refusal(&store, 1, TicketId::random(), &secret, NOW).await, Refusal::TicketUnknown);
    assert_eq!(refusal(&store, 1, id, &SecretBytes::random(), NOW).await, Refusal::TicketUnknown);
    assert_eq!(
        refusal(&store, 1, id, &SecretBytes::random(), late).await,
        Refusal::TicketUnknown,
        "the state is for who holds it"
    );
    assert_eq!(refusal(&store, 1, id, &secret, late).await, Refusal::TicketExpired { at: late }, "the last second is excluded");
    assert_eq!(counts(&store, id).await, (0, 0, 0));

    let used = NOW.plus(Duration::from_secs(5));
    let joined = redeem(&store, &newcomer(1), id, &secret, used).await.unwrap();
    let used_up = Refusal::TicketUsedUp { at: used, by: identifier(1) };
    assert_eq!(refusal(&store, 2, id, &secret, used).await, used_up);
    assert_eq!(refusal(&store, 2, id, &secret, late).await, used_up, "who was first matters more than that it is late");
    assert_eq!(redeem(&store, &newcomer(1), id, &secret, late).await.unwrap(), Redeemed::Already(joined.member().clone()));
    assert_eq!(counts(&store, id).await, (1, 1, 1));

    let (id, secret) = ticket(&store, &request()).await;
    let mut write = store.write().await.unwrap();
    assert!(write.revoke_ticket(id).await.unwrap());
    write.commit().await.unwrap();
    assert_eq!(refusal(&store, 3, id, &secret, late).await, Refusal::TicketRevoked);
}

pub(super) async fn revoke(store: &Store, number: u8) {
    let mut write = store.write().await.unwrap();
    let void = VoidEntry { member: identifier(number), not_before: VoidEntry::FOR_EVER };
    let epoch = write.void(void, true, NOW).await.unwrap();
    write.revoke_member(identifier(number), epoch, false, NOW).await.unwrap();
    write.commit().await.unwrap();
}

#[tokio::test]
async fn a_removed_member_needs_a_new_ticket() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    let (id, secret) = ticket(&store, &TicketRequest { max_uses: 5, ..request() }).await;
    redeem(&store, &newcomer(1), id, &secret, NOW).await.unwrap();
    let (unused, its_secret) = ticket(&store, &request()).await;
    revoke(&store, 1).await;
    assert!(matches!(refusal(&store, 1, id, &secret, NOW).await, Refusal::NotPermitted { .. }));
    let uses = tickets::find(&mut store.read().await.unwrap(), id).await.unwrap().unwrap().uses;
    assert_eq!(uses, 1);
    let early = refusal(&store, 1, unused, &its_secret, NOW).await;
    assert!(matches!(early, Refusal::NotPermitted { .. }), "issued before the revocation: {early:?}");
    let (id, secret) = ticket(&store, &request()).await;
    let back = redeem(&store, &newcomer(1), id, &secret, NOW).await.unwrap();
    let again = NOW.plus(Duration::from_secs(1));
    assert_eq!(back.member().added_at, again, "its new credentials are not void");
    let void = project::voided_before(&mut store.read().await.unwrap(), identifier(1)).await.unwrap();
    assert_eq!(void, Some(again), "and its old ones are");
}

#[tokio::test]
async fn names_are_reserved_at_redemption() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    let name: postern_proto::name::RelayName = "saas-relay".parse().unwrap();
    let alone = TicketRequest { relays: vec![RelayPermission::Name(name.clone())], ..request() };
    let shared = TicketRequest { relays: vec![RelayPermission::Shared(name.clone())], max_uses: 2, ..request() };
    let (first, first_secret) = ticket(&store, &alone).await;
    let (second, second_secret) = ticket(&store, &alone).await;
    let (third, third_secret) = ticket(&store, &shared).await;
    redeem(&store, &newcomer(1), first, &first_secret, NOW).await.unwrap();
    let held = Refusal::RelayNameHeld { name: name.clone() };
    assert_eq!(refusal(&store, 2, second, &second_secret, NOW).await, held);
    assert_eq!(refusal(&store, 2, third, &third_secret, NOW).await, held);
    for untouched in [second, third] {
        assert_eq!(tickets::find(&mut store.read().await.unwrap(), untouched).await.unwrap().unwrap().uses, 0);
    }
    revoke(&store, 1).await;
    redeem(&store, &newcomer(2), third, &third_secret, NOW).await.unwrap();
    redeem(&store, &newcomer(3), third, &third_secret, NOW).await.unwrap();
    assert_eq!(relay_names::holders(&mut store.read().await.unwrap(), &name).await.unwrap().len(), 2);
    assert_eq!(refusal(&store, 4, second, &second_secret, NOW).await, held, "what is shared is nobody's alone");
}

const POINTS: [&str; 7] =
    ["redeem-begun", "redeem-taken", "redeem-used", "redeem-member", "redeem-admitted", "redeem-audited", "redeem-committed"];
const CHILD_HOME: &str = "POSTERN_TEST_HOME";
const CHILD_SECRET: [u8; 32] = [0x5e; 32];
const CHILD_TICKET: TicketId = TicketId::from_bytes([0x11; 16]);

/// The process that dies: run by the test below, and by nobody else.
#[tokio::test]
#[ignore = "a child process of `a_crash_leaves_all_or_nothing`"]
async fn crash_child() {
    let home = std::env::var(CHILD_HOME).unwrap();
    let store = Store::open(&std::path::Path::new(&home).join("authority.db")).await.unwrap();
    let _ = redeem(&store, &newcomer(1), CHILD_TICKET, &SecretBytes::new(CHILD_SECRET), NOW).await;
}

#[tokio::test]
async fn a_crash_leaves_all_or_nothing() {
    let name: postern_proto::name::RelayName = "saas-relay".parse().unwrap();
    for point in POINTS {
        let home = TempDir::new().unwrap();
        let secret = SecretBytes::new(CHILD_SECRET);
        let asked = TicketRequest { relays: vec![RelayPermission::Name(name.clone())], ..request() };
        let before = store(home.path()).await;
        let mut write = before.write().await.unwrap();
        let new = crate::store::NewTicket {
            id: CHILD_TICKET,
            secret: &secret,
            issued_by: crate::testing::ADMINISTRATOR,
            issued_at: NOW,
            expires_at: NOW.plus(Duration::from_secs(600)),
            request: &asked,
        };
        write.insert_ticket(&new).await.unwrap();
        write.commit().await.unwrap();
        before.close().await;

        let status = Command::new(std::env::current_exe().unwrap())
            .args(["enrol::tests::crash_child", "--exact", "--ignored"])
            .env(CHILD_HOME, home.path())
            .env(failpoint::VARIABLE, point)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "died at {point}");

        let store = Store::open(&home.path().join("authority.db")).await.unwrap();
        let (members, uses, audited) = counts(&store, CHILD_TICKET).await;
        let names = relay_names::holders(&mut store.read().await.unwrap(), &name).await.unwrap().len() as u64;
        let done = u64::from(point == "redeem-committed");
        assert_eq!((members, uses, audited, names), (done, done, done, done), "after {point}");
        assert_eq!(crate::testing::checked_log(&store).await, Ok(done), "after {point}");

        redeem(&store, &newcomer(1), CHILD_TICKET, &secret, NOW).await.unwrap();
        assert_eq!(counts(&store, CHILD_TICKET).await, (1, 1, 1), "after {point} and a second try");
        assert_eq!(crate::testing::checked_log(&store).await, Ok(1), "after {point} and a second try");
        assert!(matches!(refusal(&store, 2, CHILD_TICKET, &secret, NOW).await, Refusal::TicketUsedUp { .. }));
    }
}

#[tokio::test]
async fn a_ticket_for_somebody_else_is_not_spent() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    for (who, bound) in [(2, Bound::Identity(identifier(2))), (3, Bound::Name("identity-3".to_owned()))] {
        let (id, secret) = ticket(&store, &TicketRequest { bound: Some(bound.clone()), ..request() }).await;
        assert!(matches!(refusal(&store, 1, id, &secret, NOW).await, Refusal::NotPermitted { .. }));
        assert_eq!(tickets::find(&mut store.read().await.unwrap(), id).await.unwrap().unwrap().uses, 0);
        redeem(&store, &newcomer(who), id, &secret, NOW).await.unwrap();
        let row = tickets::find(&mut store.read().await.unwrap(), id).await.unwrap().unwrap();
        let uses: Vec<_> = row.uses_by.iter().map(|used| (used.by, used.at)).collect();
        assert_eq!((uses, row.bound), (vec![(identifier(who), NOW)], Some(bound)));
    }
}

#[tokio::test]
async fn tickets_of_relay_servers_and_of_members_are_not_exchanged() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    let address = "relay.example:4000".parse().unwrap();
    let (for_relay, relay_secret) = ticket(&store, &TicketRequest { role: Role::RelayServer { address }, ..request() }).await;
    let (for_member, member_secret) = ticket(&store, &request()).await;
    let relay = Newcomer { relay_server: true, ..newcomer(9) };
    assert!(matches!(refusal(&store, 1, for_relay, &relay_secret, NOW).await, Refusal::NotPermitted { .. }));
    let refused = redeem(&store, &relay, for_member, &member_secret, NOW).await;
    assert!(matches!(refused, Err(ActError::Refused(Refusal::NotPermitted { .. }))));
    assert_eq!(counts(&store, for_relay).await.1, 0);
    assert_eq!(counts(&store, for_member).await.1, 0);
    redeem(&store, &relay, for_relay, &relay_secret, NOW).await.unwrap();
    redeem(&store, &newcomer(1), for_member, &member_secret, NOW).await.unwrap();
}
