//! Disks that are full, read-only or somebody else's: what runs goes on, what cannot be kept is refused with a reason, nothing is half done,
//! and everything works again once there is room. The disk is a small one of each test, which takes root.

use std::path::PathBuf;
use std::time::Instant;

use postern_test_support::{
    Disk, EchoServer, Outcome, PATIENCE, Portal, Project, Reserved, TestHome, busy, echoes, eventually, live, pings,
};
use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// Room for a home with a database, and little more.
const MIB: usize = 16;

/// What helps against a full disk, as errors say it.
const MAKE_ROOM: &str = "make room on the disk";

fn database(home: &TestHome) -> PathBuf {
    home.path().join("authority/authority.db")
}

/// Tries again until it fails: a database, and the last block of a file, have room of their own for a while.
#[track_caller]
fn until_it_fails(mut run: impl FnMut() -> Outcome) -> Outcome {
    eventually(PATIENCE, "a failure", || Some(run()).filter(|outcome| outcome.status != 0))
}

fn count(text: &str, part: &str) -> usize {
    text.lines().filter(|line| line.contains(part)).count()
}

/// How many members the project has, and that its audit holds.
#[track_caller]
fn members(admin: &TestHome) -> usize {
    let verified = admin.json(&["audit", "verify"]);
    assert_eq!(verified["ok"], true, "{verified}");
    admin.json(&["project-member", "list"]).as_array().map_or(0, Vec::len)
}

#[test]
fn an_authority_without_room_says_so_and_recovers_by_itself() {
    const ASKED: usize = 4;
    Disk::with(MIB, |disk| {
        let server = EchoServer::start();
        let admin = TestHome::below(POSTERN, disk.path());
        admin.ok(&["enroll"]);
        admin.ok(&["serve", "stop"]);
        // In the foreground, so that its log is not on that disk.
        let serving = admin.spawn(&["serve"]);
        serving.line_with("serving on", PATIENCE);
        let portal = Portal::in_project(Project::of(admin), server.port());
        let admin: &TestHome = &portal.project;
        let newcomer = portal.project.stranger();
        let ticket = newcomer.file("join.ticket", portal.project.ticket(&[])).display().to_string();
        let mut stream = live(portal.inlet);
        let before = members(admin);

        disk.fill();
        let refused = until_it_fails(|| admin.run(&["project", "ticket"])).exits(1);
        refused.says("AUTHORITY_FAILED").says("look into the log of the servers");
        newcomer.fails(&["project", "enroll", &ticket], 1).says("AUTHORITY_FAILED");
        let (used, begun) = (busy(serving.pid()), Instant::now());
        for _ in 0..ASKED {
            admin.fails(&["project", "ticket"], 1);
            assert!(pings(&mut stream), "what runs goes on");
        }
        echoes(portal.inlet, b"new streams, too").expect("a portal needs no authority");
        let (used, took) = (busy(serving.pid()) - used, begun.elapsed());
        println!("busy for {used:?} of {took:?}");
        assert!(used < took / 2, "it was busy for {used:?} of {took:?}");
        assert_eq!(members(admin), before, "no half row, and reading goes on");
        let log = serving.output();
        assert_eq!(count(&log, "no space is left for the database: make room on its disk"), 1, "said once:\n{log}");
        assert_eq!(count(&log, "refusals cannot be kept"), 1, "{log}");

        disk.make_room();
        // The ticket was not burnt.
        newcomer.ok(&["project", "enroll", &ticket]);
        assert_eq!(members(admin), before + 1);
        // Behind a second without failures it is over.
        eventually(PATIENCE, "the log says that it is over", || {
            admin.ok(&["project", "ticket"]);
            serving.output().contains("the database takes writes again").then_some(())
        });
        let used_up = portal.project.stranger();
        used_up.fails(&["project", "enroll", &ticket], 77);
        assert!(pings(&mut stream));
    });
}

#[test]
fn a_database_that_somebody_has_locked_is_waited_for_and_then_busy() {
    let project = Project::new(POSTERN);
    // The last that a start writes by itself: it would wait, too, and the command behind it.
    let advertised = || project.servers_log().contains("the authority knows where this relay is").then_some(());
    eventually(PATIENCE, "the relay's address at the authority", advertised);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let locked = |work: &dyn Fn()| {
        runtime.block_on(async {
            let place = format!("sqlite://{}", database(&project).display());
            let mut theirs = SqliteConnection::connect(&place).await.expect("somebody else opens it");
            theirs.execute("BEGIN IMMEDIATE").await.expect("and locks it");
            work();
            theirs.execute("ROLLBACK").await.expect("and lets go");
        });
    };
    locked(&|| {
        let told = project.fails(&["project", "ticket"], 75);
        told.says("AUTHORITY_BUSY").says("try again");
        assert_eq!(members(&project), 2, "reading goes on");
    });
    let log = project.servers_log();
    assert_eq!(count(&log, "the database is in use by another process"), 1, "{log}");
    project.ok(&["project", "ticket"]);
    // Who locks it for a moment is waited for.
    let waiting = std::cell::RefCell::new(None);
    locked(&|| {
        let mut ticket = project.spawn(&["project", "ticket"]);
        assert!(ticket.runs());
        *waiting.borrow_mut() = Some(ticket);
    });
    waiting.into_inner().expect("it was spawned").wait().success();
    members(&project);
}

#[test]
fn a_database_of_a_newer_program_is_named_and_left_alone() {
    let project = Project::new(POSTERN);
    project.ok(&["serve", "stop"]);
    let change = |statement: &str| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let place = format!("sqlite://{}", database(&project).display());
            let mut database = SqliteConnection::connect(&place).await.expect("nobody else uses it");
            database.execute(AssertSqlSafe(statement.to_owned())).await.expect("it can be changed");
            database.close().await.expect("it is closed");
        });
    };
    change(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', 1, x'00', 0)",
    );
    for command in ["enroll", "serve"] {
        let told = project.fails(&[command], 1);
        told.says("AUTHORITY_OPEN").says("a newer version of postern (schema 9999").says("use that version");
    }
    change("DELETE FROM _sqlx_migrations WHERE version = 9999");
    project.ok(&["enroll"]);
    // Its administrator, and its relay.
    assert_eq!(members(&project), 2);
}

/// A node whose disk is full: changes are refused and taken back, what runs goes on, and so does a node that starts.
#[test]
fn a_node_without_room_goes_on_and_takes_no_change() {
    Disk::with(MIB, |disk| {
        let server = EchoServer::start();
        let project = Project::new(POSTERN);
        let vendor = TestHome::below(POSTERN, disk.path());
        let ticket = vendor.file("join.ticket", project.ticket(&["--relay", "vendor"])).display().to_string();
        vendor.ok(&["project", "enroll", &ticket]);
        let configuration = format!("{{name: vendor, relay: vendor, tcp-outlet: {{from: service, to: {}}}}}", server.port());
        vendor.ok(&["node", "create", "--configuration", &configuration]);
        let (_customer, inlet) = Portal::customer(&project);
        let mut stream = live(inlet);
        let outlets = vendor.json(&["tcp-outlet", "list"]);

        disk.fill();
        for _ in 0..3 {
            let told = vendor.fails(&["tcp-outlet", "create", "--from", "more", "--to", "1"], 1);
            told.says("STORAGE").says("node.json").says("No space left on device").says(MAKE_ROOM);
        }
        assert_eq!(vendor.json(&["tcp-outlet", "list"]), outlets, "taken back");
        let (used, begun) = (busy(vendor.node_pid("vendor")), Instant::now());
        for _ in 0..50 {
            echoes(inlet, b"a new stream").expect("what runs goes on");
        }
        let (used, took) = (busy(vendor.node_pid("vendor")) - used, begun.elapsed());
        println!("busy for {used:?} of {took:?}");
        assert!(pings(&mut stream));
        let log = vendor.node_log("vendor");
        assert!(count(&log, "could not be kept, and was taken back") >= 1, "{log}");
        assert_eq!(count(&log, "the log of streams cannot be written"), 1, "said once, not for each stream:\n{log}");
        let names = |home: &TestHome| home.json(&["node", "list"]).as_array().map_or(0, Vec::len);
        vendor.fails(&["node", "create", "another"], 1).says(MAKE_ROOM);
        assert_eq!(names(&vendor), 1, "nothing is left of it");

        // A start has nothing new to keep.
        drop(stream);
        vendor.ok(&["node", "stop", "vendor"]);
        disk.fill();
        vendor.ok(&["node", "start", "vendor"]);
        // Whatever says something in a log that nobody can write to goes on, too.
        let mut stream = live(inlet);

        disk.make_room();
        vendor.ok(&["tcp-outlet", "create", "--from", "more", "--to", "1"]);
        assert!(vendor.node_log("vendor").contains("lines of the log are missing here"), "{}", vendor.node_log("vendor"));
        assert!(pings(&mut stream));
        vendor.ok(&["node", "create", "another"]);
        assert_eq!(names(&vendor), 2);
    });
}

#[test]
fn a_relay_without_room_enforces_what_it_cannot_keep_and_keeps_it_later() {
    Disk::with(MIB, |disk| {
        let server = EchoServer::start();
        let project = Project::new(POSTERN);
        let relay = TestHome::below(POSTERN, disk.path());
        let address = format!("127.0.0.1:{}", Reserved::new().release());
        let ticket = relay.file("relay.ticket", project.ticket(&["--relay-server", &address])).display().to_string();
        let serving = relay.spawn(&["serve", "relay", "--listen", &address, "--ticket", &ticket]);
        serving.line_with("serving on", PATIENCE);
        let vendor = project.member(&["--relay", "vendor"]);
        let configuration = format!(
            "{{name: vendor, relay: {{vendor: {{at: '{address}'}}}}, tcp-outlet: {{from: service, to: {}}}}}",
            server.port()
        );
        vendor.ok(&["node", "create", "--configuration", &configuration]);
        let (_customer, inlet) = Portal::customer(&project);
        let (revoked, its) = Portal::customer(&project);
        let (mut stream, _gone) = (live(inlet), live(its));
        let kept = relay.path().join("relay");
        let files = || -> Vec<Vec<u8>> { postern_test_support::files_below(&kept).into_iter().map(|(_, bytes)| bytes).collect() };

        disk.fill();
        let before = files();
        let member = revoked.json(&["identity", "show"])["identifier"].as_str().expect("an identifier").to_owned();
        project.ok(&["project-member", "revoke", &member, "-y"]);
        serving.line_with("is in force and cannot be kept", PATIENCE);
        serving.line_with("No space left on device", PATIENCE);
        eventually(PATIENCE, "the revoked member is out", || echoes(its, b"again").is_err().then_some(()));
        assert!(pings(&mut stream), "what runs goes on");
        echoes(inlet, b"new streams, too").expect("a relay without room carries");
        assert_eq!(files(), before, "nothing half written");

        disk.make_room();
        // With the next statement; without one, with the next heartbeat.
        let other = project.member(&[]).json(&["identity", "show"])["identifier"].as_str().expect("an identifier").to_owned();
        project.ok(&["project-member", "revoke", &other, "-y"]);
        serving.line_with("is kept now", PATIENCE);
        assert_ne!(files(), before);
        assert!(pings(&mut stream));
        let log = serving.output();
        // What is void, and what the project is.
        assert!(count(&log, "is in force and cannot be kept") <= 2, "{log}");
        assert_eq!(count(&log, "refusals cannot be kept"), 1, "{log}");
    });
}

/// Nothing starts on a read-only disk, and every command that would write says why and what helps; looking works.
#[test]
fn a_read_only_disk_is_named_and_left_as_it_is() {
    Disk::with(MIB, |disk| {
        let admin = TestHome::below(POSTERN, disk.path());
        admin.ok(&["enroll"]);
        let relay = TestHome::below(POSTERN, disk.path());
        let address = format!("127.0.0.1:{}", Reserved::new().release());
        let project = Project::of(admin);
        let ticket = relay.file("relay.ticket", project.ticket(&["--relay-server", &address])).display().to_string();
        let serve = ["serve", "relay", "--listen", &address, "--ticket", &ticket];
        let serving = relay.spawn(&serve);
        serving.line_with("serving on", PATIENCE);
        project.ok(&["node", "create", "n"]);
        project.ok(&["node", "stop", "n"]);
        project.ok(&["serve", "stop"]);
        drop(serving);

        disk.set_read_only(true);
        let refused = |home: &TestHome, arguments: &[&str]| {
            let told = home.fails(arguments, 1);
            told.says("Read-only file system").says("STORAGE").says("is read-only (dmesg, mount), make it writable");
        };
        refused(&project, &["enroll"]);
        refused(&project, &["serve"]);
        refused(&project, &["node", "start", "n"]);
        refused(&project, &["node", "create", "m"]);
        refused(&project, &["node", "delete", "n", "-y"]);
        refused(&relay, &serve);
        assert_eq!(project.json(&["node", "list"])[0]["status"], "stopped");
        let status = project.fails(&["status"], 1).json();
        assert_eq!((&status["nodes"][0]["name"], &status["servers"][0]["status"]), (&"n".into(), &"stopped".into()), "{status}");

        disk.set_read_only(false);
        project.ok(&["enroll"]);
        project.ok(&["node", "start", "n"]);
        assert_eq!(members(&project), 3);
        relay.spawn(&serve).line_with("serving on", PATIENCE);
    });
}
