//! Records, and a stream between two ends with a hostile network or a hostile peer.

use postern_proto::aead::{Sealer, Suite, TAG_LEN};
use postern_proto::id::{ChannelId, RefusalId};
use postern_proto::path::{Attach, AttachHead, ChannelMessages, Open, OpenHead};
use postern_proto::record::{
    Control, ControlOpener, DataOpener, DataSealer, DataType, HEADER_LEN, Header, Kind, MAX_BODY, OVERHEAD, PREFIX_LEN,
    RecordError, Reject, RejectCode, ResetCode,
};
use postern_proto::secret::SecretBytes;
use postern_proto::stream::{
    Attachment, ControlKeys, INITIAL_CREDIT, MAX_CREDIT, Received, Side, Stream, StreamError, StreamKeys,
};

/// A header is read as it would be written, within its kind's limits. No bytes of a stranger's open. Whatever a peer seals, a record is
/// read or refused, and so is every text inside an open, an attach or a control stream. What is sealed opens once, unless a bit flips.
pub fn record(data: &[u8]) {
    let key = SecretBytes::new([0x5a; 32]);
    if let Some((header, rest)) = data.split_first_chunk::<HEADER_LEN>()
        && let Ok(parsed) = Header::parse(*header)
    {
        assert_eq!(parsed.to_bytes(), *header);
        assert!(parsed.length <= 1 + MAX_BODY + TAG_LEN);
        let mut frame = data[..HEADER_LEN + parsed.length.min(rest.len())].to_vec();
        assert!(DataOpener::new(Suite::AesGcm, key.clone()).open(&mut frame.clone()).is_err());
        assert!(ControlOpener::new(Suite::AesGcm, &key).open(&mut frame.clone()).is_err());
        assert!(ControlOpener::new(Suite::AesGcm, &key).open_opening(OpenHead::LEN, &mut frame).is_err());
    }
    let _ = (OpenHead::of_frame(data), AttachHead::of_frame(data));
    let _ = (minicbor::decode::<Open>(data), minicbor::decode::<Attach>(data));
    let mut messages = ChannelMessages::default();
    for chunk in data.chunks(7) {
        messages.push(chunk);
        while let Ok(Some(_)) = messages.poll() {}
    }
    if let Ok(control) = ControlOpener::new(Suite::AesGcm, &key).open(&mut sealed(Kind::Control, &key, data)) {
        let length = match control {
            Control::Accept => 0,
            Control::Reject(reject) => 9 + reject.reason.len(),
            Control::Reset(_) => 1,
            Control::Ping { .. } | Control::Pong { .. } | Control::Attached { .. } | Control::Finished { .. } => 8,
            Control::Ack { .. } => 16,
        };
        assert_eq!(data.len(), 1 + length);
    }
    match DataOpener::new(Suite::AesGcm, key.clone()).open(&mut sealed(Kind::Data, &key, data)) {
        Ok((DataType::Data, body)) => assert!(data[0] == 0 && *body == data[1..]),
        Ok((DataType::Fin, _)) => assert_eq!(data, [1]),
        Err(_) => {}
    }
    round_trip(data);
}

/// A record of `kind` with this type and body, as a peer that holds the keys may make it.
fn sealed(kind: Kind, key: &SecretBytes<32>, text: &[u8]) -> Vec<u8> {
    let mut record = Header { kind, length: text.len() + TAG_LEN }.to_bytes().to_vec();
    let sealed = Sealer::new(Suite::AesGcm, key).seal_vec(&record, text.to_vec()).expect("the first record of a key");
    record.extend(sealed);
    record
}

fn round_trip(body: &[u8]) {
    let body = &body[..body.len().min(MAX_BODY)];
    let mut record = vec![0; OVERHEAD + body.len()];
    record[PREFIX_LEN..PREFIX_LEN + body.len()].copy_from_slice(body);
    let opener = || DataOpener::new(Suite::ChaChaPoly, SecretBytes::new([2; 32]));
    DataSealer::new(Suite::ChaChaPoly, SecretBytes::new([2; 32])).seal(DataType::Data, &mut record).expect("a body that fits");
    let bit = body.iter().fold(0, |sum: usize, byte| sum * 31 % 65_521 + usize::from(*byte)) % (record.len() * 8);
    let mut flipped = record.clone();
    flipped[bit / 8] ^= 1 << (bit % 8);
    assert!(opener().open(&mut flipped).is_err(), "bit {bit}");
    let mut opener = opener();
    assert_eq!(opener.open(&mut record.clone()).map(|(_, body)| body.to_vec()).as_deref(), Ok(body));
    assert!(opener.open(&mut record).is_err(), "a replay");
}

/// The bytes of an input, one by one; zeros after its end.
pub(crate) struct Script<'a>(std::slice::Iter<'a, u8>);

impl<'a> Script<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data.iter())
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn number(&mut self) -> u64 {
        let bytes: [u8; 8] = std::array::from_fn(|_| self.byte());
        u64::from_be_bytes(bytes)
    }
}

/// One side of a stream, and what its application sent, was given and has taken.
struct End {
    stream: Stream,
    sent: Vec<u8>,
    ended: bool,
    given: Vec<u8>,
    given_end: bool,
    /// The stream is over.
    broken: bool,
    /// The path brought what nobody sealed: nothing more is taken from it.
    cut: bool,
    /// All data records, as they were sealed.
    records: Vec<Vec<u8>>,
    /// On its way from here, in records.
    wire: Vec<Vec<u8>>,
}

impl End {
    fn new(side: Side, [send_data, receive_data, send_control, receive_control]: [u8; 4]) -> Self {
        let key = |fill| SecretBytes::new([fill; 32]);
        let keys = StreamKeys {
            suite: Suite::AesGcm,
            send_data: key(send_data),
            receive_data: key(receive_data),
            send_control: key(send_control),
            receive_control: key(receive_control),
        };
        let (sent, given, wire, records) = Default::default();
        let stream = Stream::new(side, keys);
        Self { stream, sent, ended: false, given, given_end: false, broken: false, cut: false, records, wire }
    }

    fn write(&mut self, length: usize) {
        let length = length.min(self.stream.budget() as usize);
        let mut record = vec![self.sent.len() as u8; OVERHEAD + length];
        if self.stream.seal_data(&mut record).is_ok() {
            self.sent.extend(std::iter::repeat_n(self.sent.len() as u8, length));
            self.keep(record);
        }
    }

    fn finish(&mut self) {
        if let Ok(fin) = self.stream.seal_fin() {
            self.keep(fin.to_vec());
        }
        self.ended = true;
    }

    /// A data record goes out, unless an attach waits for its answer, and is kept for other paths.
    fn keep(&mut self, record: Vec<u8>) {
        if !self.stream.is_attaching() {
            self.wire.push(record.clone());
        }
        self.records.push(record);
    }

    fn transmit(&mut self) {
        let mut out = Vec::new();
        if self.broken || self.stream.poll_transmit(&mut out).is_err() {
            return;
        }
        let mut rest = &out[..];
        while let Some(header) = rest.first_chunk() {
            let header = Header::parse(*header).expect("this side's own record");
            let (record, behind) = rest.split_at(HEADER_LEN + header.length);
            self.wire.push(record.to_vec());
            rest = behind;
        }
    }

    fn take(&mut self, mut record: Vec<u8>) {
        let Some(Ok(header)) = record.first_chunk().map(|header| Header::parse(*header)) else {
            self.broken = true;
            return;
        };
        if self.broken || self.cut || record.len() != HEADER_LEN + header.length {
            self.cut = true;
            return;
        }
        match self.stream.handle_record(header, &mut record) {
            Ok(Received::Data(body)) => self.given.extend_from_slice(body),
            Ok(Received::Fin) => self.given_end = true,
            Err(StreamError::Record(RecordError::Aead(_)) | StreamError::UnexpectedKind(_)) => self.cut = true,
            Ok(Received::Rejected(_) | Received::Reset(_)) | Err(_) => self.broken = true,
            Ok(Received::Attached { received }) => self.wire.extend_from_slice(&self.records[received as usize..]),
            Ok(Received::Accepted | Received::Progress | Received::Finished) => {}
        }
        assert!(self.stream.buffered() <= MAX_CREDIT);
    }
}

/// Two ends under a script, with a network that drops, repeats, swaps and changes records, and a peer that seals what it likes. What is
/// delivered is a prefix of what was sent, and an end is clean only where everything came before it; nothing panics, and nobody holds more
/// than was granted.
pub fn stream(data: &[u8]) {
    let mut script = Script::new(data);
    let liar = script.byte() % 4 == 3;
    let mut a = End::new(Side::Opener, [1, 2, 3, 4]);
    let mut b = End::new(Side::Acceptor, [2, 1, 4, 3]);
    for _ in 0..data.len().min(400) {
        let step = script.byte();
        let (here, there) = if step & 1 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        match step >> 1 & 15 {
            0 => here.write(usize::from(script.byte())),
            1 => here.write(usize::from(script.byte()) * 255),
            2 => {
                here.finish();
            }
            3 => here.transmit(),
            4 => here.stream.consumed(u64::from(script.byte()) * 1024),
            5 => here.stream.acknowledge(),
            6 => here.stream.accept(),
            7 if !here.wire.is_empty() => drop(here.wire.remove(usize::from(script.byte()) % here.wire.len())),
            8 if !here.wire.is_empty() => {
                let at = usize::from(script.byte()) % here.wire.len();
                here.wire.push(here.wire[at].clone());
            }
            9 if !here.wire.is_empty() => {
                let (x, y) = (usize::from(script.byte()) % here.wire.len(), usize::from(script.byte()) % here.wire.len());
                here.wire.swap(x, y);
            }
            10 if !here.wire.is_empty() => {
                let at = usize::from(script.byte()) % here.wire.len();
                let byte = usize::from(script.byte()) % here.wire[at].len();
                here.wire[at][byte] ^= script.byte();
            }
            11 => here.stream.reset(ResetCode::Policy),
            12 => here.stream.reject(Reject::new(RejectCode::Busy, RefusalId::from_bytes([9; 8]))),
            13 => here.stream.set_max_window(u64::from(script.byte()) * 65_536),
            14 if liar => return lie(&mut script),
            14 => attach(&mut a, &mut b, script.byte()),
            _ => {
                for record in std::mem::take(&mut here.wire) {
                    there.take(record);
                }
            }
        }
        for (sender, receiver) in [(&a, &b), (&b, &a)] {
            assert!(sender.sent.starts_with(&receiver.given));
            if receiver.given_end {
                assert!(sender.ended && receiver.given == sender.sent);
            }
        }
        assert!(!a.stream.is_finished() || (a.ended && a.given_end) || a.broken);
    }
}

/// The opener brings the stream to another path, unless the network changes what it says by `damage`.
fn attach(opener: &mut End, acceptor: &mut End, damage: u8) {
    if opener.broken || acceptor.broken {
        return;
    }
    let attach = opener.stream.attach_number() + 1;
    let head = AttachHead { head: OpenHead { channel: ChannelId::from_bytes([7; 16]), stream: 2 }, attach };
    let key = |direction: u8| {
        let mut key = [direction; 32];
        key[..8].copy_from_slice(&attach.to_be_bytes());
        SecretBytes::new(key)
    };
    let keys = |send, receive| ControlKeys { suite: Suite::AesGcm, send: key(send), receive: key(receive) };
    let open = Open { outlet: "echo".parse().expect("a name"), probe: false, hops: 0, mark: None };
    let mut frame = Vec::new();
    opener.stream.seal_attach(&keys(5, 6), head, Some(open), &mut frame).expect("a new number");
    [&mut *opener, &mut *acceptor].into_iter().for_each(|end| end.wire.clear());
    let last = frame.len() - 1;
    frame[last] ^= damage;
    let verified = Attachment::verify(&keys(6, 5), head, &mut frame);
    assert_eq!(verified.is_ok(), damage == 0);
    let Ok(attachment) = verified else { return };
    let received = acceptor.stream.attach(attachment).expect("a new number, and an honest count");
    [&mut *opener, &mut *acceptor].into_iter().for_each(|end| end.cut = false);
    acceptor.transmit();
    acceptor.wire.extend_from_slice(&acceptor.records[received as usize..]);
}

/// A peer with the right keys and no manners. It reaches errors, never a panic, and cannot make this side hold more than it granted or
/// send more than it was granted.
fn lie(script: &mut Script<'_>) {
    let mut end = End::new(Side::Opener, [1, 2, 3, 4]);
    let (data_key, control_key) = (SecretBytes::new([2; 32]), SecretBytes::new([4; 32]));
    let (mut data_sealer, mut control_sealer) = (Sealer::new(Suite::AesGcm, &data_key), Sealer::new(Suite::AesGcm, &control_key));
    let mut told = INITIAL_CREDIT;
    while !script.0.as_slice().is_empty() {
        let (kind, text) = match script.byte() % 6 {
            0 => (Kind::Data, vec![0; 1 + usize::from(script.byte()) * 200]),
            1 => (Kind::Data, vec![1; 1 + usize::from(script.byte() % 2)]),
            2 => {
                let (received, credit) = (script.number() >> (script.byte() % 64), script.number() >> (script.byte() % 64));
                told = told.max(credit);
                (Kind::Control, [&[2][..], &received.to_be_bytes(), &credit.to_be_bytes()].concat())
            }
            3 => (Kind::Control, [&[script.byte()][..], &script.number().to_be_bytes()].concat()),
            4 => (Kind::Control, vec![script.byte(), script.byte()]),
            _ => {
                end.write(usize::from(script.byte()) * 200);
                end.stream.consumed(u64::from(script.byte()) * 256);
                end.transmit();
                end.wire.clear();
                continue;
            }
        };
        let header = Header { kind, length: text.len() + TAG_LEN }.to_bytes();
        let sealer = if kind == Kind::Data { &mut data_sealer } else { &mut control_sealer };
        let sealed = sealer.seal_vec(&header, text).expect("few records");
        end.take([&header[..], &sealed].concat());
        assert!(end.stream.bytes().0 <= told);
        if end.broken {
            return;
        }
    }
}
