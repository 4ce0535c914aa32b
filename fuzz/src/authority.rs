//! What a member says to its authority and what an authority says to its members, with the statements and the log that it signs.

use std::sync::LazyLock;
use std::time::Duration;

use minicbor::{Decode, Encode};
use postern_proto::audit::check::Checker;
use postern_proto::audit::merkle::{self, Tree};
use postern_proto::audit::witness::{self, Succession};
use postern_proto::audit::{AuditCheckpoint, AuditRow, NO_ROW, plain};
use postern_proto::authority::{Call, Guardrails, Heartbeat, Hello, ProjectInfo, Reply, VoidEntry, Voiding};
use postern_proto::credential::Voided;
use postern_proto::id::{Identifier, ProjectId, TreeHash};
use postern_proto::identity::Identity;
use postern_proto::preface::{self, Service};
use postern_proto::secret::SecretBytes;
use postern_proto::statement::{self, Statement};
use postern_proto::time::Timestamp;

use super::streams::Script;

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);
const PROJECT: ProjectId = ProjectId::from_bytes([1; 16]);

/// The first bytes of a connection, and every message of a session with the authority: what decodes has one encoding that decodes to
/// the same.
pub fn authority_message(data: &[u8]) {
    fn check<T: for<'b> Decode<'b, ()> + Encode<()>>(data: &[u8]) {
        let Ok(message) = minicbor::decode::<T>(data) else { return };
        let bytes = minicbor::to_vec(&message).expect("a message that was decoded");
        let again = minicbor::decode::<T>(&bytes).expect("our own encoding");
        assert_eq!(minicbor::to_vec(&again).expect("a message that was decoded"), bytes);
    }
    if let Some(first) = data.first_chunk::<{ preface::LEN }>()
        && let Ok(service) = Service::from_preface(first)
    {
        assert_eq!(service.preface(), *first);
    }
    check::<Hello>(data);
    check::<Call>(data);
    check::<Reply>(data);
}

/// Any bytes are refused as a statement of the authority, unless it signed them for this kind and project; what it signs is read only in
/// its one encoding. What is read is applied as nodes and relays do.
pub fn statement(data: &[u8]) {
    fn read<T: Statement>(authority: &Identity, data: &[u8]) -> Option<T> {
        // Signing is most of the work: what is no statement of this kind is signed now and then only.
        if minicbor::decode::<T>(data).is_err() && !data.len().is_multiple_of(16) {
            return None;
        }
        assert!(statement::verify::<T>(authority.history(), PROJECT, data).is_err(), "nobody else holds the key");
        let signed = authority.sign(T::PURPOSE, data);
        let read = statement::verify::<T>(authority.history(), PROJECT, &signed).ok()?;
        assert_eq!(minicbor::to_vec(&read).expect("writing to memory"), data);
        let other = ProjectId::from_bytes([2; 16]);
        assert!(statement::verify::<T>(authority.history(), other, &signed).is_err(), "of another project");
        Some(read)
    }
    static AUTHORITY: LazyLock<Identity> = LazyLock::new(|| Identity::from_seed(&SecretBytes::new([1; 32]), NOW));
    let _ = read::<ProjectInfo>(&AUTHORITY, data);
    let _ = read::<Heartbeat>(&AUTHORITY, data);
    let _ = read::<Guardrails>(&AUTHORITY, data);
    if let Some(voiding) = read::<Voiding>(&AUTHORITY, data) {
        let mut voided = Voided::default();
        let _ = voided.apply(&voiding);
        let said: Vec<_> = voiding.entries.iter().filter_map(|entry| voided.not_before(&entry.member)).collect();
        assert!(said.iter().all(|limit| voiding.entries.iter().any(|entry| entry.not_before == *limit)));
        assert_eq!(voided.apply(&voiding).ok().filter(|changed| *changed), None, "said twice");
        let kept = minicbor::to_vec(&voided).expect("writing to memory");
        assert_eq!(minicbor::decode::<Voided>(&kept).ok().as_ref(), Some(&voided));
        voided.forget_expired(voiding.time.plus(Duration::from_secs(1 << 40)));
    }
    if let Some(checkpoint) = read::<AuditCheckpoint>(&AUTHORITY, data) {
        let known = AuditCheckpoint { size: 3, ..checkpoint };
        assert_ne!(witness::succeeds(&checkpoint, &known, Some(&[])).ok(), Some(Succession::Unproven));
    }
}

fn after(seconds: usize) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds as u64))
}

/// An authority voids members one after the other, and says so in statements of any range, which arrive late, twice, in any order or not
/// at all, at a node that restarts. Whatever it heard: its epoch never falls, and it believes nobody whose voiding lies up to its epoch.
pub fn voiding(data: &[u8]) {
    const MEMBERS: u8 = 4;
    let mut script = Script::new(data);
    // What was voided: event `i` has epoch `i + 1`.
    let mut events: Vec<VoidEntry> = Vec::new();
    let mut voided = Voided::default();
    for _ in 0..data.len().min(300) {
        match script.byte() % 4 {
            0 => {
                let member = Identifier::from_bytes([script.byte() % MEMBERS; 32]);
                let at = after(events.len());
                let not_before = if script.byte().is_multiple_of(3) { VoidEntry::FOR_EVER } else { at };
                events.push(VoidEntry { member, not_before });
            }
            1 | 2 => {
                let until = usize::from(script.byte()) % (events.len() + 1);
                let since = usize::from(script.byte()) % (until + 1);
                let said = &events[since..until];
                // Of a member that was voided several times, the last counts.
                let entries = (0..MEMBERS)
                    .filter_map(|member| said.iter().rfind(|entry| entry.member == Identifier::from_bytes([member; 32])))
                    .copied()
                    .collect();
                let time = after(until);
                let before = voided.clone();
                let _ = voided.apply(&Voiding { project: PROJECT, epoch: until as u64, time, entries, since: since as u64 });
                assert!(voided.epoch() >= before.epoch());
            }
            _ => {
                let kept = minicbor::to_vec(&voided).expect("writing to memory");
                voided = minicbor::decode(&kept).expect("our own encoding");
            }
        }
        let known = voided.epoch() as usize;
        assert!(known <= events.len());
        for (at, event) in events[..known].iter().enumerate() {
            let limit = voided.not_before(&event.member).expect("a member that was voided up to the epoch");
            // A later statement may have changed it, with what was said there.
            let allowed = events[at..].iter().any(|later| later.member == event.member && later.not_before == limit);
            assert!(allowed, "epoch {known} without what was said at {}", at + 1);
        }
    }
}

/// A log of rows as an input describes them, proofs over it that were touched or not, and rows that are any bytes. Only the proof of what
/// is so is believed; only rows as they were written pass; and what a stranger wrote into a row stays on its line.
pub fn audit(data: &[u8]) {
    if let Ok(row) = minicbor::decode::<AuditRow>(data) {
        let bytes = minicbor::to_vec(&row).expect("a row that was decoded");
        assert_eq!(minicbor::decode::<AuditRow>(&bytes).ok().as_ref(), Some(&row));
        let honest = row.seq == 1 && row.previous == NO_ROW && row.hash == row.compute_hash();
        assert_eq!(Checker::default().row(&row).is_ok(), honest);
    }
    let text = String::from_utf8_lossy(data);
    for max in [0, 3, 40] {
        let plain = plain(&text, max);
        assert!(plain.len() <= max && !plain.chars().any(char::is_control));
    }
    let mut script = Script::new(data);
    let size = u64::from(script.byte() % 40) + 1;
    let leaves: Vec<TreeHash> = (0..size).map(|number| merkle::leaf(&number.to_be_bytes())).collect();
    let (mut tree, mut roots) = (Tree::default(), vec![merkle::empty()]);
    for leaf in &leaves {
        tree.push(*leaf);
        roots.push(tree.root());
    }
    let part = |range: &std::ops::Range<u64>| {
        let mut tree = Tree::default();
        leaves[range.start as usize..range.end as usize].iter().for_each(|leaf| tree.push(*leaf));
        tree.root()
    };
    let (index, from) = (u64::from(script.byte()) % size, u64::from(script.byte()) % (size + 1));
    let included: Vec<_> = merkle::inclusion(index, size).iter().map(part).collect();
    let consistent: Vec<_> = merkle::consistency(from, size).iter().map(part).collect();
    let (mut shown, mut proof) = (included.clone(), consistent.clone());
    for proof in [&mut shown, &mut proof] {
        for _ in 0..script.byte() % 4 {
            let (how, at) = (script.byte(), usize::from(script.byte()));
            let count = proof.len().max(1);
            match (how % 4, proof.get_mut(at % count)) {
                (0, Some(hash)) => {
                    let mut bytes = *hash.as_bytes();
                    bytes[at % TreeHash::LEN] ^= how | 1;
                    *hash = TreeHash::from_bytes(bytes);
                }
                (1, Some(_)) => drop(proof.remove(at % count)),
                (2, _) => proof.insert(at % (proof.len() + 1), roots[at % roots.len()]),
                _ => {}
            }
        }
    }
    // No other proof, index or size shows the same leaf or beginning.
    let claimed = u64::from(script.byte()) % (size + 2);
    let holds = merkle::verify_inclusion(&leaves[index as usize], claimed, size, &tree.root(), &shown);
    assert_eq!(holds, claimed == index && shown == included);
    let holds = merkle::verify_consistency(from, &roots[from as usize], size, &tree.root(), &proof);
    assert_eq!(holds, proof == consistent);
    let other = usize::from(script.byte()) % roots.len();
    if other as u64 != from {
        assert!(from == 0 || !merkle::verify_consistency(from, &roots[other], size, &tree.root(), &proof));
    }
}
