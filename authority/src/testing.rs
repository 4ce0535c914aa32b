//! What the tests of this crate share: a database with a project and an administrator, and identities that are only numbers.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postern_proto::audit::check::{BadLog, Checker};
use postern_proto::authority::{Answer, Attributes, Refusal, RelayPermission, Request, Role, TicketRequest};
use postern_proto::handshake::StaticKey;
use postern_proto::id::{Identifier, ProjectId, StaticPublic, TicketId};
use postern_proto::identity::Identity;
use postern_proto::secret::SecretBytes;
use postern_proto::ticket::Ticket;
use postern_proto::time::Timestamp;
use postern_runtime::files::Dir;
use tempfile::TempDir;

use crate::enrol::{self, Newcomer};
use crate::store::{Member, NewTicket, Project, Store, audit_log};
use crate::{Authority, Caller, Clock, Settings};

pub const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);
pub const ADMINISTRATOR: Identifier = Identifier::from_bytes([0xad; 32]);

pub fn identifier(number: u8) -> Identifier {
    Identifier::from_bytes([number; 32])
}

pub fn newcomer(number: u8) -> Newcomer {
    Newcomer {
        identifier: identifier(number),
        history: vec![number],
        static_key: StaticPublic::from_bytes([number; 32]),
        name: format!("identity-{number}").parse().unwrap(),
        relay_server: false,
    }
}

pub fn member(number: u8, role: Role) -> Member {
    Member {
        identifier: identifier(number),
        name: format!("identity-{number}").parse().unwrap(),
        attributes: Attributes::new(),
        relays: Vec::new(),
        role,
        attested_by: ADMINISTRATOR,
        added_at: NOW,
        history: vec![number],
    }
}

pub fn request() -> TicketRequest {
    TicketRequest {
        attributes: Attributes::new(),
        relays: Vec::new(),
        role: Role::Member,
        expires_in: 600,
        max_uses: 1,
        bound: None,
    }
}

/// A database with a project whose only member is [`ADMINISTRATOR`].
pub async fn store(directory: &Path) -> Store {
    let store = Store::open(&directory.join("authority.db")).await.unwrap();
    let mut write = store.write().await.unwrap();
    let project = Project {
        id: ProjectId::from_bytes([7; 16]),
        name: "default".parse().unwrap(),
        authority: identifier(0xaa),
        static_key: StaticPublic::from_bytes([0xa5; 32]),
        addresses: vec!["127.0.0.1:4000".parse().unwrap()],
        key_ring: Vec::new(),
        sequence: 1,
        epoch: 1,
        changed_at: NOW,
    };
    write.insert_project(&project).await.unwrap();
    let administrator =
        Member { identifier: ADMINISTRATOR, relays: vec![RelayPermission::Any], ..member(0xad, Role::Administrator) };
    enrol::admit(&mut write, &administrator, StaticPublic::from_bytes([0xad; 32]), NOW).await.unwrap();
    write.commit().await.unwrap();
    store
}

/// How many rows the audit log has, each with its hash and its place in the tree.
pub async fn checked_log(store: &Store) -> Result<u64, BadLog> {
    let mut read = store.read().await.unwrap();
    let mut checker = Checker::default();
    for row in audit_log::list(&mut read, 0, u32::MAX).await.unwrap() {
        checker.row(&row)?;
    }
    let size = audit_log::size(&mut read).await.unwrap();
    assert_eq!(size, checker.size());
    assert_eq!(audit_log::root(&mut read, &(0..size)).await.unwrap(), checker.root());
    Ok(size)
}

/// Records a ticket of the administrator.
pub async fn ticket(store: &Store, request: &TicketRequest) -> (TicketId, SecretBytes<32>) {
    let (id, secret) = (TicketId::random(), SecretBytes::random());
    let mut write = store.write().await.unwrap();
    let new = NewTicket {
        id,
        secret: &secret,
        issued_by: ADMINISTRATOR,
        issued_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(request.expires_in)),
        request,
    };
    write.insert_ticket(&new).await.unwrap();
    write.commit().await.unwrap();
    (id, secret)
}

/// One who talks to an authority.
pub struct Person {
    pub identity: Identity,
    pub key: StaticKey,
    pub newcomer: Newcomer,
}

impl Person {
    pub fn new(name: &str) -> Self {
        let (identity, key) = (Identity::generate(NOW), StaticKey::generate());
        let newcomer = Newcomer::of(&identity, key.public(), name.parse().unwrap());
        Self { identity, key, newcomer }
    }

    pub fn id(&self) -> Identifier {
        self.identity.identifier()
    }

    pub fn caller(&self) -> Caller {
        Caller { identifier: self.id(), static_key: self.key.public(), sequence: self.identity.history().sequence() }
    }
}

/// An authority in a directory of its own, with an administrator and a clock that tests set.
pub struct Fixture {
    pub home: TempDir,
    pub authority: Authority,
    pub administrator: Person,
    clock: Arc<AtomicU64>,
}

pub fn directory(home: &TempDir) -> Dir {
    Dir::open_or_take_over(home.path()).unwrap()
}

impl Fixture {
    pub async fn new() -> Self {
        let (home, clock) = (TempDir::new().unwrap(), Arc::new(AtomicU64::new(NOW.as_unix())));
        let authority = Authority::open_or_create(&directory(&home), settings(&clock)).await.unwrap();
        let administrator = Person::new("admin");
        authority.bootstrap_administrator(&administrator.newcomer).await.unwrap();
        Self { home, authority, administrator, clock }
    }

    pub fn settings(&self) -> Settings {
        settings(&self.clock)
    }

    pub async fn reopen(self) -> Self {
        self.authority.shutdown(Duration::from_secs(5)).await;
        let authority = Authority::open_or_create(&directory(&self.home), self.settings()).await.unwrap();
        Self { authority, ..self }
    }

    pub fn advance(&self, time: Duration) {
        self.clock.fetch_add(time.as_secs(), Ordering::Relaxed);
    }

    pub fn now(&self) -> Timestamp {
        self.authority.service().now()
    }

    pub async fn ask(&self, person: &Person, request: Request) -> Result<Answer, Refusal> {
        match self.authority.service().answer(&person.caller(), request).await {
            Answer::Refused(refusal) => Err(refusal),
            answer => Ok(answer),
        }
    }

    pub async fn issue(&self, issuer: &Person, request: TicketRequest) -> Result<Ticket, Refusal> {
        match self.ask(issuer, Request::IssueTicket(request)).await? {
            Answer::Ticket { ticket } => Ok(ticket.expose_secret().parse().unwrap()),
            other => panic!("{other:?}"),
        }
    }

    pub async fn join(&self, person: &Person, ticket: &Ticket) -> Result<Member, Refusal> {
        self.authority.service().redeem(&person.newcomer, ticket.id, &ticket.secret).await.map(|joined| joined.member().clone())
    }

    /// Issues a ticket as the administrator and joins with it.
    pub async fn enrol(&self, name: &str, request: TicketRequest) -> Person {
        let mut person = Person::new(name);
        person.newcomer.relay_server = matches!(request.role, Role::RelayServer { .. });
        let ticket = self.issue(&self.administrator, request).await.unwrap();
        self.join(&person, &ticket).await.unwrap();
        person
    }
}

fn settings(clock: &Arc<AtomicU64>) -> Settings {
    let clock = Arc::clone(clock);
    Settings {
        addresses: vec!["127.0.0.1:4000".parse().unwrap()],
        clock: Clock::new(move || Timestamp::from_unix(clock.load(Ordering::Relaxed))),
        ..Settings::new("default".parse().unwrap())
    }
}
