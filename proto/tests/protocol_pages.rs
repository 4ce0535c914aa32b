//! The pages of `docs/protocol/` against the code: every vector on them, and every limit and name in their tables.

use postern_proto::audit::merkle::{MAX_PROOF, Tree};
use postern_proto::audit::{AuditCheckpoint, AuditRow, NO_ROW};
use postern_proto::authority::{
    Answer, Attributes, Call, Enrolment, Grant, Heartbeat, Hello, Refusal, RelayPermission, Reply, Request, RingKey, Role,
    TicketRequest,
};
use postern_proto::credential::{self, Audience, Claims, Holder, KeyRing, Verifier, Voided};
use postern_proto::id::{CredentialId, Identifier, NodeId, ProjectId, StaticPublic, TicketId};
use postern_proto::identity::{self, Attestation, ChangeReason, History, Identity};
use postern_proto::secret::SecretBytes;
use postern_proto::sign::{self, Purpose, SigningKey};
use postern_proto::ticket::{self, Ticket};
use postern_proto::time::Timestamp;
use postern_proto::{authority, statement};

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);
const STATIC: StaticPublic = StaticPublic::from_bytes([9; 32]);
const PROJECT: ProjectId = ProjectId::from_bytes([0x10; 16]);

fn page(name: &str) -> String {
    std::fs::read_to_string(format!("{}/../docs/protocol/{name}.md", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The block of `page` that opens with this line, without white space. Lines of hexadecimal digits may be followed by `;` and words.
fn vector(page: &str, opening: &str) -> String {
    let fence = format!("```vector {opening}");
    let mut lines = page.lines();
    assert!(lines.any(|line| line == fence), "no block `{fence}`");
    let block = lines.take_while(|line| *line != "```");
    block.flat_map(|line| line.split(';').next().unwrap_or_default().split_whitespace()).collect()
}

#[track_caller]
fn check(page: &str, opening: &str, bytes: &[u8]) {
    assert_eq!(vector(page, opening), hex::encode(bytes), "{opening}");
}

/// Whether the page has all of these, each in backticks or as a whole word.
#[track_caller]
fn mentions<T: ToString>(page: &str, words: impl IntoIterator<Item = T>) {
    for word in words {
        let word = word.to_string();
        let found = page.split(|c: char| c.is_whitespace() || "|(),;:".contains(c)).any(|part| part == word);
        assert!(found || page.contains(&format!("`{word}`")), "the page does not mention {word}");
    }
}

fn identity() -> Identity {
    Identity::from_seed(&SecretBytes::new([1; 32]), NOW)
}

fn attestation() -> Attestation {
    let expires = Timestamp::from_unix(1_800_086_400);
    let node_id = NodeId::from_bytes([3; 16]);
    Attestation { identifier: identity().identifier(), node_id, static_key: STATIC, created: NOW, expires }
}

#[test]
fn identities() {
    let page = page("identity");
    let mut identity = identity();
    check(&page, "identifier", identity.identifier().as_bytes());
    check(&page, "history of one record", &identity.history().encode());
    check(&page, "attestation", &identity.attest(&attestation()));
    let second = SigningKey::from_seed(&SecretBytes::new([2; 32]));
    identity.rotate_to(second, Timestamp::from_unix(1_800_000_100), ChangeReason::Renewed).unwrap();
    check(&page, "history of two records", &identity.history().encode());

    let history = History::decode(&hex::decode(vector(&page, "history of two records")).unwrap()).unwrap();
    assert_eq!(history.sequence(), 1);
    mentions(&page, [Purpose::Attestation, Purpose::Change, Purpose::ChangeApproval].map(Purpose::typ));
    mentions(&page, [Purpose::Attestation, Purpose::Change, Purpose::ChangeApproval].map(Purpose::context));
    mentions(&page, [identity::MAX_HISTORY, identity::MAX_CHANGES, sign::MAX_ATTESTATION, sign::MAX_CHANGE]);
    mentions(&page, [identity::KEY_LIFETIME.as_secs()]);
}

fn claims(audience: Audience) -> Claims {
    Claims {
        issuer: Identifier::from_bytes([2; 32]),
        subject: Identifier::from_bytes([3; 32]),
        project: PROJECT,
        audience,
        not_before: NOW,
        expires: Timestamp::from_unix(1_800_086_400),
        id: CredentialId::from_bytes([4; 16]),
        confirmation: STATIC,
        attributes: Attributes::new(),
        relay_names: Vec::new(),
    }
}

#[test]
fn audit() {
    let page = page("audit");
    let mut row = AuditRow {
        seq: 1,
        at: NOW,
        actor: "authority".to_owned(),
        action: "issue-ticket".to_owned(),
        subject: TicketId::from_bytes([4; 16]).to_string(),
        result: "ok".to_owned(),
        reason: "member".to_owned(),
        before: None,
        after: Some("{}".to_owned()),
        previous: NO_ROW,
        hash: NO_ROW,
    };
    row.hash = row.compute_hash();
    check(&page, "row", &row.leaf());
    check(&page, "hash of the row", row.hash.as_bytes());
    let mut tree = Tree::default();
    tree.push(row.hash);
    tree.push(row.hash);
    check(&page, "root of two such rows", tree.root().as_bytes());
    let checkpoint = AuditCheckpoint { project: PROJECT, size: 1, root: row.hash, time: NOW };
    check(&page, "checkpoint", &statement::sign(&identity(), &checkpoint).unwrap());
    mentions(&page, [Purpose::AuditCheckpoint.context()]);
    mentions(&page, [MAX_PROOF]);
}

#[test]
fn credentials() {
    let page = page("credentials");
    let key = SigningKey::from_seed(&SecretBytes::new([1; 32]));
    check(&page, "public key", key.public().to_bytes().as_bytes());
    check(&page, "key id", key.key_id().as_bytes());
    let attributes = [("app", "app1"), ("inlet-to-saas", "true")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let member = credential::issue(&key, &Claims { attributes: attributes.into(), ..claims(Audience::Member) }).unwrap();
    check(&page, "member credential", &member);
    let relay_names = vec!["saas-relay".parse().unwrap()];
    let relay = credential::issue(&key, &Claims { relay_names, ..claims(Audience::Relay) }).unwrap();
    check(&page, "relay credential", &relay);

    let ring_key = RingKey::new(&key.public(), NOW, Timestamp::from_unix(1_900_000_000));
    let ring = KeyRing::new(PROJECT, Identifier::from_bytes([2; 32]), vec![ring_key]).unwrap();
    let verifier = Verifier { ring: &ring, voided: &Voided::default(), now: NOW };
    assert!(verifier.verify(&member, Audience::Member, Holder::Handshake(STATIC)).is_ok());
    assert!(verifier.verify(&relay, Audience::Relay, Holder::Published).is_ok());

    mentions(&page, Purpose::ALL.map(Purpose::typ));
    mentions(&page, Purpose::ALL.map(Purpose::context));
    mentions(&page, Purpose::ALL.map(Purpose::max_len));
    mentions(&page, [credential::MAX_ATTRIBUTES, credential::MAX_ATTRIBUTE_KEY, credential::MAX_ATTRIBUTE_VALUE]);
    mentions(&page, [credential::MAX_RELAY_NAMES, credential::MAX_RING_KEYS]);
    mentions(&page, [credential::MAX_LIFETIME.as_secs()]);
    mentions(&page, [credential::RESERVED_PREFIX]);
}

#[test]
fn tickets() {
    let page = page("tickets");
    let ticket = Ticket {
        project: PROJECT,
        authority: Identifier::from_bytes([2; 32]),
        authority_static: STATIC,
        addresses: vec!["authority.example:7000".parse().unwrap(), "[2001:db8::1]:7000".parse().unwrap()],
        id: TicketId::from_bytes([4; 16]),
        secret: SecretBytes::new([5; 32]),
        expires: Timestamp::from_unix(1_800_000_600),
    };
    let text = ticket.to_text().unwrap();
    assert_eq!(vector(&page, "ticket"), text.expose_secret());
    assert_eq!(vector(&page, "ticket").parse::<Ticket>(), Ok(ticket));
    mentions(&page, [ticket::MAX_TEXT, ticket::MAX_ADDRESSES]);
    mentions(&page, [ticket::PREFIX]);
}

#[test]
fn messages_to_the_authority() {
    let page = page("authority");
    let hello = Hello {
        history: vec![1],
        attestation: vec![2],
        enrolment: Some(Enrolment {
            ticket: TicketId::from_bytes([4; 16]),
            secret: SecretBytes::new([5; 32]),
            name: "default".parse().unwrap(),
            relay_server: false,
        }),
    };
    check(&page, "hello", &minicbor::to_vec(&hello).unwrap());
    let call = Call { number: 1, request: Request::Credentials { relay_names: vec!["saas-relay".parse().unwrap()] } };
    check(&page, "call: credentials", &minicbor::to_vec(&call).unwrap());
    let call = Call { number: 2, request: Request::ProjectInfo };
    check(&page, "call: project information", &minicbor::to_vec(&call).unwrap());
    let attribute = Grant::Attribute { key: "app".to_owned(), value: None };
    let ticket = TicketRequest {
        attributes: Attributes::from([("app".to_owned(), "app1".to_owned())]),
        relays: vec![RelayPermission::Any, RelayPermission::Shared("db".parse().unwrap())],
        role: Role::Enroller { may_grant: vec![attribute, Grant::Relay { pattern: "acme-*".to_owned() }] },
        expires_in: 600,
        max_uses: 1,
        bound: None,
    };
    check(&page, "call: issue a ticket", &minicbor::to_vec(&Call { number: 3, request: Request::IssueTicket(ticket) }).unwrap());
    let refused = Answer::Refused(Refusal::TicketExpired { at: NOW });
    check(&page, "reply: refused", &minicbor::to_vec(&Reply { number: 0, answer: refused }).unwrap());
    check(&page, "reply: done", &minicbor::to_vec(&Reply { number: 4, answer: Answer::Done }).unwrap());

    let heartbeat = Heartbeat { project: PROJECT, epoch: 7, time: NOW };
    check(&page, "heartbeat", &statement::sign(&identity(), &heartbeat).unwrap());
    mentions(&page, [authority::MAX_MESSAGE]);
}
