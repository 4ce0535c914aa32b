//! What `node create` says of nodes that other texts and flags have made before, where its author may take one for another.

use postern_node::config::NodeConfig;
use postern_node::control::fault::Fault;
use postern_node::store::{Specs, Stored};
use postern_runtime::home::{Home, NodeHome};

use super::CreateArgs;
use crate::context::Context;
use crate::error::CliError;

/// Warns of flags that a node that exists does not follow: it keeps what it was made with.
pub fn warn_of_flags(context: &Context, node: &NodeHome, args: &CreateArgs) -> Result<(), CliError> {
    let stored = Stored::load(node).map_err(Fault::from)?;
    let ignored = ignored_flags(args, &stored);
    if !ignored.is_empty() {
        let name = node.name();
        context.output().warn(format_args!(
            "not applied, because the node `{name}` exists: {}; to change it: postern node delete {name}, and create it again",
            ignored.join(", ")
        ));
    }
    Ok(())
}

/// The flags that say something else than `stored`, each with what the node has.
fn ignored_flags(args: &CreateArgs, stored: &Stored) -> Vec<String> {
    let mut ignored = Vec::new();
    let mut flag = |name: &str, asked: Option<String>, has: Option<String>| {
        if let Some(asked) = asked.filter(|asked| has.as_ref() != Some(asked)) {
            let has = has.map_or_else(|| "it has none".to_owned(), |has| format!("it has {has}"));
            ignored.push(format!("{name} {asked} ({has})"));
        }
    };
    let text = |value: &dyn ToString| value.to_string();
    let options = &stored.options;
    flag("--identity", args.identity.as_ref().map(|name| text(name)), Some(text(&stored.identity)));
    flag(
        "--tcp-listener-address",
        args.tcp_listener_address.as_ref().map(|address| text(address)),
        options.tcp_listener_address.as_ref().map(|address| text(address)),
    );
    let port = args.http_server_port.or(args.http_server.then_some(0));
    flag("--http-server-port", port.map(|port| text(&port)), options.http_server_port.map(|port| text(&port)));
    flag("--max-staleness", args.max_staleness.map(|limit| text(&limit)), Some(text(&options.max_staleness)));
    ignored
}

/// Warns of nodes that another configuration has made and that have names of this one, which names no node: its author may have edited the
/// file, and the node of before goes on beside the new one.
pub fn warn_of_overlaps(context: &Context, home: &Home, config: &NodeConfig) -> Result<(), CliError> {
    for node in home.nodes()? {
        let stored = Stored::load(&node).map_err(Fault::from)?;
        if stored.fingerprint.is_none() {
            continue;
        }
        let common = overlaps(config, &stored.specs);
        if !common.is_empty() {
            let name = node.name();
            context.output().warn(format_args!(
                "the node `{name}`, made from another text, goes on beside the new one, with {} and its own policies; delete it with `postern node \
                 delete {name}`, or give the file a `name:`, under which there is one node",
                common.join(", ")
            ));
        }
    }
    Ok(())
}

/// What both have a name for.
fn overlaps(config: &NodeConfig, specs: &Specs) -> Vec<String> {
    let relays = config.relays.iter().filter(|relay| specs.relay(&relay.name).is_some());
    let outlets = config.outlets.iter().filter(|outlet| specs.outlet(&outlet.name).is_some());
    let inlets = config.inlets.iter().filter(|inlet| specs.inlet(&inlet.alias).is_some());
    relays
        .map(|relay| format!("the relay name `{}`", relay.name))
        .chain(outlets.map(|outlet| format!("the outlet `{}`", outlet.name)))
        .chain(inlets.map(|inlet| format!("the inlet `{}`", inlet.alias)))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use postern_node::config::{Variables, load};

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        args: CreateArgs,
    }

    fn config(text: &str) -> NodeConfig {
        load("f", text, &Variables::default(), None).unwrap()
    }

    #[test]
    fn names_that_two_texts_share() {
        let specs = |text: &str| Stored::from_config(&config(text), "i".parse().unwrap()).specs;
        let before = specs("relay: r\ntcp-outlets: {a: {to: 1}, b: {to: 1}}\ntcp-inlet: {alias: web}\n");
        let shared = |text: &str| overlaps(&config(text), &before);
        assert_eq!(
            shared("relays: [r, s]\ntcp-outlet: {from: b, to: 2}\ntcp-inlet: {alias: web}\n"),
            ["the relay name `r`", "the outlet `b`", "the inlet `web`"]
        );
        assert_eq!(shared("relay: s\ntcp-outlet: {from: web, to: 2}\ntcp-inlets: {a: {}}\n"), [""; 0]);
    }

    #[test]
    fn flags_that_say_something_else() {
        let stored =
            Stored::from_config(&config("tcp-listener-address: 0.0.0.0:4000\nmax-staleness: 60s\n"), "i".parse().unwrap());
        let ignored = |flags: &[&str]| ignored_flags(&Flags::parse_from([&["x"], flags].concat()).args, &stored);
        let same = ["--identity", "i", "--tcp-listener-address", "0.0.0.0:4000", "--max-staleness", "1m"];
        assert_eq!(ignored(&same), [""; 0]);
        assert_eq!(ignored(&[]), [""; 0]);
        assert_eq!(
            ignored(&["--http-server", "--identity", "j"]),
            ["--identity j (it has i)", "--http-server-port 0 (it has none)"]
        );
        assert_eq!(ignored(&["--max-staleness", "2m"]).len(), 1);
    }
}
