//! Joining a project, from a user's side: tickets and what they are worth, races for them, an authority that dies, and roles.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use postern_test_support::{
    Cut, EchoServer, Foreground, Outcome, PATIENCE, Project, Reserved, Signal, TestHome, Value, connect, echoes, eventually, json,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// As many racers for one ticket as the project promises to survive.
const RACERS: usize = 64;

/// How often the authority is killed while it redeems a ticket, each time a little later: as `POSTERN_TEST_KILLS` says, or so often.
const KILLS: u32 = 24;

fn kills() -> u32 {
    std::env::var("POSTERN_TEST_KILLS").map_or(KILLS, |kills| kills.parse().expect("POSTERN_TEST_KILLS is a number"))
}

/// Who is deleted has no stream any more after this. The command's own start in a debug build, on a busy machine, comes on top.
const CUT: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_millis(1_500);

/// A home for one racer, without a directory of its own to clean up: joining starts no process.
#[track_caller]
fn join_in(base: &TestHome, name: &str, ticket: &str) -> Foreground {
    let file = base.file(&format!("{name}.ticket"), ticket);
    let home = base.scratch().join(name);
    base.invoke(["project", "enroll"]).arg(file).env("POSTERN_HOME", home).spawn()
}

#[track_caller]
fn identifier_in(base: &TestHome, name: &str) -> String {
    let home = base.scratch().join(name);
    let shown = base.invoke(["identity", "show"]).env("POSTERN_HOME", home).run().success().json();
    shown["identifier"].as_str().unwrap().to_owned()
}

#[track_caller]
fn members(home: &TestHome) -> Vec<Value> {
    home.json(&["project-member", "list"]).as_array().unwrap().clone()
}

#[track_caller]
fn tickets(home: &TestHome) -> Vec<Value> {
    home.json(&["ticket", "list"]).as_array().unwrap().clone()
}

#[track_caller]
fn enroll(home: &TestHome, ticket: &str, identity: &str) -> Outcome {
    let file = home.file("t.ticket", ticket);
    home.invoke(["project", "enroll", "--identity", identity]).arg(file).run()
}

// Behaviour 23.
#[test]
fn an_expired_ticket_is_refused_as_expired() {
    let project = Project::new(POSTERN);
    let ticket = project.ticket(&["--expires-in", "1s"]);
    eventually(PATIENCE, "the ticket to expire", || (tickets(&project)[0]["status"] == "expired").then_some(()));
    let home = project.stranger();
    enroll(&home, &ticket, "a").exits(77).says("expired").says("postern project ticket");
    assert_eq!(home.json(&["project", "list"]), json!([]));
    assert_eq!(members(&project).iter().filter(|member| member["role"] == "member").count(), 0);
}

// Behaviour 23.
#[test]
fn a_ticket_admits_as_many_identities_as_it_says() {
    let project = Project::new(POSTERN);
    let ticket = project.ticket(&["--usage-count", "2", "--attribute", "a=b"]);
    let home = project.stranger();
    enroll(&home, &ticket, "one").success();
    enroll(&home, &ticket, "two").success();
    // Who is a member already spends nothing.
    enroll(&home, &ticket, "one").success();
    enroll(&home, &ticket, "three").exits(77).says("used up");
    let row = &tickets(&project)[0];
    assert_eq!((&row["uses"], &row["usage_count"], &row["status"]), (&json!(2), &json!(2), &json!("used-up")));
    let joined = members(&project);
    for name in ["one", "two"] {
        let member = joined.iter().find(|member| member["name"] == name).unwrap();
        assert_eq!(member["attributes"], json!({"a": "b"}));
        assert!(member["added_at"].is_string() && member["attested_by"].is_string(), "{member}");
    }
    assert!(joined.iter().all(|member| member["name"] != "three"));
}

#[test]
fn a_revoked_ticket_and_one_of_another_project() {
    let (project, other) = (Project::new(POSTERN), Project::new(POSTERN));
    let ticket = project.ticket(&[]);
    let id = tickets(&project)[0]["id"].as_str().unwrap().to_owned();
    project.ok(&["ticket", "revoke", &id, "-y"]);
    assert_eq!(project.json(&["ticket", "show", &id])["status"], "revoked");
    let home = project.stranger();
    enroll(&home, &ticket, "a").exits(77).says("revoked");
    enroll(&home, &project.ticket(&[]), "a").success();
    // One identity, one project.
    enroll(&home, &other.ticket(&[]), "a").exits(77).says("TICKET_OTHER_PROJECT");
}

// Behaviour 24.
#[test]
fn of_many_racers_for_one_ticket_one_wins() {
    let project = Project::new(POSTERN);
    let base = project.stranger();
    let ticket = project.ticket(&["--usage-count", "1"]);
    let before = members(&project).len();
    let racers: Vec<Foreground> = (0..RACERS).map(|racer| join_in(&base, &format!("racer-{racer}"), &ticket)).collect();
    let mut won = Vec::new();
    for (racer, running) in racers.into_iter().enumerate() {
        let outcome = running.wait();
        match outcome.status {
            0 => won.push(racer),
            77 => assert!(outcome.stderr.contains("TICKET_USED_UP"), "{outcome:?}"),
            // Told to come back, or not answered in time by a machine that has other work: it may, and then gets the same answer.
            69 | 75 => {
                let again = join_in(&base, &format!("racer-{racer}"), &ticket).wait();
                match again.status {
                    0 => won.push(racer),
                    _ => drop(again.exits(77)),
                }
            }
            _ => panic!("{outcome:?}"),
        }
    }
    assert_eq!(won.len(), 1, "{won:?} won");
    let all = members(&project);
    assert_eq!(all.len(), before + 1);
    let winner = identifier_in(&base, &format!("racer-{}", won[0]));
    assert!(all.iter().any(|member| member["identifier"] == winner.as_str()));
    let row = &tickets(&project)[0];
    assert_eq!((&row["uses"], &row["used_by"]), (&json!(1), &json!([winner])));
}

// Behaviour 24.
#[test]
fn an_authority_killed_while_it_redeems_admits_once_or_not_at_all() {
    let project = Project::new(POSTERN);
    let base = project.stranger();
    // How long a redemption takes here and now; the kills are spread over it.
    let whole = join_in(&base, "measured", &project.ticket(&[])).wait().success().took;
    let before = members(&project).len();
    let mut interrupted = 0;
    let kills = kills();
    for round in 0..kills {
        let ticket = project.ticket(&["--usage-count", "1"]);
        let name = format!("victim-{round}");
        let servers = project.servers_pid();
        let running = join_in(&base, &name, &ticket);
        let outcome = match running.finish(whole * (round + 1) / kills) {
            Ok(outcome) => outcome,
            Err(running) => {
                project.kill(servers);
                running.wait()
            }
        };
        if outcome.status != 0 {
            interrupted += 1;
            assert_eq!(outcome.status, 69, "{outcome:?}");
        }
        project.ok(&["enroll"]);
        // The retry of the same home: a member afterwards, whatever happened before.
        join_in(&base, &name, &ticket).wait().success();
        // The ticket is spent on it, and on nobody else.
        let thief = join_in(&base, &format!("thief-{round}"), &ticket).wait();
        assert!(thief.status == 77 && thief.stderr.contains("TICKET_USED_UP"), "{thief:?}");
        let victim = identifier_in(&base, &name);
        let row = tickets(&project).into_iter().find(|row| row["used_by"] == json!([victim])).unwrap();
        assert_eq!(row["uses"], 1, "{row}");
    }
    let all = members(&project);
    let identifiers: BTreeSet<_> = all.iter().map(|member| member["identifier"].to_string()).collect();
    assert_eq!((all.len(), identifiers.len()), (before + kills as usize, before + kills as usize));
    assert!(interrupted > 0, "no redemption was interrupted, of {kills}");
}

// Behaviour 25.
#[test]
fn each_role_may_do_what_it_may() {
    let project = Project::new(POSTERN);
    let plain = project.member(&["--attribute", "a"]);
    plain.fails(&["project", "ticket"], 77);
    for forbidden in [&["project-member", "list"][..], &["project-member", "delete", "default", "-y"], &["ticket", "list"]] {
        plain.fails(forbidden, 77);
    }

    let enroller = project.member(&["--enroller", "--may-grant", "a", "--may-grant", "b=c", "--may-grant", "relay=acme*"]);
    let grants = |flags: &[&str]| enroller.invoke(["project", "ticket"]).args(flags).run();
    for may in [
        &["--attribute", "a"][..],
        &["--attribute", "a=anything"],
        &["--attribute", "b=c"],
        &["--relay", "acme-relay"],
        &["--attribute", "a", "--attribute", "b=c", "--relay", "acme"],
        &[],
    ] {
        grants(may).success();
    }
    for may_not in [
        &["--attribute", "other"][..],
        &["--attribute", "b=d"],
        &["--relay", "other"],
        &["--relay", "*"],
        &["--enroller"],
        &["--administrator"],
        &["--relay-server", "relay.example:4000"],
    ] {
        grants(may_not).exits(77);
    }
    // What it made admits, with what it granted.
    let home = project.stranger();
    let ticket = grants(&["--attribute", "b=c"]).line().to_owned();
    enroll(&home, &ticket, "guest").success();
    let guest = project.json(&["project-member", "show", "guest"]);
    assert_eq!(guest["attributes"], json!({"b": "c"}));
    let issuer = enroller.json(&["identity", "show"])["identifier"].clone();
    assert_eq!(guest["attested_by"], issuer);

    // Another administrator may make further ones.
    let second = project.member(&["--administrator"]);
    second.ok(&["project", "ticket", "--administrator"]);
    second.ok(&["project-member", "delete", "guest", "-y"]);
    project.fails(&["project-member", "show", "guest"], 1).says("not found");
}

// Behaviour 25: an enroller without `--may-grant`.
#[test]
fn an_enroller_without_limits_grants_what_is_free() {
    let project = Project::new(POSTERN);
    let enroller = project.member(&["--enroller", "--relay", "mine"]);
    let _held = project.member(&["--relay", "held"]);
    let ticket = |flags: &[&str]| enroller.invoke(["project", "ticket"]).args(flags).run();
    ticket(&["--attribute", "inlet-to-saas", "--attribute", "outlet-from-saas", "--relay", "acme-relay"]).success();
    // The name of a member that somebody else enrolled.
    ticket(&["--relay", "held"]).exits(77);
    ticket(&["--administrator"]).exits(77);
    ticket(&["--enroller"]).exits(77);
}

#[test]
fn a_refused_ticket_leaves_no_node() {
    let project = Project::new(POSTERN);
    let ticket = project.ticket(&["--usage-count", "1"]);
    let home = project.stranger();
    enroll(&home, &ticket, "first").success();
    let other = project.stranger();
    let used = other.file("used.ticket", &ticket).display().to_string();
    other.fails(&["node", "create", "n", "--enrollment-ticket", &used], 77).says("TICKET_USED_UP");
    // One whose end is missing.
    let cut = other.file("cut.ticket", &ticket[..ticket.len() - 8]).display().to_string();
    other.fails(&["node", "create", "n", "--enrollment-ticket", &cut], 1).says("truncated");
    assert_eq!(other.json(&["node", "list"]), json!([]));
    assert_eq!(other.json(&["identity", "list"]), json!([]));
    assert_eq!(other.processes(), []);
    // And a good one is good enough afterwards.
    let good = other.file("good.ticket", project.ticket(&[])).display().to_string();
    other.ok(&["node", "create", "n", "--enrollment-ticket", &good]);
}

#[test]
fn tickets_for_relay_servers_are_for_relay_servers() {
    let project = Project::new(POSTERN);
    let port = Reserved::new();
    let address = format!("127.0.0.1:{}", port.port());
    let for_relay = project.ticket(&["--relay-server", &address]);
    let home = project.stranger();
    enroll(&home, &for_relay, "a").exits(77).says("relay server");
    let for_member = home.file("member.ticket", project.ticket(&[])).display().to_string();
    let _port = port.release();
    home.fails(&["serve", "relay", "--listen", &address, "--ticket", &for_member], 77).says("--relay-server");
    // Neither was spent.
    assert!(tickets(&project).iter().all(|row| row["uses"] == 0), "{:?}", tickets(&project));
    home.ok(&["project", "enroll", &for_member]);
    let file = home.file("relay.ticket", &for_relay).display().to_string();
    let relay = home.spawn(&["serve", "relay", "--listen", &address, "--ticket", &file]);
    relay.line_with("serving on", PATIENCE);
    relay.signal(Signal::TERM);
    relay.wait().success();
}

// Behaviour 26.
#[test]
fn a_deleted_member_is_cut_off() {
    let project = Project::new(POSTERN);
    let echo = EchoServer::start();
    let peer = project.member(&["--relay", "p"]);
    project.ok(&["relay", "create", "r"]);
    project.ok(&["tcp-outlet", "create", "--from", "e", "--to", &echo.port().to_string()]);
    let inlet = peer.ok(&["tcp-inlet", "create", "--alias", "i", "--via", "r", "--to", "e"]);
    peer.ok(&["relay", "create", "p"]);
    eventually(PATIENCE, "bytes through the portal", || echoes(inlet.as_str(), b"before").ok());
    let mut live = connect(&inlet).unwrap();
    live.write_all(b"alive").unwrap();
    live.read_exact(&mut [0; 5]).unwrap();

    let identifier = peer.json(&["identity", "show"])["identifier"].as_str().unwrap().to_owned();
    let (cut, since) = (Cut::of(live), Instant::now());
    project.ok(&["project-member", "delete", &identifier, "-y"]);
    cut.within(CUT + SLACK, since);
    let seen = echo.accepted();
    echoes(inlet.as_str(), b"after").unwrap_err();
    assert_eq!(echo.accepted(), seen);

    // Its node says why, and goes on to do so after a restart.
    for _ in 0..2 {
        let why = eventually(PATIENCE, "the reason in its status", || {
            let status = peer.run(&["status"]).exits(1).json().to_string();
            status.contains("member").then_some(status)
        });
        assert!(why.contains("not a member") || why.contains("no member") || why.contains("deleted"), "{why}");
        // It hears of it by two roads, and the relay's may be the slower one.
        eventually(PATIENCE, "the relay that ends its session", || {
            (peer.json(&["relay", "show", "p"])["connection_status"] == "Down").then_some(())
        });
        peer.ok(&["node", "stop"]);
        peer.ok(&["node", "start"]);
    }
    peer.fails(&["project", "ticket"], 77).says("NOT_A_MEMBER");

    // With the ticket that it used it does not come back; with another it does, and its node goes on.
    let new = peer.file("new.ticket", project.ticket(&[])).display().to_string();
    peer.fails(&["project", "enroll", "join.ticket"], 77);
    peer.ok(&["project", "enroll", &new]);
    eventually(Duration::from_secs(60), "bytes of the member that came back", || echoes(inlet.as_str(), b"again").ok());
}

// Behaviour 27.
#[test]
fn while_the_authority_is_away_portals_work_and_new_nodes_wait() {
    let project = Project::new(POSTERN);
    // A relay server on another machine, so that the authority can go away alone.
    let relay = project.stranger();
    let port = Reserved::new();
    let address = format!("127.0.0.1:{}", port.port());
    let ticket = relay.file("relay.ticket", project.ticket(&["--relay-server", &address])).display().to_string();
    let _port = port.release();
    let serve = relay.spawn(&["serve", "relay", "--listen", &address, "--ticket", &ticket]);
    eventually(PATIENCE, "the second relay in the project", || {
        (project.json(&["project-member", "list"]).to_string().contains("relay-server")).then_some(())
    });

    let echo = EchoServer::start();
    let (near, far) = (project.member(&[]), project.member(&["--relay", "r"]));
    far.ok(&["relay", "create", "r"]);
    far.ok(&["tcp-outlet", "create", "--from", "e", "--to", &echo.port().to_string()]);
    let inlet = near.ok(&["tcp-inlet", "create", "--via", "r", "--to", "e"]);
    eventually(PATIENCE, "bytes through the portal", || echoes(inlet.as_str(), b"before").ok());
    let late = project.ticket(&["--attribute", "late"]);

    project.kill(project.servers_pid());
    eventually(PATIENCE, "bytes through the other relay", || echoes(inlet.as_str(), b"without").ok());
    project.fails(&["project", "ticket"], 69);

    // Not a failure: the node stays, says what waits, and keeps the ticket.
    let newcomer = project.stranger();
    let file = newcomer.file("late.ticket", &late).display().to_string();
    let yaml = "{name: n, tcp-inlet: {alias: i, from: \"127.0.0.1:0\", via: r, to: e}}";
    let created = newcomer
        .run(&["node", "create", "--configuration", yaml, "--enrollment-ticket", &file, "--connection-wait", "1s"])
        .success();
    assert!(created.stderr.contains("authority"), "{created:?}");
    let status = newcomer.fails(&["status"], 1).json();
    assert!(status.to_string().contains("enrol"), "{status}");
    let kept = std::fs::metadata(newcomer.path().join("nodes/n/ticket")).unwrap();
    assert_eq!(kept.permissions().mode() & 0o777, 0o600);
    // A node that was a member before starts without it, and works.
    near.ok(&["node", "stop"]);
    near.ok(&["node", "start"]);
    eventually(PATIENCE, "bytes after a restart", || echoes(inlet.as_str(), b"restarted").ok());

    project.ok(&["enroll"]);
    let address = newcomer.json(&["tcp-inlet", "show", "i"])["bind_addr"].as_str().unwrap().to_owned();
    eventually(Duration::from_secs(60), "the new node to proceed", || echoes(address.as_str(), b"after").ok());
    eventually(PATIENCE, "the ticket to be gone", || (!newcomer.path().join("nodes/n/ticket").exists()).then_some(()));
    drop(serve);
}

/// A chain of enrollers, each made by the one before: none gives more than its own ticket let it.
#[test]
fn a_chain_of_enrollers_only_narrows() {
    let project = Project::new(POSTERN);
    let grants = ["--enroller", "--may-grant", "role=enroller", "--may-grant", "team", "--may-grant", "relay=acme*"];
    let first = project.member(&grants);
    let joins = |by: &TestHome, flags: &[&str]| {
        let ticket = by.invoke(["project", "ticket"]).args(flags).run().success().line().to_owned();
        let home = project.stranger();
        let file = home.file("t.ticket", ticket);
        home.invoke(["project", "enroll"]).arg(file).run().success();
        home
    };
    let refused = |by: &TestHome, flags: &[&str]| {
        by.invoke(["project", "ticket"]).args(flags).run().exits(77).says("NOT_PERMITTED");
    };
    let second =
        joins(&first, &["--enroller", "--may-grant", "role=enroller", "--may-grant", "team=red", "--may-grant", "relay=acme-1"]);
    let third = joins(&second, &["--enroller", "--may-grant", "team=red"]);
    joins(&third, &["--attribute", "team=red"]);
    refused(&first, &["--enroller", "--may-grant", "relay=*"]);
    refused(&first, &["--enroller"]);
    refused(&first, &["--administrator"]);
    for flags in [
        &["--attribute", "team=blue"][..],
        &["--relay", "acme-2"],
        &["--enroller", "--may-grant", "team"],
        &["--enroller", "--may-grant", "relay=acme*"],
    ] {
        refused(&second, flags);
    }
    for flags in [&["--attribute", "team=blue"][..], &["--relay", "acme-1"], &["--enroller", "--may-grant", "team=red"]] {
        refused(&third, flags);
    }
}

#[test]
fn a_ticket_for_one_identity_is_nobody_elses() {
    let project = Project::new(POSTERN);
    let home = project.stranger();
    home.ok(&["identity", "create", "web-1"]);
    home.ok(&["identity", "create", "other"]);
    let identifier = home.json(&["identity", "show", "web-1"])["identifier"].as_str().unwrap().to_owned();
    for wanted in [identifier.as_str(), "web-*"] {
        let ticket = project.ticket(&["--for", wanted]);
        let listed = tickets(&project).into_iter().find(|row| row["for"] == wanted).unwrap();
        enroll(&home, &ticket, "other").exits(77).says("NOT_PERMITTED").says("the ticket is for");
        let id = listed["id"].as_str().unwrap();
        assert_eq!(project.json(&["ticket", "show", id])["uses"], 0, "it is not spent");
        if wanted == "web-*" {
            enroll(&project.stranger(), &ticket, "web-2").success();
        } else {
            enroll(&home, &ticket, "web-1").success();
            let shown = project.json(&["ticket", "show", id]);
            assert_eq!(shown["used_by"], json!([identifier]));
            assert!(shown["used_at"][0].as_str().unwrap().ends_with('Z'));
        }
    }
    project.invoke(["project", "ticket", "--for", "a b"]).run().exits(2).says("INVALID_REQUEST");
}
