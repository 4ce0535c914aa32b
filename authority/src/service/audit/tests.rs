use std::process::{Command, Stdio};

use postern_proto::audit::check::BadLog;
use postern_proto::audit::witness::{LogFault, Succession, succeeds};
use postern_proto::audit::{AuditRow, merkle};
use postern_proto::authority::{Request, TicketRequest};
use sqlx::Executor;

use super::*;
use crate::failpoint;
use crate::store::{Action, Connection, Entry, Store};
use crate::testing::{Fixture, NOW, Person, checked_log, directory, request};
use crate::{Authority, Settings};

async fn rows(f: &Fixture) -> Vec<AuditRow> {
    match f.ask(&f.administrator, Request::ListAudit { after: 0 }).await.unwrap() {
        Answer::Audit { rows, more: false } => rows,
        other => panic!("{other:?}"),
    }
}

fn newest(f: &Fixture) -> (AuditCheckpoint, Arc<SignedCheckpoint>) {
    let signed = f.authority.service().checkpoints().borrow().clone().unwrap();
    let history = f.authority.service().keys().identity.history().clone();
    let project = f.authority.service().published().borrow().project();
    (statement::verify(&history, project, &signed.statement).unwrap(), signed)
}

/// Does what only somebody can do who writes the database file past the program.
async fn tamper(store: &Store, statements: &[&str]) {
    let mut write = store.write().await.unwrap();
    for trigger in ["audit_keeps_rows", "audit_keeps_text", "audit_nodes_keep"] {
        let drop = format!("DROP TRIGGER IF EXISTS {trigger}");
        write.connection().execute(sqlx::AssertSqlSafe(drop)).await.unwrap();
    }
    for statement in statements {
        write.connection().execute(sqlx::AssertSqlSafe((*statement).to_owned())).await.unwrap();
    }
    write.commit().await.unwrap();
}

#[tokio::test]
async fn every_row_is_in_every_later_checkpoint() {
    let f = Fixture::new().await;
    let mut seen: Vec<AuditCheckpoint> = Vec::new();
    for number in 0..9 {
        let who = f.enrol(&format!("member-{number}"), request()).await;
        f.authority.service().checkpoint().await.unwrap();
        let (checkpoint, signed) = newest(&f);
        assert_eq!(checkpoint.size, checked_log(f.authority.service().store()).await.unwrap());
        for known in &seen {
            let asked = Request::AuditConsistency { from: known.size, to: checkpoint.size };
            let Answer::AuditProof { hashes } = f.ask(&who, asked).await.unwrap() else { panic!() };
            assert_eq!(succeeds(&checkpoint, known, Some(&hashes)), Ok(Succession::Grown));
            if known.size == signed.since {
                assert_eq!(signed.proof, hashes);
            }
        }
        for row in rows(&f).await.iter().filter(|row| row.seq <= checkpoint.size) {
            let asked = Request::AuditInclusion { seq: row.seq, size: checkpoint.size };
            let Answer::AuditProof { hashes } = f.ask(&f.administrator, asked).await.unwrap() else { panic!() };
            assert!(merkle::verify_inclusion(&row.hash, row.seq - 1, checkpoint.size, &checkpoint.root, &hashes));
        }
        seen.push(checkpoint);
    }
    let Answer::AuditCheckpoints { statements, more: false } =
        f.ask(&f.administrator, Request::AuditCheckpoints { after: 0 }).await.unwrap()
    else {
        panic!()
    };
    assert!(statements.len() >= seen.len());
}

#[tokio::test]
async fn rows_are_for_administrators_and_proofs_of_growth_for_all() {
    let f = Fixture::new().await;
    let plain = f.enrol("plain", request()).await;
    let stranger = Person::new("stranger");
    for asked in
        [Request::ListAudit { after: 0 }, Request::AuditCheckpoints { after: 0 }, Request::AuditInclusion { seq: 1, size: 1 }]
    {
        assert!(matches!(f.ask(&plain, asked).await, Err(Refusal::NotPermitted { .. })));
    }
    let grown = Request::AuditConsistency { from: 1, to: 2 };
    assert!(f.ask(&plain, grown.clone()).await.is_ok());
    assert_eq!(f.ask(&stranger, grown).await.unwrap_err(), Refusal::NotAMember);
    let absent = |asked| f.ask(&f.administrator, asked);
    assert!(matches!(absent(Request::AuditConsistency { from: 1, to: 1_000 }).await, Err(Refusal::NotFound { .. })));
    assert!(matches!(absent(Request::AuditConsistency { from: 1, to: u64::MAX }).await, Err(Refusal::NotFound { .. })));
    assert!(matches!(absent(Request::AuditInclusion { seq: 0, size: 1 }).await, Err(Refusal::NotFound { .. })));
    assert!(matches!(absent(Request::AuditInclusion { seq: 2, size: 1 }).await, Err(Refusal::NotFound { .. })));
}

/// Many rows do not wait for 10 s.
#[tokio::test]
async fn many_rows_are_signed_by_themselves() {
    let f = Fixture::new().await;
    let mut checkpoints = f.authority.service().checkpoints();
    let mut write = f.authority.service().store().write().await.unwrap();
    for _ in 0..CHECKPOINT_ROWS {
        write.audit(&Entry::ok(NOW, None, Action::IssueTicket, "x")).await.unwrap();
    }
    let started = tokio::time::Instant::now();
    write.commit().await.unwrap();
    checkpoints.wait_for(|newest| newest.as_ref().is_some_and(|newest| newest.size > CHECKPOINT_ROWS)).await.unwrap();
    assert!(started.elapsed() < CHECKPOINT_EVERY);
    assert!(checked_log(f.authority.service().store()).await.unwrap() > CHECKPOINT_ROWS);
}

#[tokio::test]
async fn what_was_changed_is_named() {
    let f = Fixture::new().await;
    for number in 0..5 {
        f.enrol(&format!("member-{number}"), request()).await;
    }
    let store = f.authority.service().store();
    let count = checked_log(store).await.unwrap();
    assert!(count > 8);
    tamper(store, &["UPDATE audit SET actor = 'nobody' WHERE seq = 4"]).await;
    assert_eq!(checked_log(store).await, Err(BadLog::Changed { seq: 4 }));
    tamper(store, &["DELETE FROM audit WHERE seq = 3"]).await;
    assert_eq!(checked_log(store).await, Err(BadLog::Missing { seq: 3, found: 4 }));
    // Acts go on behind it, and are found all the same.
    f.issue(&f.administrator, request()).await.unwrap();
    assert_eq!(checked_log(store).await, Err(BadLog::Missing { seq: 3, found: 4 }));
    // Nothing is done that could not be proven: the end of the log is gone.
    let cut = format!("DELETE FROM audit WHERE seq > {}", count - 1);
    tamper(store, &[&cut]).await;
    assert_eq!(f.issue(&f.administrator, request()).await.unwrap_err(), Refusal::Internal);
}

/// A wrong root would blame the rows that are right, for ever and with a signature.
#[tokio::test]
async fn a_tree_that_is_not_that_of_the_rows_is_not_signed() {
    let f = Fixture::new().await;
    for number in 0..5 {
        f.enrol(&format!("member-{number}"), request()).await;
    }
    let (service, store) = (f.authority.service(), f.authority.service().store());
    service.checkpoint().await.unwrap();
    let (known, _) = newest(&f);
    // Of the tree that was signed, of what has grown since, and the newest signature itself.
    let since = format!("UPDATE audit_nodes SET hash = zeroblob(32) WHERE level = 1 AND position >= {}", known.size.div_ceil(2));
    for change in [
        "UPDATE audit_nodes SET hash = zeroblob(32)",
        &since,
        "UPDATE audit_checkpoints SET statement = (SELECT statement FROM audit_checkpoints ORDER BY size LIMIT 1)",
    ] {
        for _ in 0..3 {
            f.issue(&f.administrator, request()).await.unwrap();
        }
        let keep = ["DROP TRIGGER IF EXISTS audit_nodes_stay", "DROP TRIGGER IF EXISTS audit_checkpoints_keep"];
        let copies =
            ["CREATE TABLE nodes AS SELECT * FROM audit_nodes", "CREATE TABLE signed AS SELECT * FROM audit_checkpoints"];
        tamper(store, &[&keep[..], &copies, &[change]].concat()).await;
        let error = service.checkpoint().await.unwrap_err();
        assert!(is_damaged(&error), "{change}: {error:?}");
        assert!(service.0.unsigned.load(Ordering::Relaxed));
        assert_eq!(newest(&f).0, known, "{change}");
        let back = [
            "REPLACE INTO audit_nodes SELECT * FROM nodes",
            "REPLACE INTO audit_checkpoints SELECT * FROM signed",
            "DROP TABLE nodes",
            "DROP TABLE signed",
        ];
        tamper(store, &back).await;
    }
    service.checkpoint().await.unwrap();
    assert!(!service.0.unsigned.load(Ordering::Relaxed));
    assert_eq!(newest(&f).0.size, checked_log(store).await.unwrap());
}

/// Whoever writes the file while the authority runs.
#[tokio::test]
async fn an_act_whose_row_is_suppressed_is_taken_back() {
    let f = Fixture::new().await;
    let store = f.authority.service().store();
    for (table, action) in [("audit", "ignore"), ("audit_nodes", "ignore")] {
        tamper(store, &[&format!("CREATE TRIGGER zz BEFORE INSERT ON {table} BEGIN SELECT RAISE ({action}); END")]).await;
        let count = async || -> i64 {
            let mut read = store.read().await.unwrap();
            sqlx::query_scalar("SELECT count(*) FROM tickets").fetch_one(read.connection()).await.unwrap()
        };
        let before = count().await;
        // Every second row completes a part of the tree.
        let mut refused = 0;
        for _ in 0..2 {
            match f.issue(&f.administrator, request()).await {
                Ok(_) => {}
                Err(Refusal::Internal) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(refused > 0, "{table}");
        assert_eq!(count().await, before + 2 - refused, "{table}");
        tamper(store, &["DROP TRIGGER zz"]).await;
    }
    let suppressed = "CREATE TRIGGER zz BEFORE INSERT ON audit_checkpoints BEGIN SELECT RAISE (ignore); END";
    f.issue(&f.administrator, request()).await.unwrap();
    let (known, _) = newest(&f);
    tamper(store, &[suppressed]).await;
    assert!(is_damaged(&f.authority.service().checkpoint().await.unwrap_err()));
    assert_eq!(newest(&f).0, known, "what is not kept is told to nobody");
    checked_log(store).await.unwrap();
}

#[tokio::test]
async fn a_database_from_before_is_seen() {
    let f = Fixture::new().await;
    let copy = f.home.path().join("copy.db");
    f.authority.back_up(&copy).await.unwrap();
    f.enrol("member", request()).await;
    f.authority.service().checkpoint().await.unwrap();
    let (known, _) = newest(&f);
    let old = Store::open(&copy).await.unwrap();
    let size = checked_log(&old).await.unwrap();
    let mut read = old.read().await.unwrap();
    let root = audit_log::root(&mut read, &(0..size)).await.unwrap();
    drop(read);
    let rolled_back = AuditCheckpoint { size, root, ..known };
    assert_eq!(succeeds(&rolled_back, &known, None), Err(LogFault::Shrank { known: known.size, got: size }));
    // It goes on from there, past what was seen.
    let mut write = old.write().await.unwrap();
    for _ in 0..known.size {
        write.audit(&Entry::ok(NOW, None, Action::IssueTicket, "another")).await.unwrap();
    }
    write.commit().await.unwrap();
    let mut read = old.read().await.unwrap();
    let size = audit_log::size(&mut read).await.unwrap();
    let root = audit_log::root(&mut read, &(0..size)).await.unwrap();
    let proof = audit_log::proof(&mut read, &merkle::consistency(known.size, size)).await.unwrap();
    let forked = AuditCheckpoint { size, root, ..known };
    assert_eq!(succeeds(&forked, &known, Some(&proof)), Err(LogFault::Forked { known: known.size, got: size }));
}

/// What members and administrators choose is one line of one row, and no secret.
#[tokio::test]
async fn rows_hold_no_secret_and_no_second_line() {
    let f = Fixture::new().await;
    let (mut joined, mut secrets) = (Vec::new(), Vec::new());
    let hostile = "x\nrow 999\u{202e}\u{1b}[2J";
    for attributes in [[("note".to_owned(), hostile.to_owned())].into(), Default::default()] {
        if let Ok(ticket) = f.issue(&f.administrator, TicketRequest { attributes, ..request() }).await {
            let person = Person::new("member");
            f.join(&person, &ticket).await.unwrap();
            f.ask(&person, Request::Credentials { relay_names: vec![] }).await.unwrap();
            assert!(matches!(f.join(&Person::new("late"), &ticket).await, Err(Refusal::TicketUsedUp { .. })));
            secrets.push(*ticket.secret.expose_secret());
            joined.push(person);
        }
    }
    let _ = f
        .ask(&joined[0], Request::SetProjectPolicy { resource_type: hostile.to_owned(), expression: None, applies_to: None })
        .await;
    let keys = f.authority.service().keys();
    let wanted: Vec<Vec<u8>> = secrets
        .iter()
        .flat_map(|secret| [secret.to_vec(), hex_of(secret)])
        .chain([keys.identity.to_secret_bytes().to_vec()])
        .collect();
    let rows = rows(&f).await;
    assert!(rows.iter().any(|row| row.action == "reuse-ticket" && row.result == "refused" && row.reason.contains("used up")));
    for row in rows {
        let leaf = row.leaf();
        for secret in &wanted {
            assert!(!leaf.windows(secret.len()).any(|window| window.eq_ignore_ascii_case(secret)), "row {}", row.seq);
        }
        let texts = [&row.actor, &row.action, &row.subject, &row.result, &row.reason];
        for text in texts.into_iter().chain(row.before.iter()).chain(row.after.iter()) {
            assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "row {}: {text:?}", row.seq);
        }
    }
}

fn hex_of(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

const CHILD_HOME: &str = "POSTERN_TEST_AUDIT_HOME";

/// The process that dies: run by the test below, and by nobody else.
#[tokio::test]
#[ignore = "a child process of `a_crash_signs_nothing_that_is_not_there`"]
async fn crash_child() {
    let dir = postern_runtime::files::Dir::open_or_take_over(std::env::var(CHILD_HOME).unwrap().as_ref()).unwrap();
    let _ = Authority::open_or_create(&dir, Settings::new("default".parse().unwrap())).await;
}

#[tokio::test]
async fn a_crash_signs_nothing_that_is_not_there() {
    let home = tempfile::TempDir::new().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["service::audit::tests::crash_child", "--exact", "--ignored"])
        .env(CHILD_HOME, home.path())
        .env(failpoint::VARIABLE, "checkpoint-signed")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "died there");
    let authority = Authority::open_or_create(&directory(&home), Settings::new("default".parse().unwrap())).await.unwrap();
    let store = authority.service().store();
    let size = checked_log(store).await.unwrap();
    let kept = audit_log::checkpoints(&mut store.read().await.unwrap(), 0, 10).await.unwrap();
    assert_eq!(kept.len(), 1, "the one that was made now");
    assert_eq!(authority.service().checkpoints().borrow().as_ref().map(|known| known.size), Some(size));
    authority.shutdown(Duration::from_secs(5)).await;
}
