//! What an initiator offers and picks, and how both sides bind it into the handshake.

use super::{Choice, HandshakeError, Label};

/// The newest version of the protocol that this program speaks, and the only one.
pub const VERSION: u8 = 1;

/// Most choices in an offer; more than any version will have.
const MAX_CHOICES: usize = 16;

/// First byte of a second body: message 2 follows.
pub(super) const ANSWER: u8 = 0;
/// First byte of a second body: the newest version of the responder follows, which does not speak the offer's.
pub(super) const UNSUPPORTED: u8 = 1;

/// `u8 version ‖ u8 n ‖ n choices` and the pick, as they stood on the wire.
pub(super) struct Offer<'a> {
    pub offer: &'a [u8],
    pub pick: Choice,
}

/// `offer ‖ pick` of this program.
pub(super) fn encode(pick: Choice) -> Vec<u8> {
    let mut bytes = vec![VERSION, Choice::ALL.len() as u8];
    bytes.extend(Choice::ALL.map(Choice::number));
    bytes.push(pick.number());
    bytes
}

impl<'a> Offer<'a> {
    /// The offer at the start of a first body, and what stands behind it.
    pub fn decode(body: &'a [u8]) -> Result<(Self, &'a [u8]), HandshakeError> {
        let &[version, count, ..] = body else { return Err(HandshakeError::Malformed("no offer")) };
        let count = usize::from(count);
        if version == 0 || count == 0 || count > MAX_CHOICES || body.len() < 2 + count + 1 {
            return Err(HandshakeError::Malformed("an offer of no known form"));
        }
        let (offer, rest) = body.split_at(2 + count);
        let (&pick, message) = rest.split_first().ok_or(HandshakeError::Malformed("no pick"))?;
        let offered = &offer[2..];
        if !offered.contains(&pick) || (1..count).any(|i| offered[..i].contains(&offered[i])) {
            return Err(HandshakeError::Malformed("a pick that was not offered, or a choice offered twice"));
        }
        match Choice::from_wire(pick) {
            Some(pick) if version == VERSION => Ok((Self { offer, pick }, message)),
            _ => Err(HandshakeError::Unsupported { version }),
        }
    }
}

/// `label ‖ offer ‖ pick`, each behind its length in 16 bits, so that no two sets of parts give the same bytes.
pub(super) fn prologue(label: Label, offer: &[u8], pick: Choice) -> Vec<u8> {
    let mut prologue = Vec::new();
    for part in [label.as_bytes(), offer, &[pick.number()]] {
        // The label is a constant, and an offer has 18 bytes at most.
        prologue.extend_from_slice(&(part.len() as u16).to_be_bytes());
        prologue.extend_from_slice(part);
    }
    prologue
}
