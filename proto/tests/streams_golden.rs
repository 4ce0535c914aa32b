//! The page `docs/protocol/streams.md` against the code: a whole stream byte by byte, messages, and every code and limit in its tables.

use postern_proto::aead::Suite;
use postern_proto::id::ChannelId;
use postern_proto::path::{self, Attach, AttachHead, ChannelMessage, Open, OpenHead, frame_channel_message};
use postern_proto::record::{
    self, Control, ControlOpener, ControlSealer, DataType, HEADER_LEN, Header, Kind, OVERHEAD, PREFIX_LEN, RejectCode, ResetCode,
};
use postern_proto::replay;
use postern_proto::secret::SecretBytes;
use postern_proto::stream::{self, Received, Side, Stream, StreamKeys};

const PAGE: &str = include_str!("../../docs/protocol/streams.md");

/// The block of the page that opens with this line, as bytes. Words behind `;` say what a line is.
fn vector(name: &str) -> Vec<u8> {
    let fence = format!("```vector {name}");
    let mut lines = PAGE.lines();
    assert!(lines.any(|line| line == fence), "no block `{fence}`");
    let digits: String =
        lines.take_while(|line| *line != "```").flat_map(|line| line.split(';').next().unwrap().split_whitespace()).collect();
    hex::decode(digits).unwrap()
}

#[track_caller]
fn check(name: &str, bytes: &[u8]) {
    assert_eq!(hex::encode(vector(name)), hex::encode(bytes), "{name}");
}

#[track_caller]
fn has_row(row: &str) {
    assert!(PAGE.lines().any(|line| line.starts_with(row)), "no row `{row}`");
}

/// Keys of the opener's side: data 01 and 02, control 03 and 04, each 32 times.
fn keys() -> StreamKeys {
    let [send_data, receive_data, send_control, receive_control] = [1, 2, 3, 4].map(|fill| SecretBytes::new([fill; 32]));
    StreamKeys { suite: Suite::AesGcm, send_data, receive_data, send_control, receive_control }
}

fn mirrored(keys: StreamKeys) -> StreamKeys {
    StreamKeys {
        suite: keys.suite,
        send_data: keys.receive_data,
        receive_data: keys.send_data,
        send_control: keys.receive_control,
        receive_control: keys.send_control,
    }
}

fn head() -> OpenHead {
    OpenHead { channel: ChannelId::from_bytes([0xcc; 16]), stream: 2 }
}

fn open() -> Open {
    Open { outlet: "saas".parse().unwrap(), probe: false, hops: 0, mark: None }
}

fn data(stream: &mut Stream, body: &[u8]) -> Vec<u8> {
    let mut record = vec![0; OVERHEAD + body.len()];
    record[PREFIX_LEN..PREFIX_LEN + body.len()].copy_from_slice(body);
    stream.seal_data(&mut record).unwrap();
    record
}

fn transmit(stream: &mut Stream) -> Vec<u8> {
    let mut out = Vec::new();
    stream.poll_transmit(&mut out).unwrap();
    out
}

/// Hands over whole records; what was data comes back, and is taken by the application at once.
fn deliver(stream: &mut Stream, mut bytes: &[u8]) -> Vec<u8> {
    let mut got = Vec::new();
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let header = Header::parse(*header).unwrap();
        let (record, rest) = bytes.split_at(HEADER_LEN + header.length);
        bytes = rest;
        let mut record = record.to_vec();
        if let Received::Data(body) = stream.handle_record(header, &mut record).unwrap() {
            got.extend_from_slice(body);
        }
        stream.consumed(got.len() as u64);
    }
    got
}

#[test]
fn a_whole_stream() {
    let (mut opener, mut acceptor) = (Stream::new(Side::Opener, keys()), Stream::new(Side::Acceptor, mirrored(keys())));

    let mut first = Vec::new();
    opener.seal_open(&head().to_bytes(), minicbor::to_vec(open()).unwrap(), &mut first).unwrap();
    check("open", &first);
    assert_eq!(OpenHead::of_frame(&first), Some(head()));
    let text = acceptor.open_open(OpenHead::LEN, &mut first).unwrap();
    assert_eq!(minicbor::decode::<Open>(text).unwrap(), open());

    let mut request = data(&mut opener, b"ping");
    request.extend(opener.seal_fin().unwrap());
    check("request", &request);
    assert_eq!(deliver(&mut acceptor, &request), b"ping");
    assert!(acceptor.peer_finished());

    acceptor.accept();
    let mut records = data(&mut acceptor, b"pong");
    records.extend(acceptor.seal_fin().unwrap());
    // The FIN takes the acknowledgement along, which goes before it like the accept.
    let mut answer = transmit(&mut acceptor);
    answer.extend(records);
    check("answer", &answer);
    assert_eq!(deliver(&mut opener, &answer), b"pong");
    assert!(opener.is_accepted() && opener.peer_finished() && !opener.is_finished());

    let last = transmit(&mut opener);
    check("last acknowledgement", &last);
    deliver(&mut acceptor, &last);
    assert!(opener.is_finished() && acceptor.is_finished());
}

#[test]
fn an_attach_and_its_answers() {
    let attach = AttachHead { head: head(), attach: 1 };
    let text = minicbor::to_vec(Attach { received: 5, open: None }).unwrap();
    let key = SecretBytes::new([5; 32]);
    let mut frame = Vec::new();
    ControlSealer::new(Suite::AesGcm, &key).seal_opening(Kind::Attach, &attach.to_bytes(), text, &mut frame).unwrap();
    check("attach", &frame);
    assert_eq!(AttachHead::of_frame(&frame), Some(attach));
    let header = Header::parse(*frame.first_chunk().unwrap()).unwrap();
    assert_eq!((header.kind, HEADER_LEN + header.length), (Kind::Attach, frame.len()));
    let mut opener = ControlOpener::new(Suite::AesGcm, &key);
    let text = opener.open_opening(AttachHead::LEN, &mut frame).unwrap();
    assert_eq!(minicbor::decode::<Attach>(text).unwrap(), Attach { received: 5, open: None });

    check("attach text with the open inside", &minicbor::to_vec(Attach { received: 0, open: Some(open()) }).unwrap());
    let answer = |control| {
        let mut out = Vec::new();
        ControlSealer::new(Suite::AesGcm, &SecretBytes::new([6; 32])).seal(control, &mut out).unwrap();
        out
    };
    check("attached", &answer(Control::Attached { received: 7 }));
    check("finished", &answer(Control::Finished { count: 9 }));
}

#[test]
fn messages_of_a_control_stream() {
    check("credential", &frame_channel_message(&ChannelMessage::Credential { credential: vec![1, 2, 3] }));
    check("reset", &frame_channel_message(&ChannelMessage::Reset { stream: 6, code: ResetCode::Policy as u8 }));
    check("want credential", &frame_channel_message(&ChannelMessage::WantCredential));
    check("close", &frame_channel_message(&ChannelMessage::Close));
    let id = postern_proto::id::RefusalId::from_bytes([1; 8]);
    check("refused", &frame_channel_message(&ChannelMessage::Refused { id, stream: Some(4), reason: None }));
}

#[test]
fn tables() {
    for (kind, name, least, most) in [
        (Kind::Data, "DATA", 17, record::MAX_RECORD - HEADER_LEN),
        (Kind::Control, "CONTROL", 17, record::MAX_CONTROL_BODY + 17),
        (Kind::Open, "OPEN", 1, record::MAX_OPEN),
        (Kind::Attach, "ATTACH", 1, record::MAX_OPEN),
        (Kind::Handshake, "HANDSHAKE", 1, record::MAX_OPEN),
        (Kind::NoChannel, "NO_CHANNEL", 0, 0),
    ] {
        let row = format!("| {} | {name} | {least} | {most} |", kind as u8);
        has_row(&row);
        for (length, allowed) in [(least, true), (most, true), (most + 1, false), (least.wrapping_sub(1), false)] {
            let [_, a, b, c] = (length as u32).to_be_bytes();
            let parsed = Header::parse([kind as u8, a, b, c]);
            assert_eq!(parsed.is_ok(), allowed, "{row}: {length}");
        }
    }
    assert!(Header::parse([6, 0, 0, 32]).is_err(), "the page names no kind 6");

    for (data_type, name) in [(DataType::Data, "DATA"), (DataType::Fin, "FIN")] {
        has_row(&format!("| {} | {name} |", data_type as u8));
    }
    for code in [
        RejectCode::NotAvailable,
        RejectCode::TargetRefused,
        RejectCode::TargetTimeout,
        RejectCode::TargetUnreachable,
        RejectCode::TargetName,
        RejectCode::Busy,
        RejectCode::StreamId,
        RejectCode::ShuttingDown,
        RejectCode::Loop,
        RejectCode::Denied,
    ] {
        has_row(&format!("| {} | {} | {code}", code as u8, code.as_str()));
    }
    for (code, name) in [
        (ResetCode::Application, "APPLICATION"),
        (ResetCode::Policy, "POLICY"),
        (ResetCode::Credential, "CREDENTIAL"),
        (ResetCode::Protocol, "PROTOCOL"),
        (ResetCode::LinkLost, "LINK_LOST"),
        (ResetCode::Timeout, "TIMEOUT"),
        (ResetCode::ShuttingDown, "SHUTTING_DOWN"),
        (ResetCode::Deleted, "DELETED"),
    ] {
        has_row(&format!("| {} | {name} | {code}", code as u8));
    }
    for (what, value) in [
        ("initial credit", stream::INITIAL_CREDIT),
        ("largest window", stream::MAX_CREDIT),
        ("records in an epoch", 1 << record::EPOCH_BITS),
        ("window of stream ids", replay::WINDOW),
        ("longest message on a control stream", path::MAX_CHANNEL_MESSAGE as u64),
        ("longest body of a data record", record::MAX_BODY as u64),
    ] {
        has_row(&format!("| {what} | {value} "));
    }
}
