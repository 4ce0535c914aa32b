//! Two ends of a stream with a network between them that may cut, flip, reorder and repeat.

mod chaos;
mod swaps;

use proptest::prelude::*;

use super::*;
use crate::id::{ChannelId, RefusalId};
use crate::path::{AttachHead, OpenHead};
use crate::record::{HEADER_LEN, OVERHEAD, PREFIX_LEN, RejectCode};

/// Both ends of one stream.
fn pair() -> (Stream, Stream) {
    let secrets = [0, 1, 2, 3].map(|n| SecretBytes::new([n; 32]));
    let [a_data, b_data, a_control, b_control] = secrets;
    let opener = StreamKeys {
        suite: Suite::AesGcm,
        send_data: a_data.clone(),
        receive_data: b_data.clone(),
        send_control: a_control.clone(),
        receive_control: b_control.clone(),
    };
    let acceptor = StreamKeys {
        suite: Suite::AesGcm,
        send_data: b_data,
        receive_data: a_data,
        send_control: b_control,
        receive_control: a_control,
    };
    (Stream::new(Side::Opener, opener), Stream::new(Side::Acceptor, acceptor))
}

/// Both ends of a stream whose opener has its answer.
fn accepted_pair() -> (Stream, Stream) {
    let (mut opener, mut acceptor) = pair();
    acceptor.accept();
    deliver(&mut opener, &transmit(&mut acceptor), &mut Seen::default());
    assert!(opener.is_accepted());
    (opener, acceptor)
}

fn data(stream: &mut Stream, body: &[u8]) -> Vec<u8> {
    let mut record = vec![0; OVERHEAD + body.len()];
    record[PREFIX_LEN..PREFIX_LEN + body.len()].copy_from_slice(body);
    stream.seal_data(&mut record).unwrap();
    record
}

/// Splits what a side sent into records.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let end = HEADER_LEN + Header::parse(*header).unwrap().length;
        records.push(bytes[..end].to_vec());
        bytes = &bytes[end..];
    }
    records
}

/// What an application behind `stream` would see of `bytes`: its data, and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    data: Vec<u8>,
    clean_end: bool,
    error: bool,
}

fn deliver(stream: &mut Stream, bytes: &[u8], seen: &mut Seen) {
    let mut rest = bytes;
    while let Some((head, _)) = rest.split_first_chunk::<HEADER_LEN>() {
        let Ok(header) = Header::parse(*head) else {
            seen.error = true;
            return;
        };
        let end = HEADER_LEN + header.length;
        if rest.len() < end {
            return;
        }
        let mut record = rest[..end].to_vec();
        rest = &rest[end..];
        match stream.handle_record(header, &mut record) {
            Ok(Received::Data(body)) => {
                let length = body.len() as u64;
                seen.data.extend_from_slice(body);
                stream.consumed(length);
            }
            Ok(Received::Fin) => seen.clean_end = true,
            Ok(_) => {}
            Err(_) => {
                seen.error = true;
                return;
            }
        }
    }
}

fn transmit(stream: &mut Stream) -> Vec<u8> {
    let mut out = Vec::new();
    stream.poll_transmit(&mut out).unwrap();
    out
}

#[test]
fn a_request_and_its_answer_leave_the_path_free() {
    let (mut a, mut b) = pair();
    let (mut at_a, mut at_b) = (Seen::default(), Seen::default());
    let request = data(&mut a, b"request");
    deliver(&mut b, &request, &mut at_b);
    let fin = a.seal_fin().unwrap();
    deliver(&mut b, &fin, &mut at_b);
    b.accept();
    let mut answer = transmit(&mut b);
    answer.extend(data(&mut b, b"answer"));
    answer.extend(b.seal_fin().unwrap());
    answer.extend(transmit(&mut b));
    deliver(&mut a, &answer, &mut at_a);
    assert!(a.is_accepted() && !a.is_finished() && !b.is_finished());
    deliver(&mut b, &transmit(&mut a), &mut at_b);
    assert_eq!(at_b, Seen { data: b"request".to_vec(), clean_end: true, error: false });
    assert_eq!(at_a, Seen { data: b"answer".to_vec(), clean_end: true, error: false });
    assert!(a.is_finished() && b.is_finished());
    assert!(transmit(&mut a).is_empty() && transmit(&mut b).is_empty(), "a finished stream sends nothing more");
}

/// Cut at every byte, an end is clean only where all of it came; and whatever record a network leaves out, the next one is refused, an end
/// as much as data.
#[test]
fn wherever_it_is_cut_an_end_is_clean_only_behind_everything() {
    let sent = || {
        let (mut a, mut b) = pair();
        b.accept();
        deliver(&mut a, &transmit(&mut b), &mut Seen::default());
        let records = vec![data(&mut a, b"one"), data(&mut a, b"two"), data(&mut a, b"three"), a.seal_fin().unwrap().to_vec()];
        (records, b)
    };
    let length = sent().0.concat().len();
    for cut in 0..=length {
        let (records, mut b) = sent();
        let mut seen = Seen::default();
        deliver(&mut b, &records.concat()[..cut], &mut seen);
        assert!(b"onetwothree".starts_with(&seen.data) && !seen.error);
        assert_eq!(seen.clean_end, cut == length, "cut at {cut}");
    }
    for dropped in 0..3 {
        let (mut records, mut b) = sent();
        records.remove(dropped);
        let mut seen = Seen::default();
        deliver(&mut b, &records.concat(), &mut seen);
        assert!(seen.error && !seen.clean_end && b"onetwothree".starts_with(&seen.data), "without {dropped}: {seen:?}");
    }
}

#[test]
fn a_sender_stops_at_its_credit_and_goes_on_with_more() {
    let (mut a, mut b) = accepted_pair();
    let mut seen = Seen::default();
    assert_eq!(a.budget(), INITIAL_CREDIT);
    let mut held = Vec::new();
    while a.budget() > 0 {
        let length = a.budget().min(60_000) as usize;
        held.push(data(&mut a, &vec![7; length]));
    }
    assert_eq!(a.seal_data(&mut [0; OVERHEAD + 1]), Err(StreamError::NoBudget));
    // The application does not read: nothing is granted, and the receiver holds what it granted and no more.
    for record in &held {
        let header = Header::parse(record[..4].try_into().unwrap()).unwrap();
        assert!(matches!(b.handle_record(header, &mut record.clone()), Ok(Received::Data(_))));
    }
    assert_eq!(b.buffered(), INITIAL_CREDIT);
    assert!(transmit(&mut b).is_empty());
    // It reads: the window grows, because all of it was used.
    b.consumed(INITIAL_CREDIT);
    deliver(&mut a, &transmit(&mut b), &mut seen);
    assert_eq!(a.budget(), 2 * INITIAL_CREDIT);
    assert!(!seen.error);
}

#[test]
fn the_window_grows_to_its_limit_only() {
    let (mut a, mut b) = accepted_pair();
    b.set_max_window(1024 * 1024);
    let (mut at_a, mut at_b) = (Seen::default(), Seen::default());
    for _ in 0..200 {
        let length = a.budget().min(60_000) as usize;
        let record = data(&mut a, &vec![1; length]);
        deliver(&mut b, &record, &mut at_b);
        deliver(&mut a, &transmit(&mut b), &mut at_a);
        assert!(a.budget() <= 1024 * 1024);
    }
    assert_eq!(b.receive.window, 1024 * 1024);
}

#[test]
fn a_peer_that_sends_without_credit_is_refused() {
    let (mut a, mut b) = pair();
    a.send.credit = u64::MAX;
    let mut seen = Seen::default();
    for _ in 0..=INITIAL_CREDIT / 60_000 {
        let record = data(&mut a, &[0; 60_000]);
        deliver(&mut b, &record, &mut seen);
    }
    // The application took everything, so only the grant counts: it was never sent, so the peer could not know of it.
    assert!(seen.error);
    assert!(seen.data.len() as u64 <= INITIAL_CREDIT);
}

#[test]
fn lies_in_control_records_are_refused() {
    let (mut a, _) = pair();
    assert_eq!(a.handle_control(Control::Ack { received: 1, credit: 0 }), Err(StreamError::AckOfUnsent { received: 1, sent: 0 }));
    assert_eq!(a.handle_control(Control::Accept), Ok(Received::Accepted));
    assert_eq!(a.handle_control(Control::Accept), Err(StreamError::UnexpectedControl), "twice");
    assert_eq!(
        a.handle_control(Control::Reject(Box::new(Reject::new(RejectCode::Busy, RefusalId::random())))),
        Err(StreamError::UnexpectedControl),
        "after the accept"
    );
    let (_, mut b) = pair();
    assert_eq!(b.handle_control(Control::Accept), Err(StreamError::UnexpectedControl), "from the opener");
    // An older acknowledgement does not take credit back.
    assert_eq!(b.handle_control(Control::Ack { received: 0, credit: 0 }), Ok(Received::Progress));
    assert_eq!(b.budget(), INITIAL_CREDIT);
}

#[test]
fn nothing_follows_a_fin() {
    let (mut a, mut b) = pair();
    let fin = a.seal_fin().unwrap();
    assert_eq!(a.seal_fin(), Err(StreamError::NoBudget));
    let mut seen = Seen::default();
    deliver(&mut b, &fin, &mut seen);
    assert!(seen.clean_end);
    a.send.fin = false;
    let record = data(&mut a, b"more");
    deliver(&mut b, &record, &mut seen);
    assert!(seen.error && seen.data.is_empty());
}

#[test]
fn records_of_another_stream_or_direction_do_not_open() {
    let (mut a, mut b) = pair();
    let mut mirrored = data(&mut a, b"x");
    let header = Header::parse(mirrored[..4].try_into().unwrap()).unwrap();
    assert!(a.handle_record(header, &mut mirrored.clone()).is_err(), "its own record, reflected");
    let (_, mut other) = pair();
    other.receive.opener = DataOpener::new(Suite::AesGcm, SecretBytes::random());
    assert!(other.handle_record(header, &mut mirrored.clone()).is_err(), "another stream's key");
    assert!(b.handle_record(header, &mut mirrored).is_ok());
}

/// An acceptor that does not answer and yet grants credit would have the opener keep all that it sends, to say it again elsewhere;
/// and each PING before the answer a PONG.
#[test]
fn nothing_is_believed_before_the_answer() {
    let early = [Control::Ack { received: 0, credit: u64::MAX }, Control::Ping { number: 1 }, Control::Pong { number: 1 }];
    for control in early {
        let (mut a, mut b) = pair();
        let mut record = Vec::new();
        b.control_sealer.seal(control.clone(), &mut record).unwrap();
        let header = Header::parse(record[..4].try_into().unwrap()).unwrap();
        let error = a.handle_record(header, &mut record).unwrap_err();
        assert_eq!(error, StreamError::UnexpectedControl, "{control:?}");
        assert!(!error.may_be_the_path(), "only the peer can have said it");
        assert_eq!(a.budget(), INITIAL_CREDIT);
    }
    let (mut a, mut b) = pair();
    let mut record = data(&mut b, b"early");
    let header = Header::parse(record[..4].try_into().unwrap()).unwrap();
    let error = a.handle_record(header, &mut record).unwrap_err();
    assert_eq!(error, StreamError::BeforeAnswer);
    assert!(error.may_be_the_path(), "a network that exchanges frames can have done it");
}

/// The same behind an attach.
#[test]
fn nothing_is_believed_before_the_answer_to_an_attach() {
    let early = [Control::Ack { received: 0, credit: u64::MAX }, Control::Ping { number: 1 }, Control::Accept];
    let head = AttachHead { head: OpenHead { channel: ChannelId::from_bytes([9; 16]), stream: 2 }, attach: 1 };
    let keys = || ControlKeys { suite: Suite::AesGcm, send: SecretBytes::new([1; 32]), receive: SecretBytes::new([2; 32]) };
    for control in early {
        let (mut a, mut b) = pair();
        a.seal_attach(&keys(), head, None, &mut Vec::new()).unwrap();
        let mut record = data(&mut b, b"early");
        let header = Header::parse(record[..4].try_into().unwrap()).unwrap();
        let error = a.handle_record(header, &mut record).unwrap_err();
        assert!(error == StreamError::BeforeAttached && error.may_be_the_path());
        let mut record = Vec::new();
        ControlSealer::new(Suite::AesGcm, &SecretBytes::new([2; 32])).seal(control, &mut record).unwrap();
        let header = Header::parse(record[..4].try_into().unwrap()).unwrap();
        let error = a.handle_record(header, &mut record).unwrap_err();
        assert!(error == StreamError::UnexpectedControl && !error.may_be_the_path());
    }
}

/// What the network between the two ends does to the bytes of one direction.
#[derive(Debug, Clone)]
enum Damage {
    Cut(usize),
    Flip(usize),
    Drop(usize),
    Repeat(usize),
    Swap(usize, usize),
    Insert(usize, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<usize>().prop_map(Damage::Cut),
        any::<usize>().prop_map(Damage::Flip),
        any::<usize>().prop_map(Damage::Drop),
        any::<usize>().prop_map(Damage::Repeat),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Damage::Swap(a, b)),
        (any::<usize>(), prop::collection::vec(any::<u8>(), 1..64)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ]
}

fn damaged(bytes: &[u8], damage: &Damage) -> Vec<u8> {
    let mut parts = records(bytes);
    let count = parts.len();
    match damage {
        Damage::Cut(at) => return bytes[..at % (bytes.len() + 1)].to_vec(),
        Damage::Flip(bit) => {
            let mut bytes = bytes.to_vec();
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            return bytes;
        }
        Damage::Insert(at, extra) => {
            let at = at % (bytes.len() + 1);
            return [&bytes[..at], extra, &bytes[at..]].concat();
        }
        Damage::Drop(at) => drop(parts.remove(at % count)),
        Damage::Repeat(at) => parts.insert(at % count, parts[at % count].clone()),
        Damage::Swap(a, b) => parts.swap(a % count, b % count),
    }
    parts.concat()
}

/// How many networks are tried: `usual`, or more where `PROPTEST_CASES` asks for more.
fn cases(usual: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig::with_cases(asked.unwrap_or(usual).max(usual))
}

proptest! {
    #![proptest_config(cases(2_000))]

    /// R1 and R2 of the threat model: what is delivered is a prefix of what was sent, and an end is clean only where it was sent
    /// and everything before it was delivered.
    #[test]
    fn delivered_is_a_prefix_of_sent(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8),
        damages in prop::collection::vec(damage(), 0..3),
    ) {
        let (mut a, mut b) = pair();
        let sent = bodies.concat();
        let mut wire = Vec::new();
        for body in &bodies {
            wire.extend(data(&mut a, body));
        }
        wire.extend(a.seal_fin().unwrap());
        let original = wire.clone();
        for damage in &damages {
            if wire.is_empty() || records_checked(&wire).is_none() {
                break;
            }
            wire = damaged(&wire, damage);
        }
        let mut seen = Seen::default();
        deliver(&mut b, &wire, &mut seen);
        prop_assert!(sent.starts_with(&seen.data));
        if seen.clean_end {
            prop_assert_eq!(&seen.data, &sent);
        }
        if wire == original {
            prop_assert!(seen.clean_end && !seen.error);
        }
    }

    /// Whatever a stranger writes on a path, the machine answers with an error and delivers nothing.
    #[test]
    fn noise_delivers_nothing(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let (_, mut b) = pair();
        let mut seen = Seen::default();
        deliver(&mut b, &bytes, &mut seen);
        prop_assert!(seen.data.is_empty() && !seen.clean_end);
    }
}

/// The bytes as whole records, where they are that.
fn records_checked(mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        let header = Header::parse(*bytes.first_chunk::<HEADER_LEN>()?).ok()?;
        bytes = bytes.get(HEADER_LEN + header.length..)?;
    }
    Some(())
}
