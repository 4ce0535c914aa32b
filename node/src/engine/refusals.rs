//! What was refused lately, by this node or to it: each under the id that both sides log, for `postern explain`. And how much of it is
//! written to the log.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postern_proto::id::{Identifier, RefusalId};
use postern_proto::time::Timestamp;
use postern_runtime::home::RefusalLog;
use tokio::time::Instant;
use tracing::warn;

use super::live::Through;
use super::policy::Denial;
use crate::code::Code;
use crate::control::explain::RefusalDocument;

/// Refusals that are kept: those of a day on a node where a few peers lack an attribute.
const MAX_KEPT: usize = 1_024;

/// Of them, those that differ in nothing but their id and time, and in the names of outlets that are not here. Somebody who tries without end
/// pushes out its own older ones only.
const MAX_ALIKE: usize = 32;

/// Most bytes of their texts. An expression may have 8 KiB.
const MAX_BYTES: usize = 1024 * 1024;

/// Refusals that are logged one by one, of one peer at one resource, before they are counted together.
const LOG_BURST: f64 = 10.0;

/// And then again, one so often.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Most peers and resources whose logging is counted apart; the others share one count.
const MAX_SOURCES: usize = 1_024;

/// Who refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// This node.
    Us,
    /// The peer's node; what is known is what it told.
    Peer,
    /// A relay, which refused this node.
    Relay,
    /// The authority, which refused this node.
    Authority,
}

impl By {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Us => "this-node",
            Self::Peer => "peer",
            Self::Relay => "relay",
            Self::Authority => "authority",
        }
    }
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub id: RefusalId,
    pub at: Timestamp,
    pub by: By,
    /// The inlet or outlet of this node; `None` where the outlet that was asked for is not here.
    pub through: Option<Through>,
    /// The name of the outlet that was asked for, here or there, where it is known.
    pub outlet: Option<String>,
    pub peer: Option<Identifier>,
    pub code: Code,
    /// What the peer was told; `None` where it was told nothing, or it was the peer who refused.
    pub told: Option<&'static str>,
    pub reason: String,
    /// The policy and its terms, where this node's policy decided.
    pub denial: Option<Denial>,
}

impl Refusal {
    fn is_like(&self, other: &Self) -> bool {
        (self.by, self.peer, self.code) == (other.by, other.peer, other.code)
            && self.through == other.through
            // A peer can think of as many names of outlets that are not here as it likes.
            && (self.through.is_none() || self.outlet == other.outlet)
    }

    /// About how many bytes it holds.
    fn size(&self) -> usize {
        let denial = self.denial.as_ref().map_or(0, |denial| {
            let facts = |term: &postern_proto::policy::Term| term.facts.len() * 256;
            let terms = denial.reason.terms.iter().map(|term| term.text.len() + facts(term)).sum::<usize>();
            terms + denial.rule.expression.to_string().len() * 4
        });
        self.reason.len() + denial
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Refusals {
    state: Mutex<State>,
    /// Where they are kept beyond the life of this process, and the name of the node there.
    log: RefusalLog,
    node: String,
}

#[derive(Debug, Default)]
struct State {
    kept: VecDeque<(Refusal, usize)>,
    bytes: usize,
    logged: HashMap<Source, Bucket>,
}

/// What is logged together: a peer at a resource, either way.
type Source = (By, Option<Identifier>, Option<Through>);

#[derive(Debug)]
struct Bucket {
    left: f64,
    since: Instant,
    /// Refusals that were not logged.
    unlogged: u64,
}

impl Refusals {
    /// Those of the node `node`, kept in `log` too.
    pub fn new(log: RefusalLog, node: String) -> Self {
        Self { state: Mutex::default(), log, node }
    }

    /// The authority or a relay refused what this node asked for: `what`, and why. It knows the refusal by the same id.
    pub fn told(&self, by: By, id: RefusalId, at: Timestamp, code: &str, reason: String) {
        let listed = crate::control::code::ALL.iter().chain(super::code::ALL).find(|listed| listed.as_str() == code);
        let code = *listed.unwrap_or(&super::code::AUTHORITY_REFUSED);
        self.note(Refusal { id, at, by, through: None, outlet: None, peer: None, code, told: None, reason, denial: None });
    }

    /// Keeps a refusal, and logs it where there were not too many of its kind just now.
    pub fn note(&self, refusal: Refusal) {
        let mut state = self.lock();
        if let Some(unlogged) = state.may_log(&refusal, Instant::now()) {
            let peer = refusal.peer.map(|peer| peer.to_string());
            let policy = refusal.denial.as_ref().map(|denial| {
                let Denial { rule, .. } = denial;
                format!("{}: {}", rule.source.as_str(), rule.expression)
            });
            let inlet = match &refusal.through {
                Some(Through::Inlet(alias)) => Some(alias.as_str()),
                _ => None,
            };
            warn!(
                refusal = %refusal.id,
                by = refusal.by.as_str(),
                code = refusal.code.as_str(),
                peer,
                inlet,
                outlet = refusal.outlet,
                reason = refusal.reason,
                policy,
                unlogged = Some(unlogged).filter(|unlogged| *unlogged > 0),
                "refused"
            );
        }
        self.log.note(refusal.peer, &RefusalDocument::new(&self.node, &refusal));
        state.keep(refusal);
    }

    /// Tells in the log how many were not logged, of those who have stopped.
    pub fn settle(&self) {
        let now = Instant::now();
        self.lock().logged.retain(|(by, peer, through), bucket| {
            if now.duration_since(bucket.since) < LOG_EVERY {
                return true;
            }
            if bucket.unlogged > 0 {
                let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
                let resource = through.as_ref().map(Through::name).unwrap_or_default();
                warn!(by = by.as_str(), peer, resource, unlogged = bucket.unlogged, "further refusals of the same kind");
                bucket.unlogged = 0;
                bucket.since = now;
                return true;
            }
            bucket.refill(now);
            bucket.left < LOG_BURST
        });
    }

    /// The refusal of this id, if it is still known.
    #[must_use]
    pub fn find(&self, id: RefusalId) -> Option<Refusal> {
        self.lock().kept.iter().rev().find(|(refusal, _)| refusal.id == id).map(|(refusal, _)| refusal.clone())
    }

    /// All that are known, the newest first.
    #[must_use]
    pub fn all(&self) -> Vec<Refusal> {
        self.lock().kept.iter().rev().map(|(refusal, _)| refusal.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, refusal: Refusal) {
        let alike = |(other, _): &(Refusal, usize)| other.is_like(&refusal);
        if self.kept.iter().filter(|other| alike(other)).count() >= MAX_ALIKE
            && let Some(at) = self.kept.iter().position(alike)
        {
            self.forget(at);
        }
        let size = refusal.size();
        self.bytes += size;
        self.kept.push_back((refusal, size));
        while self.kept.len() > MAX_KEPT || (self.bytes > MAX_BYTES && self.kept.len() > 1) {
            self.forget(0);
        }
    }

    fn forget(&mut self, at: usize) {
        if let Some((_, size)) = self.kept.remove(at) {
            self.bytes -= size;
        }
    }

    /// Whether to log it, and how many before it were not.
    fn may_log(&mut self, refusal: &Refusal, now: Instant) -> Option<u64> {
        let mut source = (refusal.by, refusal.peer, refusal.through.clone());
        if self.logged.len() >= MAX_SOURCES && !self.logged.contains_key(&source) {
            source = (refusal.by, None, None);
        }
        let bucket = self.logged.entry(source).or_insert(Bucket { left: LOG_BURST, since: now, unlogged: 0 });
        bucket.refill(now);
        if bucket.left < 1.0 {
            bucket.unlogged += 1;
            return None;
        }
        bucket.left -= 1.0;
        Some(std::mem::take(&mut bucket.unlogged))
    }
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let gained = now.duration_since(self.since).as_secs_f64() / LOG_EVERY.as_secs_f64();
        self.left = (self.left + gained).min(LOG_BURST);
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::super::code;
    use super::*;

    fn refusal(peer: u8, outlet: &str, reason: &str) -> Refusal {
        Refusal {
            id: RefusalId::random(),
            at: Timestamp::from_unix(1),
            by: By::Us,
            through: None,
            outlet: Some(outlet.to_owned()),
            peer: Some(Identifier::from_bytes([peer; 32])),
            code: code::DENIED,
            told: None,
            reason: reason.to_owned(),
            denial: None,
        }
    }

    #[tokio::test]
    async fn who_floods_pushes_out_its_own() {
        let refusals = Refusals::default();
        let first = refusal(1, "db", "");
        refusals.note(first.clone());
        for _ in 0..10 * MAX_KEPT {
            refusals.note(refusal(2, "db", ""));
        }
        assert_eq!(refusals.find(first.id), Some(first));
        assert_eq!(refusals.all().len(), 1 + MAX_ALIKE);
    }

    #[tokio::test]
    async fn who_asks_for_many_names_pushes_out_its_own() {
        let refusals = Refusals::default();
        let first = refusal(1, "db", "");
        refusals.note(first.clone());
        for number in 0..2 * MAX_KEPT {
            refusals.note(refusal(2, &number.to_string(), ""));
        }
        assert_eq!(refusals.find(first.id), Some(first));
        assert_eq!(refusals.all().len(), 1 + MAX_ALIKE);
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let refusals = Refusals::default();
        let here = |number: usize, reason: &str| {
            let name = number.to_string();
            Refusal { through: Some(Through::Outlet(name.parse().unwrap())), ..refusal(1, &name, reason) }
        };
        for number in 0..2 * MAX_KEPT {
            refusals.note(here(number, ""));
        }
        assert_eq!(refusals.all().len(), MAX_KEPT);
        for number in 0..MAX_KEPT {
            refusals.note(here(number, &"x".repeat(8 * 1024)));
        }
        let bytes = refusals.lock().bytes;
        assert!(bytes <= MAX_BYTES);
        assert_eq!(bytes, refusals.all().iter().map(Refusal::size).sum::<usize>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_logged_as_a_number() {
        let mut state = State::default();
        let mut logged = 0;
        for _ in 0..1_000 {
            logged += usize::from(state.may_log(&refusal(1, "db", ""), Instant::now()).is_some());
        }
        assert_eq!(logged, LOG_BURST as usize);
        assert_eq!(state.may_log(&refusal(2, "db", ""), Instant::now()), Some(0), "another peer's is logged");
        tokio::time::advance(LOG_EVERY).await;
        assert_eq!(state.may_log(&refusal(1, "db", ""), Instant::now()), Some(990));
    }
}
