//! What can go wrong with the database. None of these texts reaches a member: it is told that the authority is busy or failed.

use std::io;
use std::path::PathBuf;

use sqlx::migrate::MigrateError;

/// SQLite's primary result codes (sqlite.org/rescode.html).
mod code {
    pub const BUSY: i32 = 5;
    pub const LOCKED: i32 = 6;
    pub const READ_ONLY: i32 = 8;
    pub const IO: i32 = 10;
    pub const CORRUPT: i32 = 11;
    pub const FULL: i32 = 13;
    pub const NOT_A_DATABASE: i32 = 26;
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} may be read by others (mode {mode:04o}): run `chmod 0600 {}`", path.display(), path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "the database was written by a newer version of postern (schema {found}, this program knows {known}): use that version"
    )]
    Newer { found: i64, known: i64 },
    #[error(
        "the database was made by another version of postern, whose schema {found} is not that of this program: use that version, or set \
         the project up anew (`postern reset`, `postern enroll`)"
    )]
    Other { found: i64 },
    #[error("the database is in use by another process, or too many requests wait for it: it goes on by itself when that ends")]
    Busy,
    #[error("no space is left for the database: make room on its disk (df -h); it goes on by itself")]
    Full,
    #[error("the database cannot be written: its file system or file is read-only; make it writable")]
    ReadOnly,
    #[error("the database is damaged: {what}; restore it from a back-up")]
    Damaged { what: String },
    #[error("the disk failed under the database")]
    Disk(#[source] sqlx::Error),
    #[error("the database's schema cannot be brought up to date")]
    Migration(#[source] Box<MigrateError>),
    #[error("the file of the signing keys cannot be written")]
    Keys(#[source] Box<postern_runtime::files::FileError>),
    #[error("the database refused a statement")]
    Statement(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether the same request may succeed a little later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Busy)
    }

    /// Whether it lasts until somebody does something about the disk, or ends what uses the database, and meets every request until then.
    #[must_use]
    pub const fn is_of_the_environment(&self) -> bool {
        matches!(self, Self::Busy | Self::Full | Self::ReadOnly | Self::Disk(_))
    }

    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if matches!(error, sqlx::Error::PoolTimedOut) {
            return Self::Busy;
        }
        let extended = error.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<i32>().ok());
        match extended.map(|code| code & 0xff) {
            Some(code::BUSY | code::LOCKED) => Self::Busy,
            Some(code::FULL) => Self::Full,
            Some(code::READ_ONLY) => Self::ReadOnly,
            Some(code::IO) => Self::Disk(error),
            Some(code::CORRUPT | code::NOT_A_DATABASE) => Self::damaged(error.to_string()),
            _ => Self::Statement(error),
        }
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            MigrateError::VersionMissing(found) => {
                let known = super::MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
                Self::Newer { found, known }
            }
            MigrateError::VersionMismatch(found) => Self::Other { found },
            error => Self::Migration(Box::new(error)),
        }
    }
}
