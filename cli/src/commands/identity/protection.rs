//! `identity protect` and `unprotect`: the keys of the home, at rest.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use postern_proto::secret::SecretBytes;
use postern_runtime::files::FileError;
use postern_runtime::home::{Home, Protecting};
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
        None => passphrase::new(context)?,
    };
    let output = context.output();
    match home.protect(&new)? {
        Protecting::Sealed(count) => output.say(format_args!("sealed {count} keys under the passphrase")),
        Protecting::Changed => output.say("the keys are sealed under the new passphrase"),
    }
    output.say("whoever loses the passphrase loses the keys: keep it apart from the home, and from its back-ups");
    Ok(())
}

/// Makes a key file with 256 random bits, unless one is there.
fn make(context: &Context, path: &Path) -> Result<(), CliError> {
    if path.exists() {
        return Ok(());
    }
    let fault =
        |error: std::io::Error| CliError::from_error(code::UNWRITABLE_FILE, &error).why(format!("making `{}`", path.display()));
    let random = SecretBytes::<32>::random();
    let line = Zeroizing::new(format!("{}\n", *Zeroizing::new(hex::encode(random.expose_secret()))));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fault)?;
    file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(fault)?;
    context.output().say(format_args!("made the key file {}", path.display()));
    Ok(())
}

/// Opens the home for good.
pub fn unprotect(context: &Context, home: &Home, yes: Yes) -> Result<(), CliError> {
    if !home.is_protected()? {
        context.output().say("the keys of this home are not protected");
        return Ok(());
    }
    confirm(context, "Write all keys of this home as they are, for whoever gets a copy of it?", yes.yes)?;
    home.unprotect()?;
    context.output().say("the keys of this home need no passphrase any more");
    Ok(())
}
