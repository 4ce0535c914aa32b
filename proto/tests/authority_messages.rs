//! The messages of `authority`: each variant reads back, and no bytes make a decoder panic.

use std::fmt::Debug;

use minicbor::{Decode, Encode};
use postern_proto::audit::{AuditRow, NO_ROW};
use postern_proto::authority::{
    Answer, Attributes, Bound, Call, Enforcement, EnforcementTimes, Enrolment, Grant, Hello, KeyState, MAX_MESSAGE, MemberRow,
    MissingEnforcer, ProjectPolicyRow, Refusal, RelayPermission, Reply, Request, RingKey, Role, TicketRequest, TicketRow,
    TicketUse,
};
use postern_proto::handshake::MAX_PAYLOAD_3;
use postern_proto::id::{Identifier, KeyId, NodeId, StaticPublic, TicketId};
use postern_proto::identity::{Attestation, ChangeReason, Identity, MAX_HISTORY};
use postern_proto::secret::{SecretBytes, SecretText};
use postern_proto::sign::SigningKey;
use postern_proto::time::Timestamp;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);
const MEMBER: Identifier = Identifier::from_bytes([3; 32]);
const TICKET: TicketId = TicketId::from_bytes([4; 16]);

fn attributes() -> Attributes {
    [("app", "app1"), ("inlet-to-saas", "true")].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn permissions() -> Vec<RelayPermission> {
    let name = || "saas-relay".parse().unwrap();
    vec![RelayPermission::Any, RelayPermission::Name(name()), RelayPermission::Shared(name())]
}

fn roles() -> [Role; 4] {
    let value = Some("app1".to_owned());
    let may_grant = vec![
        Grant::Attribute { key: "app".to_owned(), value: None },
        Grant::Attribute { key: "app".to_owned(), value },
        Grant::Relay { pattern: "acme-*".to_owned() },
        Grant::Enroller,
    ];
    let address = "relay.example:7000".parse().unwrap();
    [Role::Member, Role::Enroller { may_grant }, Role::Administrator, Role::RelayServer { address }]
}

fn requests() -> Vec<Request> {
    let name = || "saas-relay".parse().unwrap();
    let mut requests = vec![
        Request::ProjectInfo,
        Request::Credentials { relay_names: vec![name()] },
        Request::ClaimRelayName { name: name() },
        Request::ReleaseRelayName { name: name() },
        Request::ListTickets { after: None },
        Request::ListTickets { after: Some(TICKET) },
        Request::RevokeTicket { ticket: TICKET },
        Request::ListMembers { after: Some(MEMBER) },
        Request::DeleteMember { member: MEMBER },
        Request::AdvertiseRelay { address: "relay.example:7000".parse().unwrap() },
        Request::ListAudit { after: u64::MAX },
        Request::SetProjectPolicy { resource_type: "tcp-inlet".to_owned(), expression: None, applies_to: None },
        Request::SetProjectPolicy {
            resource_type: "tcp-inlet".to_owned(),
            expression: Some("a".to_owned()),
            applies_to: Some("b".to_owned()),
        },
        Request::ListProjectPolicies,
        Request::RevokeMember { member: MEMBER },
        Request::UpdateMember { member: MEMBER, attributes: attributes() },
        Request::Acknowledge { epoch: 7 },
        Request::Enforcement { epoch: 7 },
        Request::Guardrails,
        Request::PrepareKey,
        Request::ActivateKey,
        Request::RetireKey { force: true },
        Request::CredentialBefore { attestation: vec![1, 2] },
        Request::AnnounceStatic { next: vec![1, 2] },
    ];
    requests.extend(roles().map(|role| {
        let (attributes, relays) = (attributes(), permissions());
        Request::IssueTicket(TicketRequest {
            attributes,
            relays,
            role,
            expires_in: 600,
            max_uses: u32::MAX,
            bound: Some(Bound::Identity(MEMBER)),
        })
    }));
    requests
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::TicketExpired { at: NOW },
        Refusal::TicketRevoked,
        Refusal::TicketUsedUp { at: NOW, by: MEMBER },
        Refusal::TicketUnknown,
        Refusal::NotAMember,
        Refusal::NotPermitted { reason: "no".to_owned() },
        Refusal::NotFound { what: "member".to_owned() },
        Refusal::Invalid { reason: "no".to_owned() },
        Refusal::Busy { after: 3 },
        Refusal::RelayNameHeld { name: "saas-relay".parse().unwrap() },
        Refusal::Internal,
        Refusal::KeyInUse { key: KeyId::from_bytes([9; 8]), nodes: 3 },
    ]
}

fn answers() -> Vec<Answer> {
    let ticket = TicketRow {
        id: TICKET,
        issued_by: MEMBER,
        issued_at: NOW,
        expires_at: NOW,
        uses: 1,
        max_uses: 2,
        revoked: true,
        attributes: attributes(),
        relays: permissions(),
        role: Role::Member,
        uses_by: vec![TicketUse { by: MEMBER, at: NOW }],
        bound: Some(Bound::Name("web-*".to_owned())),
    };
    let member = MemberRow {
        identifier: MEMBER,
        name: "default".parse().unwrap(),
        attributes: attributes(),
        relays: permissions(),
        role: Role::Administrator,
        attested_by: MEMBER,
        added_at: NOW,
        expires_at: None,
        revoked_at: Some(NOW),
    };
    let text = || "x".to_owned();
    let audit = AuditRow {
        seq: 1,
        at: NOW,
        actor: text(),
        action: text(),
        subject: text(),
        result: text(),
        reason: text(),
        before: None,
        after: Some(text()),
        previous: NO_ROW,
        hash: NO_ROW,
    };
    let mut answers = vec![
        Answer::Done,
        Answer::ProjectInfo { statement: vec![1], history: vec![2] },
        Answer::Credentials { member: vec![1], relay: vec![] },
        Answer::Ticket { ticket: SecretText::new(text()) },
        Answer::Tickets { rows: vec![ticket], more: true },
        Answer::Members { rows: vec![member], more: false },
        Answer::Audit { rows: vec![audit], more: false },
        Answer::Heartbeat { statement: vec![1] },
        Answer::AuditCheckpoints { statements: vec![vec![1].into()], more: true },
        Answer::AuditProof { hashes: vec![NO_ROW] },
        Answer::AuditCheckpoint { statement: vec![1], since: 7, proof: vec![NO_ROW, NO_ROW] },
        Answer::Voiding { statement: vec![1] },
        Answer::Voided { epoch: 7 },
        Answer::Enforcement(enforcement()),
        Answer::Policies { rows: vec![ProjectPolicyRow { resource_type: text(), expression: text(), applies_to: Some(text()) }] },
        Answer::Guardrails { statement: vec![1, 2, 3] },
        Answer::SigningKeys { keys: vec![ring_key()] },
    ];
    answers.extend(refusals().into_iter().map(Answer::Refused));
    answers
}

fn ring_key() -> RingKey {
    let key = SigningKey::from_seed(&SecretBytes::new([1; 32]));
    RingKey::new(&key.public(), NOW, Timestamp::from_unix(1_900_000_000)).in_state(KeyState::Prepared)
}

fn hello(history: Vec<u8>, attestation: Vec<u8>) -> Hello {
    let enrolment = Enrolment {
        ticket: TICKET,
        secret: SecretBytes::new([5; 32]),
        name: "n".repeat(64).parse().unwrap(),
        relay_server: true,
    };
    Hello { history, attestation, enrolment: Some(enrolment) }
}

/// Every message, encoded.
fn calls() -> Vec<Vec<u8>> {
    requests().into_iter().map(|request| minicbor::to_vec(Call { number: 7, request }).unwrap()).collect()
}

fn replies() -> Vec<Vec<u8>> {
    answers().into_iter().map(|answer| minicbor::to_vec(Reply { number: 0, answer }).unwrap()).collect()
}

fn again<T: for<'b> Decode<'b, ()> + Encode<()>>(bytes: &[u8]) -> Option<Vec<u8>> {
    minicbor::decode::<T>(bytes).ok().map(|message| minicbor::to_vec(message).unwrap())
}

fn enforcement() -> Enforcement {
    Enforcement {
        epoch: 7,
        nodes: 3,
        relays: 1,
        times: Some(EnforcementTimes { p50: 12, p99: 30, max: 31 }),
        waiting: 0,
        offline: 1,
        missing: vec![MissingEnforcer {
            member: MEMBER,
            name: "default".parse().unwrap(),
            static_key: StaticPublic::from_bytes([9; 32]),
            relay: false,
            connected: false,
        }],
    }
}

#[test]
fn every_message_reads_back() {
    for bytes in calls() {
        assert_eq!(again::<Call>(&bytes), Some(bytes));
    }
    for bytes in replies() {
        assert_eq!(again::<Reply>(&bytes), Some(bytes));
    }
    let bytes = minicbor::to_vec(hello(vec![1], vec![2])).unwrap();
    assert_eq!(again::<Hello>(&bytes), Some(bytes));
}

#[test]
fn every_truncation_is_refused() {
    for bytes in calls() {
        assert!((0..bytes.len()).all(|len| again::<Call>(&bytes[..len]).is_none()));
    }
    for bytes in replies() {
        assert!((0..bytes.len()).all(|len| again::<Reply>(&bytes[..len]).is_none()));
    }
}

#[test]
fn an_unknown_field_is_ignored_and_an_unknown_variant_refused() {
    // Call { number: 7, request: ProjectInfo } with a field 9 that nests.
    let unknown = [0xa3, 0x00, 0x07, 0x01, 0x82, 0x00, 0x80, 0x09, 0x81, 0x81, 0xa1, 0x00, 0x00];
    assert_eq!(again::<Call>(&unknown), Some(vec![0xa2, 0x00, 0x07, 0x01, 0x82, 0x00, 0x80]));
    assert_eq!(again::<Call>(&[0xa2, 0x00, 0x07, 0x01, 0x82, 0x18, 99, 0x80]), None);
    assert_eq!(again::<Call>(&[0xa1, 0x00, 0x07]), None, "without a request");
    assert_eq!(again::<Call>(&[0xa2, 0x00, 0x1b, 0, 0, 0, 1, 0, 0, 0, 0, 0x01, 0x82, 0x00, 0x80]), None, "a number above u32");
}

#[test]
fn names_and_addresses_are_checked_where_they_are_read() {
    for bad in ["", "a/b", "..", &"x".repeat(65)] {
        let mut bytes = vec![0xa2, 0x00, 0x07, 0x01, 0x82, 0x02, 0xa1, 0x00];
        bytes.extend(minicbor::to_vec(bad).unwrap());
        assert_eq!(again::<Call>(&bytes), None, "{bad:?}");
    }
    for bad in ["x", "x:65536", "a b:1"] {
        let mut bytes = vec![0xa2, 0x00, 0x07, 0x01, 0x82, 0x09, 0xa1, 0x00];
        bytes.extend(minicbor::to_vec(bad).unwrap());
        assert_eq!(again::<Call>(&bytes), None, "{bad:?}");
    }
}

/// Nesting costs no stack, and a claimed length nothing that is not there.
#[test]
fn depth_and_claimed_lengths() {
    let field = |head: &[u8], fill: u8| {
        let mut bytes = head.to_vec();
        bytes.resize(MAX_MESSAGE, fill);
        bytes
    };
    for bytes in [
        field(&[0xa3, 0x09], 0x81),
        field(&[0xa3, 0x09], 0x9f),
        field(&[0xa3, 0x09], 0xc1),
        field(&[0xa2, 0x00, 0x07, 0x01, 0x82, 0x01, 0xa1, 0x00, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 0x61),
        field(&[0xa2, 0x00, 0x07, 0x01, 0x82, 0x02, 0xa1, 0x00, 0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 0x61),
    ] {
        assert_eq!(again::<Call>(&bytes), None);
        assert_eq!(again::<Reply>(&bytes), None);
        assert_eq!(again::<Hello>(&bytes), None);
    }
}

/// What is sent before authentication fits in what is read before authentication, at its longest.
#[test]
fn the_longest_hello_fits_its_handshake_message() {
    let mut identity = Identity::generate(NOW);
    while identity.rotate(NOW, ChangeReason::Renewed).is_ok() {}
    let latest = Timestamp::from_unix(u64::MAX);
    let node_id = NodeId::from_bytes([3; 16]);
    let static_key = StaticPublic::from_bytes([9; 32]);
    let attestation = identity.attest(&Attestation {
        identifier: identity.identifier(),
        node_id,
        static_key,
        created: latest,
        expires: latest,
    });
    let longest = minicbor::to_vec(hello(vec![0; MAX_HISTORY], attestation)).unwrap();
    assert!(longest.len() <= MAX_PAYLOAD_3, "{}", longest.len());
}

#[test]
fn secrets_are_not_shown() {
    let hello = hello(vec![1], vec![2]);
    let reply = Reply { number: 0, answer: Answer::Ticket { ticket: SecretText::new("postern1_secret".to_owned()) } };
    for shown in [debug(&hello), debug(&reply)] {
        assert!(shown.contains("[secret]") && !shown.contains("5, 5") && !shown.contains("postern1_"), "{shown}");
    }
}

fn debug(value: &impl Debug) -> String {
    format!("{value:?}")
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (again::<Call>(&bytes), again::<Reply>(&bytes), again::<Hello>(&bytes));
    }

    #[test]
    fn changed_messages_are_read_without_panic(which in any::<usize>(), position in any::<usize>(), bytes in any::<[u8; 2]>()) {
        let messages: Vec<_> = calls().into_iter().chain(replies()).collect();
        let mut message = messages[which % messages.len()].clone();
        for byte in bytes {
            let position = position % message.len();
            message[position] = byte;
            for read in [again::<Call>(&message), again::<Reply>(&message)].into_iter().flatten() {
                // What is read means the same when it is said again.
                let same = again::<Call>(&read).as_ref() == Some(&read) || again::<Reply>(&read).as_ref() == Some(&read);
                prop_assert!(same);
            }
        }
    }
}
