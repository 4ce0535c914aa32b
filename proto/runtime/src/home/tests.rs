use std::fs;
use std::os::unix::fs::PermissionsExt;

use postern_proto::time::Timestamp;
use zeroize::Zeroizing;

use super::*;

const NOW: Timestamp = Timestamp::from_unix(1_795_305_600);

fn home() -> (tempfile::TempDir, Home) {
    let scratch = tempfile::tempdir().unwrap();
    let home = Home::open(&scratch.path().join("home")).unwrap();
    (scratch, home)
}

#[test]
fn the_first_identity_is_the_default_until_it_is_deleted() {
    let (_scratch, home) = home();
    let (a, b): (IdentityName, IdentityName) = ("a".parse().unwrap(), "b".parse().unwrap());
    assert_eq!(home.default_identity().unwrap(), None);
    home.create_identity(&b, NOW).unwrap();
    home.create_identity(&a, NOW).unwrap();
    assert!(matches!(home.create_identity(&a, NOW), Err(HomeError::IdentityExists(_))));
    assert_eq!(home.default_identity().unwrap(), Some(b.clone()));
    let identifier = |found: IdentityHome| found.load().unwrap().identifier();
    let first = identifier(home.identity(&a).unwrap().unwrap());
    assert_eq!(identifier(home.identity_or_create(&a, NOW).unwrap()), first);
    assert_eq!(identifier(home.default_identity_or_create(NOW).unwrap()), identifier(home.identity(&b).unwrap().unwrap()));
    assert!(home.identity(&a).unwrap().unwrap().membership().unwrap().is_none());
    home.delete_identity(&b).unwrap();
    assert_eq!(home.default_identity().unwrap(), Some(a.clone()));
    assert!(matches!(home.set_default_identity(&b), Err(HomeError::NoIdentity(_))));
    assert_eq!(home.identities().unwrap().len(), 1);
}

#[test]
fn an_identity_whose_making_was_interrupted_can_be_made() {
    let (_scratch, home) = home();
    let name: IdentityName = "a".parse().unwrap();
    home.dir.dir_or_create("identities").unwrap().create_dir("a").unwrap();
    assert!(home.identity(&name).unwrap().is_none());
    home.create_identity(&name, NOW).unwrap();
}

#[test]
fn a_node_keeps_what_it_was_given_and_its_keys() {
    let (_scratch, home) = home();
    let name: NodeName = "n1".parse().unwrap();
    let node = home.create_node(&name, b"{}").unwrap();
    assert!(matches!(home.create_node(&name, b"{}"), Err(HomeError::NodeExists(_))));
    assert_eq!(node.stored().unwrap().as_slice(), b"{}");
    assert_eq!(node.node_id().unwrap(), home.node(&name).unwrap().unwrap().node_id().unwrap());
    let current = || node.statics(Timestamp::from_unix(1)).unwrap().current().public();
    assert!(current() == current());
    assert!(node.ticket().unwrap().is_none());

    let lock = node.lock().unwrap();
    assert!(node.running().unwrap().is_some());
    assert!(matches!(home.delete_node(&name), Err(HomeError::NodeLocked { .. })));
    drop(lock);
    home.delete_node(&name).unwrap();
    assert!(matches!(home.delete_node(&name), Err(HomeError::NoNode(_))));
    assert!(!home.path().join("nodes/n1").exists());
    assert_eq!(home.default_node().unwrap(), None);
}

#[test]
fn a_new_identity_takes_nothing_of_one_that_was_half_deleted() {
    let (_scratch, home) = home();
    // A process was killed between the two files of it; and one that wrote another.
    let left = home.path().join("identities/a");
    home.create_identity(&"a".parse().unwrap(), NOW).unwrap();
    home.create_identity(&"b".parse().unwrap(), NOW).unwrap();
    for (name, text) in [("membership", "of the one before"), (".identity.0123456789abcdef.new", "its key")] {
        fs::write(left.join(name), text).unwrap();
        fs::set_permissions(left.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::remove_file(left.join("identity")).unwrap();
    let made = home.create_identity(&"a".parse().unwrap(), NOW).unwrap();
    assert!(made.membership().unwrap().is_none());
    assert_eq!(fs::read_dir(left).unwrap().count(), 1);
}

#[test]
fn reset_keeps_what_it_did_not_make() {
    let (_scratch, home) = home();
    let node = home.create_node(&"n1".parse().unwrap(), b"{}").unwrap();
    node.node_id().unwrap();
    home.create_node(&"n2".parse().unwrap(), b"{}").unwrap();
    home.create_identity(&"a".parse().unwrap(), NOW).unwrap();
    home.local_issuer_or(|| Zeroizing::new(vec![1])).unwrap();
    home.servers().unwrap();
    fs::write(home.path().join("notes.txt"), "mine").unwrap();
    fs::write(node.dir().path().join("mine.txt"), "mine").unwrap();
    fs::write(node.dir().path().join(".node.json.0123456789abcdef.new"), "left by a killed process").unwrap();

    let kept = home.reset().unwrap();
    assert_eq!(kept, [home.path().join("nodes"), home.path().join("notes.txt")]);
    assert_eq!(fs::read_dir(home.path().join("nodes/n1")).unwrap().count(), 1);
    assert_eq!(home.reset().unwrap(), kept);
    assert!(home.nodes().unwrap().is_empty());
}

#[test]
fn a_home_that_others_can_enter_is_refused() {
    let (_scratch, home) = home();
    home.create_identity(&"a".parse().unwrap(), NOW).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = Home::open(home.path()).unwrap_err();
    assert!(error.to_string().contains("run: chmod 700"), "{error}");
}
