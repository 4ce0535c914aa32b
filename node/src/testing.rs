//! What tests of several modules start.

use std::sync::Arc;

use postern_proto::identity::Identity;
use postern_proto::name::NodeName;
use postern_proto::secret::SecretBytes;
use postern_runtime::clock::Clock;
use postern_runtime::home::{Home, NodeHome};
use postern_runtime::supervise::Supervisor;

use crate::engine::{Engine, Settings};
use crate::store::Stored;

/// The engine of the node `name` in the home at `path`, which has joined no project.
pub async fn engine(path: &std::path::Path, name: &NodeName, supervisor: &Supervisor) -> Engine {
    let home = Home::open(path).unwrap();
    let clock = Arc::new(Clock::new());
    let node_home: NodeHome = match home.node(name).unwrap() {
        Some(found) => found,
        None => home.create_node(name, &Stored::new("me".parse().unwrap()).encode().unwrap()).unwrap(),
    };
    let identity_home = home.identity_or_create(&"me".parse().unwrap(), clock.now()).unwrap();
    let identity: Identity = identity_home.load().unwrap();
    let settings = Settings {
        node_id: node_home.node_id().unwrap(),
        statics: Arc::new(node_home.statics(clock.now()).unwrap()),
        static_period: postern_runtime::statics::DEFAULT_PERIOD,
        home,
        node_home,
        identity_home,
        identity,
        membership: None,
        local_issuer: Some(SecretBytes::random()),
        listener: None,
        max_staleness: Default::default(),
        syslog: None,
        clock,
        supervisor: supervisor.clone(),
    };
    Engine::start(settings).await.unwrap()
}
