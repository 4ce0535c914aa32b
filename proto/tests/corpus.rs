//! Replays the inputs that fuzzing found worth keeping, and those it starts from. A target is a function of `fuzz/src/lib.rs` with a
//! folder of its name under `fuzz/corpus/`; here it is one line.

use std::path::PathBuf;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

macro_rules! replay {
    ($($target:ident),+ $(,)?) => {
        /// Those that are replayed; the folders under `fuzz/corpus/` must be these.
        const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($target), targets::$target)),+];

        $(#[test]
        fn $target() {
            for (name, input) in corpus(stringify!($target)) {
                // Told when the target fails, because tests' output is shown only then.
                println!("{name}");
                targets::$target(&input);
            }
        })+
    };
}

replay! {
    audit,
    authority_message,
    channel_hello,
    credential,
    handshake,
    history,
    knock,
    link_frame,
    link_message,
    policy,
    record,
    session,
    statement,
    stream,
    ticket,
    voiding,
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus"))
}

/// The inputs of a target by file name; there are some.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut inputs: Vec<_> = std::fs::read_dir(folder().join(target))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap()))
        .collect();
    assert!(!inputs.is_empty(), "fuzz/corpus/{target} is empty");
    inputs.sort();
    inputs
}

#[test]
fn every_corpus_is_replayed() {
    let mut folders: Vec<String> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    folders.sort();
    let mut targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    targets.sort_unstable();
    assert_eq!(folders, targets);
}

/// A sequence that is the same in every run (xorshift64*, G. Marsaglia and S. Vigna).
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }
}

/// `input` as a stranger may change it: bytes replaced, cut off, put in, or taken from `other`.
fn changed(input: &[u8], other: &[u8], sequence: &mut Sequence) -> Vec<u8> {
    /// Where lengths, kinds and counts are at an edge.
    const EDGES: [u8; 12] = [0, 1, 0x17, 0x18, 0x1b, 0x40, 0x5f, 0x7f, 0x80, 0x9f, 0xbf, 0xff];
    let mut bytes = input.to_vec();
    for _ in 0..=sequence.below(4) {
        let at = sequence.below(bytes.len() + 1);
        match sequence.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << sequence.below(8),
            1 if at < bytes.len() => bytes[at] = EDGES[sequence.below(EDGES.len())],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, EDGES[sequence.below(EDGES.len())]),
            4 => {
                let from = sequence.below(other.len() + 1);
                let piece = &other[from..(from + sequence.below(64)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => {
                let to = (at + sequence.below(16)).min(bytes.len());
                bytes.drain(at..to);
            }
        }
    }
    bytes
}

/// Told when the target fails, to become a part of its corpus.
struct Told<'a>(&'a str, u32, Vec<u8>);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{} {}: {}", self.0, self.1, hex::encode(&self.2));
        }
    }
}

/// Fuzzing in small, on stable: so many inputs for each target that are like those of its corpus; as many as `PROPTEST_CASES` asks for.
#[test]
fn what_is_like_the_corpus_is_read_or_refused() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000);
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        let mut sequence = Sequence(0x9e37_79b9_7f4a_7c15);
        for case in 0..cases {
            let [one, other] = [(); 2].map(|()| &inputs[sequence.below(inputs.len())].1);
            let input = changed(one, other, &mut sequence);
            let told = Told(name, case, input);
            target(&told.2);
        }
    }
}
