use std::fs;

use postern_proto::authority::{TicketRequest, VoidEntry};
use postern_proto::id::TicketId;
use sqlx::Executor;
use tempfile::TempDir;

use super::*;
use crate::enrol::redeem;
use crate::testing::{ADMINISTRATOR, NOW, newcomer, request, store, ticket};

/// Whether any file of `directory` holds `needle`, as bytes or as hexadecimal text.
fn holds(directory: &Path, needle: &[u8]) -> bool {
    let digits: String = needle.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut files = 0;
    let found = fs::read_dir(directory).unwrap().any(|entry| {
        files += 1;
        let content = fs::read(entry.unwrap().path()).unwrap();
        let contains = |wanted: &[u8]| content.windows(wanted.len()).any(|window| window.eq_ignore_ascii_case(wanted));
        contains(needle) || contains(digits.as_bytes())
    });
    assert!(files > 0);
    found
}

#[tokio::test]
async fn no_file_holds_a_ticket_secret() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    let mut secrets = Vec::new();
    for who in 1..10 {
        let (id, secret) = ticket(&store, &request()).await;
        redeem(&store, &newcomer(who), id, &secret, NOW).await.unwrap();
        secrets.push((id, secret));
    }
    store.back_up(&home.path().join("back-up.db")).await.unwrap();
    for (id, secret) in &secrets {
        assert!(holds(home.path(), id.as_bytes()), "the search finds what is there");
        assert!(!holds(home.path(), secret.expose_secret()));
    }
    store.close().await;
    for (_, secret) in &secrets {
        assert!(!holds(home.path(), secret.expose_secret()));
    }
}

#[tokio::test]
async fn every_file_is_private() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    store.back_up(&home.path().join("back-up.db")).await.unwrap();
    let mut seen = Vec::new();
    for entry in fs::read_dir(home.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        seen.push(entry.file_name());
    }
    assert_eq!(seen.len(), 4, "database, log, index of the log, back-up: {seen:?}");
    store.close().await;

    let path = home.path().join("authority.db");
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let error = Store::open(&path).await.unwrap_err();
    assert!(error.to_string().contains("chmod 0600"), "{error}");
    assert!(matches!(error, StoreError::Mode { mode: 0o640, .. }));
}

#[tokio::test]
async fn a_link_in_place_of_the_database_is_refused() {
    let home = TempDir::new().unwrap();
    let target = home.path().join("elsewhere");
    fs::write(&target, "").unwrap();
    std::os::unix::fs::symlink(&target, home.path().join("authority.db")).unwrap();
    assert!(matches!(Store::open(&home.path().join("authority.db")).await, Err(StoreError::File { .. })));
    assert_eq!(fs::read(&target).unwrap(), b"");
}

#[tokio::test]
async fn the_settings_are_what_durability_needs() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    let mut connection = store.writer.acquire().await.unwrap();
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await.unwrap();
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *connection).await.unwrap();
    let foreign_keys: i64 = sqlx::query_scalar("PRAGMA foreign_keys").fetch_one(&mut *connection).await.unwrap();
    assert_eq!((journal.as_str(), synchronous, foreign_keys), ("wal", 2, 1));
    let mut reader = store.readers.acquire().await.unwrap();
    assert!(reader.execute("DELETE FROM members").await.is_err(), "readers cannot write");
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_left_alone() {
    let home = TempDir::new().unwrap();
    let first = store(home.path()).await;
    let mut write = first.write().await.unwrap();
    write
        .connection()
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'later', 1, x'00', 0)",
        )
        .await
        .unwrap();
    write.commit().await.unwrap();
    first.close().await;
    let error = Store::open(&home.path().join("authority.db")).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 9999, .. }), "{error:?}");
}

#[tokio::test]
async fn a_database_of_another_version_says_what_to_do() {
    let home = TempDir::new().unwrap();
    let first = store(home.path()).await;
    let mut write = first.write().await.unwrap();
    write.connection().execute("UPDATE _sqlx_migrations SET checksum = x'00'").await.unwrap();
    write.commit().await.unwrap();
    first.close().await;
    let error = Store::open(&home.path().join("authority.db")).await.unwrap_err();
    assert!(matches!(error, StoreError::Other { .. }) && error.to_string().contains("postern reset"), "{error:?}");
}

#[tokio::test]
async fn what_is_no_database_is_named_so() {
    let home = TempDir::new().unwrap();
    let path = home.path().join("authority.db");
    make_private(&path).unwrap();
    fs::write(&path, "this is no database, but it is long enough to have a header".repeat(40)).unwrap();
    let error = Store::open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
}

#[tokio::test]
async fn a_full_disk_leaves_no_half_row_and_heals() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    let many = TicketRequest { max_uses: 100, ..request() };
    let (id, secret) = ticket(&store, &many).await;
    let limit = |pages: i64| {
        let store = store.clone();
        async move {
            let mut writer = store.writer.acquire().await.unwrap();
            sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"))).execute(&mut *writer).await.unwrap();
        }
    };
    limit(1).await;
    let mut failed = None;
    for who in 1..=100 {
        // A history of one page each, so that the next redemptions need pages that the limit does not give.
        let mut newcomer = newcomer(who);
        newcomer.history = vec![who; 4096];
        if let Err(error) = redeem(&store, &newcomer, id, &secret, NOW).await {
            failed = Some((newcomer, error));
            break;
        }
    }
    let (newcomer, error) = failed.unwrap();
    assert!(matches!(error, crate::ActError::Store(StoreError::Full)), "{error:?}");
    let mut read = store.read().await.unwrap();
    let joined = members::count(&mut read).await.unwrap() - 1;
    let uses = tickets::find(&mut read, id).await.unwrap().unwrap().uses;
    assert_eq!(joined, u64::from(uses));
    drop(read);
    limit(1_000_000).await;
    redeem(&store, &newcomer, id, &secret, NOW).await.unwrap();
}

#[tokio::test]
async fn a_locked_database_is_busy_and_recovers() {
    let home = TempDir::new().unwrap();
    store(home.path()).await.close().await;
    let path = home.path().join("authority.db");
    let (ours, theirs) = (
        Store::open_with(&path, Duration::from_millis(1)).await.unwrap(),
        Store::open_with(&path, Duration::from_millis(1)).await.unwrap(),
    );
    let lock = theirs.write().await.unwrap();
    let error = ours.write().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(members::find(&mut ours.read().await.unwrap(), ADMINISTRATOR).await.unwrap().is_some(), "reading goes on");
    drop(lock);
    // The rollback of a dropped transaction runs when its connection is used next.
    theirs.write().await.unwrap().commit().await.unwrap();
    ours.write().await.unwrap().commit().await.unwrap();
}

#[tokio::test]
async fn the_audit_only_grows() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    let mut write = store.write().await.unwrap();
    write.audit(&Entry::ok(NOW, None, Action::IssueTicket, TicketId::random())).await.unwrap();
    write.commit().await.unwrap();
    for statement in ["DELETE FROM audit", "UPDATE audit SET actor = 'nobody'"] {
        let mut write = store.write().await.unwrap();
        assert!(write.connection().execute(statement).await.is_err(), "{statement}");
    }
}

#[tokio::test]
async fn numbers_go_on_above_the_clock() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    for expected in [(NOW.as_unix(), 1), (NOW.as_unix() + 1, 1)] {
        let mut write = store.write().await.unwrap();
        write.raise_sequence(NOW).await.unwrap();
        let project = project::load(&mut write).await.unwrap().unwrap();
        assert_eq!((project.sequence, project.epoch), expected);
        write.commit().await.unwrap();
    }
}

#[tokio::test]
async fn a_back_up_is_a_database() {
    let home = TempDir::new().unwrap();
    let first = store(home.path()).await;
    let copy = home.path().join("copy.db");
    first.back_up(&copy).await.unwrap();
    assert!(matches!(first.back_up(&copy).await, Err(StoreError::File { .. })), "never over a file");
    let second = Store::open(&copy).await.unwrap();
    assert!(members::find(&mut second.read().await.unwrap(), ADMINISTRATOR).await.unwrap().is_some());
}

/// Opens a copy of a database whose schema was changed so.
async fn opened_with(statements: &[&str]) -> Result<(), StoreError> {
    let home = TempDir::new().unwrap();
    let first = store(home.path()).await;
    let mut writer = first.writer.acquire().await.unwrap();
    for statement in statements {
        writer.execute(sqlx::AssertSqlSafe((*statement).to_owned())).await.unwrap();
    }
    drop(writer);
    first.close().await;
    Store::open(&home.path().join("authority.db")).await?.close().await;
    Ok(())
}

#[tokio::test]
async fn a_schema_that_no_migration_makes_is_named() {
    let trigger = "CREATE TRIGGER zz BEFORE INSERT ON audit WHEN NEW.action='issue-ticket' BEGIN SELECT RAISE(IGNORE); END";
    let view = "CREATE VIEW audit AS SELECT size AS seq, at FROM audit_checkpoints WHERE at < 5";
    let guard = "CREATE TRIGGER audit_nodes_keep BEFORE UPDATE ON audit_nodes BEGIN SELECT 1; END";
    let hidden = format!(
        "INSERT INTO sqlite_master (type, name, tbl_name, rootpage, sql) VALUES ('trigger', 'sqlite_zz', 'audit', 0, '{}')",
        trigger.replace("zz", "sqlite_zz").replace('\'', "''")
    );
    for (statements, says) in [
        (&[trigger][..], "has the trigger `zz` of `audit`"),
        (
            &["CREATE TRIGGER zz BEFORE INSERT ON audit_nodes BEGIN SELECT RAISE(IGNORE); END"],
            "has the trigger `zz` of `audit_nodes`",
        ),
        (&["PRAGMA writable_schema = ON", &hidden], "has the trigger `sqlite_zz` of `audit`"),
        (&["DROP TRIGGER audit_keeps_text"], "lacks the trigger `audit_keeps_text` of `audit`"),
        (&["DROP TRIGGER audit_nodes_keep", guard], "has another trigger `audit_nodes_keep` of `audit_nodes`"),
        (&["DROP TABLE audit", view], "has the view `audit`"),
        (&["CREATE TABLE sqlite AS SELECT 1"], "has the table `sqlite`"),
        (&["DROP INDEX relay_names_exclusive"], "lacks the index `relay_names_exclusive` of `relay_names`"),
    ] {
        let error = opened_with(statements).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(says) && error.to_string().contains("restore it from a back-up"), "{error}");
    }
}

#[tokio::test]
async fn what_leaves_the_schema_as_it_is_passes() {
    opened_with(&["ANALYZE", "PRAGMA optimize", "REINDEX", "VACUUM"]).await.unwrap();
    // An older program's table of migrations.
    opened_with(&[
        "CREATE TABLE kept AS SELECT * FROM _sqlx_migrations",
        "DROP TABLE _sqlx_migrations",
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMP NOT NULL DEFAULT \
         CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)",
        "INSERT INTO _sqlx_migrations SELECT * FROM kept",
        "DROP TABLE kept",
    ])
    .await
    .unwrap();
}

/// Who was revoked long ago makes room, or newcomers could not take in what they are told.
#[tokio::test]
async fn the_oldest_revocations_make_room_and_none_that_a_live_credential_needs() {
    let home = TempDir::new().unwrap();
    let store = store(home.path()).await;
    let mut write = store.write().await.unwrap();
    let revoked = project::MAX_KEPT + 10;
    sqlx::query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO voided (member, not_before, voided_at, kept, epoch)
         SELECT CAST(printf('%032d', i) AS BLOB), ?2, ?3, 1, i FROM n",
    )
    .bind(revoked)
    .bind(codec::time(VoidEntry::FOR_EVER))
    .bind(codec::time(NOW))
    .execute(write.connection())
    .await
    .unwrap();
    let mut void = async |who, at| {
        write.void(VoidEntry { member: newcomer(who).identifier, not_before: VoidEntry::FOR_EVER }, true, at).await.unwrap();
        project::voided(&mut write).await.unwrap()
    };
    assert_eq!(void(1, NOW).await.len() as i64, revoked + 1, "credentials of all may live");
    let later = NOW.plus(postern_proto::credential::MAX_LIFETIME * 2);
    let left = void(2, later).await;
    assert_eq!(left.len() as i64, project::MAX_KEPT + 1);
    assert!(left.iter().any(|void| void.entry.member == newcomer(1).identifier), "the newest stay");
}
