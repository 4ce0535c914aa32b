//! Whether the schema of a database is the one that the migrations make. A trigger or a view that somebody added to the file could keep
//! rows of the audit from being written, or show others than were written, while every hash is right.

use std::collections::BTreeMap;

use postern_proto::audit::plain;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::{MIGRATIONS, StoreError};

/// Where `sqlx` keeps which migrations ran; its versions may write the same table in other words.
const MIGRATIONS_TABLE: &str = "_sqlx_migrations";

/// The tables that `ANALYZE` makes (sqlite.org/fileformat2.html). They change how long a look-up takes, and nothing that it finds. Other
/// names that begin with `sqlite_` are no exception: who writes the file past SQLite can give one to a trigger.
const STATISTICS: [&str; 3] = ["sqlite_stat1", "sqlite_stat3", "sqlite_stat4"];

/// Longest name of an object in an error.
const MAX_NAME: usize = 80;

/// Type, name and table of an object.
type Object = (String, String, String);

/// Compares the schema behind `connection`, whose migrations have run, with that of an empty database behind the same migrations.
///
/// # Errors
/// [`StoreError::Damaged`], which names the first object that is missing, made in other words, or no migration's.
pub(super) async fn check(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let mut empty = SqliteConnectOptions::new().in_memory(true).connect().await?;
    MIGRATIONS.run(&mut empty).await?;
    let wanted = objects(&mut empty).await?;
    empty.close().await?;
    let found = objects(connection).await?;
    for (object, text) in &found {
        let (kind, name, table) = object;
        match wanted.get(object) {
            Some(made) if made == text => {}
            Some(_) => return Err(damaged("has another", object, "than this program makes")),
            None if kind == "table" && name == table && STATISTICS.contains(&name.as_str()) => {}
            None => return Err(damaged("has the", object, "which is not of this program")),
        }
    }
    match wanted.keys().find(|object| !found.contains_key(*object)) {
        Some(missing) => Err(damaged("lacks the", missing, "without which what it holds is not guarded")),
        None => Ok(()),
    }
}

fn damaged(how: &str, (kind, name, table): &Object, why: &str) -> StoreError {
    let [kind, name, table] = [kind, name, table].map(|text| plain(text, MAX_NAME));
    let of = if name == table { String::new() } else { format!(" of `{table}`") };
    let who = "somebody who can write its file changed its schema";
    StoreError::damaged(format!("it {how} {kind} `{name}`{of}, {why}: {who}"))
}

/// Every object with the statement that makes it, where it has one, without regard to white space.
async fn objects(connection: &mut SqliteConnection) -> Result<BTreeMap<Object, String>, StoreError> {
    // As bytes: who writes the file past SQLite need not write text.
    let rows = sqlx::query(
        "SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(coalesce(sql, '') AS BLOB) FROM sqlite_master",
    )
    .fetch_all(connection)
    .await?;
    let mut found = BTreeMap::new();
    for row in rows {
        let text = |column: usize| -> Result<String, sqlx::Error> {
            let bytes: Option<Vec<u8>> = row.try_get(column)?;
            Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
        };
        let (object, made) = ((text(0)?, text(1)?, text(2)?), text(3)?);
        let made = if object.1 == MIGRATIONS_TABLE { String::new() } else { made };
        let made = made.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        if found.insert(object.clone(), made).is_some() {
            return Err(damaged("has twice the", &object, "which this program makes once"));
        }
    }
    Ok(found)
}
