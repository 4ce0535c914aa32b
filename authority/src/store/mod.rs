//! What the authority keeps, in SQLite. Every write is one `BEGIN IMMEDIATE` transaction on the one writing connection, and
//! holds the audit row of the act that it belongs to; reading goes over connections of its own and is never in the way.

pub mod audit;
pub mod audit_log;
mod codec;
pub mod credentials;
mod error;
pub mod members;
pub mod policies;
pub mod project;
pub mod relay_names;
mod schema;
pub mod tickets;

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postern_runtime::trouble::Trouble;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Sqlite, SqliteConnection, SqlitePool, Transaction};
use tokio::sync::watch;

pub use audit::{Action, Entry, Outcome, grants};
pub use credentials::{Issued, ShownTo};
pub use error::StoreError;
pub use members::Member;
pub use project::Project;
pub use relay_names::Holder;
pub use tickets::{NewTicket, Taken};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How long a write waits for another process that has the database locked. The authority is its only writer, so this is
/// for a back-up or a person with a shell. With [`ACQUIRE_TIMEOUT`], less than the 10 s for which a caller waits: it is to hear why.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a request waits for a connection before it is told to come back. A write takes milliseconds, so this is a
/// queue of hundreds.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Readers only serve lists and look-ups; more of them would wait for the same disk.
const READERS: u32 = 4;

/// The mode of the database and of the files that SQLite makes beside it, which take the mode of the database.
const FILE_MODE: u32 = 0o600;

/// The authority's database.
#[derive(Debug, Clone)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    /// How many rows the audit has, as far as writes of this process tell.
    audited: watch::Sender<u64>,
    /// Of the disk or of others who use the database.
    trouble: Arc<Trouble>,
}

/// A write transaction. Dropped without [`Write::commit`], it changes nothing.
#[derive(Debug)]
pub struct Write {
    transaction: Transaction<'static, Sqlite>,
    /// Number of the last audit row of this transaction; 0 for none.
    appended: u64,
    audited: watch::Sender<u64>,
    trouble: Arc<Trouble>,
}

/// A read transaction: what it reads is of one moment.
#[derive(Debug)]
pub struct Read(Transaction<'static, Sqlite>);

impl Store {
    /// Opens the database, makes it if it is missing, and brings its schema up to this program's.
    ///
    /// # Errors
    /// [`StoreError::Mode`] where others may read the file, [`StoreError::Newer`] where a newer program wrote it, [`StoreError::Damaged`]
    /// where its schema is not what the migrations make, and what SQLite and the file system report.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, BUSY_TIMEOUT).await
    }

    pub(crate) async fn open_with(path: &Path, busy_timeout: Duration) -> Result<Self, StoreError> {
        make_private(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // A redeemed ticket must not come back after a power failure; NORMAL would lose the newest transactions.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // Deleted rows leave no trace in the file.
            .pragma("secure_delete", "ON")
            .busy_timeout(busy_timeout);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_release(|connection, _| Box::pin(reusable(connection)))
            .connect_with(options.clone())
            .await
            .map_err(StoreError::from)?;
        MIGRATIONS.run(&writer).await.map_err(StoreError::from)?;
        schema::check(&mut *writer.acquire().await?).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.pragma("query_only", "ON"))
            .await
            .map_err(StoreError::from)?;
        Ok(Self { writer, readers, audited: watch::Sender::new(0), trouble: Arc::default() })
    }

    /// Begins a write; others wait until it ends.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where it does not become free in time, and what SQLite reports.
    pub async fn write(&self) -> Result<Write, StoreError> {
        // IMMEDIATE takes the write lock at once: a transaction that begins as a reader and then writes can fail half-way.
        let transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Write { transaction, appended: 0, audited: self.audited.clone(), trouble: Arc::clone(&self.trouble) })
    }

    /// Whether a failure is to be said in the log, and then how many before it were not: one that is nobody's fault but the disk's, or of who has the
    /// database locked, meets every request while it lasts.
    #[must_use]
    pub fn says(&self, error: &StoreError) -> Option<u64> {
        if error.is_of_the_environment() { self.trouble.fails() } else { Some(0) }
    }

    /// Tells how many rows the audit has, whenever some were committed.
    #[must_use]
    pub fn audited(&self) -> watch::Receiver<u64> {
        self.audited.subscribe()
    }

    /// # Errors
    /// [`StoreError::Busy`] where no connection becomes free in time, and what SQLite reports.
    pub async fn read(&self) -> Result<Read, StoreError> {
        Ok(Read(self.readers.begin().await?))
    }

    /// Writes a copy of the database as of one moment to `path`, which must not exist, while the authority goes on.
    ///
    /// # Errors
    /// Where the file exists or cannot be written.
    pub async fn back_up(&self, path: &Path) -> Result<(), StoreError> {
        let text = path.to_str().ok_or_else(|| StoreError::File {
            path: path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8"),
        })?;
        if path.exists() {
            return Err(StoreError::File { path: path.to_owned(), source: io::ErrorKind::AlreadyExists.into() });
        }
        // SQLite takes an empty file as none, and keeps its mode.
        make_private(path)?;
        let mut writer = self.writer.acquire().await?;
        sqlx::query("VACUUM INTO ?").bind(text).execute(&mut *writer).await?;
        Ok(())
    }

    /// Waits for running work and closes the files.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

impl Write {
    /// Makes the transaction durable: once this returns, it survives a crash and a power failure.
    ///
    /// # Errors
    /// What SQLite reports; then nothing was written.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.transaction.commit().await?;
        if let Some(failed) = self.trouble.succeeds() {
            tracing::info!(failed, "the database takes writes again");
        }
        self.audited.send_if_modified(|known| {
            let more = self.appended > *known;
            *known = self.appended.max(*known);
            more
        });
        Ok(())
    }
}

/// Gives the connection of a transaction, so that what only reads runs in either kind.
pub trait Connection {
    fn connection(&mut self) -> &mut SqliteConnection;
}

impl Connection for Write {
    fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.transaction
    }
}

impl Connection for Read {
    fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }
}

/// Whether a connection that was given back can serve the next transaction. Where SQLite itself rolled back (a full disk, an IO
/// error), the rollback of the dropped transaction fails, and the connection would count itself inside of one for ever.
async fn reusable(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // Answered after the rollback that may still be queued.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

/// Makes the file with the right mode if it is missing, and refuses one that others may read.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let file = |source| StoreError::File { path: path.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path) {
        // The umask can only have taken bits away; say the mode again, so that the owner keeps both of his.
        Ok(made) => made.set_permissions(Permissions::from_mode(FILE_MODE)).map_err(file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = path.symlink_metadata().map_err(file)?;
            let mode = metadata.permissions().mode() & 0o777;
            if !metadata.is_file() {
                return Err(file(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
            }
            if mode & 0o077 != 0 { Err(StoreError::Mode { path: path.to_owned(), mode }) } else { Ok(()) }
        }
        Err(error) => Err(file(error)),
    }
}

#[cfg(test)]
mod tests;
