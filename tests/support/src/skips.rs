//! Tests that cannot run where they are, or are not asked for.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

/// The file that every reason is written to, a line each, where this is set: output of tests that pass is not shown.
const FILE: &str = "POSTERN_TEST_SKIPS";

/// Says that a test, or a part of it, does not run here.
///
/// # Panics
/// Where the file that is to hold it cannot be written.
pub fn skipped(why: impl Display) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    println!("skipped: {why}");
    if let Some(path) = std::env::var_os(FILE) {
        // One write a line: tests run beside each other.
        let line = format!("{test}: {why}\n");
        let written =
            OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the file for what is skipped can be written");
    }
}
