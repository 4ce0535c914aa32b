//! The pure crate stays pure: what it is built from, directly or not, is exactly what `dependencies.txt` names.

use std::collections::BTreeSet;
use std::process::Command;

/// Fixed, so that the list is the same on every host.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Crates that do input or output, or run things. None may ever be listed.
const IMPURE: [&str; 10] = ["tokio", "mio", "socket2", "rustix", "nix", "async-io", "hyper", "reqwest", "smol", "chrono"];

fn listed() -> BTreeSet<String> {
    include_str!("dependencies.txt").lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn what_it_is_built_from_is_listed() {
    let arguments = ["tree", "--offline", "-p", "postern-proto", "-e", "normal", "--target", TARGET, "--prefix", "none"];
    let output = Command::new(env!("CARGO")).args(arguments).args(["--format", "{p}"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let built: BTreeSet<String> = tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    let listed = listed();
    let new: Vec<_> = built.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&built).collect();
    assert!(new.is_empty(), "not in proto/tests/dependencies.txt; is each of them needed, and free of input and output? {new:?}");
    assert!(gone.is_empty(), "no longer used; remove them from proto/tests/dependencies.txt: {gone:?}");
}

#[test]
fn nothing_listed_does_input_or_output() {
    let listed = listed();
    assert!(listed.contains("postern-proto"));
    assert!(IMPURE.iter().all(|name| !listed.contains(*name)));
}
