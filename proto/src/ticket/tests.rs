use proptest::prelude::*;

use super::*;

fn example() -> Ticket {
    Ticket {
        project: ProjectId::from_bytes([1; 16]),
        authority: Identifier::from_bytes([2; 32]),
        authority_static: StaticPublic::from_bytes([9; 32]),
        addresses: vec!["authority.example:7000".parse().unwrap(), "[2001:db8::1]:7000".parse().unwrap()],
        id: TicketId::from_bytes([4; 16]),
        secret: SecretBytes::new([5; 32]),
        expires: Timestamp::from_unix(1_800_000_600),
    }
}

fn text() -> String {
    example().to_text().unwrap().expose_secret().to_owned()
}

fn read(text: &str) -> Result<Ticket, TicketError> {
    text.parse()
}

fn refusal(text: &str) -> TicketError {
    read(text).map(|_| ()).unwrap_err()
}

/// The text of these contents, with the right checksum, whatever they are.
fn sealed(cbor: &[u8]) -> String {
    let framed = minicbor::to_vec(minicbor::bytes::ByteVec::from(cbor.to_vec())).unwrap();
    format!("{PREFIX}{}", BASE64.encode([&framed[..], &checksum(cbor)].concat()))
}

fn contents() -> Contents {
    let Ticket { project, authority, authority_static, addresses, id, secret, expires } = example();
    Contents { version: VERSION, project, authority, authority_static, addresses, id, secret, expires }
}

#[test]
fn a_ticket_reads_back() {
    assert_eq!(read(&text()), Ok(example()));
    assert!(text().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'), "one word in any shell");
    assert_eq!(read(&format!(" \r\n{}\n\t", text())), Ok(example()), "white space around it");
}

#[test]
fn every_truncation_is_called_one() {
    let text = text();
    for len in "postern".len()..text.len() {
        assert_eq!(refusal(&text[..len]), TicketError::Truncated, "cut at {len}");
    }
}

#[test]
fn every_changed_character_is_refused() {
    let text = text();
    for position in 0..text.len() {
        for other in ['A', 'z', '_', '=', '+', '\0', 'é'] {
            let mut bad = text.clone();
            if bad.as_bytes()[position] == other as u8 {
                continue;
            }
            bad.replace_range(position..=position, other.encode_utf8(&mut [0; 4]));
            let error = refusal(&bad);
            // The prefix and the length can turn into those of another thing; nothing else can.
            if position >= PREFIX.len() + 4 {
                assert_eq!(error, TicketError::Corrupt, "character {position} as {other:?}");
            }
        }
    }
    assert_eq!(refusal(&format!("{text}AAAA")), TicketError::Corrupt, "something appended");
    assert_eq!(refusal(&format!("{text}{text}")), TicketError::Corrupt, "twice");
    assert_eq!(refusal(&text.replace('_', "-")), TicketError::NotATicket);
}

/// The last character of some lengths has bits that mean nothing: they must be zero.
#[test]
fn a_ticket_has_one_text() {
    for extra in 0..3 {
        let mut ticket = example();
        ticket.addresses = vec![format!("a{}.example:7000", "b".repeat(extra)).parse().unwrap()];
        let text = ticket.to_text().unwrap().expose_secret().to_owned();
        let last = text.len() - 1;
        let accepted = ('!'..='~').filter(|c| read(&format!("{}{c}", &text[..last])).is_ok()).count();
        assert_eq!(accepted, 1);
    }
}

#[test]
fn what_is_not_a_ticket_is_told_apart() {
    for other in
        ["", " ", "hello", "n1.yaml", "{\"ticket\": 1}", "postern", "poster", "posternx_abc", "postern_abc", "Postern1_abc"]
    {
        let expected = if other == "postern" { TicketError::Truncated } else { TicketError::NotATicket };
        assert_eq!(refusal(other), expected, "{other:?}");
    }
    assert_eq!(refusal("postern2_AAAA"), TicketError::NewerVersion { version: 2 });
    assert_eq!(refusal("postern1_"), TicketError::Truncated);
    let mut broken = text();
    broken.insert(60, '\n');
    assert_eq!(refusal(&broken), TicketError::Broken);
    broken.insert(60, ' ');
    assert_eq!(refusal(&broken), TicketError::Broken);
    assert_eq!(refusal(&format!("{PREFIX}{}", "A".repeat(MAX_TEXT))), TicketError::TooLong);
}

#[test]
fn whole_texts_with_wrong_contents() {
    type Edit = fn(&mut Contents);
    let edits: [(Edit, &str); 5] = [
        (|c| c.version = 2, "another version than its prefix says"),
        (|c| c.addresses.clear(), "it must have 1 to 8 addresses"),
        (|c| c.addresses = vec!["a:1".parse().unwrap(); 9], "it must have 1 to 8 addresses"),
        (|c| c.addresses[0] = "a:0".parse().unwrap(), "an address with port 0"),
        (|c| c.authority_static = StaticPublic::from_bytes([0; 32]), "the authority's key is not usable"),
    ];
    for (edit, why) in edits {
        let mut contents = contents();
        edit(&mut contents);
        assert_eq!(refusal(&sealed(&contents.encode())), TicketError::Invalid(why));
        if contents.version == VERSION {
            assert_eq!(Ticket::from(contents).to_text().map(|_| ()), Err(TicketError::Invalid(why)));
        }
    }
    let mut unknown = contents().encode().to_vec();
    unknown[0] += 1;
    unknown.extend([8, 0]);
    assert_eq!(refusal(&sealed(&unknown)), TicketError::Invalid("not in the one deterministic encoding"));
    assert_eq!(refusal(&sealed(&[0xa0])), TicketError::Invalid("malformed"));
    assert_eq!(refusal(&sealed(&[0x00])), TicketError::Invalid("malformed"));
}

#[test]
fn the_longest_ticket_fits() {
    let mut ticket = example();
    let host = [&"a".repeat(63)[..]; 4].join(".");
    ticket.addresses = vec![HostPort::new(&host[..253], 65_535).unwrap(); MAX_ADDRESSES];
    let text = ticket.to_text().unwrap();
    assert!(text.expose_secret().len() <= MAX_TEXT);
    assert_eq!(read(text.expose_secret()), Ok(ticket));
}

#[test]
fn another_project() {
    let (ticket, member) = (example().project, ProjectId::from_bytes([7; 16]));
    assert_eq!(example().check_project(ticket), Ok(()));
    assert_eq!(example().check_project(member), Err(TicketError::OtherProject { ticket, member }));
}

#[test]
fn neither_debug_nor_errors_show_the_secret() {
    let secret = hex::encode(example().secret.expose_secret());
    let shown = format!("{:?} {:?}", example(), example().to_text().unwrap());
    assert!(!shown.contains(&secret) && !shown.contains("5, 5, 5") && !shown.contains(&text()[150..]), "{shown}");
    let corrupt = text().replace("BQUF", "BQUG");
    let error = refusal(&corrupt);
    assert!(!format!("{error} {error:?}").contains("BQU"));
}

proptest! {
    #[test]
    fn any_text_is_refused_without_panic(text in "\\PC{0,200}") {
        prop_assert!(read(&text).is_err());
        let prefixed = format!("{PREFIX}{text}");
        prop_assert!(read(&prefixed).is_err());
    }

    #[test]
    fn any_contents_are_refused_without_panic(cbor in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&sealed(&cbor)).is_err());
    }

    #[test]
    fn any_ticket_reads_back(id in any::<[u8; 16]>(), secret in any::<[u8; 32]>(), expires in any::<u64>(), port in 1u16..) {
        let mut ticket = example();
        ticket.id = TicketId::from_bytes(id);
        ticket.secret = SecretBytes::new(secret);
        ticket.expires = Timestamp::from_unix(expires);
        ticket.addresses = vec![HostPort::new("h", port).unwrap()];
        let text = ticket.to_text().unwrap();
        prop_assert_eq!(read(text.expose_secret()), Ok(ticket));
    }
}
