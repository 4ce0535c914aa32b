//! What the tests of this crate share: a database with a project and an administrator, and identities that are only numbers.

use std::path::Path;

use postern_proto::authority::{Attributes, RelayPermission, Role, TicketRequest};
use postern_proto::id::{Identifier, ProjectId, StaticPublic, TicketId};
use postern_proto::secret::SecretBytes;
use postern_proto::time::Timestamp;

use crate::enrol::{self, Newcomer};
use crate::store::{Member, NewTicket, Project, Store};

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
    TicketRequest { attributes: Attributes::new(), relays: Vec::new(), role: Role::Member, expires_in: 600, max_uses: 1 }
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

/// Records a ticket of the administrator.
pub async fn ticket(store: &Store, request: &TicketRequest) -> (TicketId, SecretBytes<32>) {
    let (id, secret) = (TicketId::random(), SecretBytes::random());
    let mut write = store.write().await.unwrap();
    let new = NewTicket {
        id,
        secret: &secret,
        issued_by: ADMINISTRATOR,
        issued_at: NOW,
        expires_at: NOW.plus(std::time::Duration::from_secs(request.expires_in)),
        request,
    };
    write.insert_ticket(&new).await.unwrap();
    write.commit().await.unwrap();
    (id, secret)
}
