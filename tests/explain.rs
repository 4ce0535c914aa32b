//! Why something was refused: ids that both sides know, what each side is told, and decisions step by step.

use std::time::{Duration, Instant};

use postern_test_support::{
    Cut, EchoServer, HttpServer, PATIENCE, Project, Reserved, TestHome, Value, echoes, eventually, http_get, json, live,
};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// A stream that a changed guardrail no longer allows ends within this, from when the command has returned: a second, and what a busy machine
/// may add.
const CUT: Duration = Duration::from_millis(1_500);

/// What the identity of the other member is called, and so the member.
const PEER: &str = "acme-gateway";

/// A flood of refused connections, far above what is logged one by one.
const FLOOD: usize = 120;

/// An outlet `e` of the administrator's node under the relay name `r`, and an inlet `i` of another member that has the attribute `a`.
struct Pair {
    project: Project,
    peer: TestHome,
    inlet: String,
    _echo: EchoServer,
}

impl Pair {
    #[track_caller]
    fn new(outlet: &[&str]) -> Self {
        let project = Project::new(POSTERN);
        let echo = EchoServer::start();
        let peer = project.stranger();
        let ticket = peer.file("join.ticket", project.ticket(&["--attribute", "a", "--attribute", "app=crm"]));
        peer.invoke(["project", "enroll", "--identity", PEER]).arg(ticket).run().success();
        project.ok(&["relay", "create", "r"]);
        let port = echo.port().to_string();
        let create = ["tcp-outlet", "create", "--from", "e", "--to", &port];
        project.ok(&[&create[..], outlet].concat());
        let inlet = peer.ok(&["tcp-inlet", "create", "--alias", "i", "--via", "r", "--to", "e"]);
        Self { project, peer, inlet, _echo: echo }
    }

    fn identifier(&self) -> String {
        self.peer.json(&["identity", "show"])["identifier"].as_str().unwrap().to_owned()
    }

    /// A connection that is refused, and what `status` says of the portal afterwards.
    #[track_caller]
    fn refused(&self) -> Value {
        echoes(self.inlet.as_str(), b"x").expect_err("bytes passed a portal that is closed to them");
        portal(&self.peer, "i")
    }

    #[track_caller]
    fn passes(&self) {
        eventually(PATIENCE, "bytes through the portal", || echoes(self.inlet.as_str(), b"there and back").ok());
    }
}

#[track_caller]
fn portal(home: &TestHome, alias: &str) -> Value {
    let status = home.run(&["status"]).json();
    let portals = status["portals"].as_array().unwrap();
    portals.iter().find(|portal| portal["inlet"] == alias).unwrap_or_else(|| panic!("{alias} is not in {status}")).clone()
}

fn node(home: &TestHome) -> String {
    home.json(&["node", "show"])["name"].as_str().unwrap().to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn both_sides_find_a_refusal_by_one_id() {
    let pair = Pair::new(&["--allow", "app = \"billing\" and a"]);
    let told = pair.refused();
    assert_eq!((text(&told["code"]), told["ok"].as_bool()), ("NOT_AVAILABLE", Some(false)), "{told}");
    let id = text(&told["refusal"]).to_owned();
    assert!(!told.to_string().contains("billing"), "{told}");

    // The outlet's side: the policy, the term, what the peer had, and what would change it.
    let known = pair.project.json(&["explain", &id]);
    assert_eq!(known.as_array().unwrap().len(), 1);
    let refusal = &known[0];
    assert_eq!((text(&refusal["code"]), text(&refusal["told"]), text(&refusal["by"])), ("DENIED", "NOT_AVAILABLE", "this-node"));
    assert_eq!((text(&refusal["outlet"]), text(&refusal["peer"])), ("e", pair.identifier().as_str()));
    let policy = &refusal["policy"];
    let term = &policy["terms"][0];
    assert_eq!((text(&policy["source"]), text(&term["term"])), ("own", "(= subject.app \"billing\")"));
    let (start, end) = (term["start"].as_u64().unwrap() as usize, term["end"].as_u64().unwrap() as usize);
    assert_eq!(&text(&policy["expression"])[start..end], "(= subject.app \"billing\")");
    assert_eq!(text(&term["had"][0]), "the peer's `app` is \"crm\"");
    assert_eq!(text(&term["change"]), "the attribute app=\"billing\"");
    let shown = pair.project.invoke(["--output", "plain", "explain", id.as_str()]).run().success().stdout;
    assert!(shown.contains("^^^^") && shown.contains("what would change it"), "{shown}");

    // The inlet's side knows the id and the code, and who can tell more.
    let known = pair.peer.json(&["explain", &id]);
    assert_eq!((text(&known[0]["by"]), text(&known[0]["code"])), ("peer", "NOT_AVAILABLE"));
    assert!(known[0]["policy"].is_null() && !known.to_string().contains("billing"), "{known}");

    // It stands in both logs. What is not known is said to be.
    echoes(pair.inlet.as_str(), b"x").unwrap_err();
    let newest = pair.peer.json(&["explain"])[0].clone();
    let id = text(&newest["id"]);
    for home in [&*pair.project, &pair.peer] {
        eventually(PATIENCE, "the id in the log", || home.node_log(&node(home)).contains(id).then_some(()));
    }
    pair.project.run(&["explain", "R0000000000000000"]).exits(1).says("was not found");
}

/// The id in a text such as `logged it as R5f0c1d2e3a4b5c6d`.
#[track_caller]
fn id_in(text: &str) -> String {
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_id = |word: &&str| word.len() == 17 && word.starts_with('R') && word[1..].bytes().all(|b| b.is_ascii_hexdigit());
    words.rfind(is_id).unwrap_or_else(|| panic!("no id in {text}")).to_owned()
}

#[test]
fn a_refusal_is_found_after_restarts_and_while_nothing_runs() {
    let pair = Pair::new(&["--allow", "app = \"billing\" and a"]);
    let id = text(&pair.refused()["refusal"]).to_owned();
    let (decided, told) = (pair.project.json(&["explain", &id]), pair.peer.json(&["explain", &id]));
    for home in [&*pair.project, &pair.peer] {
        let name = node(home);
        // What waits is written before the process ends.
        home.ok(&["node", "stop", &name]);
        let kept = home.json(&["explain", &id]);
        assert_eq!(kept, if std::ptr::eq(home, &*pair.project) { decided.clone() } else { told.clone() });
        home.ok(&["node", "start", &name]);
        assert_eq!(home.json(&["explain", &id]), kept);
        assert!(home.json(&["explain"]).as_array().unwrap().iter().any(|refusal| refusal["id"] == id.as_str()));
    }
    assert_eq!(text(&decided[0]["policy"]["terms"][0]["term"]), "(= subject.app \"billing\")");
    assert!(!told.to_string().contains("billing"));
    // Nothing of it survives the home.
    pair.peer.ok(&["reset", "-y"]);
    assert!(!pair.peer.path().join("refusals.jsonl").exists());
}

#[test]
fn what_the_authority_refuses_is_found_on_both_sides() {
    let project = Project::new(POSTERN);
    let member = project.member(&["--attribute", "a"]);
    let refused = member.run(&["project", "ticket"]).exits(77);
    let id = id_in(&refused.stderr);
    let told = member.json(&["explain", &id]);
    assert_eq!((text(&told[0]["by"]), text(&told[0]["code"])), ("authority", "NOT_PERMITTED"), "{told}");
    let decided = eventually(PATIENCE, "the authority's own", || {
        let found = project.run(&["explain", &id]);
        (found.status == 0).then(|| found.json())
    });
    let identifier = member.json(&["identity", "show"])["identifier"].clone();
    assert_eq!(
        (text(&decided[0]["node"]), &decided[0]["peer"], text(&decided[0]["told"])),
        ("servers", &identifier, "NOT_PERMITTED")
    );
    assert!(text(&decided[0]["reason"]).starts_with("issue-ticket: "), "{decided}");
    assert!(project.servers_log().contains(&id));
    // Also while the servers do not run.
    project.ok(&["serve", "stop"]);
    assert_eq!(project.json(&["explain", &id]), decided);
    project.ok(&["enroll"]);

    // A ticket that admits nobody: a command that joins, and a node that brings it.
    let ticket = project.ticket(&["--attribute", "a"]);
    project.stranger().invoke(["project", "enroll", "-"]).input(ticket.clone()).run().success();
    let late = project.stranger();
    let refused = late.invoke(["project", "enroll", "-"]).input(ticket.clone()).run().exits(77);
    let id = id_in(&refused.stderr);
    assert_eq!(text(&late.json(&["explain", &id])[0]["code"]), "TICKET_USED_UP");
    eventually(PATIENCE, "the authority's own", || (project.run(&["explain", &id]).status == 0).then_some(()));
    let file = late.file("ticket", &ticket);
    let refused = late.run(&["node", "create", "n", "--enrollment-ticket", file.to_str().unwrap()]).exits(77);
    let id = id_in(&refused.stderr);
    let told = late.json(&["explain", &id]);
    assert_eq!((text(&told[0]["node"]), text(&told[0]["code"])), ("n", "TICKET_USED_UP"), "{told}");
    // A relay name that was not granted.
    let refused = member.run(&["relay", "create", "not-mine"]).exits(77);
    assert!(refused.stderr.contains("not-mine"), "{}", refused.stderr);
    let told = member.json(&["explain"]);
    let of_name = |refusal: &&Value| text(&refusal["reason"]).contains("not-mine");
    let id = text(&told.as_array().unwrap().iter().find(of_name).unwrap()["id"]).to_owned();
    eventually(PATIENCE, "the authority's own", || (project.run(&["explain", &id]).status == 0).then_some(()));
}

#[test]
fn what_a_relay_refuses_is_found_on_both_sides() {
    let pair = Pair::new(&[]);
    pair.passes();
    let identifier = pair.identifier();
    pair.project.ok(&["project-member", "revoke", &identifier, "-y"]);
    let told = eventually(PATIENCE, "the node was told by its relay", || {
        let known = pair.peer.json(&["explain"]);
        known.as_array().unwrap().iter().find(|refusal| refusal["by"] == "relay").cloned()
    });
    let id = text(&told["id"]);
    let decided = eventually(PATIENCE, "the relay's own", || {
        let found = pair.project.run(&["explain", id]);
        (found.status == 0).then(|| found.json())
    });
    assert_eq!(
        (text(&decided[0]["by"]), text(&decided[0]["node"]), text(&decided[0]["code"])),
        ("relay", "servers", "CREDENTIAL")
    );
    assert_eq!((text(&decided[0]["peer"]), text(&told["code"])), (identifier.as_str(), "CREDENTIAL"));
}

#[test]
fn the_refused_side_is_told_what_the_outlet_discloses() {
    let pair = Pair::new(&["--allow", "secret-attribute", "--disclose", "reason"]);
    let told = pair.refused();
    assert_eq!(text(&told["code"]), "DENIED");
    assert!(text(&told["reason"]).contains("secret-attribute"), "{told}");

    for disclose in ["code", "nothing"] {
        pair.project.ok(&["tcp-outlet", "delete", "e", "-y"]);
        let missing = pair.refused();
        pair.project.ok(&[
            "tcp-outlet",
            "create",
            "--from",
            "e",
            "--to",
            "1",
            "--allow",
            "secret-attribute",
            "--disclose",
            disclose,
        ]);
        assert_eq!(text(&pair.project.json(&["tcp-outlet", "show", "e"])["disclose"]), disclose);
        let denied = pair.refused();
        // Nothing but the id tells an outlet that is denied from one that is not there.
        for field in ["step", "code", "reason"] {
            assert_eq!(missing[field], denied[field], "{disclose}: {missing} {denied}");
        }
        assert_eq!(text(&denied["code"]), "NOT_AVAILABLE");
        assert_ne!(missing["refusal"], denied["refusal"]);
    }
    // With `nothing`, not even that the target is the reason.
    pair.project.ok(&["policy", "create", "--resource", "e", "--allow", "a"]);
    assert_eq!(text(&pair.refused()["code"]), "NOT_AVAILABLE");
}

#[test]
fn an_inlet_that_refuses_tells_the_outlets_node() {
    let pair = Pair::new(&[]);
    pair.peer.ok(&["policy", "create", "--resource", "i", "--allow", "is-the-right-one"]);
    let told = pair.refused();
    assert_eq!(text(&told["code"]), "DENIED");
    let id = text(&told["refusal"]).to_owned();
    let own = pair.peer.json(&["explain", &id]);
    assert_eq!((text(&own[0]["inlet"]), text(&own[0]["by"])), ("i", "this-node"));
    let theirs = eventually(PATIENCE, "the outlet's node hears of it", || {
        let known = pair.project.run(&["--output", "json", "explain", &id]);
        (known.status == 0).then(|| known.json())
    });
    assert_eq!(text(&theirs[0]["by"]), "peer");
    assert!(!theirs.to_string().contains("is-the-right-one"), "{theirs}");
}

/// In its own home, an outlet shows why its target was last not reached, until it is reached again.
#[test]
fn an_outlet_shows_its_last_failure() {
    let pair = Pair::new(&[]);
    let dead = Reserved::new();
    let to = format!("127.0.0.1:{}", dead.port());
    pair.project.ok(&["tcp-outlet", "create", "--from", "late", "--to", &to]);
    let inlet = pair.peer.ok(&["tcp-inlet", "create", "--alias", "late", "--via", "r", "--to", "late"]);
    let outlet = || pair.project.json(&["tcp-outlet", "show", "late"]);
    let unreached = || pair.project.json(&["status"])["nodes"][0]["unreached"].clone();
    assert_eq!((&outlet()["last_failure"], unreached()), (&Value::Null, json!([])), "nobody has asked for it");

    echoes(inlet.as_str(), b"x").unwrap_err();
    let last = outlet()["last_failure"].clone();
    assert_eq!(text(&last["code"]), "TARGET_REFUSED", "{last}");
    let unreached_now = unreached();
    assert_eq!(unreached_now.as_array().unwrap().len(), 1, "not the outlet that works: {unreached_now}");
    for (field, value) in [("outlet", "late"), ("to", to.as_str()), ("code", "TARGET_REFUSED"), ("reason", text(&last["reason"]))]
    {
        assert_eq!(unreached_now[0][field], value, "{unreached_now}");
    }
    let plain = pair.project.run(&["--output", "plain", "status"]).success().stdout;
    assert!(plain.contains("tcp-outlet late") && plain.contains("TARGET_REFUSED"), "{plain}");
    let listed = pair.project.run(&["--output", "plain", "tcp-outlet", "list"]).stdout;
    assert!(listed.contains("TARGET_REFUSED"), "{listed}");

    let _service = HttpServer::start_on(dead.listen(), "here");
    assert_eq!(http_get(inlet.as_str(), "/").unwrap().text(), "here");
    assert_eq!((&outlet()["last_failure"], unreached()), (&Value::Null, json!([])));
}

#[test]
fn a_flood_of_refusals_is_kept_and_logged_within_bounds() {
    let pair = Pair::new(&["--allow", "nobody"]);
    for _ in 0..FLOOD {
        echoes(pair.inlet.as_str(), b"x").unwrap_err();
    }
    for home in [&*pair.project, &pair.peer] {
        let log = home.node_log(&node(home));
        let lines = log.lines().filter(|line| line.contains(" refused ")).count();
        assert!((1..FLOOD / 3).contains(&lines), "{lines} lines");
        let kept = home.json(&["explain"]).as_array().unwrap().len();
        assert!((1..=50).contains(&kept), "{kept}");
        eventually(Duration::from_secs(30), "the number of those that were not logged", || {
            home.node_log(&node(home)).contains("further refusals of the same kind").then_some(())
        });
    }
}

#[test]
fn a_decision_step_by_step() {
    let pair = Pair::new(&["--allow", "a"]);
    pair.passes();
    let from = pair.identifier();
    let steps = |document: &Value| -> Vec<(String, String)> {
        let steps = document["steps"].as_array().unwrap().iter();
        steps.map(|step| (text(&step["step"]).to_owned(), text(&step["verdict"]).to_owned())).collect()
    };
    let verdict = |document: &Value, step: &str| {
        steps(document).into_iter().find(|(name, _)| name == step).unwrap_or_else(|| panic!("{document}")).1
    };
    let explain = |home: &TestHome, to: &str| {
        let outcome = home.run(&["--output", "json", "explain", "--from", &from, "--to", to]);
        (outcome.status, outcome.json())
    };

    // From the outlet's side: the credential that was seen last is asked about.
    let (status, document) = explain(&pair.project, "/r/e");
    assert_eq!((status, text(&document["verdict"])), (0, "allowed"), "{document}");
    for step in ["relay-claim", "outlet-policy", "outlet-target"] {
        assert_eq!(verdict(&document, step), "allowed", "{document}");
    }
    assert_eq!(verdict(&document, "inlet-policy"), "unknown");
    // From the inlet's side.
    let (status, document) = explain(&pair.peer, "/r/e");
    assert_eq!(status, 0, "{document}");
    for step in ["relay-look-up", "inlet-policy", "outlet-policy", "outlet-target"] {
        assert_eq!(verdict(&document, step), "allowed", "{document}");
    }

    // A policy that refuses is named where it is decided, and the member may be named by its name.
    pair.project.ok(&["policy", "create", "--resource", "e", "--allow", "b or (a and region = \"eu\")"]);
    let (status, document) = explain(&pair.project, "/r/e");
    assert_eq!((status, text(&document["verdict"]), text(&document["step"])), (77, "denied", "outlet-policy"));
    let step = document["steps"].as_array().unwrap().iter().find(|step| step["step"] == "outlet-policy").unwrap();
    let terms: Vec<&str> = step["policies"][0]["terms"].as_array().unwrap().iter().map(|term| text(&term["term"])).collect();
    assert_eq!(terms, ["(= subject.b \"true\")", "(= subject.region \"eu\")"]);
    assert_eq!(step["attributes"]["app"], "crm");
    let by_name = pair.project.run(&["--output", "json", "explain", "--from", PEER, "--to", "/r/e"]).exits(77);
    let by_name = by_name.json();
    for field in ["from", "verdict", "step"] {
        assert_eq!(by_name[field], document[field], "the same, by name: {by_name}");
    }
    pair.project.run(&["explain", "--from", "nobody-of-this-name", "--to", "/r/e"]).exits(1).says("was not found");
    // The home's own identity is called so, and so is a member.
    let _default = pair.project.member(&[]);
    pair.project.run(&["explain", "--from", "default", "--to", "/r/e"]).exits(1).says("AMBIGUOUS_MEMBER");
    let (status, document) = explain(&pair.peer, "/r/e");
    assert_eq!((status, text(&document["step"])), (77, "outlet-policy"), "{document}");
    let step = document["steps"].as_array().unwrap().iter().find(|step| step["step"] == "outlet-policy").unwrap();
    assert!(step["refusal"].is_string() && !document.to_string().contains("region"), "{document}");

    // What does not exist, what nobody decided, and another time.
    assert_eq!(explain(&pair.project, "/r/missing").0, 77);
    assert_eq!(explain(&pair.peer, "/nobody/e").0, 1);
    pair.project.ok(&["policy", "create", "--resource", "e", "--allow", "a"]);
    let later = ["--output", "json", "explain", "--from", &from, "--to", "/r/e", "--at", "2030-01-01T00:00:00Z"];
    let outcome = pair.project.run(&later).exits(77);
    assert!(outcome.stdout.contains("expired"), "{outcome:?}");
    pair.project.run(&["explain", "--from", &from, "--to", "/other/e"]).exits(1).says("at either end");
}

#[test]
fn of_several_nodes_with_one_identity_the_named_one_is_asked() {
    let server = EchoServer::start();
    let home = TestHome::new(POSTERN);
    for name in ["n1", "n2", "n3"] {
        home.ok(&["node", "create", name]);
    }
    home.ok(&["tcp-outlet", "create", "--at", "n1", "--from", "service", "--to", &server.port().to_string()]);
    let to = "/node/n1/service/service";
    home.ok(&["tcp-inlet", "create", "--at", "n2", "--alias", "good", "--to", to]);
    home.ok(&["tcp-inlet", "create", "--at", "n3", "--alias", "bad", "--to", to, "--allow", "nope"]);
    assert_eq!((portal(&home, "good")["ok"].as_bool(), portal(&home, "bad")["ok"].as_bool()), (Some(true), Some(false)));
    for (from, exit, verdict) in [("n2", 0, "allowed"), ("n3", 77, "denied"), ("/node/n2", 0, "allowed")] {
        let told = home.run(&["explain", "--from", from, "--to", to]).exits(exit).json();
        assert_eq!(text(&told["verdict"]), verdict, "{told}");
    }
}

#[test]
fn guardrails_narrow_and_no_node_can_widen_them() {
    let pair = Pair::new(&["--allow", "a"]);
    pair.passes();
    let open = Cut::of(live(pair.inlet.as_str()));
    let of_type = ["--resource-type", "tcp-outlet"];
    let project_policy =
        |home: &TestHome, verb: &str, rest: &[&str]| home.run(&[&["project", "policy", verb][..], &of_type, rest].concat());
    project_policy(&pair.project, "create", &["--allow", "cleared"]).success();
    // A live stream is judged again.
    open.within(CUT, Instant::now());

    // A refusal names it, and no policy of the node goes round it.
    pair.project.ok(&["policy", "create", "--resource", "e", "--allow", "subject.has_credential"]);
    let told = pair.refused();
    assert_eq!(text(&told["code"]), "NOT_AVAILABLE");
    let known = pair.project.json(&["explain", text(&told["refusal"])]);
    let policy = &known[0]["policy"];
    assert_eq!((text(&policy["source"]), text(&policy["expression"])), ("guardrail", "(= subject.cleared \"true\")"));
    let from = pair.identifier();
    let outcome = pair.project.run(&["--output", "json", "explain", "--from", &from, "--to", "/r/e"]).exits(77);
    let document = outcome.json();
    let step = document["steps"].as_array().unwrap().iter().find(|step| step["step"] == "outlet-policy").unwrap();
    let asked: Vec<(&str, bool)> =
        step["policies"].as_array().unwrap().iter().map(|policy| (text(&policy["source"]), policy["allows"] == true)).collect();
    assert_eq!(asked, [("guardrail", false), ("own", true)]);
    let shown = pair.project.invoke(["--output", "plain", "explain", "--from", &from, "--to", "/r/e"]).run().exits(77).stdout;
    assert!(shown.contains("a guardrail"), "{shown}");
    let node = pair.project.json(&["node", "show"]);
    assert_eq!(node["guardrails"][0]["expression"], "(= subject.cleared \"true\")");

    // It is kept over a restart, also while the authority is away.
    pair.project.ok(&["serve", "stop"]);
    pair.project.ok(&["node", "stop"]);
    pair.project.run(&["node", "start"]);
    let node = pair.project.json(&["node", "show"]);
    assert_eq!(node["guardrails"][0]["expression"], "(= subject.cleared \"true\")", "{node}");
    pair.project.ok(&["enroll"]);

    // Only administrators set them, and they list and delete them.
    project_policy(&pair.peer, "create", &["--allow", "true"]).exits(77);
    assert_eq!(pair.project.json(&["project", "policy", "list"])[0]["resource_type"], "tcp-outlet");
    project_policy(&pair.project, "delete", &["-y"]).success();
    pair.passes();
    project_policy(&pair.project, "delete", &["-y"]).exits(1);
}

#[test]
fn guardrails_for_some_nodes() {
    let pair = Pair::new(&["--allow", "a"]);
    pair.passes();
    let create = ["project", "policy", "create", "--resource-type"];
    // The outlet's node has no attributes; the inlet's has `app=crm`.
    pair.project.ok(&[&create[..], &["tcp-outlet", "--for", "app = \"crm\"", "--allow", "cleared"]].concat());
    pair.passes();
    pair.project.ok(&[&create[..], &["tcp-inlet", "--for", "app = \"crm\"", "--allow", "cleared"]].concat());
    eventually(PATIENCE, "the inlet's node refuses", || echoes(pair.inlet.as_str(), b"x").is_err().then_some(()));
    let told = pair.refused();
    assert_eq!((text(&told["step"]), text(&told["code"])), ("inlet-policy", "DENIED"));
    let known = pair.peer.json(&["explain", text(&told["refusal"])]);
    assert_eq!(
        (text(&known[0]["policy"]["source"]), text(&known[0]["policy"]["applies_to"])),
        ("guardrail", "(= subject.app \"crm\")")
    );
    for command in [["node", "show"], ["policy", "list"]] {
        let shown = pair.peer.invoke(["--output", "plain"]).args(command).run().success();
        let rule = "tcp-inlet only where (= subject.cleared \"true\") (for (= subject.app \"crm\"))";
        assert!(format!("{}{}", shown.stdout, shown.stderr).contains(rule), "{shown:?}");
    }
    pair.project.ok(&["project", "policy", "delete", "--resource-type", "tcp-inlet", "--for", "app = \"crm\"", "-y"]);
    pair.passes();
    pair.project.run(&[&create[..], &["relay", "--allow", "a"]].concat()).exits(2);
    let wrong = pair.project.run(&[&create[..], &["tcp-inlet", "--allow", "a and and b"]].concat()).exits(2);
    assert!(wrong.stderr.contains('^'), "{wrong:?}");
}

#[test]
fn policies_are_tested_without_a_network() {
    let home = TestHome::new(POSTERN);
    let policies = "tcp-outlet: {from: db, to: 5432, allow: app = \"billing\" and not staging}\n";
    let cases = "cases:\n- {name: right, resource: db, subject: {app: billing}, expect: allow}\n\
                 - {resource: db, subject: {app: billing, staging: true}, expect: deny}\n";
    home.file("cases.yaml", format!("{policies}{cases}"));
    let cases_alone =
        format!("configuration: node.yaml\n{cases}- {{name: wrong, resource: db, subject: [staging], expect: allow}}\n");
    home.file("node.yaml", policies);
    home.file("miss.yaml", &cases_alone);
    let all = home.json(&["policy", "test", "cases.yaml"]);
    assert_eq!((all.as_array().unwrap().len(), &all[0]["decided"]), (2, &Value::from("allow")));
    let missed = home.run(&["--output", "plain", "policy", "test", "miss.yaml"]).exits(1);
    assert!(missed.stdout.contains("MISS wrong") && missed.stdout.contains("2 of 3"), "{missed:?}");
    home.file("bad.yaml", "cases:\n- {resource: db, expect: perhaps}\n");
    let bad = home.run(&["policy", "test", "bad.yaml"]).exits(78);
    assert!(bad.stderr.contains("bad.yaml:2:"), "{bad:?}");
    // Without policies in the file, those of a node, which need not run.
    home.ok(&["node", "create", "n"]);
    home.ok(&["policy", "create", "--resource-type", "tcp-outlet", "--allow", "trusted"]);
    home.ok(&["node", "stop", "n"]);
    home.file("of-node.yaml", "cases: [{resource-type: tcp-outlet, subject: [trusted], expect: allow}]");
    home.run(&["policy", "test", "of-node.yaml"]).success();
    // A value that is nowhere is told of.
    for (file, told) in [("cases.yaml", "--variable X is not used here"), ("of-node.yaml", "--variable X has no configuration")] {
        home.run(&["policy", "test", file, "--variable", "X=y"]).success().says(told);
    }
}

#[test]
fn policies_that_deserve_a_look_are_named() {
    let home = TestHome::new(POSTERN);
    home.ok(&["node", "create", "n"]);
    home.ok(&["tcp-outlet", "create", "--from", "never", "--to", "1", "--allow", "a and not a"]);
    home.ok(&["tcp-outlet", "create", "--from", "open", "--to", "1", "--allow", "a or not a"]);
    home.ok(&["policy", "create", "--resource-type", "tcp-outlet", "--allow", "a"]);
    let node = home.json(&["node", "show"]);
    let kinds: Vec<(&str, &str)> =
        node["policy_findings"].as_array().unwrap().iter().map(|found| (text(&found["kind"]), text(&found["subject"]))).collect();
    assert_eq!(kinds, [("never-true", "tcp-outlet never"), ("shadowed", "tcp-outlet")]);
    assert_eq!(text(&node["open_to_every_member"][0]), "tcp-outlet open");
    let status = home.run(&["--output", "plain", "status"]).stdout;
    for said in ["tcp-outlet never is never true", "tcp-outlet is shadowed", "tcp-outlet open is open to every member"] {
        assert!(status.contains(said), "{said}: {status}");
    }
    let list = home.run(&["--output", "plain", "policy", "list"]);
    assert!(list.stderr.contains("never is never true"), "{list:?}");
}
