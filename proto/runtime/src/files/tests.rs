use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::thread;

use super::*;
use crate::files::scratch;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn what_is_written_is_private_and_read_back() {
    let (_scratch, dir) = scratch();
    dir.write("key", b"one").unwrap();
    dir.write("key", b"two").unwrap();
    assert_eq!(dir.read("key", 10).unwrap().unwrap().as_slice(), b"two");
    assert_eq!(mode(&dir.path().join("key")), 0o600);
    assert_eq!(mode(dir.create_dir("inner").unwrap().path()), 0o700);
    assert!(dir.read("missing", 10).unwrap().is_none());
    assert!(matches!(dir.read("key", 2), Err(FileError::TooLong { .. })));
    assert!(matches!(dir.write_new("key", b"three"), Err(FileError::Exists { .. })));
    assert_eq!(dir.entries().unwrap().len(), 2, "no unfinished file stays");
    assert!(dir.remove("key").unwrap());
    assert!(!dir.remove("key").unwrap());
}

#[test]
fn an_empty_directory_is_taken_over_and_another_is_refused_with_the_line_to_run() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("home");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    Dir::open_or_take_over(&path).unwrap();
    assert_eq!(mode(&path), 0o700);

    fs::write(path.join("x"), "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let error = Dir::open_or_take_over(&path).unwrap_err();
    assert!(error.to_string().ends_with(&format!("run: chmod 700 {}", path.display())), "{error}");
    assert_eq!(mode(&path), 0o755, "nothing was changed");
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    let (_scratch, dir) = scratch();
    dir.write("key", b"secret").unwrap();
    fs::set_permissions(dir.path().join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = dir.read("key", 10).unwrap_err();
    assert!(error.to_string().contains("run: chmod 600 "), "{error}");
    assert!(error.is_unsafe_place());
}

#[test]
fn what_was_put_in_the_place_of_a_file_redirects_nothing() {
    let (scratch, dir) = scratch();
    let target = scratch.path().join("target");
    fs::write(&target, "untouched").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();

    symlink(&target, dir.path().join("link")).unwrap();
    assert!(matches!(dir.read("link", 100), Err(FileError::Kind { found: "a symbolic link", .. })));
    assert!(matches!(dir.append("link"), Err(FileError::Kind { .. })));
    assert!(matches!(dir.dir("link"), Err(FileError::Kind { .. })));
    dir.write("link", b"mine").unwrap();
    assert_eq!(dir.read("link", 100).unwrap().unwrap().as_slice(), b"mine");

    fs::hard_link(&target, dir.path().join("hard")).unwrap();
    assert!(matches!(dir.append("hard"), Err(FileError::HardLink { .. })));
    dir.write("hard", b"mine").unwrap();

    rustix::fs::mkfifoat(&dir, "fifo", Mode::from_raw_mode(0o600)).unwrap();
    assert!(matches!(dir.read("fifo", 100), Err(FileError::Kind { found: "a named pipe", .. })));
    assert!(matches!(dir.append("fifo"), Err(FileError::Kind { .. })));

    dir.create_dir("dir").unwrap();
    assert!(dir.write("dir", b"x").is_err());
    assert!(matches!(dir.read("dir", 100), Err(FileError::Kind { found: "a directory", .. })));

    symlink(dir.path(), scratch.path().join("alias")).unwrap();
    assert!(matches!(Dir::open(&scratch.path().join("alias")), Err(FileError::Kind { .. })));
    assert!(matches!(Dir::open_or_take_over(&scratch.path().join("alias")), Err(FileError::Kind { .. })));
    assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
}

#[test]
fn a_directory_swapped_for_a_link_while_it_is_written_to_leads_nowhere_else() {
    let (scratch, dir) = scratch();
    let elsewhere = scratch.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let (path, moved) = (dir.path().to_owned(), scratch.path().join("moved"));
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..200_u32 {
                dir.write("state", &round.to_le_bytes()).unwrap();
            }
        });
        while !writer.is_finished() {
            fs::rename(&path, &moved).unwrap();
            symlink(&elsewhere, &path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::rename(&moved, &path).unwrap();
        }
    });
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert_eq!(dir.read("state", 10).unwrap().unwrap().as_slice(), &199_u32.to_le_bytes());
}

#[test]
fn names_stay_inside() {
    let (_scratch, dir) = scratch();
    for bad in ["", ".", "..", "a/b", "/etc/passwd", "a\0"] {
        assert!(matches!(dir.write(bad, b""), Err(FileError::Name { .. })), "{bad:?}");
        assert!(matches!(dir.read(bad, 1), Err(FileError::Name { .. })), "{bad:?}");
    }
}

#[test]
fn a_socket_in_a_directory_with_a_long_path() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x".repeat(120));
    let dir = Dir::open_or_take_over(&path).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(dir.socket_path("s").unwrap()).unwrap();
    let other = Dir::open(&path).unwrap();
    std::os::unix::net::UnixStream::connect(other.socket_path("s").unwrap()).unwrap();
    drop(listener);
    assert!(path.join("s").exists());
}

#[test]
fn unfinished_writes_are_known_by_their_names() {
    assert!(Dir::is_unfinished_write(".key.0123456789abcdef.new", "key"));
    assert!(!Dir::is_unfinished_write(".key.mine.new", "key"));
    assert!(!Dir::is_unfinished_write("key", "key"));
}
