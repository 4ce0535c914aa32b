//! Everything that can happen to one ticket: applicants who ask, hear nothing and ask again; an authority that dies while it redeems, and
//! starts again from the files that are left; the ticket and members that are revoked; time. Against the real code and a real database. Every
//! point at which a process can die is in `tests::a_crash_leaves_all_or_nothing`; that several at once are one after the other, in
//! `tests::concurrent_redemptions_never_exceed_the_uses`. Stateright tries the acts in every order; a database cannot be copied between
//! them, so that each list of acts is done again from the start. Faults that are built in show that it would find them.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use postern_proto::authority::TicketRequest;
use stateright::{Checker, Model, Property};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::tests::revoke;
use super::*;
use crate::store::{Connection as _, audit_log, tickets};
use crate::testing::{NOW, checked_log, identifier, newcomer, request, store, ticket};

const APPLICANTS: [u8; 2] = [1, 2];
const USES: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// An applicant asks; where the answer is lost it does not know whether it is a member.
    Ask {
        who: u8,
        answered: bool,
    },
    /// An applicant asks, and the authority dies at this point of the redemption, where it comes there.
    Crash {
        who: u8,
        at: &'static str,
    },
    RevokeMember(u8),
    RevokeTicket,
    /// The ticket's time is over.
    Expire,
}

/// Where the authority dies: a use is taken, all is written, all is kept and nobody was told.
const POINTS: [&str; 3] = ["redeem-taken", "redeem-audited", COMMITTED];
const COMMITTED: &str = "redeem-committed";

/// What a worse authority would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It gives a use back when its answer was not heard.
    GivesBack,
    /// The use is taken in a transaction of its own.
    InTwoSteps,
    /// With a member that is revoked, the ticket gets its use back.
    Restores,
}

/// What there is after some acts, and what was wrong on the way.
#[derive(Debug, Clone, Default)]
struct State {
    acts: Vec<Act>,
    members: BTreeSet<u8>,
    revoked: BTreeSet<u8>,
    uses: u32,
    ticket_revoked: bool,
    expired: bool,
    /// Who was told that it is a member.
    told: BTreeSet<u8>,
    wrong: Option<String>,
}

struct OneTicket {
    runtime: Runtime,
    begin: Begin,
    fault: Option<Fault>,
}

/// A database with the ticket, which nobody has shown yet; to be copied.
struct Begin {
    home: TempDir,
    id: TicketId,
    secret: SecretBytes<32>,
}

impl Begin {
    async fn new() -> Self {
        let home = TempDir::new().unwrap();
        let store = store(home.path()).await;
        let (id, secret) = ticket(&store, &TicketRequest { max_uses: USES, ..request() }).await;
        store.close().await;
        Self { home, id, secret }
    }
}

/// Changes the ticket as the product does not.
async fn tamper(store: &Store, change: &'static str) {
    let mut write = store.write().await.unwrap();
    sqlx::query(change).execute(write.connection()).await.unwrap();
    write.commit().await.unwrap();
}

const USE_GIVEN_BACK: &str = "UPDATE tickets SET uses = uses - 1";
const USE_LOST: &str = "UPDATE tickets SET uses = uses + 1";

impl State {
    /// All acts, from the first on.
    async fn replay(begin: &Begin, acts: Vec<Act>, fault: Option<Fault>) -> Self {
        let (home, id, secret) = (TempDir::new().unwrap(), begin.id, &begin.secret);
        let mut directory = home.path().to_owned();
        std::fs::copy(begin.home.path().join("authority.db"), directory.join("authority.db")).unwrap();
        let mut store = Store::open(&directory.join("authority.db")).await.unwrap();
        let mut state = Self::default();
        for (number, act) in acts.iter().enumerate() {
            let mut died = None;
            let now = if state.expired { NOW.plus(Duration::from_secs(600)) } else { NOW };
            match *act {
                Act::Ask { who, answered } => {
                    let answer = redeem(&store, &newcomer(who), id, secret, now).await;
                    state.judge(who, &answer);
                    if !answered && matches!(answer, Ok(Redeemed::Joined(_))) && fault == Some(Fault::GivesBack) {
                        tamper(&store, USE_GIVEN_BACK).await;
                    }
                    if answered && answer.is_ok() {
                        state.told.insert(who);
                    }
                }
                Act::Crash { who, at } => {
                    let image = home.path().join(format!("after-{number}"));
                    failpoint::copy_at(at, &directory, &image);
                    // Nobody hears it.
                    let _ = redeem(&store, &newcomer(who), id, secret, now).await;
                    failpoint::copy_no_more();
                    if image.exists() {
                        (directory, died) = (image, Some((who, at)));
                        store = Store::open(&directory.join("authority.db")).await.unwrap();
                        if at == POINTS[0] && fault == Some(Fault::InTwoSteps) {
                            tamper(&store, USE_LOST).await;
                        }
                    }
                }
                Act::RevokeMember(who) => {
                    revoke(&store, who).await;
                    if fault == Some(Fault::Restores) {
                        tamper(&store, USE_GIVEN_BACK).await;
                    }
                    state.revoked.insert(who);
                    state.told.remove(&who);
                }
                Act::RevokeTicket => {
                    let mut write = store.write().await.unwrap();
                    write.revoke_ticket(id).await.unwrap();
                    write.commit().await.unwrap();
                    state.ticket_revoked = true;
                }
                Act::Expire => state.expired = true,
            }
            let before = (state.members.clone(), state.uses);
            state.look(&store, id).await;
            match died {
                Some((who, COMMITTED)) if !state.members.contains(&who) => {
                    state.complain(format!("{who} was admitted, and is forgotten"))
                }
                Some((who, at)) if at != COMMITTED && (state.members.clone(), state.uses) != before => {
                    state.complain(format!("half of the redemption of {who} was left at {at}"));
                }
                _ => {}
            }
        }
        state.acts = acts;
        state
    }

    fn complain(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    /// Whether the answer is the one that the state before calls for.
    fn judge(&mut self, who: u8, answer: &Result<Redeemed, ActError>) {
        let dead = self.ticket_revoked || self.expired || self.uses >= USES;
        let right = match answer {
            Ok(Redeemed::Already(member)) => self.members.contains(&who) && member.identifier == identifier(who),
            Ok(Redeemed::Joined(_)) => !self.members.contains(&who) && !self.revoked.contains(&who) && !dead,
            // Who was revoked has joined with this ticket, and is told so whatever became of that.
            Err(ActError::Refused(Refusal::NotPermitted { .. })) => self.revoked.contains(&who),
            Err(ActError::Refused(Refusal::TicketRevoked)) => self.ticket_revoked && self.is_new(who),
            Err(ActError::Refused(Refusal::TicketUsedUp { .. })) => self.uses >= USES && self.is_new(who),
            Err(ActError::Refused(Refusal::TicketExpired { .. })) => self.expired && !self.members.contains(&who),
            Err(_) => false,
        };
        if !right {
            self.complain(format!("{who} was answered {answer:?}"));
        }
    }

    fn is_new(&self, who: u8) -> bool {
        !self.members.contains(&who) && !self.revoked.contains(&who)
    }

    async fn look(&mut self, store: &Store, id: TicketId) {
        let mut read = store.read().await.unwrap();
        self.members.clear();
        for who in APPLICANTS {
            if members::find(&mut read, identifier(who)).await.unwrap().is_some() {
                self.members.insert(who);
            }
        }
        let row = tickets::find(&mut read, id).await.unwrap().unwrap();
        let by: BTreeSet<_> = row.uses_by.iter().map(|used| used.by).collect();
        let joined: BTreeSet<_> = self.members.union(&self.revoked).map(|who| identifier(*who)).collect();
        let rows = audit_log::list(&mut read, 0, 10_000).await.unwrap();
        let redeemed = rows.iter().filter(|row| row.action == "redeem-ticket" && row.result == "ok").count();
        drop(read);
        if row.uses < self.uses || row.uses > USES {
            self.complain(format!("{} uses after {}", row.uses, self.uses));
        }
        self.uses = row.uses;
        if by != joined || by.len() != self.uses as usize || redeemed != by.len() {
            self.complain(format!("{} uses by {by:?}, members {joined:?}, {redeemed} rows", self.uses));
        }
        if !self.told.is_subset(&self.members) {
            self.complain("who was told that it is a member is none".to_owned());
        }
        if checked_log(store).await.is_err() {
            self.complain("the audit does not fit".to_owned());
        }
    }
}

type Key<'a> = (&'a BTreeSet<u8>, &'a BTreeSet<u8>, u32, bool, bool, &'a BTreeSet<u8>, &'a Option<String>);

impl State {
    /// What tells states apart: states with one key have one future, however they were come to.
    fn key(&self) -> Key<'_> {
        let Self { acts: _, members, revoked, uses, ticket_revoked, expired, told, wrong } = self;
        (members, revoked, *uses, *ticket_revoked, *expired, told, wrong)
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key().hash(hasher);
    }
}

/// How many acts are tried in every order.
const DEPTH: usize = 4;
/// What must hold in every state. It is one property: where several are looked for, Stateright goes on after the first fault, and what it
/// tells in the end need not be the shortest way to one.
const RIGHT: &str = "the ticket admits as often as it says, and all that is kept of it fits together";

impl Model for OneTicket {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, acts: &mut Vec<Act>) {
        if state.acts.len() == DEPTH {
            return;
        }
        acts.extend(APPLICANTS.iter().flat_map(|who| [true, false].map(|answered| Act::Ask { who: *who, answered })));
        // Applicants are alike: one may stand for both, as long as the other does everything else.
        acts.extend(POINTS.map(|at| Act::Crash { who: APPLICANTS[0], at }));
        acts.extend(state.members.iter().map(|who| Act::RevokeMember(*who)));
        acts.extend((!state.ticket_revoked).then_some(Act::RevokeTicket));
        acts.extend((!state.expired).then_some(Act::Expire));
    }

    fn next_state(&self, state: &State, act: Act) -> Option<State> {
        let acts = state.acts.iter().copied().chain([act]).collect();
        Some(self.runtime.block_on(State::replay(&self.begin, acts, self.fault)))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(RIGHT, |_, state: &State| state.wrong.is_none())]
    }
}

fn one_ticket(fault: Option<Fault>) -> OneTicket {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begin = runtime.block_on(Begin::new());
    OneTicket { runtime, begin, fault }
}

#[test]
fn an_authority_that_is_wrong_is_found_out() {
    let (unheard, admitted) = (Act::Ask { who: 1, answered: false }, Act::Ask { who: 1, answered: true });
    for (fault, acts) in [
        (Fault::GivesBack, vec![unheard]),
        (Fault::InTwoSteps, vec![Act::Crash { who: 1, at: POINTS[0] }]),
        (Fault::Restores, vec![admitted, Act::RevokeMember(1)]),
    ] {
        let path = one_ticket(Some(fault)).checker().spawn_bfs().join().assert_any_discovery(RIGHT);
        let wrong = path.last_state().wrong.clone();
        println!("{fault:?}: {wrong:?}");
        assert_eq!(path.into_actions(), acts, "{fault:?}: {wrong:?}");
    }
}

#[test]
fn a_ticket_admits_as_often_as_it_says_whatever_happens() {
    let checker = one_ticket(None).checker().spawn_bfs().join();
    checker.assert_properties();
    println!("{} states, {} steps", checker.unique_state_count(), checker.state_count());
    assert!(checker.unique_state_count() >= 25, "{}", checker.unique_state_count());
}
