use super::*;

pub(super) fn example() -> Ticket {
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

#[test]
fn a_ticket_reads_back() {
    assert_eq!(text().parse::<Ticket>().unwrap(), example());
    assert_eq!(format!(" \r\n{}\n\t", text()).parse::<Ticket>().unwrap(), example(), "white space around it");
}
