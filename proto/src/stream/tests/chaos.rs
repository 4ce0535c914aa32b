//! A network that does everything to the bytes of a stream that a network can do, path after path, while both ends send: R1 and R2 of the threat model.

use super::*;
use crate::id::ChannelId;
use crate::path::{AttachHead, Open, OpenHead};

/// What is done to a portion of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Drop,
    Repeat,
    Reorder,
    Flip,
    Insert,
    Split,
    Merge,
}

const DAMAGES: [Damage; 7] =
    [Damage::Drop, Damage::Repeat, Damage::Reorder, Damage::Flip, Damage::Insert, Damage::Split, Damage::Merge];

/// One portion of so many is damaged: a few on each path.
const EVERY: usize = 5;

/// Paths that are damaged, at most; every second stream then gets one that is not.
const PATHS: usize = 4;

/// Rounds in which a path does all that it will do, many times over.
const ROUNDS: usize = 10_000;

const HEAD: OpenHead = OpenHead { channel: ChannelId::from_bytes([9; 16]), stream: 2 };

/// Numbers of a sequence that its seed fixes.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        // Neighbours begin far from each other, and none at 0, where the sequence would stay.
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }

    /// A part of `length` bytes that is not empty, unless they are.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length.max(1));
        start..length.min(start + 1 + self.below(length.max(1)))
    }
}

/// One direction of a path.
#[derive(Default)]
struct Wire {
    /// Waits for what is behind it.
    held: Vec<u8>,
    /// And goes in front of it, as it was sent.
    in_order: bool,
}

/// The network, which remembers what it saw.
struct Network {
    random: Random,
    hostile: bool,
    wires: [Wire; 2],
    past: Vec<u8>,
    done: [u64; DAMAGES.len()],
}

impl Network {
    /// What arrives of `sent`, portion by portion.
    fn carry(&mut self, from: usize, sent: Vec<u8>) -> Vec<Vec<u8>> {
        let before = self.flush(from);
        let in_order = self.wires[from].in_order;
        let mut portions =
            if self.hostile && self.random.below(EVERY) == 0 { self.damage(from, &sent) } else { vec![sent.clone()] };
        if in_order {
            portions.splice(0..0, before);
        } else {
            portions.extend(before);
        }
        self.past.extend(sent);
        portions
    }

    /// What waits for something that does not come.
    fn flush(&mut self, from: usize) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.wires[from].held)).filter(|held| !held.is_empty())
    }

    fn damage(&mut self, from: usize, sent: &[u8]) -> Vec<Vec<u8>> {
        // Whole records, or whatever stands anywhere.
        let part = if self.random.below(2) == 0 { 0..sent.len() } else { self.random.range(sent.len()) };
        let (before, piece, behind) = (&sent[..part.start], &sent[part.clone()], &sent[part.end..]);
        let which = self.random.below(DAMAGES.len());
        self.done[which] += 1;
        match DAMAGES[which] {
            Damage::Drop => vec![[before, behind].concat()],
            Damage::Repeat => vec![[before, piece, piece, behind].concat()],
            Damage::Reorder if self.random.below(2) == 0 => vec![[before, behind, piece].concat()],
            Damage::Reorder => {
                self.wires[from] = Wire { held: sent.to_vec(), in_order: false };
                Vec::new()
            }
            Damage::Flip => {
                let mut changed = sent.to_vec();
                let bit = self.random.below(changed.len().max(1) * 8);
                if let Some(byte) = changed.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                vec![changed]
            }
            Damage::Insert => {
                // Of its own, or what passed at some time, in either direction and on any path.
                let strange = if self.random.below(2) == 0 || self.past.is_empty() {
                    let length = 1 + self.random.below(64);
                    self.random.bytes(length)
                } else {
                    let old = self.random.range(self.past.len());
                    self.past[old].to_vec()
                };
                vec![[before, &strange, piece, behind].concat()]
            }
            Damage::Split => sent.chunks(1 + self.random.below(7)).map(<[u8]>::to_vec).collect(),
            Damage::Merge => {
                self.wires[from] = Wire { held: sent.to_vec(), in_order: true };
                Vec::new()
            }
        }
    }
}

/// One end of the stream, as a node would run it.
struct End {
    stream: Stream,
    outbox: Outbox<Vec<u8>>,
    /// What its application writes, and how much of it was sealed.
    sends: Vec<u8>,
    sealed: usize,
    /// The frame of an attach, and control records.
    small: Vec<u8>,
    /// It may write on the path of now.
    has_path: bool,
    unread: Vec<u8>,
    seen: Seen,
}

impl End {
    fn new(stream: Stream, sends: Vec<u8>) -> Self {
        let (outbox, small, unread, seen) = Default::default();
        Self { stream, outbox, sends, sealed: 0, small, has_path: true, unread, seen }
    }

    /// What it writes now.
    fn write(&mut self, random: &mut Random) -> Vec<u8> {
        if self.sealed < self.sends.len() {
            let length = (1 + random.below(500)).min(self.sends.len() - self.sealed);
            let record = data(&mut self.stream, &self.sends[self.sealed..self.sealed + length]);
            self.sealed += length;
            self.outbox.push_copy(&record);
        } else if self.stream.budget() > 0 {
            let fin = self.stream.seal_fin().unwrap();
            self.outbox.push_copy(&fin);
        }
        if !self.has_path {
            return Vec::new();
        }
        self.stream.poll_transmit(&mut self.small).unwrap();
        let mut out = std::mem::take(&mut self.small);
        // Behind an attach, nothing before its answer.
        while !self.stream.is_attaching() && !self.outbox.is_written() {
            let pending = self.outbox.pending().to_vec();
            self.outbox.advance(pending.len());
            out.extend(pending);
        }
        out
    }

    /// Takes what arrives; `None` where the path is lost by it.
    fn read(&mut self, portion: &[u8]) -> Option<()> {
        self.unread.extend_from_slice(portion);
        while let Some(head) = self.unread.first_chunk::<HEADER_LEN>() {
            let header = Header::parse(*head).ok()?;
            if self.unread.len() < HEADER_LEN + header.length {
                return Some(());
            }
            let mut frame: Vec<u8> = self.unread.drain(..HEADER_LEN + header.length).collect();
            if self.has_path {
                self.handle(header, &mut frame)?;
            } else {
                self.take_attach(header, &mut frame)?;
            }
        }
        Some(())
    }

    fn handle(&mut self, header: Header, frame: &mut [u8]) -> Option<()> {
        let received = self.stream.handle_record(header, frame).inspect_err(|error| {
            // Whatever else would be taken for a fault of the peer's, and end the stream.
            assert!(error.may_be_the_path(), "the network makes the peer a liar: {error}");
        });
        match received.ok()? {
            Received::Data(body) => {
                let length = body.len() as u64;
                self.seen.data.extend_from_slice(body);
                self.stream.consumed(length);
            }
            Received::Fin => {
                assert!(!self.seen.clean_end, "a second end");
                self.seen.clean_end = true;
            }
            Received::Attached { received } => self.outbox.rewind(received),
            Received::Accepted | Received::Progress | Received::Finished => {}
            other => panic!("nobody sent {other:?}"),
        }
        self.outbox.acknowledge(self.stream.acknowledged());
        Some(())
    }

    /// The first frame on a path that the opener made.
    fn take_attach(&mut self, header: Header, frame: &mut [u8]) -> Option<()> {
        let head = AttachHead::of_frame(frame).filter(|head| header.kind == Kind::Attach && head.head == HEAD)?;
        let ControlKeys { suite, send, receive } = keys(head.attach);
        let attachment = Attachment::verify(&ControlKeys { suite, send: receive, receive: send }, head, frame).ok()?;
        // Every attach number is answered once.
        if attachment.attach() <= self.stream.attach_number() {
            return None;
        }
        if self.stream.is_finished() {
            self.small = attachment.refuse(Control::Finished { count: self.stream.sent() }).unwrap();
        } else {
            let received = self.stream.attach(attachment).expect("what was verified, and is new");
            self.outbox.rewind(received);
        }
        self.has_path = true;
        Some(())
    }
}

/// Control keys of the path of an attach, for the opener.
fn keys(attach: u64) -> ControlKeys {
    let key = |direction: u8| {
        let mut key = [direction; 32];
        key[..8].copy_from_slice(&attach.to_be_bytes());
        SecretBytes::new(key)
    };
    ControlKeys { suite: Suite::AesGcm, send: key(101), receive: key(102) }
}

/// What became of a stream.
struct Outcome {
    /// Both applications have all of the other's bytes, and its end.
    whole: bool,
    paths: usize,
    done: [u64; DAMAGES.len()],
}

/// A stream through the network that `seed` makes.
fn live(seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let (opener, mut acceptor) = pair();
    acceptor.accept();
    let sends = [0, 1].map(|_| {
        let length = random.below(4_000) * random.below(8).min(1);
        random.bytes(length)
    });
    let [there, back] = sends.clone();
    let mut ends = [End::new(opener, there), End::new(acceptor, back)];
    let hostile = 1 + random.below(PATHS);
    let saved = random.below(2) == 0;
    let mut network = Network { random, hostile: true, wires: Default::default(), past: Vec::new(), done: [0; DAMAGES.len()] };
    let mut paths = 0;
    let whole = |ends: &[End; 2]| [0, 1].iter().all(|to| ends[*to].seen.clean_end && ends[*to].seen.data == sends[1 - to]);
    while paths < hostile + usize::from(saved) {
        if paths > 0 {
            if ends[0].stream.is_finished() {
                // Its application has everything, and so has the peer's, who said so.
                assert!(whole(&ends), "finished without the bytes");
                break;
            }
            network.hostile = paths < hostile;
            network.wires = Default::default();
            for end in &mut ends {
                end.unread.clear();
                end.small.clear();
            }
            ends[1].has_path = false;
            let open = Open { outlet: "echo".parse().unwrap(), probe: false, hops: 0, mark: None };
            let attach = ends[0].stream.attach_number() + 1;
            let End { stream, small, .. } = &mut ends[0];
            stream.seal_attach(&keys(attach), AttachHead { head: HEAD, attach }, Some(open), small).unwrap();
        }
        paths += 1;
        follow(&mut ends, &mut network);
        for (to, end) in ends.iter().enumerate() {
            let sent = &sends[1 - to];
            assert!(sent.starts_with(&end.seen.data), "other bytes than those that were sent");
            assert!(!end.seen.clean_end || end.seen.data == *sent, "an end before all came");
        }
    }
    Outcome { whole: whole(&ends), paths, done: network.done }
}

/// Lets both ends use a path until it is lost, or nothing moves on it any more.
fn follow(ends: &mut [End; 2], network: &mut Network) {
    let mut quiet = false;
    for _ in 0..ROUNDS {
        let mut moved = false;
        for from in [0, 1] {
            let written = ends[from].write(&mut network.random);
            let portions = match written.is_empty() {
                false => network.carry(from, written),
                true if quiet => network.flush(from).into_iter().collect(),
                true => Vec::new(),
            };
            for portion in portions {
                moved = true;
                if ends[1 - from].read(&portion).is_none() {
                    return;
                }
            }
        }
        if !moved && quiet {
            return;
        }
        if !moved {
            // As the timer of a node would.
            ends.iter_mut().for_each(|end| end.stream.acknowledge());
        }
        quiet = !moved;
    }
    panic!("a path without end");
}

/// How many networks are tried: more where `PROPTEST_CASES` asks for more, from the seed on that `POSTERN_TEST_SEED` names.
#[test]
fn whatever_a_network_does_a_prefix_arrives() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (first, count) = (number("POSTERN_TEST_SEED", 0), number("PROPTEST_CASES", 0).max(2_000));
    let (mut done, mut whole, mut resumed, mut lost) = ([0; DAMAGES.len()], 0_u64, 0_u64, 0_u64);
    for seed in first..first + count {
        let outcome = std::panic::catch_unwind(|| live(seed)).unwrap_or_else(|cause| {
            println!("POSTERN_TEST_SEED={seed}");
            std::panic::resume_unwind(cause)
        });
        whole += u64::from(outcome.whole);
        resumed += u64::from(outcome.whole && outcome.paths > 1);
        lost += u64::from(!outcome.whole);
        done.iter_mut().zip(outcome.done).for_each(|(sum, more)| *sum += more);
    }
    println!("{count} networks: {whole} streams whole, {resumed} of them over several paths, {lost} lost; {DAMAGES:?} {done:?}");
    // Each of these is what the test is about.
    assert!(done.iter().all(|done| *done > count / 20), "{DAMAGES:?} {done:?}");
    assert!(resumed > count / 10 && lost > count / 10, "{whole} whole, {resumed} resumed, {lost} lost of {count}");
}
