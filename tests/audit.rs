//! The audit, from a user's side: what it tells, that no change of it stays hidden from `audit verify` or from a node that has seen it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postern_authority::store::Action;
use postern_test_support::{EchoServer, PATIENCE, Portal, Project, TestHome, Value, echoes, eventually, holds, live};
use sqlx::{Connection, Executor, SqliteConnection};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// How long a stream is open that is looked at for how long it was.
const HELD: Duration = Duration::from_millis(700);

/// A checkpoint is signed every 10 s.
const SIGNED: Duration = Duration::from_secs(40);

#[track_caller]
fn rows(home: &TestHome, filter: &[&str]) -> Vec<Value> {
    let listed = home.invoke(["audit", "list"]).args(filter).run().success().json();
    listed.as_array().unwrap().clone()
}

fn database(home: &TestHome) -> PathBuf {
    home.path().join("authority/authority.db")
}

/// Stops the servers of `home`, changes its database file as whoever can write it can, and starts them again.
fn while_stopped(home: &TestHome, change: impl FnOnce(&Path)) {
    home.ok(&["serve", "stop"]);
    change(&database(home));
    home.ok(&["enroll"]);
}

fn sql(database: &Path, statements: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = SqliteConnection::connect(&format!("sqlite://{}", database.display())).await.unwrap();
        // What guards the rows is in its place again before anybody looks.
        let guards: Vec<(String, String)> = sqlx::query_as("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let away = guards.iter().map(|(name, _)| format!("DROP TRIGGER {name}"));
        let back = guards.iter().map(|(_, text)| text.clone());
        for statement in away.chain(statements.iter().cloned()).chain(back) {
            connection.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
        }
        connection.close().await.unwrap();
    });
}

/// Puts a copy of the database in its place.
fn restore(database: &Path, copy: &Path) {
    for beside in ["authority.db-wal", "authority.db-shm"] {
        let _ = fs::remove_file(database.with_file_name(beside));
    }
    fs::copy(copy, database).unwrap();
}

#[track_caller]
fn wait_until_signed(home: &TestHome, row: u64) {
    eventually(SIGNED, "the rows to be signed", || {
        (home.json(&["audit", "verify"])["signed_rows"].as_u64().unwrap() >= row).then_some(())
    });
}

#[test]
fn every_act_is_a_row_that_can_be_found_and_proven() {
    let project = Project::new(POSTERN);
    let ticket = project.ticket(&["--attribute", "app=billing", "--relay", "acme", "--usage-count", "1"]);
    let member = project.stranger();
    let file = member.file("join.ticket", &ticket);
    member.invoke(["project", "enroll"]).arg(&file).run().success();
    let thief = project.stranger();
    thief.invoke(["project", "enroll"]).arg(&file).run().exits(77).says("TICKET_USED_UP");
    let id = project.json(&["ticket", "list"])[0]["id"].as_str().unwrap().to_owned();
    let identifier = member.json(&["identity", "show"])["identifier"].as_str().unwrap().to_owned();
    let administrator = project.json(&["identity", "show"])["identifier"].as_str().unwrap().to_owned();

    let all = rows(&project, &[]);
    for (number, row) in all.iter().enumerate() {
        assert_eq!(row["seq"], number as u64 + 1);
        assert_eq!(row["api_version"], "1");
        assert_eq!(row["previous"], if number == 0 { "0".repeat(64).into() } else { all[number - 1]["hash"].clone() });
    }
    let actions: Vec<&str> = all.iter().map(|row| row["action"].as_str().unwrap()).collect();
    for action in ["create-project", "bootstrap-administrator", "admit-relay", "issue-ticket", "redeem-ticket", "reuse-ticket"] {
        assert!(actions.contains(&action), "{action} in {actions:?}");
    }
    let issued = &rows(&project, &["--action", "issue-ticket"])[0];
    assert_eq!((&issued["actor"], &issued["subject"]), (&Value::from(administrator.as_str()), &Value::from(id.as_str())));
    assert!(issued["after"].as_str().unwrap().contains(r#""app":"billing""#), "{issued}");
    let joined = &rows(&project, &["--actor", &identifier, "--result", "ok"])[0];
    assert_eq!((&joined["action"], &joined["result"]), (&Value::from("redeem-ticket"), &Value::from("ok")));
    let alarm = &rows(&project, &["--action", "reuse-ticket"])[0];
    assert_eq!((&alarm["subject"], &alarm["result"]), (&Value::from(id.as_str()), &Value::from("refused")));
    assert!(alarm["reason"].as_str().unwrap().contains(&identifier), "by whom it was used: {alarm}");
    assert_eq!(rows(&project, &["--actor", "authority"]).len(), 3);
    assert_eq!(rows(&project, &["--limit", "2"]), all[all.len() - 2..]);
    assert_eq!(rows(&project, &["--since", "1h", "--subject", &id]).len(), 3);
    assert!(rows(&project, &["--until", "1h"]).is_empty());
    assert!(rows(&project, &["--since", "2100-01-01"]).is_empty());
    let table = project.invoke(["audit", "list", "--output", "plain"]).run().success().stdout;
    assert_eq!(table.lines().count(), all.len() + 1);
    member.fails(&["audit", "list"], 77).says("NOT_PERMITTED");
    member.fails(&["audit", "verify"], 77).says("NOT_PERMITTED");

    let secret = &ticket["postern1_".len()..];
    let text = serde_text(&all);
    assert!(!text.contains(secret) && !text.contains(&secret[secret.len() / 2..]));

    // A row is proven to somebody who only knows the authority.
    let seq = joined["seq"].as_u64().unwrap();
    let proof = project.run(&["audit", "prove", &seq.to_string()]).success().stdout;
    let given = member.file("proof.json", &proof);
    let path = given.to_str().unwrap();
    let shown = member.json(&["audit", "verify", "--proof", path]);
    assert_eq!((&shown["proven"], &shown["row"]["actor"]), (&Value::from(true), &Value::from(identifier.as_str())));
    for lie in [("redeem-ticket", "issue-ticket"), ("\"seq\": ", "\"seq\": 1"), (&id, &"0".repeat(32))] {
        member.file("proof.json", proof.replacen(lie.0, lie.1, 1));
        member.fails(&["audit", "verify", "--proof", path], 1).says("AUDIT_PROOF");
    }
    thief.fails(&["audit", "verify", "--proof", path], 78).says("NO_PROJECT");
    project.fails(&["audit", "prove", "99999"], 1).says("NOT_FOUND");
    project.fails(&["audit", "prove", "0"], 1).says("NOT_FOUND");

    // Any member can keep a checkpoint; a file of another project is none.
    let checkpoint = member.run(&["audit", "checkpoint"]).success().stdout;
    let kept = project.file("checkpoint.json", &checkpoint);
    let verified = project.json(&["audit", "verify", "--checkpoint", kept.to_str().unwrap()]);
    assert_eq!(verified["ok"], true);
    assert_eq!(verified["witnesses"][0], kept.to_str().unwrap());
    let other = Project::new(POSTERN);
    let foreign = other.file("checkpoint.json", &checkpoint);
    other.fails(&["audit", "verify", "--checkpoint", foreign.to_str().unwrap()], 1).says("AUDIT_CHECKPOINT");
}

/// Acts that no command brings about, and why.
const WITHOUT_A_COMMAND: [(Action, &str); 5] = [
    (Action::Acknowledge, "refused to who says that it enforces what was never said, which no node does"),
    (Action::ShowEnforcement, "refused to who may not take members out, and asked only behind an act that takes one out"),
    (Action::ReleaseRelayName, "a member that gives a claimed name up; no node does so yet"),
    (Action::ListPolicies, "refused to relay servers alone, which do not ask"),
    (Action::ProjectInfo, "refused where the database does not answer"),
];

/// Every kind of act in one project's life, with what it changed.
#[test]
fn every_kind_of_act_is_written_down_with_what_it_changed() {
    let project = Project::new(POSTERN);
    project.ok(&["enroll", "--advertise", "localhost"]);
    project.ok(&["serve", "stop"]);
    // As after a back-up was put back.
    let restored = project.path().join("authority").join(postern_authority::RESTORED);
    fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(restored).unwrap();
    project.ok(&["enroll"]);

    let member = project.member(&["--relay", "*", "--attribute", "app=billing"]);
    let identifier = member.json(&["identity", "show"])["identifier"].as_str().unwrap().to_owned();
    member.ok(&["relay", "create", "taken-at-will"]);
    let used = member.scratch().join("join.ticket");
    project.stranger().invoke(["project", "enroll"]).arg(&used).run().exits(77).says("TICKET_USED_UP");
    for asked in [&["ticket", "list"][..], &["project-member", "list"], &["audit", "list"], &["audit", "verify"]] {
        member.fails(asked, 77).says("NOT_PERMITTED");
    }
    member.ok(&["identity", "rotate"]);
    project.ok(&["project-member", "update", &identifier, "--attribute", "app=crm"]);
    let policy = |rest: &[&str]| project.ok(&[&["project", "policy"], rest, &["--resource-type", "tcp-outlet"]].concat());
    policy(&["create", "--allow", "cleared"]);
    policy(&["create", "--allow", "trusted"]);
    policy(&["delete", "-y"]);
    let key = project.ok(&["project", "key", "prepare"]);
    project.ok(&["project", "key", "activate"]);
    project.ok(&["project", "key", "retire", "--force", "-y"]);
    project.ticket(&[]);
    let tickets = project.json(&["ticket", "list"]);
    let unused = tickets.as_array().unwrap().iter().find(|ticket| ticket["uses"] == 0).unwrap()["id"].as_str().unwrap();
    project.ok(&["ticket", "revoke", unused, "-y"]);
    project.ok(&["project-member", "revoke", &identifier, "-y"]);
    project.ok(&["project-member", "delete", &identifier, "-y"]);

    let all = rows(&project, &[]);
    let of = |action: Action| -> Vec<&Value> { all.iter().filter(|row| row["action"] == action.as_str()).collect() };
    let change = |row: &Value| ["before", "after"].map(|field| row[field].as_str().unwrap_or_default().to_owned());
    let last = |action: Action| change(of(action).last().unwrap_or_else(|| panic!("no {action}")));

    let [before, after] = last(Action::UpdateMember);
    assert!(before.contains(r#""app":"billing""#) && after.contains(r#""app":"crm""#), "{before} {after}");
    let [before, after] = last(Action::RevokeMember);
    assert!(before.contains(r#""app":"crm""#) && after.is_empty(), "{before} {after}");
    let policies: Vec<[String; 2]> = of(Action::SetPolicy).into_iter().map(change).collect();
    let [cleared, trusted] = ["cleared", "trusted"].map(|name| format!("(= subject.{name} \"true\")"));
    let none = String::new;
    assert_eq!(policies, [[none(), cleared.clone()], [cleared, trusted.clone()], [trusted, none()]]);
    let [before, after] = last(Action::PrepareKey);
    assert!(!before.contains(&key) && after == format!("{before}, {key} prepared"), "{before} to {after}");
    let [prepared, active] = last(Action::ActivateKey);
    assert_eq!(prepared, after);
    assert!(active.contains(&format!("{key} active")) && active.contains(" replaced"), "{active}");
    assert_eq!(last(Action::RetireKey), [active, format!("{key} active")]);
    assert_eq!(last(Action::ChangeIdentity), ["change 0", "change 1"].map(str::to_owned));
    let [before, after] = last(Action::ChangeProject);
    assert!(before.starts_with("127.0.0.1:") && after.starts_with("localhost:"), "{before} to {after}");

    let seen: BTreeSet<&str> = all.iter().map(|row| row["action"].as_str().unwrap()).collect();
    let without: BTreeSet<&str> = WITHOUT_A_COMMAND.iter().map(|(action, _)| action.as_str()).collect();
    let known: BTreeSet<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
    assert_eq!(&known - &seen, without, "not seen, though a command brings it about; or seen, though none does");
    assert!(seen.is_subset(&known), "{seen:?}");
    // Who did it, to what, and when, stands in every row.
    for row in &all {
        let told = ["at", "actor", "subject", "result"].iter().all(|field| row[*field].is_string());
        assert!(told && (row["result"] == "ok" || row["reason"].as_str().is_some_and(|reason| !reason.is_empty())), "{row}");
    }
}

fn serde_text(rows: &[Value]) -> String {
    rows.iter().map(Value::to_string).collect()
}

#[test]
fn what_was_changed_in_the_database_is_named() {
    let project = Project::new(POSTERN);
    for _ in 0..6 {
        project.ticket(&[]);
    }
    let count = rows(&project, &[]).len() as u64;
    wait_until_signed(&project, count);
    project.ok(&["serve", "stop"]);
    let copy = project.scratch().join("copy.db");
    fs::copy(database(&project), &copy).unwrap();

    let changes: [(&str, Vec<String>, u64, &str); 6] = [
        ("a changed row", vec!["UPDATE audit SET actor = 'nobody' WHERE seq = 5".into()], 5, "row 5 was changed"),
        ("a removed row", vec!["DELETE FROM audit WHERE seq = 6".into()], 6, "row 6 is missing"),
        (
            "two rows in another order",
            vec![
                "UPDATE audit SET seq = 9999 WHERE seq = 4".into(),
                "UPDATE audit SET seq = 4 WHERE seq = 7".into(),
                "UPDATE audit SET seq = 7 WHERE seq = 9999".into(),
            ],
            4,
            "row 4 was changed",
        ),
        (
            "a removed act and its place",
            vec!["DELETE FROM audit WHERE seq = 3".into(), "UPDATE audit SET seq = seq - 1 WHERE seq > 3".into()],
            3,
            "row 3 was changed",
        ),
        ("the end", vec![format!("DELETE FROM audit WHERE seq > {}", count - 2)], count - 1, "is missing"),
        (
            "the end, and what was signed of it",
            vec![format!("DELETE FROM audit WHERE seq > {}", count - 2), "DELETE FROM audit_checkpoints".into()],
            0,
            "",
        ),
    ];
    let checkpoint = {
        project.ok(&["enroll"]);
        let text = project.run(&["audit", "checkpoint"]).success().stdout;
        project.file("checkpoint.json", text)
    };
    for (what, statements, row, says) in changes {
        while_stopped(&project, |database| {
            restore(database, &copy);
            sql(database, &statements);
        });
        if row == 0 {
            // Only who kept a checkpoint can know.
            project.ok(&["audit", "verify"]);
        } else {
            let failed = project.fails(&["audit", "verify"], 1);
            let failed = failed.says("AUDIT_CHANGED").says(says);
            // Signed rows before the cut are known to be whole; of the others, the first is named.
            if what != "the end" {
                failed.says(&format!("the first bad row is {row}"));
            }
        }
        project.fails(&["audit", "verify", "--checkpoint", checkpoint.to_str().unwrap()], 1).says("AUDIT_CHANGED");
    }
    // The tree over the rows, from which proofs are made.
    while_stopped(&project, |database| {
        restore(database, &copy);
        sql(database, &["UPDATE audit_nodes SET hash = zeroblob(32)".into()]);
    });
    project.ticket(&[]);
    project.fails(&["audit", "verify"], 1).says("AUDIT_CHANGED").says("tree of hashes is not that of the rows");
    // What would keep rows from being written.
    project.ok(&["serve", "stop"]);
    restore(&database(&project), &copy);
    let ignored = "CREATE TRIGGER zz BEFORE INSERT ON audit WHEN NEW.action = 'issue-ticket' BEGIN SELECT RAISE (IGNORE); END";
    sql(&database(&project), &[ignored.into()]);
    project.fails(&["enroll"], 1).says("AUTHORITY_OPEN").says("it has the trigger `zz` of `audit`").says("from a back-up");
    restore(&database(&project), &copy);
    project.ok(&["enroll"]);
    assert_eq!(project.json(&["audit", "verify", "--checkpoint", checkpoint.to_str().unwrap()])["ok"], true);
}

/// The rows of what was signed, too.
#[test]
fn a_checkpoint_that_was_changed_or_exchanged_is_named() {
    let project = Project::new(POSTERN);
    for _ in 0..2 {
        project.ticket(&[]);
        // What is not signed yet is when the servers stop.
        while_stopped(&project, |_| {});
    }
    project.ok(&["audit", "verify"]);
    project.ok(&["serve", "stop"]);
    let copy = project.scratch().join("copy.db");
    fs::copy(database(&project), &copy).unwrap();
    project.ok(&["enroll"]);
    let (least, most) = ("(SELECT min(size) FROM kept)", "(SELECT max(size) FROM kept)");
    let kept = "CREATE TEMP TABLE kept AS SELECT * FROM audit_checkpoints".to_owned();
    let put = |of: &str, at: &str| {
        format!("UPDATE audit_checkpoints SET statement = (SELECT statement FROM kept WHERE size = {of}) WHERE size = {at}")
    };
    let spoilt = format!("UPDATE audit_checkpoints SET statement = zeroblob(length(statement)) WHERE size = {least}");
    let moved = format!("UPDATE audit_checkpoints SET size = 1000000 WHERE size = {least}");
    for (what, statements, code, says) in [
        ("changed", vec![spoilt], "AUDIT_CHECKPOINT", "behind the one of 0 rows"),
        ("exchanged", vec![put(least, most), put(most, least)], "AUDIT_CHANGED", "the checkpoints are not as they were written"),
        ("repeated", vec![put(least, most)], "AUDIT_CHANGED", "the checkpoints are not as they were written"),
        ("in another place", vec![moved], "AUDIT_CHANGED", "the checkpoints are not as they were written"),
    ] {
        while_stopped(&project, |database| {
            restore(database, &copy);
            sql(database, &[vec![kept.clone()], statements].concat());
        });
        let failed = project.fails(&["audit", "verify"], 1);
        println!("{what}: {}", failed.stderr);
        failed.says(code).says(says).says("it is the checkpoint that the authority keeps behind the one of");
    }
    while_stopped(&project, |database| restore(database, &copy));
    project.ok(&["audit", "verify"]);
}

#[test]
fn a_node_sees_a_database_from_before() {
    let project = Project::new(POSTERN);
    let member = project.stranger();
    let ticket = member.file("node.ticket", project.ticket(&[]));
    member.invoke(["node", "create", "n1", "--enrollment-ticket"]).arg(&ticket).run().success();
    let remembered = member.path().join("nodes/n1/audit");
    eventually(PATIENCE, "the node to see a checkpoint", || remembered.exists().then_some(()));
    project.ok(&["serve", "stop"]);
    let copy = project.scratch().join("copy.db");
    fs::copy(database(&project), &copy).unwrap();
    project.ok(&["enroll"]);

    for _ in 0..5 {
        project.ticket(&[]);
    }
    let count = rows(&project, &[]).len() as u64;
    let signed = eventually(SIGNED, "the node to see a longer log", || {
        let newest = project.json(&["audit", "checkpoint"]);
        let seen = fs::read(&remembered).ok()?;
        let text: String = seen.iter().map(|byte| format!("{byte:02x}")).collect();
        (newest["size"].as_u64() >= Some(count) && newest["statement"] == text).then_some(seen)
    });
    member.run(&["status"]).success();

    while_stopped(&project, |database| restore(database, &copy));
    let told = |code: &str| {
        let status = member.run(&["status"]).exits(1).json();
        let waiting = &status["nodes"][0]["waiting"];
        waiting.as_array().unwrap().iter().any(|step| step["what"] == "audit" && step["code"] == code)
    };
    eventually(SIGNED, "the node to tell that the log shrank", || {
        (member.run(&["status"]).status != 0 && told("AUDIT_SHRANK")).then_some(())
    });
    assert!(member.node_log("n1").contains("AUDIT_SHRANK"));
    assert_eq!(fs::read(&remembered).unwrap(), signed, "what was seen is not forgotten");
    // Another history grows past what was seen.
    for _ in 0..10 {
        project.ticket(&[]);
    }
    eventually(SIGNED, "the node to tell that the log was forked", || told("AUDIT_FORKED").then_some(()));
    // It stays so after a restart of the node.
    member.ok(&["node", "stop", "n1"]);
    member.ok(&["node", "start", "n1"]);
    eventually(SIGNED, "the node to tell it again", || {
        (member.run(&["status"]).status != 0 && told("AUDIT_FORKED")).then_some(())
    });
    assert_eq!(fs::read(&remembered).unwrap(), signed);
}

#[test]
fn both_nodes_write_down_the_same_streams() {
    let echo = EchoServer::start();
    let portal = Portal::to(POSTERN, echo.address().port());
    let begun = Instant::now();
    for _ in 0..3 {
        echoes(portal.inlet, b"twelve bytes").unwrap();
    }
    let clean = |home: &TestHome, node: &str| {
        let all = home.stream_lines(node);
        let clean = all.into_iter().filter(|line| line["end"] == "clean" && line["decision"] == "allowed");
        clean.collect::<Vec<Value>>()
    };
    let written = |home: &TestHome, node: &str| {
        eventually(PATIENCE, "three streams to be written down", || Some(clean(home, node)).filter(|lines| lines.len() == 3))
    };
    let (at_inlet, at_outlet) = (written(&portal.customer, "customer"), written(&portal.vendor, "vendor"));
    let by_id = |lines: &[Value]| {
        let mut lines: Vec<Value> = lines.to_vec();
        lines.sort_by_key(|line| line["stream"].as_str().unwrap().to_owned());
        lines
    };
    let identity = |home: &TestHome| home.json(&["identity", "show"])["identifier"].clone();
    for (inlet, outlet) in by_id(&at_inlet).iter().zip(&by_id(&at_outlet)) {
        for field in ["stream", "inlet_identity", "outlet_identity", "outlet", "bytes_to_outlet", "bytes_to_inlet", "end"] {
            assert_eq!(inlet[field], outlet[field], "{field}");
        }
        assert_eq!((&inlet["side"], &outlet["side"]), (&Value::from("inlet"), &Value::from("outlet")));
        assert_eq!((&inlet["bytes_to_outlet"], &inlet["bytes_to_inlet"]), (&Value::from(12), &Value::from(12)));
        assert_eq!(inlet["inlet_identity"], identity(&portal.customer));
        for line in [inlet, outlet] {
            let took = line["duration_ms"].as_u64().expect("how long it took");
            assert!(took <= begun.elapsed().as_millis() as u64, "{line}");
        }
        assert_eq!(inlet["outlet_identity"], identity(&portal.vendor));
    }

    // How long a stream was open.
    let held = live(portal.inlet);
    holds(HELD, "it is open", || true);
    let before = Instant::now();
    drop(held);
    for (home, node) in [(&portal.customer, "customer"), (&portal.vendor, "vendor")] {
        let took = eventually(PATIENCE, "the stream to be written down", || {
            let took = home.stream_lines(node).iter().filter_map(|line| line["duration_ms"].as_u64()).max()?;
            (took >= HELD.as_millis() as u64).then_some(took)
        });
        assert!(took <= (HELD + before.elapsed() + Duration::from_secs(1)).as_millis() as u64, "{took} ms");
    }

    // What is refused stands there, too: here why, there as much as this node tells.
    portal.vendor.ok(&["policy", "create", "--resource", "service", "--allow", "nobody"]);
    let _ = echoes(portal.inlet, b"twelve bytes");
    let refused = |home: &TestHome, node: &str| {
        eventually(PATIENCE, "a refused stream to be written down", || {
            home.stream_lines(node).into_iter().rfind(|line| line["decision"] == "refused" && !line["stream"].is_null())
        })
    };
    let (there, here) = (refused(&portal.customer, "customer"), refused(&portal.vendor, "vendor"));
    assert_eq!((&here["code"], &there["code"]), (&Value::from("DENIED"), &Value::from("NOT_AVAILABLE")));
    assert_eq!((&here["stream"], &here["refusal"]), (&there["stream"], &there["refusal"]));
    assert!(here["refusal"].is_string());

    // Each side compares its own with what the other hands over.
    let log = |home: &TestHome, node: &str| fs::read(home.path().join("nodes").join(node).join("streams.jsonl")).unwrap();
    let file = portal.vendor.file("theirs.jsonl", log(&portal.customer, "customer"));
    let same = portal.vendor.json(&["audit", "reconcile", file.to_str().unwrap()]);
    assert_eq!((&same["ok"], &same["agree"]), (&Value::from(true), &Value::from(5)), "{same}");
    assert!(same["compared"]["from"].as_str().unwrap() <= same["compared"]["to"].as_str().unwrap(), "{same}");
    // The other side says less of one stream than this side has sent, and leaves one out.
    let told = String::from_utf8(log(&portal.customer, "customer")).unwrap();
    let mut lines: Vec<String> = told.lines().filter(|line| line.contains("\"stream\":\"")).map(str::to_owned).collect();
    lines[0] = lines[0].replace("\"bytes_to_inlet\":12", "\"bytes_to_inlet\":11");
    lines.remove(1);
    portal.vendor.file("theirs.jsonl", lines.join("\n"));
    let differs = portal.vendor.run(&["audit", "reconcile", file.to_str().unwrap()]).exits(1).json();
    assert_eq!(differs["differ"][0]["field"], "bytes_to_inlet");
    assert_eq!(differs["only_here"].as_array().unwrap().len() + differs["not_compared"].as_u64().unwrap() as usize, 1);
    // Times that somebody moved to the end of a day hide nothing.
    let moved = |line: &str| {
        let mut line: Value = line.parse().unwrap();
        for time in ["started_at", "at"] {
            line[time] = "2099-12-31T23:59:59Z".into();
        }
        line.to_string()
    };
    portal.vendor.file("theirs.jsonl", [&lines[0], &lines[lines.len() - 1]].map(|line| moved(line)).join("\n"));
    let forged = portal.vendor.run(&["audit", "reconcile", file.to_str().unwrap()]).exits(1).json();
    assert!(forged["differ"].as_array().unwrap().iter().any(|found| found["field"] == "at"), "{forged}");
    portal.vendor.file("theirs.jsonl", "nothing\n");
    portal.vendor.fails(&["audit", "reconcile", file.to_str().unwrap()], 1).says("AUDIT_NO_STREAMS");
    portal.vendor.fails(&["audit", "reconcile", "nosuch.jsonl"], 1).says("cannot open `nosuch.jsonl`");

    // Whether lines may be missing is told by how the node ended.
    let killed = || portal.vendor.stream_lines("vendor").iter().filter(|line| line["killed"] == true).count();
    portal.vendor.ok(&["node", "stop", "vendor"]);
    portal.vendor.ok(&["node", "start", "vendor"]);
    assert_eq!(killed(), 0);
    portal.vendor.kill(portal.vendor.node_pid("vendor"));
    portal.vendor.ok(&["node", "start", "vendor"]);
    eventually(PATIENCE, "the line that says that lines may be missing", || (killed() == 1).then_some(()));
}

#[test]
fn the_log_of_streams_goes_to_a_syslog_too() {
    let echo = EchoServer::start();
    let home = TestHome::new(POSTERN);
    let place = home.scratch().join("syslog");
    let socket = UnixDatagram::bind(&place).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let create = |syslog: &str| home.invoke(["node", "create", "n"]).env("POSTERN_SYSLOG", syslog).run();
    create("/dev/log").exits(78).says("POSTERN_SYSLOG");
    create(&format!("unix:{}", place.display())).success();
    home.ok(&["tcp-outlet", "create", "--to", &echo.address().port().to_string()]);
    let inlet = home.ok(&["tcp-inlet", "create", "--to", "/node/n/service/outlet"]);
    eventually(PATIENCE, "bytes through the portal", || echoes(inlet.as_str(), b"twelve bytes").ok());

    // The same lines as in the file, whatever comes first.
    let mut sent = Vec::new();
    for _ in 0..2 {
        let mut message = [0; 4_096];
        let length = socket.recv(&mut message).unwrap();
        let text = std::str::from_utf8(&message[..length]).unwrap();
        let (header, json) = text.split_at(text.find(" - {").unwrap() + 3);
        assert!(header.starts_with("<134>1 20") && header.contains(" postern ") && header.contains(" stream "), "{header}");
        sent.push(json.parse::<Value>().unwrap());
    }
    let written = eventually(PATIENCE, "the lines in the file", || Some(home.stream_lines("n")).filter(|lines| lines.len() >= 2));
    assert!(sent.iter().all(|line| written.contains(line)), "{sent:?}\n{written:?}");

    // A syslog that has gone away keeps nobody waiting.
    drop(socket);
    fs::remove_file(&place).unwrap();
    for _ in 0..20 {
        echoes(inlet.as_str(), b"twelve bytes").unwrap();
    }
    eventually(PATIENCE, "the lines in the file", || (home.stream_lines("n").len() >= 42).then_some(()));
}
