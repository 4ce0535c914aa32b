//! Replays the inputs that fuzzing found worth keeping, and those it starts from. A target is a function of `fuzz/src/lib.rs` with a
//! folder of its name under `fuzz/corpus/`; here it is one line.

use std::path::PathBuf;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

macro_rules! replay {
    ($($target:ident),+ $(,)?) => {
        /// Those that are replayed; the folders under `fuzz/corpus/` must be these.
        const TARGETS: &[&str] = &[$(stringify!($target)),+];

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
    let mut targets = TARGETS.to_vec();
    targets.sort_unstable();
    assert_eq!(folders, targets);
}
