//! What a message costs whose lengths and depth are a lie: time, and memory, before it is refused. In a program of its own,
//! because it counts what is allocated.

#![expect(unsafe_code, reason = "an allocator is an unsafe trait; this one counts, and hands everything on to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Read;
use std::time::Duration;

use postern_proto::authority::{Call, Hello, MAX_MESSAGE, Reply};
use postern_proto::credential::{Audience, Holder, KeyRing, Verifier, Voided};
use postern_proto::handshake::MAX_PAYLOAD_3;
use postern_proto::id::{Identifier, ProjectId};
use postern_proto::identity::History;
use postern_proto::link::{FromRelay, Instance, MAX_CONTROL_MESSAGE, ToRelay};
use postern_proto::path::{ChannelHello, ChannelMessage, MAX_CHANNEL_MESSAGE, Open};
use postern_proto::record::MAX_OPEN;
use postern_proto::secret::SecretBytes;
use postern_proto::sign::{self, MAX_CREDENTIAL, MAX_STATEMENT, Purpose, SigningKey};
use postern_proto::time::Timestamp;

/// Counts what the thread holds, and the most that it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is being taken down has no count any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: each call is the system allocator's with the same arguments, and counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is the one that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Most of the processor that one may take for each 64 KiB of it. What is built for tests is not optimised.
const MOST_TIME: Duration = if cfg!(debug_assertions) { Duration::from_millis(40) } else { Duration::from_millis(1) };

/// Most that one may make the reader hold beside itself.
const MOST_BYTES: isize = 64 * 1024;

/// As many times its own length as a list of the shortest texts takes, while it grows: a message is read whole, and limited in length.
const LIST: isize = 40;

/// Runs of each; the middle one counts.
const RUNS: usize = 3;

/// What the processor did for this thread, as the kernel last noted it: within some milliseconds.
fn processor() -> Duration {
    let mut text = [0; 128];
    let length = std::fs::File::open("/proc/thread-self/schedstat").and_then(|mut file| file.read(&mut text)).unwrap();
    let digits = text[..length].split(|byte| *byte == b' ').next().unwrap();
    Duration::from_nanos(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

#[track_caller]
fn refused_cheaply(what: &str, bytes: &[u8], times_its_length: isize, refused: impl Fn() -> bool) {
    let most_bytes = MOST_BYTES.max(times_its_length * bytes.len() as isize);
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let before = HELD.get();
        MOST.set(before);
        let began = processor();
        assert!(refused(), "{what} was taken");
        times.push(processor() - began);
        let held = MOST.get() - before;
        assert!(held <= most_bytes, "{what}: {held} bytes were held");
    }
    times.sort();
    let most = MOST_TIME * bytes.len().div_ceil(64 * 1024).max(1) as u32;
    assert!(times[RUNS / 2] <= most, "{what}: {:?}", times[RUNS / 2]);
}

/// `head`, then `fill` up to `length` bytes.
fn filled(head: &[u8], fill: u8, length: usize) -> Vec<u8> {
    let mut bytes = head.to_vec();
    bytes.resize(length, fill);
    bytes
}

/// Everything that nests or claims, behind each of `heads`, up to `most` bytes.
fn bombs(heads: &[&[u8]], most: usize) -> Vec<(String, Vec<u8>)> {
    let claims: [&[u8]; 6] = [
        // Arrays, maps, bytes and text of 2³² and 2⁶⁴ − 1 items.
        &[0x9a, 0xff, 0xff, 0xff, 0xff],
        &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0xba, 0xff, 0xff, 0xff, 0xff],
        &[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x5a, 0xff, 0xff, 0xff, 0xff],
        &[0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ];
    let mut bombs = Vec::new();
    for head in heads {
        // Nested arrays, maps and tags, with and without a length.
        for fill in [0x81, 0x9f, 0xa1, 0xbf, 0xc1, 0xd2] {
            for length in [most.min(10_000), most] {
                bombs.push((format!("{length} × {fill:02x} behind {head:02x?}"), filled(head, fill, length)));
            }
        }
        for claim in claims {
            for fill in [0x00, 0x61] {
                let bomb = filled(&[head, claim].concat(), fill, most);
                bombs.push((format!("{fill:02x} behind {head:02x?} {claim:02x?}"), bomb));
            }
        }
    }
    bombs
}

/// The beginnings of a signed statement: up to its headers, and up to its payload.
fn statement_heads() -> [&'static [u8]; 4] {
    [&[], &[0xd2, 0x84], &[0xd2, 0x84, 0x40], &[0xd2, 0x84, 0x40, 0xa0]]
}

#[test]
fn signed_statements_that_lie_about_their_size() {
    let key = SigningKey::from_seed(&SecretBytes::new([1; 32]));
    for (purpose, most) in [(Purpose::Credential, MAX_CREDENTIAL), (Purpose::ProjectInfo, MAX_STATEMENT)] {
        for (what, bytes) in bombs(&statement_heads(), most) {
            refused_cheaply(&what, &bytes, 0, || sign::verify(purpose, &key.public(), &bytes).is_err());
            refused_cheaply(&what, &bytes, 0, || sign::peek_key_id(&bytes).is_err());
        }
        // A million attributes, and four gigabytes of text: longer than any statement, so that nothing of them is read.
        let long = vec![0x61; 8 << 20];
        refused_cheaply("8 MiB", &[], 0, || sign::verify(purpose, &key.public(), &long).is_err());
    }
}

/// Claims that are signed, by a member that got hold of the key or an authority gone wild: verified by signature first, then refused.
#[test]
fn signed_claims_that_lie_about_their_size() {
    let key = SigningKey::from_seed(&SecretBytes::new([1; 32]));
    let now = Timestamp::from_unix(1_800_000_000);
    let ring_key = postern_proto::authority::RingKey::new(&key.public(), now, Timestamp::from_unix(1_900_000_000));
    let ring = KeyRing::new(ProjectId::from_bytes([1; 16]), Identifier::from_bytes([2; 32]), vec![ring_key]).unwrap();
    let voided = Voided::default();
    let verifier = Verifier { ring: &ring, voided: &voided, now };
    for (what, claims) in bombs(&[&[], &[0xa7], &[0xa7, 0x01]], 3_000) {
        let signed = sign::sign(Purpose::Credential, &key, &claims);
        refused_cheaply(&what, &signed, 0, || verifier.verify(&signed, Audience::Member, Holder::Published).is_err());
    }
}

/// The messages of sessions, links and channels, each up to its own limit.
#[test]
fn messages_that_lie_about_their_size() {
    fn unread<T: for<'b> minicbor::Decode<'b, ()>>(bytes: &[u8]) -> bool {
        minicbor::decode::<T>(bytes).is_err()
    }
    // A map with a field that is known to nobody, and the fields that are lists, maps and texts.
    let heads: [&[u8]; 5] = [
        &[],
        &[0xa3, 0x09],
        &[0xa2, 0x00, 0x07, 0x01],
        &[0xa2, 0x00, 0x07, 0x01, 0x82, 0x01, 0xa1, 0x00],
        &[0x82, 0x02, 0xa2, 0x01],
    ];
    // What costs the same for each of its bytes, an eighth of the longest shows as well.
    type Reader = fn(&[u8]) -> bool;
    let readers: [(&str, usize, Reader); 10] = [
        ("call", MAX_MESSAGE / 8, unread::<Call>),
        ("reply", MAX_MESSAGE / 8, unread::<Reply>),
        ("hello", MAX_PAYLOAD_3, unread::<Hello>),
        ("history", MAX_PAYLOAD_3, |bytes| History::decode(bytes).is_err()),
        ("to a relay", MAX_CONTROL_MESSAGE, unread::<ToRelay>),
        ("from a relay", MAX_CONTROL_MESSAGE, unread::<FromRelay>),
        ("knock", MAX_OPEN, unread::<Instance>),
        ("channel hello", MAX_PAYLOAD_3, unread::<ChannelHello>),
        ("channel message", MAX_CHANNEL_MESSAGE, unread::<ChannelMessage>),
        ("open", MAX_OPEN, unread::<Open>),
    ];
    for (kind, most, unread) in readers {
        for (what, bytes) in bombs(&heads, most) {
            refused_cheaply(&format!("{kind}: {what}"), &bytes, LIST, || unread(&bytes));
        }
    }
}

/// That it would be seen.
#[test]
fn what_is_held_is_counted() {
    let before = HELD.get();
    MOST.set(before);
    drop(vec![0_u8; 100_000]);
    assert!(MOST.get() - before >= 100_000 && HELD.get() == before);
}
