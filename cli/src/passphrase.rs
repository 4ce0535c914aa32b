//! Where the passphrase of a protected home comes from: a file, standard input, a credential of systemd, or somebody at the terminal. Never an
//! argument or a variable itself, which others could see.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use postern_runtime::vault::{Keys, Passphrase, PassphraseError};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::code;
use crate::context::Context;
use crate::error::CliError;

/// Names the key file.
const VARIABLE: &str = "POSTERN_KEY_FILE";
/// The directory of systemd's `LoadCredential=` and its kin.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// The name of the credential.
const CREDENTIAL: &str = "postern-key";

/// What opens the home: the first of `--key-file`, `POSTERN_KEY_FILE`, the credential `postern-key`, and whoever sits at the terminal.
pub fn of_home(key_file: Option<PathBuf>, may_ask: bool) -> Keys {
    if let Some(path) = named(key_file) {
        return Keys::given(move || from(&path).map(Some));
    }
    if let Some(path) = set(CREDENTIALS).map(|directory| directory.join(CREDENTIAL)).filter(|path| path.exists()) {
        return Keys::given(move || Passphrase::from_credential(&path));
    }
    Keys::asked(move || if may_ask { ask("Passphrase of this home").map(Some) } else { Ok(None) })
}

/// The key file: `given` as a flag, else by the variable.
pub fn named(given: Option<PathBuf>) -> Option<PathBuf> {
    given.or_else(|| set(VARIABLE))
}

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The passphrase in the file `path`, or in a line of standard input.
pub fn from(path: &Path) -> Result<Passphrase, PassphraseError> {
    if path == Path::new("-") { Passphrase::from_line(io::stdin().lock()) } else { Passphrase::from_file(path) }
}

/// A new passphrase, asked for twice.
pub fn new(context: &Context) -> Result<Passphrase, CliError> {
    if !context.may_ask() {
        return Err(CliError::new(code::NEEDS_PASSPHRASE, "a passphrase is needed, and nobody is there to be asked")
            .try_this("give a file that holds it: --key-file FILE, or --new-key-file FILE where the home is protected already"));
    }
    let first = ask("New passphrase").map_err(refused)?;
    if first != ask("The same again").map_err(refused)? {
        return Err(CliError::new(code::NEEDS_PASSPHRASE, "these are two different passphrases; nothing was done"));
    }
    Ok(first)
}

pub fn refused(error: PassphraseError) -> CliError {
    postern_runtime::files::FileError::from(postern_runtime::vault::VaultError::from(error)).into()
}

/// Asks at the terminal, which does not show the answer.
fn ask(question: &str) -> Result<Passphrase, PassphraseError> {
    write!(io::stderr(), "{question}: ").map_err(PassphraseError::Input)?;
    let hidden = Hidden::start().map_err(PassphraseError::Input)?;
    let answer = Passphrase::from_line(io::stdin().lock());
    drop(hidden);
    // The end of the line was not shown either; a terminal that is gone needs none.
    let _ = writeln!(io::stderr());
    answer
}

/// While it lives, the terminal does not show what is typed.
struct Hidden(rustix::termios::Termios);

impl Hidden {
    fn start() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Drain, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Whoever took the terminal away has no use for what it showed.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}
