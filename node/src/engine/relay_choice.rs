//! Which of a project's relays a node uses, so that any two nodes meet at one of them.
//!
//! All nodes hold the relays in one order, that of their identifiers, and each uses the first [`RELAYS`] that it can reach. Two nodes
//! that can reach the same relays so use the same ones. Where a firewall or an outage lets them reach different ones, or a name is
//! registered at one certain relay, an inlet's node does not find its peer there: then it asks at the relays that come next in the order,
//! until it does.

use postern_proto::id::Identifier;

use super::relay_link::Standing;

/// A node uses so many relays, where the project has them: losing one, or two, loses nothing.
pub const RELAYS: usize = 3;

/// Most relays that a node tries, those that are away and those where it looks for a peer included. A link costs a socket and a ping
/// every 9 s.
pub const MOST_RELAYS: usize = 16;

/// A relay of the project, as it is to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub identifier: Identifier,
    /// A relay name of this node is to be registered at this one.
    pub pinned: bool,
    /// `None`: no link to it.
    pub standing: Option<Standing>,
}

/// What the project's relays, in any order, are to a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Those that it uses, and those that are away and would be used.
    pub used: Vec<Identifier>,
    /// Those where it looks for peers that it did not find at the others, in the order to try.
    pub further: Vec<Identifier>,
}

/// Chooses.
#[must_use]
pub fn choose(mut relays: Vec<Candidate>) -> Choice {
    relays.sort_by_key(|relay| relay.identifier);
    // Not all relays before the third reachable one fit where very many are away: those that are pinned do.
    relays.sort_by_key(|relay| !relay.pinned);
    let pinned = relays.iter().filter(|relay| relay.pinned).count();
    relays.truncate(MOST_RELAYS.max(pinned));
    relays.sort_by_key(|relay| relay.identifier);
    let mut choice = Choice::default();
    let mut reached = 0;
    for relay in relays {
        let in_order = reached < RELAYS;
        if in_order && relay.standing != Some(Standing::Away) {
            reached += 1;
        }
        let list = if in_order || relay.pinned { &mut choice.used } else { &mut choice.further };
        list.push(relay.identifier);
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(number: u8, standing: Option<Standing>) -> Candidate {
        Candidate { identifier: Identifier::from_bytes([number; 32]), pinned: false, standing }
    }

    fn numbers(identifiers: &[Identifier]) -> Vec<u8> {
        identifiers.iter().map(|identifier| identifier.as_bytes()[0]).collect()
    }

    #[test]
    fn all_nodes_use_the_same_three() {
        let known = |order: [u8; 5]| choose(order.map(|number| relay(number, None)).to_vec());
        assert_eq!(numbers(&known([5, 3, 1, 2, 4]).used), [1, 2, 3]);
        assert_eq!(known([5, 3, 1, 2, 4]), known([1, 2, 3, 4, 5]), "whatever order the authority tells them in");
        assert_eq!(numbers(&known([5, 3, 1, 2, 4]).further), [4, 5]);
    }

    #[test]
    fn the_next_takes_the_place_of_one_that_is_away() {
        use Standing::{Away, Connecting, Up};
        let choice =
            choose(vec![relay(1, Some(Up)), relay(2, Some(Away)), relay(3, Some(Connecting)), relay(4, None), relay(5, None)]);
        assert_eq!(numbers(&choice.used), [1, 2, 3, 4], "the one that is away is tried on");
        let back = choose(vec![relay(1, Some(Up)), relay(2, Some(Up)), relay(3, Some(Up)), relay(4, Some(Up)), relay(5, None)]);
        assert_eq!(numbers(&back.used), [1, 2, 3]);
    }

    #[test]
    fn two_nodes_that_reach_one_relay_in_common_meet() {
        // Whatever each of two nodes can reach of six relays: an inlet's node that asks further, too, meets the outlet's node.
        let count = 6_u8;
        let of = |reach: u8| {
            choose((0..count).map(|n| relay(n, Some(if reach >> n & 1 == 1 { Standing::Up } else { Standing::Away }))).collect())
        };
        for outlet in 0..1_u8 << count {
            for inlet in 0..1_u8 << count {
                let registered: Vec<u8> = numbers(&of(outlet).used).into_iter().filter(|n| outlet >> n & 1 == 1).collect();
                let choice = of(inlet);
                let asked = [numbers(&choice.used), numbers(&choice.further)].concat();
                let meet = asked.iter().any(|n| inlet >> n & 1 == 1 && registered.contains(n));
                assert_eq!(meet, registered.iter().any(|n| inlet >> n & 1 == 1), "{outlet:b} {inlet:b}");
            }
        }
    }

    #[test]
    fn a_pinned_relay_is_used_and_the_rest_is_bounded() {
        let mut relays: Vec<Candidate> = (0..40).map(|number| relay(number, Some(Standing::Away))).collect();
        relays[39].pinned = true;
        let choice = choose(relays.clone());
        assert_eq!(choice.used.len() + choice.further.len(), MOST_RELAYS);
        assert!(numbers(&choice.used).contains(&39));
        relays.iter_mut().for_each(|relay| relay.standing = None);
        assert_eq!(numbers(&choose(relays).used), [0, 1, 2, 39]);
    }
}
