//! `node create`: what it makes of names, texts, files and tickets, and what is left where it, or another change, is cut off.

use std::fs;
use std::time::Duration;

use postern_test_support::{HttpServer, PATIENCE, Project, Reserved, Signal, TestHome, Value, eventually, http_get, json};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

fn home() -> TestHome {
    TestHome::new(POSTERN)
}

/// The names of all nodes of a home.
#[track_caller]
fn names(home: &TestHome) -> Vec<String> {
    let list = home.json(&["node", "list"]);
    list.as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect()
}

// Behaviour 1.
#[test]
fn a_node_gets_the_name_that_is_given_or_one_by_chance() {
    let home = home();
    let random = home.ok(&["node", "create"]);
    assert!(!random.is_empty() && random.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-'), "{random:?}");
    assert_eq!(home.ok(&["node", "create", "n"]), "n");

    let shown = home.json(&["node", "show", "n"]);
    assert_eq!((&shown["name"], &shown["status"], &shown["is_default"]), (&json!("n"), &json!("running"), &json!(false)));
    assert_eq!(home.json(&["node", "show", "/node/n"])["pid"], shown["pid"]);
    assert_eq!(shown["pid"], home.node_pid("n"));
    // The first one made is the default.
    let default = home.json(&["node", "show"]);
    assert_eq!((&default["name"], &default["status"]), (&json!(random), &json!("running")));
    assert_eq!(names(&home).len(), 2);
}

// Behaviour 2.
#[test]
fn a_name_is_taken_once() {
    let home = home();
    home.ok(&["node", "create", "n"]);
    let first = home.json(&["node", "show", "n"]);
    home.fails(&["node", "create", "n"], 1).says("n");
    assert_eq!(home.json(&["node", "show", "n"]), first);

    home.ok(&["node", "stop", "n"]);
    assert_eq!(home.json(&["node", "show", "n"])["status"], "stopped");
    home.ok(&["node", "stop", "n"]);
    assert_eq!(home.ok(&["node", "create", "n"]), "n");
    assert_eq!(home.json(&["node", "show", "n"])["status"], "running");

    for again in [["node", "create", "n"], ["node", "start", "n"]] {
        let before = home.node_pid("n");
        home.kill(before);
        assert_eq!(home.json(&["node", "show", "n"])["status"], "stopped");
        home.ok(&again);
        let shown = home.json(&["node", "show", "n"]);
        assert!(shown["status"] == "running" && shown["pid"] != before, "{shown}");
    }
    home.ok(&["node", "start", "n"]);
}

// Behaviour 3.
#[test]
fn what_is_neither_a_name_nor_a_file_leaves_nothing() {
    let home = home();
    for wrong in ["n!", "a/b", "missing.yaml", "", "x.y z"] {
        let outcome = home.run(&["node", "create", wrong]);
        assert!([1, 2, 69, 78].contains(&outcome.status) && outcome.stdout.is_empty(), "{outcome:?}");
        assert!(outcome.stderr.contains(wrong), "{outcome:?}");
    }
    home.fails(&["node", "create", &"n".repeat(65)], 2);
    home.file("saas.yaml", "name: n");
    home.fails(&["node", "create", "saas.yml"], 1).says("did you mean `saas.yaml`?");
    assert!(!home.path().exists());
    assert_eq!(home.processes(), []);
}

// Behaviour 4.
#[test]
fn a_node_from_inline_configuration() {
    let home = home();
    let text = "{name: n, tcp-outlets: {db: {to: 5432}}}";
    assert_eq!(home.ok(&["node", "create", "--configuration", text]), "n");
    let outlet = home.json(&["tcp-outlet", "show", "db"]);
    assert_eq!((&outlet["name"], &outlet["to"]), (&json!("db"), &json!("127.0.0.1:5432")));
    assert_eq!(outlet["worker_address"], "/service/db");

    let wrong = "name: m\ntcp-outlets:\n  db:\n    to: \"localhost:65536\"\n  other:\n    too: 1\n";
    let outcome = home.fails(&["node", "create", "--configuration", wrong], 78).says("65536");
    // All problems at once, each with its place.
    assert!(outcome.stderr.contains(":4:") && outcome.stderr.contains(":6:"), "{outcome:?}");
    assert_eq!(names(&home), ["n"]);
}

// Behaviour 5.
#[test]
fn wrong_variables_are_told_before_the_ticket_is_spent() {
    let project = Project::new(POSTERN);
    let home = project.stranger();
    let ticket = home.file("t.ticket", project.ticket(&[]));
    let node = home.file("n.yaml", "name: n\ntcp-outlet:\n  to: $X\n");
    let create =
        |extra: &[&str]| home.invoke(["node", "create"]).arg(&node).arg("--enrollment-ticket").arg(&ticket).args(extra).run();
    let empty = create(&["--variable", "X="]).says("Empty value for variable 'X'");
    assert!([2, 78].contains(&empty.status), "{empty:?}");
    let undefined = create(&[]).exits(78).says("X");
    assert!(undefined.stderr.contains("n.yaml:3:"), "{undefined:?}");
    assert!(!home.path().exists(), "nothing was made");
    assert_eq!(project.json(&["ticket", "list"])[0]["uses"], 0);

    create(&["--variable", "X=5432"]).success();
    eventually(PATIENCE, "the ticket to be used", || (project.json(&["ticket", "list"])[0]["uses"] == 1).then_some(()));
}

// Behaviour 7.
#[test]
fn configuration_and_ticket_by_url() {
    let project = Project::new(POSTERN);
    let ticket = project.ticket(&["--relay", "r"]);
    let server = HttpServer::answering(move |path| match path {
        "/n.yaml" => Some(b"name: n\nrelay: r\n".to_vec()),
        "/t.ticket" => Some(format!("{ticket}\n").into_bytes()),
        _ => None,
    });
    let home = project.stranger();
    let url = |path: &str| format!("http://{}/{path}", server.address());
    home.fails(&["node", "create", &url("missing.yaml")], 1).says("404");
    home.ok(&["node", "create", &url("n.yaml"), "--enrollment-ticket", &url("t.ticket")]);
    eventually(PATIENCE, "the relay to be up", || {
        (home.json(&["relay", "show", "r"])["connection_status"] == "Up").then_some(())
    });
    // Without its scheme, and the same text: the same node.
    let without = format!("{}/n.yaml", server.address());
    let pid = home.node_pid("n");
    home.ok(&["node", "create", &without]);
    assert_eq!(home.node_pid("n"), pid);
}

// Behaviour 7.
#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let project = Project::new(POSTERN);
    let joined = |home: &TestHome| {
        eventually(PATIENCE, "the node to join", || (home.json(&["project", "list"]) != json!([])).then_some(()));
    };
    let bad = "postern1_AAAA";

    let home = project.stranger();
    let good = home.file("good", project.ticket(&[]));
    home.file("bad", bad);
    let yaml = |ticket: &str| format!("{{name: n, ticket: {ticket}}}");
    // Each loser would fail.
    home.fails(&["node", "create", "--configuration", &yaml("bad")], 1);
    home.invoke(["node", "create", "--configuration", &yaml("bad")]).env("ENROLLMENT_TICKET", &good).run().success();
    joined(&home);

    let home = project.stranger();
    let good = home.file("good", project.ticket(&[]));
    let flag = home.invoke(["node", "create", "n", "--enrollment-ticket"]).arg(&good).env("ENROLLMENT_TICKET", bad);
    flag.run().success();
    joined(&home);

    let home = project.stranger();
    home.file("good", project.ticket(&[]));
    // A path in the file counts from the working directory.
    home.ok(&["node", "create", "--configuration", &yaml("good")]);
    joined(&home);
}

// Behaviour 8.
#[test]
fn a_used_ticket_still_admits_the_member_that_used_it() {
    let project = Project::new(POSTERN);
    let home = project.stranger();
    let ticket = home.file("t.ticket", project.ticket(&["--usage-count", "1"])).display().to_string();
    let yaml = home.file("n.yaml", "name: n\n").display().to_string();
    let create = ["node", "create", &yaml, "--enrollment-ticket", &ticket];
    home.ok(&create);
    let pid = home.node_pid("n");
    assert_eq!(home.ok(&create), "n");
    assert_eq!(home.node_pid("n"), pid);

    home.ok(&["node", "stop", "n"]);
    home.ok(&create);
    assert_eq!(home.json(&["node", "show", "n"])["status"], "running");
    home.ok(&["node", "delete", "n", "-y"]);
    home.ok(&create);
    // Another node of the same identity, too.
    home.ok(&["node", "create", "m", "--enrollment-ticket", &ticket]);
    assert_eq!(project.json(&["ticket", "list"])[0]["uses"], 1);
}

// Same text: the same node. Other text under a name that is taken: an error that shows what differs.
#[test]
fn a_file_means_the_node_that_it_made() {
    let home = home();
    let file = home.file("n.yaml", "name: n\ntcp-outlet: {from: db, to: $PORT}\n").display().to_string();
    let create = |port: &str| home.run(&["node", "create", &file, "--variable", port]);
    create("PORT=5432").success();
    let pid = home.node_pid("n");
    create("PORT=5432").success();
    assert_eq!(home.node_pid("n"), pid);
    let other = create("PORT=5433").exits(1);
    assert!(other.stderr.contains("tcp-outlet"), "{other:?}");
    assert_eq!(home.json(&["tcp-outlet", "show", "db"])["to"], "127.0.0.1:5432");
}

/// Whoever edited a file is told who would reach what before he deletes the node of before; the node stays as it was.
#[test]
fn a_changed_file_tells_who_would_reach_what() {
    let home = home();
    let file = |text: &str| home.file("n.yaml", format!("name: n\n{text}")).display().to_string();
    let before = file("tcp-outlets: {db: {to: 5432, allow: admin}, old: {to: 1}, same: {to: 2}}\n");
    home.ok(&["node", "create", &before]);
    // What commands made would go, too.
    home.ok(&["tcp-outlet", "create", "--from", "added", "--to", "3"]);
    let shown = home.json(&["node", "show", "n"]);
    // The name may stand in the command.
    let inline = home.fails(&["node", "create", "n", "--configuration", "{tcp-outlets: {same: {to: 2}}}"], 1);
    assert!(inline.stderr.contains("would change: tcp-outlet db: goes away"), "{inline:?}");
    file("tcp-outlets: {db: {to: 5432}, new: {to: 4, allow: admin}, same: {to: 2}}\n");
    let told = home.fails(&["node", "create", &before], 1);
    let lines: Vec<&str> = told.stderr.lines().filter_map(|line| line.trim().strip_prefix("would change: ")).collect();
    let admin = "(= subject.admin \"true\")";
    assert_eq!(
        lines,
        [
            &format!("tcp-outlet db: allow {admin} → members only"),
            "tcp-outlet old: goes away",
            "tcp-outlet added: goes away",
            &format!("tcp-outlet new: new, to 127.0.0.1:4; allow {admin}"),
        ],
        "{told:?}"
    );
    let document: Value = home.fails(&["node", "create", &before, "--output", "json"], 1).stderr.parse().expect("JSON");
    let access = &document["error"]["access"];
    assert_eq!(access.as_array().map(Vec::len), Some(4), "{document}");
    assert_eq!((&access[0]["resource"], &access[0]["was"]["allow"]), (&json!("db"), &json!(admin)));
    assert_eq!((&access[0]["is"]["members_only"], &access[1]["is"]), (&json!(true), &Value::Null));
    assert_eq!(home.json(&["node", "show", "n"]), shown, "and nothing of it happened");
}

/// What `node show` tells of outlets: names and policies.
fn outlets(home: &TestHome, name: &str) -> Vec<(String, String)> {
    let node = home.json(&["node", "show", name]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let outlets = node["outlets"].as_array().unwrap_or_else(|| panic!("{node}"));
    let mut all: Vec<_> = outlets.iter().map(|outlet| (text(&outlet["name"]), text(&outlet["allow"]))).collect();
    all.sort();
    all
}

/// Killed wherever it is: there is no node, or the whole one, and the same command makes it.
#[test]
fn a_create_that_is_killed_leaves_nothing_or_everything() {
    let home = home();
    let whole = |name: &str| {
        format!(
            "{{name: {name}, policy: {{resource-type: tcp-outlet, allow: x}}, tcp-outlets: {{a: {{to: 1}}, b: {{to: 2, allow: y}}}}}}"
        )
    };
    let create = |name: &str| {
        ["node", "create", "--configuration"].map(str::to_owned).into_iter().chain([whole(name)]).collect::<Vec<_>>()
    };
    let took = home.invoke(create("first")).run().success().took;
    let wanted = outlets(&home, "first");
    assert_eq!(wanted.len(), 2);
    let rounds = if std::env::var_os("POSTERN_TEST_LONG").is_some() { 60 } else { 6 };
    for round in 0..rounds {
        let name = format!("n{round}");
        let making = home.invoke(create(&name)).spawn();
        let killed = std::time::Instant::now() + took * round / rounds;
        while std::time::Instant::now() < killed {
            std::thread::yield_now();
        }
        making.signal(Signal::KILL);
        // Its end does not wait for a node that it has started meanwhile.
        drop(making);
        if names(&home).contains(&name) {
            assert_eq!(outlets(&home, &name), wanted, "round {round}");
        }
        home.invoke(create(&name)).run().success();
        assert_eq!(outlets(&home, &name), wanted, "round {round}");
        home.ok(&["node", "delete", &name, "-y"]);
    }
}

/// Two texts for one name at once: one of them makes the node, as a whole, and the other is told what differs.
#[test]
fn of_two_texts_given_at_once_one_is_the_node() {
    let home = home();
    let text = |allow: &str| format!("{{name: n, tcp-outlets: {{a: {{to: 1, allow: {allow}}}, b: {{to: 2, allow: {allow}}}}}}}");
    for _ in 0..3 {
        let both = ["x", "y"].map(|allow| home.invoke(["node", "create", "--configuration", &text(allow)]).spawn());
        let ended = both.map(|create| create.wait());
        assert_eq!(ended.iter().filter(|outcome| outcome.status == 0).count(), 1, "{ended:#?}");
        let refused = ended.iter().find(|outcome| outcome.status != 0).expect("one of the two").clone().exits(1);
        let winner = if ended[0].status == 0 { "x" } else { "y" };
        assert_eq!(refused.stderr.matches("would change: ").count(), 2, "{refused:?}");
        let allow = format!("(= subject.{winner} \"true\")");
        assert_eq!(outlets(&home, "n"), ["a", "b"].map(|name| (name.to_owned(), allow.clone())));
        home.ok(&["node", "delete", "n", "-y"]);
    }
}

/// A node that is killed while it changes has, after its start, what was there before or after each change, and all that was acknowledged.
#[test]
fn a_node_that_is_killed_in_a_change_comes_back_with_the_old_or_the_new() {
    let home = home();
    home.ok(&["node", "create", "n"]);
    let mut known = 0;
    for round in 0..4_u32 {
        let pid = home.node_pid("n");
        let changes: Vec<_> = (0..6)
            .map(|number| {
                let name = format!("o{round}{number}");
                home.spawn(&["tcp-outlet", "create", "--from", &name, "--to", "1", "--allow", &format!("r{round}")])
            })
            .collect();
        let mut changes = changes.into_iter();
        // Behind the first answer, the others are anywhere.
        let first = changes.next().expect("six").wait().success();
        home.kill(pid);
        let acknowledged = changes.map(|change| change.wait()).filter(|outcome| outcome.status == 0).count();
        home.ok(&["node", "start", "n"]);
        let now = outlets(&home, "n");
        assert!(now.len() > known + acknowledged && now.len() <= known + 6, "{first:?}: {now:?}");
        let whole = |(name, allow): &(String, String)| *allow == format!("(= subject.r{} \"true\")", &name[1..2]);
        assert!(now.iter().all(whole), "{now:?}");
        known = now.len();
    }
}

// Behaviour 9a.
#[test]
fn the_shortest_form() {
    let home = home();
    let server = HttpServer::start("it works");
    let port = Reserved::new();
    home.ok(&["enroll"]);
    assert_eq!(home.ok(&["tcp-outlet", "create", "--to", &server.port().to_string()]), "/service/outlet");
    assert_eq!(home.ok(&["relay", "create"]), "/service/forward_to_default");
    let port = port.release();
    assert_eq!(home.ok(&["tcp-inlet", "create", "--from", &port.to_string()]), format!("127.0.0.1:{port}"));
    let reply = http_get(("127.0.0.1", port), "/").unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "it works"));
    home.run(&["status"]).success();
    assert_eq!(names(&home).len(), 1);
}

#[test]
fn the_foreground_may_stand_in_the_file() {
    let home = home();
    let file = home.file("n.yaml", "name: n\nforeground: true\ntcp-outlet: {to: 5432}\n").display().to_string();
    for _ in 0..2 {
        let node = home.spawn(&["node", "create", &file]);
        node.line_with("Ctrl-C", PATIENCE);
        assert_eq!(home.node_pid("n"), node.pid());
        home.ok(&["node", "stop", "n"]);
        node.wait().success();
    }
    home.ok(&["node", "delete", "n", "-y"]);
}

#[test]
fn of_several_creates_at_once_one_makes_the_node() {
    let home = home();
    let creates: Vec<_> = (0..6).map(|_| home.spawn(&["node", "create", "n"])).collect();
    let ended: Vec<_> = creates.into_iter().map(|create| create.wait()).collect();
    assert_eq!(ended.iter().filter(|outcome| outcome.status == 0).count(), 1, "{ended:#?}");
    assert!(ended.iter().all(|outcome| [0, 1].contains(&outcome.status)), "{ended:#?}");
    assert_eq!(home.json(&["node", "show", "n"])["status"], "running");
    assert_eq!(home.processes().len(), 1);

    let outlets: Vec<_> = (1..=6).map(|port| home.spawn(&["tcp-outlet", "create", "--to", &port.to_string()])).collect();
    outlets.into_iter().for_each(|create| drop(create.wait().success()));
    home.ok(&["node", "stop", "n"]);
    home.ok(&["node", "start", "n"]);
    assert_eq!(home.json(&["tcp-outlet", "list"]).as_array().unwrap().len(), 6);
}

#[test]
fn creating_does_not_wait_longer_than_it_is_told() {
    let project = Project::new(POSTERN);
    project.ok(&["node", "create", "n"]);
    let inlet = ["tcp-inlet", "create", "--via", "nobody", "--to", "x"];
    // The peer is not there: not a failure.
    project.ok(&inlet);
    let yaml = "{name: m, tcp-inlet: {from: \"127.0.0.1:0\", via: nobody, to: x}}";
    let quick = project.run(&["node", "create", "--configuration", yaml, "--no-connection-wait"]).success();
    let limit = Duration::from_secs(10);
    assert!(quick.took < limit, "{quick:?}");
    let waited = project
        .run(&["node", "create", "--configuration", &yaml.replace("name: m", "name: o"), "--connection-wait", "1s"])
        .success();
    assert!(waited.took >= Duration::from_secs(1), "{waited:?}");
    assert!(waited.stderr.contains("nobody"), "it says what waits: {waited:?}");
}

#[test]
fn a_text_without_a_name_that_was_edited_says_what_goes_on() {
    let project = Project::new(POSTERN);
    let create =
        |text: &str, flags: &[&str]| project.invoke(["node", "create", "--configuration", text]).args(flags).run().success();
    let first = create("{relay: r, tcp-outlets: {db: {to: 5432}}}", &[]);
    assert!(!first.stderr.contains("another text"), "{first:?}");
    let first = first.line().to_owned();
    // The same text means the same node, and flags do not change it.
    let again = create("{relay: r, tcp-outlets: {db: {to: 5432}}}", &["--http-server", "--max-staleness", "60s"]);
    assert_eq!(again.line(), first);
    assert!(again.stderr.contains("not applied") && again.stderr.contains("--max-staleness 60s (it has 86400s)"), "{again:?}");
    assert_eq!(project.json(&["node", "show", &first])["http_server_address"], Value::Null);
    // Another text makes another node.
    let edited = create("{relay: r, tcp-outlets: {db: {to: 5433}}}", &[]);
    assert_ne!(edited.line(), first);
    for said in [&format!("the node `{first}`, made from another text"), "the relay name `r`, the outlet `db`", "`name:`"] {
        assert!(edited.stderr.contains(said), "{said}: {edited:?}");
    }
    // One that says which node it means does not, nor does one that shares nothing.
    for text in ["{name: m, tcp-outlets: {db: {to: 1}}}", "{tcp-outlets: {wiki: {to: 1}}}"] {
        let other = create(text, &[]);
        assert!(!other.stderr.contains("another text"), "{other:?}");
    }
}

/// Several at once: one of them makes the node, the others find it.
#[test]
fn one_text_given_at_once_makes_one_node() {
    let home = home();
    let at_once = |arguments: &[&str]| -> Vec<String> {
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| home.run(arguments).success().line().to_owned())).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        })
    };
    let made = at_once(&["tcp-outlet", "create", "--to", "1"]);
    assert_eq!(names(&home).len(), 1, "{made:?}");
    let made = at_once(&["node", "create", "--configuration", "{tcp-outlets: {db: {to: 5432}}}"]);
    assert_eq!(names(&home).len(), 2, "{made:?}");
    assert!(made.iter().all(|name| *name == made[0]), "{made:?}");
}

/// The examples of the repository, on ports that are free here: each makes a node, and two of them reach each other.
#[test]
fn every_example_of_a_configuration_runs() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");
    let service = HttpServer::start("reports");
    let project = Project::new(POSTERN);
    // All attributes that the examples ask for, and any relay name.
    let home = project.member(&["--relay", "*", "--attribute", "office", "--attribute", "dba"]);
    let mut ran = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut text = fs::read_to_string(&path).unwrap().replace("to: 127.0.0.1:8080", &format!("to: {}", service.address()));
        for taken in ["0.0.0.0:7000", "127.0.0.1:7000", "0.0.0.0:4100", "127.0.0.1:7001", "127.0.0.1:7002"] {
            text = text.replace(taken, "127.0.0.1:0");
        }
        for taken in ["from: 127.0.0.1:8080", "from: 127.0.0.1:9090", "from: 15432"] {
            text = text.replace(taken, "from: 127.0.0.1:0");
        }
        // It stays in the foreground, and is for a home without a project.
        if name != "same-home.yaml" {
            let file = home.file(&name, &text);
            let create = home.invoke(["node", "create", "--no-connection-wait"]).arg(file);
            let variables = ["--variable", "RELAY=acme-relay", "--variable", "GITHUB_ADDRESS=github.local:80"];
            let node = create.args(variables).run().success().line().to_owned();
            let shown = home.json(&["node", "show", &node]);
            assert_eq!(shown["status"], "running", "{name}");
            let made = ["inlets", "outlets", "relays"].map(|kind| shown[kind].as_array().unwrap().len());
            ran.push((name, made));
            continue;
        }
        let alone = TestHome::new(POSTERN);
        alone.ok(&["node", "create", "--configuration", &format!("{{name: back, tcp-outlet: {{to: '{}'}}}}", service.address())]);
        let file = alone.file(&name, &text);
        let front = alone.spawn(&["node", "create", file.to_str().unwrap()]);
        let inlet = eventually(PATIENCE, "the node in the foreground", || {
            // While the node only begins, it is shown as it is stored: at any port.
            let shown = alone.run(&["tcp-inlet", "show", "local", "--at", "front"]);
            let address = (shown.status == 0).then(|| shown.json()["bind_addr"].as_str().unwrap().to_owned());
            address.filter(|address| !address.ends_with(":0"))
        });
        eventually(PATIENCE, "the node of the same home", || {
            http_get(&*inlet, "/").ok().filter(|reply| reply.text() == "reports")
        });
        front.signal(Signal::INT);
        front.wait().exits(0);
        ran.push((name, [2, 0, 0]));
    }
    ran.sort();
    let expected = [
        ("customer.yaml", [1, 1, 1]),
        ("inline.json", [1, 1, 1]),
        ("lists.yaml", [2, 2, 2]),
        ("minimal.yaml", [0, 1, 1]),
        ("named.yaml", [2, 2, 1]),
        ("saas.yaml", [0, 1, 1]),
        ("same-home.yaml", [2, 0, 0]),
        ("variables.yaml", [0, 1, 1]),
    ];
    assert_eq!(ran, expected.map(|(name, made)| (name.to_owned(), made)));
    // All relay names are granted and registered, and `office` reaches the reports of `branch`.
    eventually(PATIENCE, "every relay name", || {
        let nodes = home.json(&["node", "list"]);
        let mut relays = nodes.as_array().unwrap().iter().flat_map(|node| node["relays"].as_array().unwrap().clone());
        relays.all(|relay| relay["connection_status"] == "Up").then_some(())
    });
    let inlet = home.json(&["tcp-inlet", "show", "reports", "--at", "office"])["bind_addr"].as_str().unwrap().to_owned();
    let reply = eventually(PATIENCE, "the reports", || http_get(&*inlet, "/").ok());
    assert_eq!(reply.text(), "reports");
}
