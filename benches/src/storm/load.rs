//! A load process: nodes of as many members, each with a control link and a session with the authority, that come back as real nodes
//! do when the servers go away.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postern_proto::authority::Request;
use postern_proto::ticket::Ticket;
use postern_runtime::authority::{AuthorityClient, Pinned};
use postern_runtime::backoff::Backoff;
use postern_runtime::clock::Clock;
use postern_runtime::enrol::hello;
use postern_runtime::supervise::Supervisor;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, timeout_at};

use crate::Result;
use crate::idle_nodes::{Member, connect, hold, member, random};

/// Nodes that have not come back after so long are given up.
const PATIENCE: Duration = Duration::from_secs(90);

/// As a node does: a relay is dialled again no sooner than after this, ± 10 %, and the back-off behind it.
const LEAST_DELAY: Duration = Duration::from_millis(500);

/// What happens to one of the nodes.
enum Event {
    Link(Instant),
    Session(Instant),
    /// An attempt that failed.
    Failed,
}

/// What a load process tells: when its nodes were back, in seconds since it was told that the servers start again.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Back {
    pub links: Vec<f64>,
    pub sessions: Vec<f64>,
    pub failed: u64,
}

/// Connects `nodes`, prints `up N` when all are; told on standard input that the servers start again, prints when all are back.
pub fn run(ticket: &Path, nodes: usize) -> Result<()> {
    let ticket: Ticket = std::fs::read_to_string(ticket)?.trim().parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (tell, mut told) = unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lock().lines().map_while(|line| line.ok()).try_for_each(|_| tell.send(())));
    runtime.block_on(async {
        let (tell, mut events) = unbounded_channel();
        for _ in 0..nodes {
            let member = Arc::new(member(&ticket).await?);
            tokio::spawn(keep_link(Arc::clone(&member), tell.clone()));
            tokio::spawn(keep_session(member, tell.clone()));
        }
        let up = all(&mut events, nodes, Instant::now()).await;
        if up.links.len() < nodes || up.sessions.len() < nodes {
            return Err(format!("{} links and {} sessions of {nodes} nodes", up.links.len(), up.sessions.len()).into());
        }
        println!("up {nodes}");
        std::io::stdout().flush()?;
        if told.recv().await.is_none() {
            return Ok(());
        }
        let began = Instant::now();
        // What failed while the servers were away is no failure of theirs.
        while events.try_recv().is_ok() {}
        println!("back {}", serde_json::to_string(&all(&mut events, nodes, began).await)?);
        Ok(std::io::stdout().flush()?)
    })
}

/// Waits until all links and sessions are there.
async fn all(events: &mut UnboundedReceiver<Event>, nodes: usize, began: Instant) -> Back {
    let mut back = Back::default();
    while back.links.len() < nodes || back.sessions.len() < nodes {
        let since = |at: Instant| at.saturating_duration_since(began).as_secs_f64();
        match timeout_at(began + PATIENCE, events.recv()).await {
            Ok(Some(Event::Link(at))) => back.links.push(since(at)),
            Ok(Some(Event::Session(at))) => back.sessions.push(since(at)),
            Ok(Some(Event::Failed)) => back.failed += 1,
            Ok(None) | Err(_) => break,
        }
    }
    back
}

async fn keep_link(member: Arc<Member>, tell: UnboundedSender<Event>) {
    let mut backoff = Backoff::of_links();
    loop {
        let event = match connect(&member).await {
            Ok(session) => {
                backoff.reset();
                if tell.send(Event::Link(Instant::now())).is_err() {
                    return;
                }
                hold(session).await;
                None
            }
            Err(_) => Some(Event::Failed),
        };
        if event.is_some_and(|event| tell.send(event).is_err()) {
            return;
        }
        sleep(LEAST_DELAY.mul_f64(0.9 + 0.2 * random())).await;
        sleep(backoff.next_delay()).await;
    }
}

async fn keep_session(member: Arc<Member>, tell: UnboundedSender<Event>) {
    let (supervisor, clock) = (Supervisor::new(), Clock::new());
    let mut backoff = Backoff::default();
    loop {
        let hello = hello(&member.identity, member.node_id, &member.static_key, clock.now());
        let pinned =
            Pinned { addresses: &member.membership.authority_addresses(), static_key: member.membership.authority_static() };
        let told = match AuthorityClient::connect(&supervisor, pinned, &member.static_key, &hello).await {
            Ok((client, mut pushed)) => match client.call(Request::ProjectInfo).await {
                Ok(_) => {
                    backoff.reset();
                    let told = tell.send(Event::Session(Instant::now()));
                    while pushed.recv().await.is_some() {}
                    told
                }
                Err(_) => tell.send(Event::Failed),
            },
            Err(_) => tell.send(Event::Failed),
        };
        if told.is_err() {
            return;
        }
        sleep(backoff.next_delay()).await;
    }
}
