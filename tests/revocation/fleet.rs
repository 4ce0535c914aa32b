//! Many nodes in this process, as far as revocations go: each has its session with the authority and its control link at the relay, believes
//! what it is told, and says that it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postern_proto::authority::{Answer, Request, Voiding};
use postern_proto::credential::Voided;
use postern_proto::handshake::{Label, StaticKey};
use postern_proto::id::{InstanceId, NodeId};
use postern_proto::identity::Identity;
use postern_proto::link::{FromRelay, Hello, MAX_CONTROL_MESSAGE, ToRelay};
use postern_proto::preface::Service;
use postern_proto::statement;
use postern_proto::ticket::Ticket;
use postern_runtime::authority::{AuthorityClient, Pushed};
use postern_runtime::clock::Clock;
use postern_runtime::enrol::enrol;
use postern_runtime::membership::Membership;
use postern_runtime::net::{SocketKind, dial};
use postern_runtime::session::{self, Connect, Session};
use postern_runtime::supervise::Supervisor;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Handshakes at once: all of this machine count as one neighbourhood.
const CONNECTING: usize = 8;

const DEADLINE: Duration = Duration::from_secs(10);

/// As a node does (`docs/protocol/links.md`).
const PING: Duration = Duration::from_secs(9);

/// The fleet; its nodes end with it.
pub struct Fleet {
    lost: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Fleet {
    /// Enrols and connects `nodes`, each an identity of its own.
    pub fn connect(ticket: &str, nodes: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (ticket, lost): (Ticket, _) = (ticket.trim().parse().unwrap(), Arc::new(AtomicUsize::new(0)));
        runtime.block_on(async {
            let mut connecting = JoinSet::new();
            for _ in 0..nodes {
                if connecting.len() >= CONNECTING {
                    connecting.join_next().await.unwrap().unwrap();
                }
                let (ticket, lost) = (ticket.clone(), Arc::clone(&lost));
                connecting.spawn(async move {
                    let node = Node::connect(&ticket).await;
                    tokio::spawn(async move {
                        let why = node.run().await;
                        lost.fetch_add(1, Ordering::Relaxed);
                        println!("a node of the fleet was lost: {why}");
                    });
                });
            }
            while let Some(connected) = connecting.join_next().await {
                connected.unwrap();
            }
        });
        Self { lost, _runtime: runtime }
    }

    /// How many nodes lost a connection.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }
}

struct Node {
    membership: Membership,
    authority: AuthorityClient,
    pushed: Pushed,
    relay: Session,
    _supervisor: Supervisor,
}

impl Node {
    async fn connect(ticket: &Ticket) -> Self {
        let (supervisor, now) = (Supervisor::new(), Clock::new().now());
        let (identity, static_key, node_id) = (Identity::generate(now), StaticKey::generate(), NodeId::random());
        let name = "fleet".parse().unwrap();
        let (membership, authority, pushed) =
            enrol(&supervisor, (&identity, &name), (node_id, &static_key), ticket, now).await.unwrap();
        let answer = authority.call(Request::Credentials { relay_names: Vec::new() }).await.unwrap();
        let Answer::Credentials { relay: credential, .. } = answer else { panic!("{answer:?}") };
        let row = membership.info().relays[0].clone();
        let socket = dial(&row.address, SocketKind::Link, DEADLINE).await.unwrap();
        let hello = minicbor_hello(credential, node_id);
        let how = Connect {
            service: Service::RelayControl,
            label: Label::RelayLink,
            local: &static_key,
            remote: row.static_key,
            payload: &hello,
            limit: MAX_CONTROL_MESSAGE,
        };
        let (relay, _) = session::connect(socket, how).await.unwrap();
        Self { membership, authority, pushed, relay, _supervisor: supervisor }
    }

    /// Lives; returns why it does no more.
    async fn run(mut self) -> String {
        let mut voided = Voided::default();
        self.authority.call(Request::Acknowledge { epoch: 0 }).await.unwrap();
        let (mut number, mut ping) = (0, tokio::time::interval(PING));
        loop {
            let heard = tokio::select! {
                _ = ping.tick() => {
                    number += 1;
                    if let Err(error) = self.relay.sender.send_message(&ToRelay::Ping { number }).await {
                        return error.to_string();
                    }
                    None
                }
                pushed = self.pushed.recv() => match pushed {
                    Some(Answer::Voiding { statement }) => Some(statement),
                    Some(_) => None,
                    None => return self.authority.ended().await.to_string(),
                },
                message = self.relay.receiver.receive_message::<FromRelay>() => match message {
                    Ok(Some(FromRelay::Statement { statement })) => Some(statement),
                    Ok(Some(FromRelay::Closing { reason })) => return reason.to_string(),
                    Ok(Some(_)) => None,
                    Ok(None) => return "the relay closed the link".to_owned(),
                    Err(error) => return error.to_string(),
                },
            };
            let Some(signed) = heard else { continue };
            let (history, project) = (self.membership.history(), self.membership.project());
            let Ok(voiding) = statement::verify::<Voiding>(history, project, &signed) else { continue };
            if voided.apply(&voiding) == Ok(true) {
                let (authority, epoch) = (self.authority.clone(), voided.epoch());
                tokio::spawn(async move { authority.call(Request::Acknowledge { epoch }).await });
            }
        }
    }
}

fn minicbor_hello(credential: Vec<u8>, node_id: NodeId) -> Vec<u8> {
    let hello = Hello { credential, node_id, instance: InstanceId::random() };
    minicbor::to_vec(hello).unwrap()
}
