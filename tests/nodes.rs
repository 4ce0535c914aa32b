//! Nodes that run, from a user's side: stopping, starting, the foreground, and what becomes of everything in them.

use std::fs;
use std::process::Command;

use postern_test_support::{
    EchoServer, PATIENCE, Project, Reserved, Signal, TestHome, Value, connect, echoes, eventually, http_get, json, live,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

fn home() -> TestHome {
    TestHome::new(POSTERN)
}

#[track_caller]
fn address(home: &TestHome, alias: &str) -> String {
    home.json(&["tcp-inlet", "show", alias])["bind_addr"].as_str().unwrap().to_owned()
}

/// Waits until bytes pass both ways.
#[track_caller]
fn passes(address: &str) {
    eventually(PATIENCE, "bytes through the portal", || echoes(address, b"there and back").ok());
}

// Behaviour 6.
#[test]
fn everything_of_a_node_comes_back() {
    let project = Project::new(POSTERN);
    let echo = EchoServer::start();
    let yaml = format!(
        "name: n\nrelay: r1\ntcp-outlet: {{from: e1, to: {0}}}\ntcp-inlet: {{alias: i1, from: \"127.0.0.1:0\", via: r1, to: e1}}\n\
         policy: {{resource-type: tcp-inlet, allow: subject.has_credential}}\n",
        echo.port()
    );
    project.ok(&["node", "create", "--configuration", &yaml]);
    project.ok(&["relay", "create", "r2"]);
    project.ok(&["tcp-outlet", "create", "--from", "e2", "--to", &echo.port().to_string(), "--allow", "not banned"]);
    project.ok(&["tcp-inlet", "create", "--alias", "i2", "--via", "r2", "--to", "e2"]);
    project.ok(&["policy", "create", "--resource", "e1", "--allow", "subject.has_credential and not banned"]);

    let resources = || {
        let mut shown = project.json(&["node", "show", "n"]);
        for changing in ["pid", "waiting", "status", "authority"] {
            shown.as_object_mut().unwrap().remove(changing);
        }
        for list in ["inlets", "relays"] {
            for document in shown[list].as_array_mut().unwrap() {
                for changing in ["status", "connection_status", "reason", "servers"] {
                    document.as_object_mut().unwrap().remove(changing);
                }
            }
        }
        for inlet in shown["inlets"].as_array_mut().unwrap() {
            for outlet in inlet["outlets"].as_array_mut().unwrap() {
                for changing in ["connections", "open", "failing"] {
                    outlet.as_object_mut().unwrap().remove(changing);
                }
            }
        }
        shown
    };
    for alias in ["i1", "i2"] {
        passes(&address(&project, alias));
    }
    let before = resources();
    assert_eq!(["inlets", "outlets", "relays"].map(|list| before[list].as_array().unwrap().len()), [2, 2, 2]);
    // Of the type, of `e1`, and the one that stands on `e2` itself.
    assert_eq!(before["policies"].as_array().unwrap().len(), 3);

    project.ok(&["node", "stop", "n"]);
    assert_eq!(resources(), before);
    let refused = connect(address(&project, "i1"));
    assert!(refused.is_err(), "a stopped node listens");
    project.ok(&["node", "start", "n"]);
    assert_eq!(resources(), before);
    for alias in ["i1", "i2"] {
        passes(&address(&project, alias));
    }

    project.kill(project.node_pid("n"));
    project.ok(&["node", "start", "n"]);
    assert_eq!(resources(), before);
    passes(&address(&project, "i2"));

    for _ in 0..2 {
        project.ok(&["reset", "-y"]);
        assert_eq!(project.processes(), []);
    }
}

#[test]
fn a_listen_address_in_use_undoes_everything() {
    let project = Project::new(POSTERN);
    let home = project.stranger();
    let ticket = home.file("t.ticket", project.ticket(&["--relay", "r"])).display().to_string();
    let taken = EchoServer::start();
    let yaml = format!("{{name: n, relay: r, tcp-inlet: {{from: {}, to: x}}}}", taken.port());
    let outcome = home.run(&["node", "create", "--configuration", &yaml, "--enrollment-ticket", &ticket]);
    assert!(outcome.status == 1 && outcome.stderr.contains(&taken.port().to_string()), "{outcome:?}");
    assert_eq!(home.json(&["node", "list"]), json!([]));
    assert_eq!(home.processes(), []);
}

/// An inlet that is there before the node knows a relay is looked up all the same, and not only when somebody connects.
#[test]
fn a_started_node_looks_its_peers_up_by_itself() {
    let project = Project::new(POSTERN);
    project.ok(&["node", "create", "--configuration", "{name: n, relay: r, tcp-outlet: {to: 6000}, tcp-inlet: {via: r}}"]);
    for _ in 0..4 {
        project.ok(&["node", "stop", "n"]);
        project.ok(&["node", "start", "n"]);
        // It returned because nothing was waited for any more.
        assert_eq!(project.json(&["node", "show", "n"])["waiting"], json!([]));
    }
}

// Behaviour 9a.
#[test]
fn two_nodes_of_one_identity_side_by_side() {
    let project = Project::new(POSTERN);
    let echo = EchoServer::start();
    project.ok(&["node", "create", "n1"]);
    project.ok(&["node", "create", "n2"]);
    project.ok(&["relay", "create", "r1", "--to", "n1"]);
    project.ok(&["tcp-outlet", "create", "--from", "e", "--to", &echo.port().to_string(), "--at", "n1"]);
    let inlet = project.ok(&["tcp-inlet", "create", "--via", "r1", "--to", "e", "--at", "/node/n2"]);
    passes(&inlet);
    let identities = ["n1", "n2"].map(|name| project.json(&["node", "show", name])["identity_name"].clone());
    assert_eq!(identities[0], identities[1]);
    assert_eq!(project.json(&["tcp-inlet", "list", "--at", "n1"]), json!([]));
    assert_eq!(project.json(&["tcp-inlet", "list", "--at", "n2"]).as_array().unwrap().len(), 1);
}

// Behaviour 9b.
#[test]
fn nodes_of_a_home_without_a_project_meet_directly_and_strangers_do_not() {
    let (ours, theirs) = (home(), home());
    let echo = EchoServer::start();
    ours.ok(&["node", "create", "n1", "--tcp-listener-address", "127.0.0.1:0"]);
    ours.ok(&["node", "create", "n2"]);
    assert_eq!(ours.ok(&["tcp-outlet", "create", "--to", &echo.port().to_string(), "--at", "n1"]), "/service/outlet");
    let inlet = ours.ok(&["tcp-inlet", "create", "--to", "/node/n1/service/outlet", "--at", "n2"]);
    passes(&inlet);

    let listener = ours.json(&["node", "show", "n1"])["tcp_listener_address"].as_str().unwrap().to_owned();
    let port = listener.rsplit(':').next().unwrap();
    let seen = echo.accepted();
    theirs.ok(&["node", "create", "n3"]);
    let route = format!("/ip4/127.0.0.1/tcp/{port}/service/outlet");
    let stranger = theirs.ok(&["tcp-inlet", "create", "--to", &route, "--alias", "s"]);
    echoes(stranger.as_str(), b"let me in").unwrap_err();
    theirs.ok(&["tcp-inlet", "create", "--to", "/node/n1/service/outlet", "--alias", "t"]);
    echoes(address(&theirs, "t"), b"let me in").unwrap_err();
    assert_eq!(echo.accepted(), seen);
    let status = theirs.fails(&["status"], 1).json();
    assert!(status["portals"].as_array().unwrap().iter().all(|portal| portal["ok"] == false && portal["reason"].is_string()));
    passes(&inlet);

    // What a project is for is told to be there.
    for wanting in [&["relay", "create"][..], &["tcp-inlet", "create", "--via", "r"], &["project", "ticket"]] {
        ours.fails(wanting, 78).says("join a project first");
    }
}

// Behaviour 9.
#[test]
fn a_foreground_node_serves_until_it_is_told_to_stop() {
    let home = home();
    let echo = EchoServer::start();
    for (round, which) in [Signal::INT, Signal::TERM].into_iter().enumerate() {
        let mut node = home.spawn(&["node", "create", "n", "-f"]);
        eventually(PATIENCE, "the foreground node", || {
            (home.run(&["node", "show", "n"]).status == 0 && home.json(&["node", "show", "n"])["status"] == "running")
                .then_some(())
        });
        assert_eq!(home.node_pid("n"), node.pid());
        if round == 0 {
            home.ok(&["tcp-outlet", "create", "--to", &echo.port().to_string()]);
            let inlet = home.ok(&["tcp-inlet", "create", "--to", "/node/n/service/outlet", "--alias", "i"]);
            passes(&inlet);
        }
        assert!(node.runs());
        node.signal(which);
        node.wait().success();
        assert_eq!(home.json(&["node", "show", "n"])["status"], "stopped");
    }
    // Another command stops it as well.
    let node = home.spawn(&["node", "create", "n", "--foreground"]);
    eventually(PATIENCE, "the foreground node", || (home.json(&["node", "show", "n"])["status"] == "running").then_some(()));
    home.ok(&["node", "stop", "n"]);
    node.wait().success();
}

/// Told to stop, a node lets its streams finish first: who starts it meanwhile wants it to run afterwards.
#[test]
fn a_node_that_is_stopping_is_waited_for_and_started() {
    let home = home();
    let echo = EchoServer::start();
    let file = home.file("n.yaml", format!("name: n\ntcp-outlet: {{to: {}}}\n", echo.port())).display().to_string();
    let file = file.as_str();
    home.ok(&["node", "create", file]);
    home.ok(&["tcp-inlet", "create", "--to", "/node/n/service/outlet", "--alias", "i"]);

    let starts = [&["start", "n"][..], &["create", "n"], &["create", file], &["create", file, "-f"]];
    for start in starts {
        let held = live(address(&home, "i").as_str());
        let before = home.node_pid("n");
        postern_test_support::signal(before, Signal::TERM);
        eventually(PATIENCE, "the node to be called stopping", || {
            let shown = home.run(&["node", "show", "n"]);
            (shown.status == 0 && shown.json()["status"] == "stopping").then_some(())
        });
        let starting = home.invoke(["node"]).args(start).spawn();
        starting.line_with("the node `n` is stopping", PATIENCE);
        assert!(home.processes().iter().any(|process| process.pid == before), "the node waits for its streams");
        drop(held);

        let in_foreground = start.contains(&"-f");
        let starting = if in_foreground {
            starting.line_with("Ctrl-C", PATIENCE);
            Some(starting)
        } else {
            starting.wait().success();
            None
        };
        let shown = home.json(&["node", "show", "n"]);
        assert!(shown["status"] == "running" && shown["pid"] != before, "{start:?}: {shown}");
        passes(&address(&home, "i"));
        if let Some(foreground) = starting {
            home.ok(&["node", "stop", "n"]);
            foreground.wait().success();
        }
    }
}

// Behaviour 9.
#[test]
fn a_node_is_a_good_first_process() {
    // Containers run it so: no parent to ask, signals without defaults, orphans to reap.
    let unshare = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-current-user", "--pid", "--fork", "--kill-child", program]);
        command
    };
    if !unshare("true").output().is_ok_and(|output| output.status.success()) {
        postern_test_support::skipped("no process namespaces here");
        return;
    }
    let home = home();
    let mut command = unshare(POSTERN);
    command.args(["node", "create", "n", "-f"]).env("POSTERN_HOME", home.path()).current_dir(home.scratch());
    let mut parent = command.spawn().unwrap();
    // Its own id, as it sees it.
    let lock = home.path().join("nodes/n/lock");
    eventually(PATIENCE, "the node to hold its lock", || (fs::read_to_string(&lock).ok()?.lines().next()? == "1").then_some(()));
    eventually(PATIENCE, "its control socket", || home.path().join("nodes/n/control.sock").exists().then_some(()));
    // From outside its container, its id is that of another process.
    home.fails(&["node", "stop", "n"], 1).says("another container");
    let inner = home.processes().into_iter().find(|process| process.command.starts_with(POSTERN)).unwrap();
    postern_test_support::signal(inner.pid, Signal::TERM);
    let status = eventually(PATIENCE, "the first process to end", || parent.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn joining_a_project_reaches_the_nodes_that_run() {
    let project = Project::new(POSTERN);
    let home = project.stranger();
    let echo = EchoServer::start();
    home.ok(&["node", "create", "n1"]);
    home.ok(&["tcp-outlet", "create", "--to", &echo.port().to_string()]);
    let inlet = home.ok(&["tcp-inlet", "create", "--to", "/node/n1/service/outlet"]);
    passes(&inlet);
    home.fails(&["relay", "create", "r"], 78).says("join a project first");

    let ticket = home.file("t.ticket", project.ticket(&["--relay", "r"])).display().to_string();
    home.ok(&["project", "enroll", &ticket]);
    assert_eq!(home.ok(&["relay", "create", "r"]), "/service/forward_to_r");
    passes(&project.ok(&["tcp-inlet", "create", "--via", "r", "--to", "outlet"]));
    passes(&inlet);
}

#[test]
fn a_node_holds_nothing_of_its_caller() {
    let home = home();
    // `run` itself requires that the daemon left the output.
    home.ok(&["node", "create", "n"]);
    let pid = home.node_pid("n");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // Its own session, without a terminal.
    assert_eq!((fields[3], fields[4]), (pid.to_string().as_str(), "0"), "{stat}");
    for descriptor in 0..=2 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).unwrap();
        let target = target.to_str().unwrap();
        assert!(target == "/dev/null" || target.ends_with("stdout.log"), "{descriptor} is {target}");
    }
}

#[test]
fn a_home_with_a_long_path_works() {
    let home = home();
    let long = home.scratch().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(long.parent().unwrap()).unwrap();
    let run = |args: &[&str]| home.invoke(args).env("POSTERN_HOME", &long).run().success();
    run(&["node", "create", "n"]);
    assert_eq!(run(&["node", "show", "n"]).json()["status"], "running");
    run(&["reset", "-y"]);
}

#[test]
fn the_http_server_of_a_node() {
    let home = home();
    home.ok(&["node", "create", "n", "--http-server"]);
    let shown: Value = home.json(&["node", "show", "n"]);
    let address = shown["http_server_address"].as_str().unwrap();
    for path in ["/", "/livez", "/readyz", "/metrics", "/show"] {
        let reply = http_get(address, path).unwrap();
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
    let reply: Value = serde_json::from_str(&http_get(address, "/show").unwrap().text()).unwrap();
    assert_eq!(reply["name"], "n");
    assert!(http_get(address, "/metrics").unwrap().text().contains("\npostern_node_streams 0\n"));

    let port = Reserved::new();
    let number = port.port().to_string();
    let port = port.release();
    home.ok(&["node", "create", "m", "--http-server-port", &number]);
    assert_eq!(http_get(("127.0.0.1", port), "/").unwrap().status, 200);
}
