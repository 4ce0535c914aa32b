//! Commands that need no other process: what they print, and how they exit.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use postern_test_support::{HttpServer, Outcome, TestHome, Value, json};

fn home() -> TestHome {
    TestHome::new(env!("CARGO_BIN_EXE_postern"))
}

/// Command lines as a person types them, divided at spaces.
trait Lines {
    fn postern(&self, line: &str) -> Outcome;

    fn document(&self, line: &str) -> Value {
        self.postern(line).success().json()
    }
}

impl Lines for TestHome {
    fn postern(&self, line: &str) -> Outcome {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }
}

#[test]
fn identities() {
    let home = home();
    home.postern("identity list").exits(78).says("HOME_MISSING");
    assert!(!home.path().exists(), "looking makes nothing");
    let identifier = home.postern("identity create").success().line().to_owned();
    assert!(identifier.starts_with('P') && identifier.len() == 65, "{identifier}");
    let expected = home.document("identity show");
    let of = |key: &str| &expected[key];
    assert_eq!((of("api_version"), of("name"), of("identifier")), (&json!("1"), &json!("default"), &json!(identifier)));
    assert_eq!((of("is_default"), of("protected"), of("changes")), (&json!(true), &json!(false), &json!(0)));
    assert!(
        of("changes_left").as_u64() >= Some(1) && of("expires_at").as_str().is_some_and(|at| at.ends_with('Z')),
        "{expected}"
    );
    assert_eq!(home.document("identity show default"), expected);
    assert_eq!(home.document("identity list"), json!([expected]));

    let second = home.document("identity create second --output json");
    assert_eq!((&second["name"], &second["is_default"]), (&json!("second"), &json!(false)));
    home.postern("identity create second").exits(1).says("there is already an identity `second`");
    home.postern("identity default second").success();
    assert_eq!(home.document("identity show")["name"], "second");
    assert_eq!(home.postern("identity list --output plain").success().stdout.lines().count(), 3);

    home.postern("identity show missing").exits(1).says("was not found").says("NOT_FOUND");
    home.postern("identity delete missing -y").exits(1).says("was not found");
    home.postern("identity delete second").exits(2).says("-y");
    home.postern("identity delete second --no-input").exits(2).says("-y");
    home.postern("identity delete second -y").success();
    home.postern("identity delete --all -y").success();
    home.postern("identity delete --all -y").success();
    home.postern("identity show").exits(1);
    assert_eq!(home.document("identity list"), json!([]));
    home.postern("identity create a!").exits(2);
    home.postern("identity delete").exits(2);
}

#[test]
fn results_are_alone_on_standard_output() {
    let home = home();
    let loud = home.postern("identity create one").success();
    assert!(!loud.stderr.is_empty());
    let quiet = home.postern("--quiet identity create two").success();
    assert_eq!(quiet.stderr, "");
    let after = home.postern("identity create three --quiet").success();
    assert_eq!(after.stderr, "");
    let variable = home.invoke(["identity", "create", "four"]).env("QUIET", "1").run().success();
    assert_eq!(variable.stderr, "");
    assert!(variable.line().starts_with('P'));
    let off = home.invoke(["identity", "create", "five"]).env("QUIET", "0").run().success();
    assert_ne!(off.stderr, "");
}

#[test]
fn errors_have_a_stable_code_and_are_json_where_asked() {
    let home = home();
    let error = home.postern("identity show missing --output json").exits(78);
    let document: Value = serde_json::from_str(&error.stderr).unwrap();
    assert_eq!((&document["error"]["code"], &document["error"]["exit"]), (&json!("HOME_MISSING"), &json!(78)));
    home.postern("identity create").success();
    let error = home.postern("identity show missing --output json").exits(1);
    assert_eq!(error.stdout, "");
    let document: Value = serde_json::from_str(&error.stderr).unwrap();
    assert_eq!(document["api_version"], "1");
    assert_eq!(document["error"]["code"], "NOT_FOUND");
    assert_eq!(document["error"]["exit"], 1);
    home.postern("no-such-command").exits(2);
    home.postern("identity create a --no-such-flag").exits(2);
    for line in ["identity create a --no-such-flag --output json", "--output=json tcp-outlet create"] {
        let error = home.postern(line).exits(2);
        let document: Value = serde_json::from_str(&error.stderr).unwrap();
        assert_eq!((&document["error"]["code"], error.stdout.as_str()), (&json!("USAGE"), ""));
    }
}

#[test]
fn version_help_and_completion() {
    let home = home();
    assert!(home.postern("version").success().line().starts_with("postern "));
    assert_eq!(home.document("version --output json")["version"], env!("CARGO_PKG_VERSION"));
    assert!(home.postern("--version").success().line().starts_with("postern "));
    assert!(home.postern("--help").success().stdout.contains("tcp-outlet"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.postern(&format!("completion {shell}")).success().stdout.contains("postern"));
    }
    assert!(!home.path().exists(), "none of this makes a home");
}

#[test]
fn reset_is_idempotent_and_keeps_foreign_files() {
    let home = home();
    home.postern("reset -y").success();
    assert!(!home.path().exists());
    home.postern("identity create").success();
    fs::write(home.path().join("notes"), "mine").unwrap();
    home.postern("reset").exits(2).says("-y");
    assert_eq!(home.document("identity list").as_array().unwrap().len(), 1);
    home.postern("reset -y").success().says("notes");
    home.postern("reset -y").success();
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    home.postern("identity list").exits(78).says("HOME_MISSING");
}

#[test]
fn a_home_without_a_project() {
    let home = home();
    home.postern("identity create").success();
    assert_eq!(home.document("project list"), json!([]));
    home.postern("project show").exits(1).says("postern enroll");
    for line in ["project ticket", "project-member list", "ticket list"] {
        home.postern(line).exits(78).says("join a project first").says("NO_PROJECT");
    }
}

#[test]
fn homes_that_others_can_use_are_refused() {
    let home = home();
    home.postern("identity create").success();
    let mode = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&home.path(), 0o755);
    home.postern("identity list").exits(78).says("run: chmod 700 ").says("HOME_UNSAFE");
    mode(&home.path(), 0o700);
    let key = home.path().join("identities/default/identity");
    mode(&key, 0o644);
    home.postern("identity show").exits(78).says("run: chmod 600 ");
    mode(&key, 0o600);
    home.postern("identity show").success();

    let link = home.scratch().join("link");
    std::os::unix::fs::symlink(home.path(), &link).unwrap();
    let through = home.invoke(["identity", "list"]).env("POSTERN_HOME", &link).run();
    through.exits(78).says("a symbolic link");
    // An umask that keeps nothing from others changes nothing.
    let open = home.scratch().join("open");
    let command = format!("umask 000; {} --home {} identity create", env!("CARGO_BIN_EXE_postern"), open.display());
    assert!(std::process::Command::new("sh").args(["-c", &command]).status().unwrap().success());
    for (path, mode) in [("", 0o700), ("identities/default", 0o700), ("identities/default/identity", 0o600)] {
        assert_eq!(fs::metadata(open.join(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
    }
}

#[test]
fn tickets_that_are_none() {
    let home = home();
    home.postern("project enroll missing.ticket").exits(1).says("there is no ticket file");
    home.run(&["project", "enroll", "postern1_!!!!"]).exits(1).says("command line");
    home.invoke(["project", "enroll", "-"]).input("nonsense\n").run().exits(1).says("NOT_A_TICKET");
    home.file("truncated.ticket", "postern1_pAECAwQ\n");
    let error = home.postern("project enroll truncated.ticket").exits(1);
    assert!(!error.stderr.contains("pAECAwQ"), "{error:?}");
    home.postern("project enroll https://example.invalid/t").exits(2).says("no TLS client");
    let server = HttpServer::answering(|path| (path == "/t").then(|| b"nonsense".to_vec()));
    home.postern(&format!("project enroll http://{}/t", server.address())).exits(1).says("NOT_A_TICKET");
    home.postern(&format!("project enroll http://{}/other", server.address())).exits(1).says("404");
    home.postern(&format!("project enroll {}/t", server.address())).exits(1).says("NOT_A_TICKET");
    home.postern("project enroll http://127.0.0.1:1/t").exits(69);
    assert!(!home.path().join("identities").exists(), "nothing is made for a ticket that cannot be read");
}

#[test]
fn log_filters() {
    let home = home();
    let bad = home.invoke(["version"]).env("POSTERN_LOG", "a=b=c").run();
    bad.exits(78).says("POSTERN_LOG");
    home.postern("version --log-format xml").exits(2);
}
