//! Versions with known faults that must not come back through somebody's dependency. The same bans stand in `deny.toml`, for
//! `cargo deny check bans`; this test needs no tool.

type Version = [u64; 3];

/// Crates that are refused below a version, or whatever their version is; and why.
const BANNED: [(&str, Option<Version>, &str); 4] = [
    ("yamux", Some([0, 13, 10]), "a remote peer can make it panic"),
    ("h2", Some([0, 4, 16]), "a flood of empty frames is not bounded"),
    ("serde_yml", None, "unsound, and not maintained"),
    ("snow", Some([0, 9, 5]), "forged transport messages advance its nonce"),
];

/// The packages of a lock file. Its form is that of `cargo`, one `key = "value"` a line.
fn packages(lock: &str) -> Vec<(String, Version)> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")))?;
        line.strip_suffix('"').map(str::to_owned)
    };
    lock.split("[[package]]")
        .skip(1)
        .map(|block| (value(block, "name").unwrap(), version(&value(block, "version").unwrap())))
        .collect()
}

/// Pre-releases count as the release before which they come: none is used.
fn version(text: &str) -> Version {
    let release = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<u64> = release.split('.').map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

fn banned(packages: &[(String, Version)]) -> Vec<String> {
    let refused = |name: &str, version: Version| {
        BANNED.iter().find(|(banned, below, _)| *banned == name && below.is_none_or(|below| version < below))
    };
    let told =
        |(name, version): &(String, Version)| refused(name, *version).map(|(_, _, why)| format!("{name} {version:?}: {why}"));
    packages.iter().filter_map(told).collect()
}

#[test]
fn no_lock_file_has_a_banned_version() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for lock in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let packages = packages(&std::fs::read_to_string(format!("{root}/{lock}")).unwrap());
        assert!(packages.iter().any(|(name, _)| name == "postern-proto"), "{lock} was read");
        assert_eq!(banned(&packages), [""; 0], "{lock}");
    }
}

#[test]
fn bans_are_exact() {
    let found = |name: &str, text: &str| banned(&[(name.to_owned(), version(text))]).len();
    assert_eq!((found("yamux", "0.13.9"), found("yamux", "0.13.10"), found("yamux", "0.12.99")), (1, 0, 1));
    assert_eq!((found("h2", "0.3.27"), found("h2", "0.4.15"), found("h2", "0.4.16")), (1, 1, 0));
    assert_eq!((found("serde_yml", "0.0.12"), found("yaml_serde", "0.10.0")), (1, 0));
    assert_eq!((found("snow", "0.9.4"), found("snow", "0.10.0")), (1, 0));
}

#[test]
fn deny_toml_bans_the_same() {
    let deny = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deny.toml")).unwrap();
    for (name, below, _) in BANNED {
        let spec = below.map_or_else(|| format!("crate = \"{name}\""), |[a, b, c]| format!("crate = \"{name}@<{a}.{b}.{c}\""));
        assert!(deny.contains(&spec), "deny.toml has no `{spec}`");
    }
}
