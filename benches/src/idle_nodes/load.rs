//! A load process: many nodes that do nothing but hold their control link, register a relay name, and ping, as real nodes do.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postern_proto::authority::{Answer, RelayRow, Request};
use postern_proto::handshake::{Label, StaticKey};
use postern_proto::id::{InstanceId, NodeId};
use postern_proto::identity::Identity;
use postern_proto::link::{FromRelay, Hello, MAX_CONTROL_MESSAGE, ToRelay};
use postern_proto::name::{IdentityName, RelayName};
use postern_proto::preface::Service;
use postern_proto::ticket::Ticket;
use postern_runtime::clock::Clock;
use postern_runtime::enrol::enrol;
use postern_runtime::membership::Membership;
use postern_runtime::net::{SocketKind, dial};
use postern_runtime::session::{self, Connect, Session};
use postern_runtime::supervise::Supervisor;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::Result;

/// Nodes of one identity; a relay takes 256.
const PER_IDENTITY: usize = 250;

/// Handshakes at once: a relay's bound for those that have not proven themselves counts all of this machine as one neighbourhood.
const CONNECTING: usize = 8;

const DEADLINE: Duration = Duration::from_secs(5);

/// As a node does (`docs/protocol/links.md`): every 9 s ± 10 %, dead when unanswered for 5 s.
const PING: Duration = Duration::from_secs(9);

/// What the nodes of one identity share.
pub struct Member {
    pub identity: Identity,
    pub node_id: NodeId,
    pub static_key: StaticKey,
    pub membership: Membership,
    credential: Vec<u8>,
    name: RelayName,
    relay: RelayRow,
}

/// Connects `nodes`, prints `up N` when all are, and `lost N` when standard input has ended.
pub fn run(ticket: &Path, nodes: usize) -> Result<()> {
    let ticket: Ticket = std::fs::read_to_string(ticket)?.trim().parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        while matches!(input.read(&mut [0; 64]), Ok(1..)) {}
        // The nodes may have ended before.
        let _ = ended.send(());
    });
    runtime.block_on(async {
        let lost = Arc::new(AtomicUsize::new(0));
        let connecting = Arc::new(Semaphore::new(CONNECTING));
        let mut tasks = VecDeque::new();
        for first in (0..nodes).step_by(PER_IDENTITY) {
            let member = Arc::new(member(&ticket).await?);
            for _ in first..nodes.min(first + PER_IDENTITY) {
                let (member, lost) = (Arc::clone(&member), Arc::clone(&lost));
                let permit = Arc::clone(&connecting).acquire_owned().await?;
                let (up, is_up) = tokio::sync::oneshot::channel();
                tokio::spawn(async move {
                    let session = connect(&member).await;
                    drop(permit);
                    let told = session.as_ref().map(drop).map_err(ToString::to_string);
                    // Nobody listens where another node's failure has ended the run.
                    let _ = up.send(told);
                    if let Ok(session) = session {
                        let why = hold(session).await;
                        lost.fetch_add(1, Ordering::Relaxed);
                        eprintln!("a node lost its relay: {why}");
                    }
                });
                tasks.push_back(is_up);
            }
        }
        for is_up in tasks {
            is_up.await??;
        }
        println!("up {nodes}");
        std::io::stdout().flush()?;
        let _ = end.await;
        println!("lost {}", lost.load(Ordering::Relaxed));
        Ok(())
    })
}

/// An identity of its own, with a relay name of its own.
pub async fn member(ticket: &Ticket) -> Result<Member> {
    let (supervisor, now) = (Supervisor::new(), Clock::new().now());
    let (identity, static_key, node_id) = (Identity::generate(now), StaticKey::generate(), NodeId::random());
    let (label, name): (IdentityName, RelayName) =
        ("default".parse()?, format!("idle-{}", &identity.identifier().to_string()[1..13]).parse()?);
    let (membership, authority, _pushed) = enrol(&supervisor, (&identity, &label), (node_id, &static_key), ticket, now).await?;
    authority.call(Request::ClaimRelayName { name: name.clone() }).await?;
    let Answer::Credentials { relay: credential, .. } =
        authority.call(Request::Credentials { relay_names: vec![name.clone()] }).await?
    else {
        return Err("the authority gave no credentials".into());
    };
    let relay = membership.info().relays.first().ok_or("the project has no relay")?.clone();
    Ok(Member { identity, node_id, static_key, membership, credential, name, relay })
}

/// A control link whose name is registered.
pub async fn connect(member: &Member) -> Result<Session> {
    let socket = dial(&member.relay.address, SocketKind::Link, DEADLINE).await?;
    let hello = Hello { credential: member.credential.clone(), node_id: NodeId::random(), instance: InstanceId::random() };
    let how = Connect {
        service: Service::RelayControl,
        label: Label::RelayLink,
        local: &member.static_key,
        remote: member.relay.static_key,
        payload: &minicbor::to_vec(hello)?,
        limit: MAX_CONTROL_MESSAGE,
    };
    let (mut session, _) = session::connect(socket, how).await?;
    session.sender.send_message(&ToRelay::Register { request: 1, name: member.name.clone(), weight: None }).await?;
    loop {
        match tokio::time::timeout(DEADLINE, session.receiver.receive_message::<FromRelay>()).await?? {
            Some(FromRelay::Answer { request: 1, refused: None }) => return Ok(session),
            Some(FromRelay::Answer { refused: Some(refusal), .. } | FromRelay::Closing { reason: refusal }) => {
                return Err(refusal.into());
            }
            Some(_) => {}
            None => return Err("the relay closed the link".into()),
        }
    }
}

/// A random number from 0 to 1.
pub fn random() -> f64 {
    let [first, second, ..] = *InstanceId::random().as_bytes();
    f64::from(u16::from_le_bytes([first, second])) / 65_536.0
}

/// Pings until the link ends; says why it did.
pub async fn hold(mut session: Session) -> String {
    let mut number = 0_u64;
    let mut answered = 0;
    loop {
        let next = Instant::now() + PING.mul_f64(0.9 + 0.2 * random());
        while let Ok(received) = tokio::time::timeout_at(next, session.receiver.receive_message::<FromRelay>()).await {
            match received {
                Ok(Some(FromRelay::Pong { number })) => answered = number,
                Ok(Some(FromRelay::Closing { reason })) => return reason.to_string(),
                Ok(Some(_)) => {}
                Ok(None) => return "the relay closed the link".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
        // The next ping is later than an answer may be.
        if answered != number {
            return format!("ping {number} was not answered");
        }
        number += 1;
        if let Err(error) = session.sender.send_message(&ToRelay::Ping { number }).await {
            return error.to_string();
        }
    }
}
