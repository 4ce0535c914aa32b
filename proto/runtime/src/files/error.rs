//! Why a file or directory of the home cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use crate::vault::VaultError;

/// A fault of the place where state is kept. Each text says what to run or to look at.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot {action} `{}`", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("`{}` can be used by other users (mode {mode:04o}); run: chmod {wanted:o} {}", path.display(), quoted(path))]
    Mode { path: PathBuf, mode: u32, wanted: u32 },
    #[error("`{}` belongs to user {owner}, and this process runs as user {user}; run: chown {user} {line} && chmod {wanted:o} {line}", path.display(), line = quoted(path))]
    Owner { path: PathBuf, owner: u32, user: u32, wanted: u32 },
    #[error("`{}` is {found}, where {wanted} must be: nothing was written through it; move it away", path.display())]
    Kind { path: PathBuf, found: &'static str, wanted: &'static str },
    #[error("`{}` has a second name (a hard link), so another place could change it; move it away", path.display())]
    HardLink { path: PathBuf },
    #[error("`{}` is longer than {limit} bytes", path.display())]
    TooLong { path: PathBuf, limit: usize },
    #[error("`{}` already exists", path.display())]
    Exists { path: PathBuf },
    #[error("`{name}` is not a file name")]
    Name { name: String },
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl FileError {
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: source.into() }
    }

    /// Whether the fault is that other users could read or change what is kept here.
    #[must_use]
    pub const fn is_unsafe_place(&self) -> bool {
        matches!(self, Self::Mode { .. } | Self::Owner { .. } | Self::Kind { .. } | Self::HardLink { .. })
    }

    /// Whether the device is full or read-only: a fault of the environment that retrying later may mend.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } => Some(source.kind()),
            _ => None,
        }
    }
}

/// `path` as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+:@,".contains(&b)) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_run_survives_a_shell() {
        assert_eq!(quoted(Path::new("/a/b-c")), "/a/b-c");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
