//! Every shape that is accepted, and every fault with its place.

use postern_proto::spec::{PolicyTarget, RelayAt, ResourceType};
use proptest::prelude::*;

use super::*;

pub(super) fn load_with(text: &str, flags: &[&str]) -> Result<NodeConfig, Problems> {
    load("node.yaml", text, &Variables::new(flags.iter().copied(), []).unwrap(), None)
}

fn ok(text: &str) -> NodeConfig {
    load_with(text, &[]).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The problems as `LINE:COLUMN message`.
fn faults(text: &str) -> Vec<String> {
    let problems = load_with(text, &[]).unwrap_err();
    problems.all().iter().map(|p| format!("{}:{} {}", p.place.start.line, p.place.start.column, p.message)).collect()
}

fn suggestions(text: &str) -> Vec<String> {
    load_with(text, &[]).unwrap_err().all().iter().filter_map(|problem| problem.suggestion.clone()).collect()
}

#[test]
fn the_vendor_and_the_customer() {
    let saas = ok(include_str!("../../../configs/saas.yaml"));
    assert_eq!(saas.relays[0].name.as_str(), "saas-relay");
    assert_eq!((saas.outlets[0].name.as_str(), saas.outlets[0].to.to_string().as_str()), ("saas", "http-server:80"));
    assert!(saas.outlets[0].allow.is_some());
    assert_eq!(saas.policies[0].target, PolicyTarget::ResourceType(ResourceType::TcpInlet));
    assert!(saas.inlets.is_empty() && saas.name.is_none() && saas.warnings.is_empty());

    let text = include_str!("../../../configs/customer.yaml");
    let customer = load_with(text, &["RELAY=acme-relay", "GITHUB_ADDRESS=github.local:80"]).unwrap();
    assert_eq!(customer.relays[0].name.as_str(), "acme-relay");
    assert_eq!(customer.outlets[0].to.to_string(), "github.local:80");
    assert_eq!(customer.inlets[0].from.to_string(), "0.0.0.0:7000");
    assert_eq!(customer.inlets[0].to.to_string(), "/project/default/service/forward_to_saas-relay/secure/api/service/saas");
    assert_eq!(customer.policies[0].target, PolicyTarget::ResourceType(ResourceType::TcpOutlet));
    assert_eq!(faults(text), ["2:8 variable 'RELAY' is not defined", "12:7 variable 'GITHUB_ADDRESS' is not defined"]);
}

#[test]
fn every_example_loads() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");
    let mut loaded = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = text(&name, &std::fs::read(&path).unwrap()).unwrap();
        let environment = [("RELAY", "acme-relay"), ("GITHUB_ADDRESS", "github.local:80")];
        let variables = Variables::new([], environment.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap();
        let config = load(&name, &text, &variables, None).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(config.warnings.is_empty(), "{name}: {:?}", config.warnings);
        assert!(config.outlets.len() + config.inlets.len() > 0, "{name} makes nothing");
        loaded += 1;
    }
    assert!(loaded >= 8, "the examples are missing: {loaded}");
}

#[test]
fn scalars() {
    let config = ok("version: 1\nname: n1\nidentity: me\nticket: a.ticket\ntcp-listener-address: 0.0.0.0:4000\n\
                     http_server_port: 0\nforeground: true\n");
    assert_eq!(config.name.unwrap().as_str(), "n1");
    assert_eq!(config.identity.unwrap().as_str(), "me");
    assert_eq!(config.ticket.unwrap().expose_secret(), "a.ticket");
    assert_eq!(config.tcp_listener_address.unwrap().to_string(), "0.0.0.0:4000");
    assert_eq!((config.http_server_port, config.foreground), (Some(0), Some(true)));
    assert_eq!(ok("{}").relays.len(), 0);
    assert_eq!(
        faults("name: a/b\nidentity: 'x y'\ntcp-listener-address: host\nhttp-server-port: 65536\nforeground: yes\nticket:\n"),
        [
            "1:7 `name`: `a/b` is not a node name: use 1 to 64 of the characters A-Z a-z 0-9 _ -",
            "2:11 `identity`: `x y` is not an identity name: use 1 to 64 of the characters A-Z a-z 0-9 _ -",
            "3:23 `tcp-listener-address`: `host` is not an address: write HOST:PORT, such as db.internal:5432, or [::1]:5432 for IPv6",
            "4:19 `http-server-port`: `65536` is not a port: ports are numbers from 0 to 65535",
            "5:13 `foreground` is true or false, not `yes`",
            "6:7 `ticket` has no value",
        ]
    );
    assert_eq!(faults("name: [a]\nidentity: {a: b}")[0], "1:7 `name` takes one text, not a list");
    assert_eq!(faults("http-server-port: +80").len(), 1);
}

#[test]
fn relay_shapes() {
    let names = |text: &str| ok(text).relays.iter().map(|relay| relay.name.to_string()).collect::<Vec<_>>();
    for text in [
        "relay: r1",
        "relays: r1",
        "relay: [r1]",
        "relays:\n  - r1\n",
        "relay: {r1: {at: /project/default}}",
        "relay: {r1: }",
        "relay: {r1: {}}",
        "relays:\n- r1: {at: /project/default}\n",
        "relay: {name: r1, at: /project/default}",
        "{\"relay\": \"r1\"}",
    ] {
        assert_eq!(names(text), ["r1"], "{text}");
    }
    assert_eq!(names("relays: [r1, r2]"), ["r1", "r2"]);
    assert_eq!(names("relays: {r1: {}, r2: {at: /project}}"), ["r1", "r2"]);
    assert_eq!(ok("relay: {r1: {at: relay.example:4000}}").relays[0].at, RelayAt::Server("relay.example:4000".parse().unwrap()));
    assert!(ok("name: n1\nrelay: {r1: {to: /node/n1}}").relays.len() == 1);
    assert_eq!(faults("relay: [r1, r1]"), ["1:13 relay name `r1` is claimed twice, first on line 1"]);
    assert_eq!(faults("relay: [[r1]]").len(), 1);
    assert_eq!(faults("relay: {r1: {at: nowhere}}").len(), 1);
    assert_eq!(ok("relay:\n").warnings[0].to_string(), "node.yaml:1:6: `relay` has no value and makes nothing");
}

#[test]
fn outlet_shapes() {
    let outlets = |text: &str| ok(text).outlets.iter().map(|outlet| format!("{}={}", outlet.name, outlet.to)).collect::<Vec<_>>();
    for text in [
        "tcp-outlet: {from: db, to: 5432}",
        "tcp_outlets: {from: db, to: 5432}",
        "tcp-outlets: {db: {to: 5432}}",
        "tcp-outlet:\n  db:\n    to: '5432'\n",
        "tcp-outlets: [{from: db, to: 127.0.0.1:5432}]",
        "tcp-outlet:\n- from: /service/db\n  to: \"5432\"\n",
        "tcp-outlets:\n- db: {to: 5432}\n",
        "{name: n, tcp-outlets: {db: {to: 5432}}}",
    ] {
        assert_eq!(outlets(text), ["db=127.0.0.1:5432"], "{text}");
    }
    assert_eq!(outlets("tcp-outlets: {a: {to: 1}, b: {to: 2}}"), ["a=127.0.0.1:1", "b=127.0.0.1:2"]);
    assert_eq!(outlets("tcp-outlets: {}").len(), 0);
    assert_eq!(outlets("tcp-outlet: {to: 1}"), ["outlet=127.0.0.1:1"]);
    let two = ok("tcp-outlets: [{to: 1}, {to: 2}]").outlets;
    assert!(two[0].name.as_str() == "outlet" && !two[1].name.as_str().starts_with("outlet"));
    let two = ok("tcp-outlets: [{to: 1}, {to: 2, from: outlet}]").outlets;
    assert!(!two[0].name.as_str().starts_with("outlet"), "a name given anywhere in the file is taken");
    let labelled = ok("tcp-outlets: {label: {from: db, to: 1}}");
    assert_eq!(labelled.outlets[0].name.as_str(), "db");
    assert!(labelled.warnings[0].message.contains("only a label"));

    assert!(faults("tcp-outlets: {db: {to: \"localhost:65536\"}}")[0].starts_with("1:24 `to`: `65536` is not a port"));
    assert_eq!(faults("tcp-outlet: {}")[0], "1:13 `to` is missing: name the HOST:PORT that the outlet connects to");
    assert_eq!(faults("tcp-outlet: 5432")[0], "1:13 `tcp-outlet` takes a map of arguments, not a text");
    assert_eq!(
        faults("tcp-outlet: {to: 0}")[0],
        "1:18 `to`: port 0 cannot be dialled: name the port that the service listens on"
    );
    assert_eq!(faults("tcp-outlet: {to: }")[0].split_once(' ').unwrap().1, "`to` has no value");
    assert_eq!(
        faults("tcp-outlets: [{from: a, to: 1}, {from: a, to: 2}]"),
        ["1:33 there are two outlets `a`; the first is on line 1"]
    );
    assert_eq!(faults("tcp-outlets: {a: {to: 1}, a: {to: 2}}"), ["1:27 `a` stands twice, first on line 1"]);
    assert_eq!(faults("tcp-outlets:\n  a b: {to: 1}\n")[0].split_once(':').unwrap().0, "2");
}

#[test]
fn inlet_shapes() {
    let inlets = |text: &str| {
        ok(text).inlets.iter().map(|inlet| format!("{} {} {}", inlet.alias, inlet.from, inlet.to)).collect::<Vec<_>>()
    };
    let expected = "a 127.0.0.1:7000 /project/default/service/forward_to_r/secure/api/service/db";
    for text in [
        "tcp-inlet: {alias: a, from: 7000, via: r, to: db}",
        "tcp_inlets: {a: {from: 7000, via: r, to: db}}",
        "tcp-inlets: [{alias: a, from: '127.0.0.1:7000', to: /project/default/service/forward_to_r/secure/api/service/db}]",
    ] {
        assert_eq!(inlets(text), [expected], "{text}");
    }
    let plain = &ok("tcp-inlet: {}").inlets[0];
    assert_eq!((plain.from.to_string().as_str(), plain.to.first().outlet.as_str()), ("127.0.0.1:0", "outlet"));
    assert_eq!(inlets("tcp-inlets: {}").len(), 0);
    assert_eq!(faults("tcp-inlets: [{alias: a}, {alias: a}]"), ["1:26 there are two inlets `a`; the first is on line 1"]);
    assert_eq!(faults("tcp-inlet: {via: r, to: /node/n/service/x}").len(), 1);
    // Free ports are never alike.
    assert_eq!(inlets("tcp-inlets: [{from: 0}, {from: 0}]").len(), 2);
}

#[test]
fn outlets_that_share_an_inlet() {
    let shares = |text: &str| {
        let config = ok(text);
        let shares = config.inlets[0].to.shares().iter();
        shares.map(|share| format!("{}={}", share.to.outlet, share.weight)).collect::<Vec<_>>()
    };
    for text in [
        "tcp-inlet: {via: r, to: {v1: 90, v2: 10}}",
        "tcp-inlet: {to: {v1: 90, v2: 10}}",
        "tcp-inlets: {shop: {via: r, to: {v1: 90, v2: 10}}}",
        "tcp-inlets: [{alias: shop, to: {/node/n/service/v1: 90, v2: 10}}]",
    ] {
        assert_eq!(shares(text), ["v1=90", "v2=10"], "{text}");
    }
    // An inlet may be called `to`.
    assert_eq!(ok("tcp-inlets: {to: {via: r, from: 7000}}").inlets[0].alias.as_str(), "to");
    assert_eq!(faults("tcp-inlet: {via: r, to: {v1: 0, v2: 10}}").len(), 1);
    assert_eq!(faults("tcp-inlet: {via: r, to: {v1: x, v2: 2000}}").len(), 2);
    assert_eq!(faults("tcp-inlet: {via: r, to: {}}").len(), 1);
    assert_eq!(faults("tcp-inlet: {via: r, to: {v1: 1, v1: 2}}").len(), 1);
    assert_eq!(faults("tcp-inlet: {via: r, to: {v1: 1, /service/v1: 2}}").len(), 1);
    assert_eq!(faults("tcp-inlet: {via: r, to: {v1: {weight: 1}}}").len(), 1);
    assert_eq!(faults("tcp-inlet: {via: r, to: [v1, v2]}").len(), 1);
    assert_eq!(ok("relays: {a: {weight: 3}, b: {}}").relays.iter().map(|relay| relay.weight.get()).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(faults("relay: {name: a, weight: 0}").len(), 1);
}

#[test]
fn listen_addresses_alike_are_refused() {
    for (a, b) in
        [("7000", "127.0.0.1:7000"), ("localhost:7000", "7000"), ("0.0.0.0:7000", "7000"), ("'[::]:7000'", "1.2.3.4:7000")]
    {
        let text = format!("tcp-inlets:\n- from: {a}\n- from: {b}\n");
        assert!(faults(&text)[0].starts_with("3:9 an inlet listens on"), "{text}");
    }
    assert_eq!(ok("tcp-inlets: [{from: 127.0.0.1:7000}, {from: 127.0.0.2:7000}]").inlets.len(), 2);
    assert_eq!(faults("http-server-port: 7000\ntcp-inlet: {from: 7000}").len(), 1);
    assert_eq!(faults("tcp-listener-address: 0.0.0.0:7000\ntcp-inlet: {from: 7000}").len(), 1);
}

#[test]
fn policy_shapes() {
    for text in [
        "policy: {resource-type: tcp-outlet, allow: a}",
        "policies: {resource_type: tcp-outlet, expression: a}",
        "policies: [{resource: tcp-outlet, allow: a}]",
        "policy:\n- resource-type: tcp_outlet\n  allow: a\n",
    ] {
        assert_eq!(ok(text).policies[0].target, PolicyTarget::ResourceType(ResourceType::TcpOutlet), "{text}");
    }
    assert_eq!(ok("policy: {resource: db, allow: a}").policies[0].target, PolicyTarget::Resource("db".into()));
    assert!(faults("policies: [{resource-type: relay, allow: a}, {resource: relay, allow: b}]")[0].contains("two policies"));
    assert_eq!(
        ok("policy: {resource-type: relay, allow: a}").warnings[0].to_string(),
        "node.yaml:1:9: a policy for the type `relay` decides nothing: relay names are granted by tickets"
    );
    assert_eq!(suggestions("policy: {resource-type: tcp-oulet, allow: a}"), ["did you mean `tcp-outlet`?"]);
    assert!(faults("policy: {resource-type: tcp-outlet}")[0].starts_with("1:9 `allow` is missing"));
    assert!(faults("policy: {resource-type: tcp-outlet, allow: }")[0].contains("`allow` has no value"));
    assert!(faults("tcp-outlet: {from: db, to: 1, allow: a}\npolicy: {resource: db, allow: b}")[0].contains("keep one"));
}

#[test]
fn a_wrong_expression_is_shown_where_it_is() {
    for (text, place) in [
        ("tcp-outlet:\n  to: 80\n  allow: a and\n", "3:15"),
        ("tcp-outlet: {to: 80, allow: \"a xor b\"}", "1:32"),
        ("tcp-outlet: {to: 80, allow: '(= subject.a 1'}", "1:30"),
        ("policy:\n  resource-type: relay\n  allow: |\n    a or\n    b xor c\n", "5:7"),
        ("policy:\n  resource-type: relay\n  expression: (foo subject.a)\n", "3:16"),
    ] {
        let fault = &faults(text)[0];
        assert!(fault.starts_with(&format!("{place} the policy expression is wrong: ")), "{text}: {fault}");
    }
    let problems = load_with("tcp-outlet: {to: 80, allow: $P}", &["P=a and"]).unwrap_err();
    assert_eq!(problems.all()[0].place.start, Position { line: 1, column: 29 }, "a value of a variable has no place of its own");
}

#[test]
fn unknown_and_duplicate_keys() {
    let problems = load_with("relay: r\ntcp-outlet:\n  from: saas\n  to: h:80\n  alow: x\nnmae: n\n", &[]).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "node.yaml:5:3: unknown key `alow`\n  |\n5 |   alow: x\n  |   ^^^^ did you mean `allow`?\n\
         node.yaml:6:1: unknown key `nmae`\n  |\n6 | nmae: n\n  | ^^^^ did you mean `name`?"
    );
    assert_eq!(suggestions("tcp-outlest: {to: 1}"), ["did you mean `tcp-outlet`?"]);
    assert_eq!(faults("name: a\nname: b"), ["2:1 `name` stands twice in this file, first on line 1"]);
    assert_eq!(faults("relay: a\nrelays: b"), ["2:1 `relays` and `relay` (line 1) are the same key"]);
    assert_eq!(faults("tcp-outlet: {to: 1, to: 2}"), ["1:21 `to` stands twice, first on line 1"]);
    assert_eq!(faults("<<: {name: a}").len(), 1);
    // A misspelt key must not also be told as a missing one; what can be checked beside it is.
    assert_eq!(faults("tcp-outlet: {too: 1, from: a/b}").len(), 2);
}

#[test]
fn keys_of_other_systems_are_told_and_ignored() {
    let config =
        ok("skip-is-running-check: true\nexit_on_eof: true\nproject: {a: b}\nopentelemetry-context: x\nversion: 7\nname: n");
    assert_eq!(config.warnings.len(), 5);
    assert_eq!(config.warnings[0].to_string(), "node.yaml:1:1: `skip-is-running-check` has no meaning here and is ignored");
}

#[test]
fn at_may_only_name_this_node() {
    assert_eq!(ok("name: n1\ntcp-outlet: {to: 1, at: n1}\ntcp-inlet: {at: /node/n1}\n").outlets.len(), 1);
    assert_eq!(suggestions("name: n1\ntcp-outlet: {to: 1, at: n2}"), ["this node is `n1`; leave `at` out"]);
    assert_eq!(suggestions("tcp-outlet: {to: 1, at: n2}"), ["leave it out, or add `name: n2`"]);
    let name = "n2".parse().unwrap();
    let config = load("f", "name: n1\ntcp-outlet: {to: 1, at: n2}", &Variables::default(), Some(&name)).unwrap();
    assert_eq!(config.name, Some(name), "the command's name wins");
}

#[test]
fn a_variable_that_stands_nowhere_is_told() {
    let warned = |text: &str| {
        let variables = Variables::new(["REALY=r"], [("RELAY".to_owned(), "default".to_owned())]).unwrap();
        let config = load("node.yaml", text, &variables, None).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(warned("relay: $RELAY"), ["node.yaml:1:1: --variable REALY is not used here; did you mean `RELAY`?"]);
    let config = load_with("relay: $RELAY", &["RELAY=r", "RELAYS=s"]).unwrap();
    assert_eq!(config.warnings[0].message, "--variable RELAYS is not used here", "the other one is given already");
    assert_eq!(warned("name: n"), ["node.yaml:1:1: --variable REALY is not used here"]);
    assert!(warned("variables: {REALY: a}\nname: n").is_empty() && warned("relay: ${REALY}").is_empty());
}

#[test]
fn variables_never_change_the_structure() {
    let config = load_with("tcp-outlet: {from: $NAME, to: $TO}", &["NAME=db", "TO=h:1"]).unwrap();
    assert_eq!(config.outlets[0].name.as_str(), "db");
    for value in ["V=db, to: evil:1", "V=db\n  to: evil:1", "V={a: b}", "V=x # y"] {
        let problems = load_with("tcp-outlet: {from: $V, to: h:1}", &[value]).unwrap_err();
        assert_eq!(problems.all().len(), 1, "{problems}");
    }
    // In keys, and never in comments.
    let config = load_with("# $UNDEFINED\ntcp-outlets: {$K: {to: 1}}\n$T: r1\n", &["K=db", "T=relay"]).unwrap();
    assert_eq!((config.outlets[0].name.as_str(), config.relays[0].name.as_str()), ("db", "r1"));
    assert_eq!(faults("tcp-outlets: {a: {to: 1}, ${B: {to: 2}}}").len(), 1);
    assert_eq!(faults("variables: {A: ''}\nname: n"), ["1:16 Empty value for variable 'A'"]);
    assert_eq!(ok("variables: {N: n1}\nname: $N").name.unwrap().as_str(), "n1");
    assert_eq!(ok("name: $N\nvariables: {N: n1}").name.unwrap().as_str(), "n1");
    assert_eq!(ok("variables:\nname: n").name.unwrap().as_str(), "n");
    assert_eq!(faults("variables: [a]\nname: n").len(), 1);
}

#[test]
fn no_scalar_becomes_another_host_or_port() {
    // `22:22` could be a name and a port, but names of digits alone are refused.
    for port in ["0o17", "1e3", "22:22", "0x50", "1_000", "+80", "8e1", "0b1", "no", "true", "1.5"] {
        assert!(load_with(&format!("tcp-outlet: {{from: a, to: {port}}}"), &[]).is_err(), "{port}");
    }
    assert_eq!(ok("tcp-outlet: {from: no, to: no:80}").outlets[0].to.to_string(), "no:80");
    assert_eq!(ok("tcp-outlet: {from: 0o17, to: 017}").outlets[0].to.to_string(), "127.0.0.1:17");
    assert_eq!(ok("name: true").name.unwrap().as_str(), "true");
    assert_eq!(ok("name: 1e3").name.unwrap().as_str(), "1e3");
}

#[test]
fn not_a_configuration() {
    assert_eq!(faults("just text")[0], "1:1 a node's configuration is a map of keys");
    assert_eq!(faults("- a\n- b\n")[0], "1:1 a node's configuration is a map of keys");
    assert!(faults("name: n\n---\nname: m\n")[0].contains("one document"));
    assert_eq!(ok("\u{feff}name: n").name.unwrap().as_str(), "n");
    assert!(text("f", b"name: \xff").unwrap_err().to_string().starts_with("f:1:7: this is not UTF-8"));
    assert!(text("f", &vec![b'a'; MAX_TEXT + 1]).is_err());
}

#[test]
fn bounded_time() {
    let started = std::time::Instant::now();
    let laughs = "a: &a [x,x]\nb: &b [*a,*a]\n";
    assert!(load_with(laughs, &[]).is_err());
    assert!(load_with(&"- ".repeat(MAX_TEXT / 2), &[]).is_err());
    assert!(load_with(&"{a: ".repeat(MAX_TEXT / 4), &[]).is_err());
    assert!(load_with(&"a".repeat(MAX_TEXT), &[]).is_err());
    assert!(load_with(&format!("tcp-outlets: [{}]", "{too: x},".repeat(12_000)), &[]).is_err());
    let aliases =
        (0..4_000).map(|n| format!("{{alias: a{n}, from: 127.{}.{}.1:7000}}", n / 250, n % 250)).collect::<Vec<_>>().join(",");
    assert!(load_with(&format!("tcp-inlets: [{aliases}]"), &[]).is_ok());
    // An unoptimised build on a busy machine; it is far below a second otherwise.
    assert!(started.elapsed().as_secs() < 60);
}

#[test]
fn fingerprints() {
    let of = |text: &str| ok(text).fingerprint;
    let a = of("# one\nname: n\ntcp_outlets: {db: {to: 5432}}\nticket: a\nrelay: r");
    assert_eq!(a, of("relays: r\nname: \"n\"\ntcp-outlet:\n  db: {to: '5432'} # two\nticket: b\nvariables: {X: y}"));
    let b = of("name: n\ntcp-outlets: {db: {to: 5433}, x: {to: 1}}");
    assert_eq!(
        a.differences(&b),
        ["relay: was `r`, is gone", "tcp-outlet.db.to: was `5432`, is `5433`", "tcp-outlet.x.to: is new, `1`"]
    );
    assert!(a.differences(&a).is_empty());
    assert_eq!(
        load_with("name: $N", &["N=a"]).unwrap().fingerprint,
        load_with("name: a", &[]).unwrap().fingerprint,
        "the text after variables"
    );
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let _ = load_with(&text, &["A=b"]).map_err(|problems| problems.to_string());
    }

    #[test]
    fn anything_like_yaml_is_answered(parts in proptest::collection::vec(prop_oneof![
        Just("name"), Just("relay"), Just("tcp-outlet"), Just("tcp-inlets"), Just("policy"), Just("to"), Just("from"), Just("allow"),
        Just("variables"), Just(": "), Just(":\n"), Just("\n"), Just("\n  "), Just("\n- "), Just("{"), Just("}"), Just("["), Just("]"),
        Just(", "), Just("$A"), Just("${"), Just("|\n"), Just(">-\n "), Just("\""), Just("'"), Just("5432"), Just("? "), Just("&a "), Just("*a"),
        Just("!!str "), Just("---\n"), Just("# c"), Just("\t"), Just("~"), Just("é"), Just("a and b"), Just("(= subject.a \"x\")"),
    ], 0..40)) {
        let text = parts.concat();
        if let Err(problems) = load_with(&text, &["A=b"]) {
            prop_assert!(!problems.all().is_empty());
            let place = problems.all()[0].place;
            let begin = format!("node.yaml:{}:{}: ", place.start.line, place.start.column);
            prop_assert!(problems.to_string().starts_with(&begin), "{}", problems);
        }
    }
}
