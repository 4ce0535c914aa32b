//! The names of all files that a home has. What is not named here was put there by somebody else, and `reset` keeps it.

pub use crate::vault::PROTECTION;

pub(super) const HOME_JSON: &str = "home.json";
/// What was refused lately, by whatever runs in the home or to it: the file that is written, and the one before.
pub(super) const REFUSALS: [&str; 2] = ["refusals.jsonl", "refusals.1.jsonl"];
pub(super) const IDENTITIES: &str = "identities";
pub(super) const NODES: &str = "nodes";
pub(super) const AUTHORITY: &str = "authority";
pub(super) const RELAY: &str = "relay";
pub(super) const SERVERS: &str = "servers";
pub(super) const LOCAL: &str = "local";
pub(super) const LOCAL_ISSUER: &str = "issuer";

/// What tells a home from another directory: something of it stands in every home. (`local` does in others, too.)
pub(super) const TOP: &[&str] = &[HOME_JSON, PROTECTION, REFUSALS[0], REFUSALS[1], IDENTITIES, NODES, AUTHORITY, RELAY, SERVERS];

/// The names of the files that hold a secret, in whatever directory of the home: they are sealed where the home is protected, and overwritten
/// before they are removed.
pub(super) const SECRETS: &[&str] = &[identity::IDENTITY, node::STATIC, node::TICKET, authority::SIGNING, LOCAL_ISSUER];

/// Files of `identities/NAME`.
pub(super) mod identity {
    /// The secret form of the identity; its presence says that the identity exists.
    pub const IDENTITY: &str = "identity";
    pub const MEMBERSHIP: &str = "membership";
    pub const ALL: &[&str] = &[IDENTITY, MEMBERSHIP];
}

/// Files of `nodes/NAME`.
pub mod node {
    /// What the node is to run; its presence says that the node exists.
    pub const STORED: &str = "node.json";
    /// The node's X25519 secret.
    pub const STATIC: &str = "static";
    pub const NODE_ID: &str = "node_id";
    /// A ticket that is not redeemed yet.
    pub const TICKET: &str = "ticket";
    pub const LOCK: &str = "lock";
    pub const CONTROL_SOCKET: &str = "control.sock";
    pub const LOG: &str = "stdout.log";
    /// How other nodes of the home reach this one.
    pub const PRESENCE: &str = "presence";
    /// The newest epoch and void list that the node has seen.
    pub const EPOCH: &str = "epoch";
    /// When the node last heard its authority.
    pub const HEARD: &str = "heard";
    /// The newest credentials, so that the node can start while its authority is away.
    pub const CREDENTIALS: &str = "credentials";
    /// The newest checkpoint of the authority's audit log that the node has seen.
    pub const AUDIT: &str = "audit";
    /// What streams the node carried or refused: the file that is written, and those that were put aside, newest first.
    pub const STREAMS: [&str; 5] = ["streams.jsonl", "streams.1.jsonl", "streams.2.jsonl", "streams.3.jsonl", "streams.4.jsonl"];
    /// There while a node writes its log of streams, so that one that was killed is told from one that was stopped.
    pub const STREAMS_OPEN: &str = "streams.open";
    /// The newest policies of the project that the node has seen, signed.
    pub const GUARDRAILS: &str = "guardrails";
    pub(in super::super) const ALL: &[&str] = &[
        STORED,
        STATIC,
        NODE_ID,
        TICKET,
        CONTROL_SOCKET,
        LOG,
        PRESENCE,
        EPOCH,
        HEARD,
        CREDENTIALS,
        GUARDRAILS,
        AUDIT,
        STREAMS[0],
        STREAMS[1],
        STREAMS[2],
        STREAMS[3],
        STREAMS[4],
        STREAMS_OPEN,
        LOCK,
    ];
}

/// Files of `authority`.
pub mod authority {
    pub const DATABASE: &str = "authority.db";
    pub const IDENTITY: &str = "identity";
    pub const STATIC: &str = "static";
    pub const SIGNING: &str = "signing";
    pub(in super::super) const ALL: &[&str] =
        &[DATABASE, "authority.db-wal", "authority.db-shm", "authority.db-journal", IDENTITY, STATIC, SIGNING];
}

/// Files of `relay`.
pub mod relay {
    pub const IDENTITY: &str = "identity";
    pub const STATIC: &str = "static";
    pub const NODE_ID: &str = "node_id";
    /// Signed project information and the pins that it is checked against.
    pub const MEMBERSHIP: &str = "membership";
    /// The newest epoch and void list that the relay has seen.
    pub const EPOCH: &str = "epoch";
    pub(in super::super) const ALL: &[&str] = &[IDENTITY, STATIC, NODE_ID, MEMBERSHIP, EPOCH];
}

/// Files of `servers`.
pub mod servers {
    pub const LOCK: &str = "lock";
    pub const SETTINGS: &str = "settings.json";
    pub const LOG: &str = "stdout.log";
    pub(in super::super) const ALL: &[&str] = &[SETTINGS, LOG, LOCK];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_in_the_reference() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/places.md")).unwrap();
        let folders = [
            ("identities/NAME", identity::ALL),
            ("nodes/NAME", node::ALL),
            (AUTHORITY, authority::ALL),
            (RELAY, relay::ALL),
            (SERVERS, servers::ALL),
            (LOCAL, &[LOCAL_ISSUER]),
        ];
        let mut paths = [HOME_JSON, PROTECTION, REFUSALS[0], REFUSALS[1]].map(str::to_owned).to_vec();
        for (folder, files) in folders {
            // What SQLite puts beside its file stands there without a folder.
            paths.extend(files.iter().map(|file| match file.contains(".db-") {
                true => (*file).to_owned(),
                false => format!("{folder}/{file}"),
            }));
        }
        paths.retain(|path| !page.contains(&format!("`{path}`")));
        assert!(paths.is_empty(), "docs/reference/places.md says nothing of {paths:?}");
        assert!(IDENTITIES == "identities" && NODES == "nodes");
        // The names count, wherever they stand.
        assert_eq!(
            [authority::IDENTITY, relay::IDENTITY, authority::STATIC, relay::STATIC],
            ["identity", "identity", "static", "static"]
        );
    }
}
