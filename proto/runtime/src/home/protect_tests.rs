use std::path::Path;
use std::sync::Arc;

use postern_proto::time::Timestamp;

use super::*;
use crate::vault::Keys;

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.as_bytes()).unwrap()
}

fn open(path: &Path, text: Option<&'static str>) -> Home {
    let keys = match text {
        Some(text) => Keys::asked(move || Ok(Some(passphrase(text)))),
        None => Keys::none(),
    };
    Home::open_with(path, Arc::new(keys)).unwrap()
}

/// A home with a secret of every kind, and what they are.
fn filled(path: &Path) -> Home {
    let home = open(path, None);
    home.create_identity(&"a".parse().unwrap(), NOW).unwrap();
    home.create_identity(&"b".parse().unwrap(), NOW).unwrap();
    let node = home.create_node(&"n".parse().unwrap(), b"{}").unwrap();
    node.statics(NOW).unwrap();
    node.node_id().unwrap();
    node.set_ticket(&postern_proto::secret::SecretText::new("postern1_canary".to_owned())).unwrap();
    home.local_issuer_or(|| vec![3; 32].into()).unwrap();
    for dir in [home.authority().unwrap(), home.relay().unwrap()] {
        for name in ["identity", "static"] {
            dir.write_new_secret(name, &[5; 40]).unwrap();
        }
    }
    home
}

/// The same, protected by `the passphrase`; it is there as long as the first of the three.
fn protected() -> (tempfile::TempDir, PathBuf, Home) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("home");
    let home = filled(&path);
    home.protect(&passphrase("the passphrase")).unwrap();
    (place, path, home)
}

/// What all secrets are, as this process reads them.
fn read_all(home: &Home) -> Result<Vec<Vec<u8>>, FileError> {
    let secrets = home.secrets().unwrap();
    secrets.iter().map(|secret| Ok(secret.dir.read_secret(secret.name, MAX_SMALL_FILE)?.unwrap().to_vec())).collect()
}

fn sealed(home: &Home) -> usize {
    let is_sealed = |secret: &Secret| vault::is_sealed(&std::fs::read(secret.dir.path().join(secret.name)).unwrap());
    home.secrets().unwrap().iter().filter(|secret| is_sealed(secret)).count()
}

#[test]
fn a_home_is_protected_and_opened_again() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("home");
    let before = read_all(&filled(&path)).unwrap();
    assert_eq!(before.len(), 9);
    let home = open(&path, None);
    assert_eq!(home.protect(&passphrase("first one")).unwrap(), Protecting::Sealed(9));
    assert_eq!((sealed(&home), home.is_protected().unwrap()), (9, true));
    assert!(read_all(&home).unwrap() == before, "who protected it need not open it again");

    let home = open(&path, Some("first one"));
    assert!(read_all(&home).unwrap() == before);
    let identity = home.create_identity(&"c".parse().unwrap(), NOW).unwrap().load().unwrap().identifier();
    assert_eq!(sealed(&home), 10, "what is made later is sealed too");
    assert!(matches!(read_all(&open(&path, Some("other one"))), Err(FileError::Vault(VaultError::WrongPassphrase))));
    assert!(matches!(read_all(&open(&path, None)), Err(FileError::Vault(VaultError::NoPassphrase))));
    // What is no secret needs no passphrase.
    assert_eq!(open(&path, None).nodes().unwrap()[0].stored().unwrap().as_slice(), b"{}");

    assert_eq!(home.protect(&passphrase("second one")).unwrap(), Protecting::Changed);
    assert!(read_all(&open(&path, Some("first one"))).is_err());
    let home = open(&path, Some("second one"));
    let key = home.key().unwrap().unwrap();
    let daemon = Home::open_with(&path, Arc::new(Keys::handed(key))).unwrap();
    assert_eq!(daemon.identity(&"c".parse().unwrap()).unwrap().unwrap().load().unwrap().identifier(), identity);

    assert!(home.unprotect().unwrap() && !home.unprotect().unwrap());
    assert_eq!((sealed(&home), home.is_protected().unwrap()), (0, false));
    let open_home = open(&path, None);
    open_home.delete_identity(&"c".parse().unwrap()).unwrap();
    assert!(read_all(&open_home).unwrap() == before);
    assert!(matches!(read_all(&daemon), Err(FileError::Vault(VaultError::NotProtected { .. }))), "its protection was taken away");
}

#[test]
fn an_interruption_at_any_point_leaves_a_home_that_the_passphrase_opens() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("home");
    let before = read_all(&filled(&path)).unwrap();
    let interrupted = || HomeError::Malformed { path: PathBuf::new(), reason: "interrupted".to_owned() };
    let until = |limit: usize| {
        let mut done = 0;
        move || {
            done += 1;
            if done > limit { Err(interrupted()) } else { Ok(()) }
        }
    };
    // 9 secrets, and the file that says so before and after them; not each, because a passphrase takes its time.
    for limit in [0, 1, 2, 6, 9, 10] {
        assert!(open(&path, None).protect_by(&passphrase("the passphrase"), &mut until(limit)).is_err());
        let home = open(&path, Some("the passphrase"));
        assert!(read_all(&home).unwrap() == before, "protecting, interrupted after {limit}");
        assert_eq!(sealed(&home), limit.saturating_sub(1));
        // The same command finishes it.
        home.protect(&passphrase("the passphrase")).unwrap();
        assert!(sealed(&home) == 9 && read_all(&home).unwrap() == before);

        assert!(home.unprotect_by(&mut until(limit)).is_err());
        let home = open(&path, Some("the passphrase"));
        assert!(read_all(&home).unwrap() == before, "opening for good, interrupted after {limit}");
        assert!(home.unprotect().unwrap());
        assert!(sealed(&home) == 0 && read_all(&home).unwrap() == before);
    }
}

#[test]
fn nothing_that_is_not_sealed_is_used_in_a_protected_home() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("home");
    let home = filled(&path);
    let node = home.node(&"n".parse().unwrap()).unwrap().unwrap();
    home.protect(&passphrase("the passphrase")).unwrap();
    std::fs::write(node.dir().path().join("static"), [7; 32]).unwrap();
    let fault = node.statics(NOW).err().unwrap();
    assert!(matches!(fault, HomeError::File(FileError::Vault(VaultError::NotSealed { .. }))), "{fault}");
    // A sealed file of another place neither.
    std::fs::copy(path.join("relay/static"), node.dir().path().join("static")).unwrap();
    let fault = node.statics(NOW).err().unwrap();
    assert!(matches!(fault, HomeError::File(FileError::Vault(VaultError::Damaged { .. }))), "{fault}");
    // Without the file that says how, nothing is taken for open.
    std::fs::remove_file(path.join(PROTECTION)).unwrap();
    let fault = home.identity(&"a".parse().unwrap()).unwrap().unwrap().load().err().unwrap();
    assert!(matches!(fault, HomeError::File(FileError::Vault(VaultError::Lost { .. }))), "{fault}");
}

#[test]
fn a_new_home_is_protected_from_its_first_secret_on() {
    let place = tempfile::tempdir().unwrap();
    let given = || Arc::new(Keys::given(|| Ok(Some(passphrase("the passphrase")))));
    let home = Home::open_with(&place.path().join("new"), given()).unwrap();
    home.protect_if_new().unwrap();
    home.create_identity(&"a".parse().unwrap(), NOW).unwrap();
    assert_eq!((home.secrets().unwrap().len(), sealed(&home)), (1, 1));
    // One that has secrets already is not silently taken for a protected one.
    let path = place.path().join("old");
    filled(&path);
    let home = Home::open_with(&path, given()).unwrap();
    home.protect_if_new().unwrap();
    assert!(matches!(read_all(&home), Err(FileError::Vault(VaultError::NotProtected { .. }))));
    assert!(matches!(
        home.create_identity(&"z".parse().unwrap(), NOW),
        Err(HomeError::File(FileError::Vault(VaultError::NotProtected { .. })))
    ));
}

#[test]
fn what_runs_is_not_changed_under_its_feet() {
    let place = tempfile::tempdir().unwrap();
    let home = filled(&place.path().join("home"));
    let node = home.node(&"n".parse().unwrap()).unwrap().unwrap();
    let runs = node.lock().unwrap();
    assert!(matches!(home.protect(&passphrase("the passphrase")), Err(HomeError::NodeLocked { .. })));
    drop(runs);
    home.protect(&passphrase("the passphrase")).unwrap();
}

#[test]
fn who_brings_a_passphrase_hands_no_open_home_on() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("home");
    filled(&path);
    assert!(open(&path, None).key().unwrap().is_none());
    let given = || Home::open_with(&path, Arc::new(Keys::given(|| Ok(Some(passphrase("the passphrase")))))).unwrap();
    assert!(matches!(given().key(), Err(HomeError::File(FileError::Vault(VaultError::NotProtected { .. })))));
    given().protect(&passphrase("the passphrase")).unwrap();
    assert!(given().key().unwrap().unwrap().whole);
}

#[test]
fn that_a_home_changes_counts_only_where_its_passphrase_says_so() {
    let (_place, path, home) = protected();
    let handed = open(&path, Some("the passphrase")).key().unwrap().unwrap();
    let daemon = Home::open_with(&path, Arc::new(Keys::handed(handed))).unwrap();
    // Somebody who can write the home says that it changes, and puts another key in the place of one.
    let whole = std::fs::read_to_string(path.join(PROTECTION)).unwrap();
    std::fs::write(path.join(PROTECTION), whole.replace("whole", "changing")).unwrap();
    let planted = path.join("identities/a/identity");
    std::fs::write(&planted, postern_proto::identity::Identity::generate(NOW).to_secret_bytes()).unwrap();
    let load = |home: &Home| match home.identity(&"a".parse().unwrap()).unwrap().unwrap().load() {
        Err(HomeError::File(FileError::Vault(fault))) => Some(fault),
        _ => None,
    };
    assert!(matches!(load(&open(&path, Some("the passphrase"))), Some(VaultError::WrongPassphrase)));
    assert!(matches!(load(&open(&path, None)), Some(VaultError::NoPassphrase)));
    // Nor where the home was opened before.
    assert!(matches!(load(&home), Some(VaultError::NotSealed { .. })));
    assert!(matches!(load(&daemon), Some(VaultError::NotSealed { .. })));
}

#[test]
fn what_killed_processes_left_of_secrets_is_gone_once_the_home_is_whole() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("home");
    let home = filled(&path);
    // Of a ticket that was redeemed, of an identity that is no more, and of one that is there.
    std::fs::remove_file(path.join("nodes/n/ticket")).unwrap();
    std::fs::remove_file(path.join("identities/b/identity")).unwrap();
    let left = ["nodes/n/.ticket", "identities/b/.identity", "identities/a/.identity", ".protection"]
        .map(|start| path.join(format!("{start}.0123456789abcdef.new")));
    let leave = || {
        left.iter().for_each(|left| {
            std::fs::write(left, "an open secret").unwrap();
            std::fs::set_permissions(left, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        });
        left.each_ref().map(|left| std::fs::File::open(left).unwrap())
    };
    let are_gone = |held: [std::fs::File; 4]| {
        for (left, held) in left.iter().zip(held) {
            assert!(!left.exists(), "{}", left.display());
            assert_eq!(std::io::read_to_string(held).unwrap(), "\0".repeat(14), "{} was overwritten", left.display());
        }
    };
    let held = leave();
    home.protect(&passphrase("the passphrase")).unwrap();
    are_gone(held);
    let held = leave();
    home.protect(&passphrase("another one")).unwrap();
    are_gone(held);
}

#[test]
fn what_protects_a_home_is_read_beside_a_change_of_it() {
    let (_place, path, home) = protected();
    let text = std::fs::read(path.join(PROTECTION)).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..50).for_each(|_| home.dir.replace_secret(PROTECTION, &text).unwrap()));
        let reader = open(&path, None);
        while !writer.is_finished() {
            assert!(!reader.is_half_protected().unwrap());
        }
    });
}
