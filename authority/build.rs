//! Rebuilds the crate when a migration is added: the macro that embeds them sees only those that it has read before.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
