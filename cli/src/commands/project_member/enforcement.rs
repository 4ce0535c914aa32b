//! How far a revocation or change has come: who enforces it, in what time, and who is offline.

use std::time::{Duration, Instant};

use postern_proto::authority::{Answer, Enforcement, EnforcementTimes, MemberRow, MissingEnforcer, Request};
use postern_proto::id::{Identifier, StaticPublic};
use postern_proto::name::IdentityName;
use serde::Serialize;

use crate::authority::{Session, unexpected};
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::Versioned;

/// The authority is asked so often.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A node that is connected enforces within two seconds, or its connection is dead, which the authority finds within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A person is told of progress so often.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Most names in what a person reads.
const MOST_NAMES: usize = 10;

#[derive(Debug, Serialize)]
struct Document {
    identifier: Identifier,
    name: IdentityName,
    /// `revoked`, `updated` or `deleted`.
    done: &'static str,
    epoch: u64,
    /// Present with `--wait`.
    enforcement: Option<EnforcementDocument>,
}

#[derive(Debug, Serialize)]
struct EnforcementDocument {
    nodes: u32,
    relays: u32,
    p50_ms: Option<u64>,
    p99_ms: Option<u64>,
    max_ms: Option<u64>,
    waiting: u32,
    offline: u32,
    missing: Vec<MissingDocument>,
}

#[derive(Debug, Serialize)]
struct MissingDocument {
    identifier: Identifier,
    name: IdentityName,
    kind: &'static str,
    static_key: StaticPublic,
    connected: bool,
}

/// Prints what was done, and with `wait` what came of it.
///
/// # Errors
/// [`code::NOT_ENFORCED`], after the document was printed; what asking the authority fails with.
pub fn report(
    context: &Context,
    session: &Session,
    row: &MemberRow,
    (done, epoch): (&'static str, u64),
    wait: bool,
) -> Result<(), CliError> {
    let enforcement = if wait { Some(wait_for(context, session, epoch)?) } else { None };
    let waiting = enforcement.as_ref().map_or(0, |enforcement| enforcement.waiting);
    let document = Versioned::new(Document {
        identifier: row.identifier,
        name: row.name.clone(),
        done,
        epoch,
        enforcement: enforcement.as_ref().map(EnforcementDocument::new),
    });
    context.output().show(&document, || {
        let mut text = format!("{done} the member `{}` ({})\n", row.name, row.identifier);
        if let Some(enforcement) = &enforcement {
            text.push_str(&told(enforcement));
        }
        text
    })?;
    if waiting > 0 {
        let error =
            CliError::new(code::NOT_ENFORCED, format!("{waiting} connected nodes or relays have not said that they enforce it"));
        return Err(error.try_this("look whether they run; one whose connection is dead enforces it when it connects again"));
    }
    Ok(())
}

fn wait_for(context: &Context, session: &Session, epoch: u64) -> Result<Enforcement, CliError> {
    let (since, mut told) = (Instant::now(), Instant::now());
    loop {
        let Answer::Enforcement(report) = session.call(context, Request::Enforcement { epoch })? else {
            return Err(unexpected());
        };
        if report.waiting == 0 || since.elapsed() >= PATIENCE {
            return Ok(report);
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let (by, of) = (report.nodes + report.relays, report.nodes + report.relays + report.waiting);
            context.output().say(format_args!("enforced by {by} of {of} that are connected"));
        }
        context.block_on(async { tokio::time::sleep(ASK_EVERY).await })?;
    }
}

fn told(enforcement: &Enforcement) -> String {
    let Enforcement { nodes, relays, times, waiting, offline, missing, .. } = enforcement;
    let mut text = format!("enforced by {} and {}", counted(*nodes, "node"), counted(*relays, "relay"));
    if let Some(EnforcementTimes { p50, max, .. }) = times {
        text.push_str(&format!(", half of them within {p50} ms, all within {max} ms"));
    }
    text.push('\n');
    for (count, connected, what) in
        [(*waiting, true, "connected, and not heard of yet"), (*offline, false, "offline, to enforce it when connected")]
    {
        if count == 0 {
            continue;
        }
        let names: Vec<_> = missing.iter().filter(|missing| missing.connected == connected).map(shown).collect();
        text.push_str(&format!("{what}: {}", names.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ")));
        let more = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(names.len().min(MOST_NAMES));
        text.push_str(&if more > 0 { format!(" and {more} more\n") } else { "\n".to_owned() });
    }
    text
}

fn shown(missing: &MissingEnforcer) -> String {
    let kind = kind(missing);
    let key: String = missing.static_key.to_string().chars().take(8).collect();
    format!("a {kind} of `{}` (key {key})", missing.name)
}

const fn kind(missing: &MissingEnforcer) -> &'static str {
    if missing.relay { "relay" } else { "node" }
}

fn counted(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl EnforcementDocument {
    fn new(enforcement: &Enforcement) -> Self {
        let times = enforcement.times;
        Self {
            nodes: enforcement.nodes,
            relays: enforcement.relays,
            p50_ms: times.map(|times| times.p50),
            p99_ms: times.map(|times| times.p99),
            max_ms: times.map(|times| times.max),
            waiting: enforcement.waiting,
            offline: enforcement.offline,
            missing: enforcement
                .missing
                .iter()
                .map(|missing| MissingDocument {
                    identifier: missing.member,
                    name: missing.name.clone(),
                    kind: kind(missing),
                    static_key: missing.static_key,
                    connected: missing.connected,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_reads() {
        let missing = |number: u8, connected| MissingEnforcer {
            member: Identifier::from_bytes([number; 32]),
            name: format!("node-{number}").parse().unwrap(),
            static_key: StaticPublic::from_bytes([number; 32]),
            relay: false,
            connected,
        };
        let mut enforcement = Enforcement {
            epoch: 7,
            nodes: 1,
            relays: 2,
            times: Some(EnforcementTimes { p50: 12, p99: 40, max: 40 }),
            ..Enforcement::default()
        };
        assert_eq!(told(&enforcement), "enforced by 1 node and 2 relays, half of them within 12 ms, all within 40 ms\n");
        enforcement.missing = (1..=12).map(|number| missing(number, number == 1)).collect();
        (enforcement.waiting, enforcement.offline) = (1, 300);
        let text = told(&enforcement);
        assert!(text.contains("connected, and not heard of yet: a node of `node-1` (key 01010101)\n"), "{text}");
        assert!(text.contains("a node of `node-2` (key 02020202), ") && text.ends_with(" and 290 more\n"), "{text}");
    }
}
