//! Keys at rest: homes that a passphrase protects, with real processes (behaviours of `docs/guides/keys-at-rest.md`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_test_support::{
    EchoServer, Invocation, PATIENCE, Portal, Project, Signal, TestHome, contains, echoes, eventually, files_below,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");
const PASSPHRASE: &str = "correct horse battery";
/// How every sealed file begins.
const SEALED: &[u8] = b"PSTNSEAL";

/// A file beside the home that only its owner may read.
fn key_file(home: &TestHome, name: &str, passphrase: &str) -> PathBuf {
    let path = home.file(name, format!("{passphrase}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// All files of the home that hold a secret.
fn secrets(home: &TestHome) -> Vec<(PathBuf, Vec<u8>)> {
    let named = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        ["identity", "static", "signing", "ticket", "issuer"].contains(&name)
    };
    files_below(&home.path()).into_iter().filter(|(path, _)| named(path)).collect()
}

#[track_caller]
fn all_are_sealed(home: &TestHome) -> usize {
    let secrets = secrets(home);
    for (path, bytes) in &secrets {
        assert!(bytes.starts_with(SEALED), "{} lies open", path.display());
    }
    secrets.len()
}

/// A command with the key file that the variable names.
fn with(home: &TestHome, key: &Path, arguments: &[&str]) -> Invocation {
    home.invoke(arguments).env("POSTERN_KEY_FILE", key)
}

#[track_caller]
fn passes(portal: &Portal) {
    eventually(PATIENCE, "bytes through the portal", || echoes(portal.inlet, b"there and back").ok());
}

#[test]
fn everything_of_a_project_runs_on_protected_homes_and_restarts_unattended() {
    let service = EchoServer::start();
    let portal = Portal::in_project(Project::new(POSTERN), service.port());
    passes(&portal);
    let Portal { vendor, customer, project, .. } = &portal;

    // What runs would write keys as it found the home.
    let key = project.scratch().join("key");
    let protect = |home: &TestHome| with(home, &key, &["identity", "protect", "--generate"]).run();
    protect(vendor).exits(1).says("RUNNING").says("postern node stop vendor");
    protect(project).exits(1).says("RUNNING").says("postern serve stop");
    assert!(!key.exists(), "nothing was made for what was not done");
    assert_eq!(all_open(vendor), 2, "nothing was done");

    // Each home is protected with the same file, made by the first; nothing of what it held is found in it afterwards.
    for (home, node) in [(vendor, Some("vendor")), (customer, Some("customer")), (&**project, None)] {
        match node {
            Some(node) => home.ok(&["node", "stop", node]),
            None => home.ok(&["serve", "stop"]),
        };
        let (before, made) = (secrets(home), key.exists());
        let said = if made { "using the key file that is there" } else { "made the key file" };
        protect(home).success().says("keys under the passphrase").says(said);
        assert_eq!(all_are_sealed(home), before.len());
        for (path, open) in &before {
            let secret = &open[..open.len().min(48)];
            for (found, bytes) in files_below(&home.path()) {
                assert!(!contains(&bytes, secret), "what was in {} stands in {}", path.display(), found.display());
            }
        }
    }
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

    // Without the passphrase, or with another one, nothing starts, and what is said tells which it was.
    let wrong = key_file(vendor, "wrong", PASSPHRASE);
    vendor.fails(&["node", "start", "vendor"], 78).says("NO_PASSPHRASE");
    with(vendor, &wrong, &["node", "start", "vendor"]).run().exits(77).says("WRONG_PASSPHRASE");
    project.fails(&["enroll"], 78).says("NO_PASSPHRASE");
    with(project, &wrong, &["serve", "all"]).run().exits(77).says("WRONG_PASSPHRASE");
    vendor.ok(&["node", "list"]);

    // With it, everything comes up: by the variable, the flag, and a credential of systemd.
    with(project, &key, &["enroll"]).run().success();
    with(vendor, &key, &["node", "start", "vendor"]).run().success();
    let credentials = customer.scratch().join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::copy(&key, credentials.join("postern-key")).unwrap();
    let start = || customer.invoke(["node", "start", "customer"]).env("CREDENTIALS_DIRECTORY", &credentials).run().success();
    start();
    passes(&portal);

    // After a crash, the same again, with nobody there.
    customer.kill(customer.node_pid("customer"));
    start();
    passes(&portal);
    project.kill(project.servers_pid());
    with(project, &key, &["enroll"]).run().success();
    passes(&portal);
    with(project, &key, &["project-member", "list"]).run().success();

    // Open again, it needs none.
    customer.ok(&["node", "stop", "customer"]);
    let key = key.to_str().unwrap();
    customer.ok(&["identity", "unprotect", "-y", "--key-file", key]);
    assert_eq!(all_open(customer), 2);
    customer.ok(&["node", "start", "customer"]);
    passes(&portal);
    // Who brings a passphrase will not have an open home.
    customer.fails(&["identity", "show", "--key-file", key], 78).says("NOT_PROTECTED");
}

#[track_caller]
fn all_open(home: &TestHome) -> usize {
    let secrets = secrets(home);
    assert!(secrets.iter().all(|(_, bytes)| !bytes.starts_with(SEALED)));
    secrets.len()
}

#[test]
fn a_home_is_protected_from_its_first_command_on() {
    let admin = TestHome::new(POSTERN);
    let key = key_file(&admin, "key", PASSPHRASE);
    with(&admin, &key, &["enroll"]).run().success();
    assert!(all_are_sealed(&admin) >= 6, "of the identity, the authority and the relay");
    let ticket = with(&admin, &key, &["project", "ticket", "--relay", "n"]).run().success().line().to_owned();

    // A ticket that waits is sealed too, and so is what stands in the node's own directory.
    admin.ok(&["serve", "stop"]);
    let member = TestHome::new(POSTERN);
    let member_key = key_file(&member, "key", "another passphrase");
    let file = member.file("n.ticket", &ticket);
    let make = ["node", "create", "n", "--no-connection-wait", "--enrollment-ticket", file.to_str().unwrap()];
    with(&member, &member_key, &make).run().success();
    assert_eq!(all_are_sealed(&member), 3, "identity, static key, ticket");
    assert!(files_below(&member.path()).iter().all(|(_, bytes)| !contains(bytes, ticket.as_bytes())));
    with(&admin, &key, &["enroll"]).run().success();
    eventually(PATIENCE, "the ticket is redeemed", || (all_are_sealed(&member) == 2).then_some(()));
}

#[test]
fn a_kill_in_the_middle_leaves_a_home_that_its_passphrase_opens() {
    let home = TestHome::new(POSTERN);
    let key = key_file(&home, "key", PASSPHRASE);
    for number in 0..12 {
        home.ok(&["identity", "create", &format!("i{number}")]);
    }
    let identities = home.json(&["identity", "list"]);
    let same = |when: &str| {
        let now = with(&home, &key, &["identity", "list"]).run().success().json();
        let identifiers = |list: &postern_test_support::Value| -> Vec<_> {
            list.as_array().unwrap().iter().map(|identity| identity["identifier"].clone()).collect()
        };
        assert_eq!(identifiers(&now), identifiers(&identities), "{when}");
    };
    for wanted in [0, 1, 5, 12] {
        // Killed as soon as so many are sealed; where it is faster than this test looks, it is done.
        let protecting = with(&home, &key, &["identity", "protect"]).spawn();
        eventually(PATIENCE, "it has begun", || {
            let sealed = secrets(&home).iter().filter(|(_, bytes)| bytes.starts_with(SEALED)).count();
            (home.path().join("protection").exists() && sealed >= wanted).then_some(())
        });
        protecting.signal(Signal::KILL);
        let _ = protecting.finish(PATIENCE);
        same("killed while it was protected");
        with(&home, &key, &["identity", "protect"]).run().success();
        assert_eq!(all_are_sealed(&home), 12);
        same("protected");

        let opening = with(&home, &key, &["identity", "unprotect", "-y"]).spawn();
        eventually(PATIENCE, "it has begun", || {
            let sealed = secrets(&home).iter().filter(|(_, bytes)| bytes.starts_with(SEALED)).count();
            (sealed <= 12 - wanted && sealed < 12).then_some(())
        });
        opening.signal(Signal::KILL);
        let _ = opening.finish(PATIENCE);
        if home.path().join("protection").exists() {
            same("killed while it was opened");
            with(&home, &key, &["identity", "unprotect", "-y"]).run().success();
        }
        assert_eq!(all_open(&home), 12);
        assert!(!home.path().join("protection").exists());
    }
    home.ok(&["identity", "list"]);
}

#[test]
fn the_passphrase_is_asked_for_at_a_terminal_and_never_shown() {
    let home = TestHome::new(POSTERN);
    home.ok(&["identity", "create"]);
    let typed = format!("{PASSPHRASE}\n{PASSPHRASE}\n");
    let Ok((status, shown)) = home.invoke(["identity", "protect"]).run_on_terminal(&typed, Duration::from_secs(60)) else {
        postern_test_support::skipped("there are no terminals here");
        return;
    };
    assert!(status == 0 && shown.contains("New passphrase") && shown.contains("sealed 1 keys"), "{status}: {shown}");
    assert_eq!(all_are_sealed(&home), 1);
    let (status, shown) =
        home.invoke(["identity", "show"]).run_on_terminal(&format!("{PASSPHRASE}\n"), Duration::from_secs(60)).unwrap();
    assert!(status == 0 && shown.contains("Passphrase of this home"), "{status}: {shown}");

    // Standard input, in a pipe; the old one comes before the new one.
    let change = home.invoke(["identity", "protect", "--key-file", "-", "--new-key-file", "-"]);
    change.input(format!("{PASSPHRASE}\nanother passphrase\n")).run().success().says("new passphrase");
    home.invoke(["identity", "show", "--key-file", "-"]).input(format!("{PASSPHRASE}\n")).run().exits(77);
    home.invoke(["identity", "show", "--key-file", "-"]).input("another passphrase\n").run().success();
    home.invoke(["identity", "show", "--key-file", "-"]).input("").run().exits(78).says("KEY_FILE");
    home.fails(&["identity", "protect"], 78).says("NO_PASSPHRASE");
}

#[test]
fn a_key_that_lies_open_in_a_protected_home_is_not_used() {
    let home = TestHome::new(POSTERN);
    let key = key_file(&home, "key", PASSPHRASE);
    home.ok(&["identity", "create", "a"]);
    with(&home, &key, &["identity", "protect"]).run().success();
    let other = TestHome::new(POSTERN);
    other.ok(&["identity", "create", "a"]);
    let (ours, theirs) = (home.path().join("identities/a/identity"), other.path().join("identities/a/identity"));
    let sealed = fs::read(&ours).unwrap();

    fs::write(&ours, fs::read(&theirs).unwrap()).unwrap();
    with(&home, &key, &["identity", "show"]).run().exits(78).says("NOT_SEALED");
    let mut changed = sealed.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&ours, changed).unwrap();
    with(&home, &key, &["identity", "show"]).run().exits(1).says("SEAL_BROKEN");
    // Nor is a home taken for an open one because the file that says so is gone.
    fs::write(&ours, &sealed).unwrap();
    let protection = fs::read(home.path().join("protection")).unwrap();
    fs::remove_file(home.path().join("protection")).unwrap();
    with(&home, &key, &["identity", "show"]).run().exits(1).says("SEAL_BROKEN");
    fs::write(&ours, fs::read(&theirs).unwrap()).unwrap();
    with(&home, &key, &["identity", "show"]).run().exits(78).says("NOT_PROTECTED");
    with(&home, &key, &["identity", "create", "b"]).run().exits(78).says("NOT_PROTECTED");

    fs::write(&ours, &sealed).unwrap();
    let path = home.path().join("protection");
    fs::write(&path, protection).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    with(&home, &key, &["identity", "show"]).run().success();
    // A key file that others can read protects nothing.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    with(&home, &key, &["identity", "show"]).run().exits(78).says("KEY_FILE").says("chmod");
    // And whoever has lost it can still begin anew.
    home.ok(&["reset", "-y"]);
    assert!(files_below(&home.path()).is_empty());
}

#[test]
fn nothing_starts_in_the_background_on_open_keys_where_a_passphrase_was_given() {
    // Somebody who can write a home takes its protection away, and puts keys of their own there.
    let planted = |home: &TestHome, from: &TestHome| {
        fs::remove_file(home.path().join("protection")).unwrap();
        for (theirs, bytes) in secrets(from) {
            let ours = home.path().join(theirs.strip_prefix(from.path()).unwrap());
            fs::write(&ours, bytes).unwrap();
        }
        all_open(home);
    };
    let (member, other) = (TestHome::new(POSTERN), TestHome::new(POSTERN));
    let key = key_file(&member, "key", PASSPHRASE);
    for home in [&member, &other] {
        home.ok(&["identity", "create", "default"]);
        home.ok(&["node", "create", "n"]);
        home.ok(&["node", "stop", "n"]);
    }
    with(&member, &key, &["identity", "protect"]).run().success();
    planted(&member, &other);
    with(&member, &key, &["node", "start", "n"]).run().exits(78).says("NOT_PROTECTED");
    with(&member, &key, &["node", "create", "m"]).run().exits(78).says("NOT_PROTECTED");
    assert_eq!(member.json(&["node", "list"]).as_array().unwrap().iter().filter(|node| node["status"] == "running").count(), 0);
    member.ok(&["node", "start", "n"]);
    member.ok(&["node", "stop", "n"]);

    let (admin, other) = (TestHome::new(POSTERN), TestHome::new(POSTERN));
    for home in [&admin, &other] {
        home.ok(&["enroll"]);
        home.ok(&["serve", "stop"]);
    }
    with(&admin, &key, &["identity", "protect"]).run().success();
    planted(&admin, &other);
    admin.fails(&["enroll", "--key-file", key.to_str().unwrap()], 78).says("NOT_PROTECTED");
    with(&admin, &key, &["serve", "all"]).run().exits(78).says("NOT_PROTECTED");
}

#[test]
fn a_home_that_says_that_it_changes_is_believed_by_its_passphrase_only() {
    let home = TestHome::new(POSTERN);
    let key = key_file(&home, "key", PASSPHRASE);
    home.ok(&["identity", "create", "a"]);
    let open = fs::read(home.path().join("identities/a/identity")).unwrap();
    with(&home, &key, &["identity", "protect"]).run().success();
    let protection = home.path().join("protection");
    let said = fs::read_to_string(&protection).unwrap().replace("whole", "changing");
    fs::write(&protection, said).unwrap();
    fs::write(home.path().join("identities/a/identity"), open).unwrap();
    with(&home, &key, &["identity", "show"])
        .run()
        .exits(77)
        .says("WRONG_PASSPHRASE")
        .says("not all keys of this home are sealed");
    home.fails(&["identity", "show"], 78).says("NO_PASSPHRASE");
}

#[test]
fn a_key_that_was_removed_is_overwritten_first() {
    let home = TestHome::new(POSTERN);
    home.ok(&["identity", "create", "a"]);
    let open = fs::File::open(home.path().join("identities/a/identity")).unwrap();
    let length = open.metadata().unwrap().len();
    assert!(length > 32);
    home.ok(&["reset", "-y"]);
    // The descriptor still sees what the blocks hold.
    let mut left = Vec::new();
    std::io::Read::read_to_end(&mut { open }, &mut left).unwrap();
    assert_eq!(left, vec![0; length as usize]);
}
