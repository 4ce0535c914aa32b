//! `identity protect` and `unprotect`: the keys of the home, at rest.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use postern_proto::secret::{SecretBytes, random_array};
use postern_runtime::files::FileError;
use postern_runtime::home::{Home, Protecting};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::args::Yes;
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::passphrase;
use crate::prompt::confirm;

/// Protects the home with a passphrase, or gives a protected one another.
pub fn protect(context: &Context, home: &Home, new_key_file: Option<PathBuf>, generate: bool) -> Result<(), CliError> {
    let protected = home.is_protected()?;
    if protected {
        // The one that it has comes first: before anything new is thought of, and in standard input.
        home.key()?;
    }
    // Of an open home, the key file can only mean the one that is to come.
    let file = new_key_file.or_else(|| context.key_file().filter(|_| !protected));
    let new = match &file {
        Some(path) => {
            // Before a key file is made, or anybody is asked for anything.
            home.check_stopped()?;
            if generate {
                make(context, path)?;
            }
            passphrase::from(path).map_err(passphrase::refused)?
        }
        None if generate => {
            return Err(CliError::new(code::USAGE, "--generate needs the name of the file")
                .try_this("name it with --key-file, or --new-key-file where the home is protected already"));
        }
        // What was begun with a passphrase is finished with it.
        None if home.is_half_protected()? || (!protected && context.keys().are_demanded()) => {
            context.keys().passphrase().map_err(FileError::from)?
        }
        // The command says which passphrase the home has, and asks for no other.
        None if context.keys().are_demanded() => {
            context
                .output()
                .say("the keys of this home are protected already; --new-key-file FILE gives them another passphrase");
            return Ok(());
        }
        None => {
            home.check_stopped()?;
            passphrase::new(context)?
        }
    };
    let output = context.output();
    match home.protect(&new)? {
        Protecting::Sealed(count) => output.say(format_args!("sealed {count} keys under the passphrase")),
        Protecting::Changed => output.say("the keys are sealed under the new passphrase"),
    }
    output.say("whoever loses the passphrase loses the keys: keep it apart from the home, and from its back-ups");
    Ok(())
}

/// Makes a key file with 256 random bits, unless one is there. It is on the disk, with its name, before anything is sealed under it.
fn make(context: &Context, path: &Path) -> Result<(), CliError> {
    let random = SecretBytes::<32>::random();
    let line = Zeroizing::new(format!("{}\n", *Zeroizing::new(hex::encode(random.expose_secret()))));
    let made = make_by(path, |file| file.write_all(line.as_bytes()))
        .map_err(|error| CliError::from_error(code::UNWRITABLE_FILE, &error).why(format!("making `{}`", path.display())))?;
    if made {
        context.output().say(format_args!("made the key file {}", path.display()));
    } else {
        context.output().say(format_args!("using the key file that is there, {}", path.display()));
    }
    Ok(())
}

/// Makes the file `path` with what `fill` writes; `false` where it is there. It has its name once it is whole: a process that was killed would
/// leave an empty one, which is no key file, and which is never replaced.
fn make_by(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<bool> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let made = !path.exists() && {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        name.push(format!(".{}.new", hex::encode(random_array::<8>())));
        let unfinished = parent.join(name);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        let named = fill(&mut file).and_then(|()| file.sync_all()).and_then(|()| {
            match renameat_with(CWD, &unfinished, CWD, path, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(true),
                // Somebody else made one meanwhile, which may seal something already.
                Err(Errno::EXIST) => Ok(false),
                Err(errno) => Err(errno.into()),
            }
        });
        if !matches!(named, Ok(true)) {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&unfinished);
        }
        named?
    };
    let synced = File::open(parent).and_then(|parent| parent.sync_all());
    // Also of one that is there, as far as that can be: whoever made it may have been killed before.
    if made { synced.map(|()| true) } else { Ok(false) }
}

/// Opens the home for good.
pub fn unprotect(context: &Context, home: &Home, yes: Yes) -> Result<(), CliError> {
    if !home.is_protected()? {
        context.output().say("the keys of this home are not protected");
        return Ok(());
    }
    home.check_stopped()?;
    confirm(context, "Write all keys of this home as they are, for whoever gets a copy of it?", yes.yes)?;
    home.unprotect()?;
    context.output().say("the keys of this home need no passphrase any more");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_has_its_name_once_it_is_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path();
        let path = place.join("key");
        let broken = make_by(&path, |file| {
            assert!(!path.exists(), "whoever is killed now leaves no key file");
            file.write_all(b"ha")?;
            Err(io::Error::other("no room"))
        });
        assert!(broken.is_err() && std::fs::read_dir(place).unwrap().count() == 0);
        assert!(make_by(&path, |file| file.write_all(b"whole\n")).unwrap());
        assert!(!make_by(&path, |file| file.write_all(b"another\n")).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"whole\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Two at a time: the one that is there stays.
        let other = place.join("other");
        let late = make_by(&other, |file| {
            std::fs::write(&other, "first")?;
            file.write_all(b"second")
        });
        assert!(!late.unwrap() && std::fs::read(&other).unwrap() == b"first");
        assert_eq!(std::fs::read_dir(place).unwrap().count(), 2);
    }
}
