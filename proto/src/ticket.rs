//! Tickets: a one-time secret that admits an identity to a project, as one line of text. The format is specified in
//! `docs/protocol/tickets.md`.
//!
//! The text is checked as far as it can be without the authority: whether it is whole, unchanged and of this version. Whether
//! the ticket expired, was revoked or is used up is for the authority to say, by its own clock.

use std::str::FromStr;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::address::HostPort;
use crate::handshake::is_acceptable_public;
use crate::id::{Identifier, ProjectId, StaticPublic, TicketId};
use crate::secret::{SecretBytes, SecretText};
use crate::time::Timestamp;

/// What every ticket of this version begins with.
pub const PREFIX: &str = "postern1_";

/// Longest text that is looked at. Eight of the longest addresses need 3.2 KiB.
pub const MAX_TEXT: usize = 4096;

/// Most addresses of an authority in one ticket.
pub const MAX_ADDRESSES: usize = 8;

/// Length of the checksum: the first bytes of SHA-256 of [`CHECKSUM_CONTEXT`] and the CBOR. It finds mistakes, not attackers.
const CHECKSUM_LEN: usize = 6;

const CHECKSUM_CONTEXT: &[u8] = b"postern/1 ticket checksum";

/// Value of the CBOR's `version`.
const VERSION: u8 = 1;

/// A text that was cut ends with bits of the byte that follows. They are let through here, so that what is wrong can be told;
/// in the end a ticket is accepted only where it encodes to the same text again.
const BASE64: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// An admission to a project. Its `Debug` form shows no secret.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    pub project: ProjectId,
    /// The authority's identity. What it signs is believed because of this.
    pub authority: Identifier,
    /// The authority's static key: the secret is sent to nobody who does not prove to hold it.
    pub authority_static: StaticPublic,
    /// Where the authority is, in the order to try. 1 to [`MAX_ADDRESSES`].
    pub addresses: Vec<HostPort>,
    pub id: TicketId,
    pub secret: SecretBytes<32>,
    /// By the authority's clock, which alone judges it.
    pub expires: Timestamp,
}

/// Why a text is not a usable ticket. No text of it is repeated: it may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("this is not a ticket: a ticket begins with `{PREFIX}`; ask for one with `postern project ticket`")]
    NotATicket,
    #[error("the ticket is of version {version}, which this program does not know: update it, or ask for a ticket of version 1")]
    NewerVersion { version: u32 },
    #[error("the ticket is broken by spaces or line ends: it is one line; copy it again without them")]
    Broken,
    #[error("the ticket is truncated: its end is missing; copy the whole line")]
    Truncated,
    #[error("the ticket is corrupt: some of its characters were changed; copy it again")]
    Corrupt,
    #[error("the text after `{PREFIX}` is longer than any ticket; copy one ticket alone")]
    TooLong,
    /// Whole and unchanged, and yet not a ticket of this version: whoever made it is at fault.
    #[error("the ticket's contents are not valid ({0}); ask for a new one")]
    Invalid(&'static str),
    #[error(
        "the ticket is for the project {ticket}, but this identity belongs to the project {member}; use another identity or home"
    )]
    OtherProject { ticket: ProjectId, member: ProjectId },
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Contents {
    #[n(0)]
    version: u8,
    #[n(1)]
    project: ProjectId,
    #[n(2)]
    authority: Identifier,
    #[n(3)]
    authority_static: StaticPublic,
    #[n(4)]
    addresses: Vec<HostPort>,
    #[n(5)]
    id: TicketId,
    #[n(6)]
    secret: SecretBytes<32>,
    #[n(7)]
    expires: Timestamp,
}

impl Ticket {
    /// The ticket's text: one line of printable ASCII.
    ///
    /// # Errors
    /// [`TicketError::Invalid`] where nobody could read it again: no address or more than [`MAX_ADDRESSES`], or a static key that no
    /// handshake accepts.
    pub fn to_text(&self) -> Result<SecretText, TicketError> {
        let contents = Contents {
            version: VERSION,
            project: self.project,
            authority: self.authority,
            authority_static: self.authority_static,
            addresses: self.addresses.clone(),
            id: self.id,
            secret: self.secret.clone(),
            expires: self.expires,
        };
        contents.check()?;
        let cbor = contents.encode();
        let mut body = Zeroizing::new(Vec::with_capacity(cbor.len() + 16));
        minicbor::Encoder::new(&mut *body).bytes(&cbor).expect("writing to memory");
        body.extend_from_slice(&checksum(&cbor));
        // The whole capacity at once, so that no copy of the secret is left behind by growing.
        let mut text = String::with_capacity(PREFIX.len() + body.len().div_ceil(3) * 4);
        text.push_str(PREFIX);
        BASE64.encode_string(&*body, &mut text);
        Ok(SecretText::new(text))
    }

    /// That the ticket is for `member`, the project that its user already belongs to.
    ///
    /// # Errors
    /// [`TicketError::OtherProject`].
    pub fn check_project(&self, member: ProjectId) -> Result<(), TicketError> {
        if self.project == member { Ok(()) } else { Err(TicketError::OtherProject { ticket: self.project, member }) }
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// White space before and after the ticket is ignored.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let encoded = strip_prefix(text.trim())?;
        if encoded.len() > MAX_TEXT - PREFIX.len() {
            return Err(TicketError::TooLong);
        }
        if encoded.contains(char::is_whitespace) {
            return Err(TicketError::Broken);
        }
        let body = decode_base64(encoded)?;
        // The byte string begins with its length, which tells a missing end from a changed character.
        let mut decoder = minicbor::Decoder::new(&body);
        let cbor = match decoder.bytes() {
            Ok(cbor) => cbor,
            Err(error) if error.is_end_of_input() => return Err(TicketError::Truncated),
            Err(_) => return Err(TicketError::Corrupt),
        };
        let rest = &body[decoder.position()..];
        if rest.len() < CHECKSUM_LEN {
            return Err(TicketError::Truncated);
        }
        if rest != checksum(cbor) {
            return Err(TicketError::Corrupt);
        }
        let contents: Contents = minicbor::decode(cbor).map_err(|_| TicketError::Invalid("malformed"))?;
        contents.check()?;
        if contents.encode().as_slice() != cbor {
            return Err(TicketError::Invalid("not in the one deterministic encoding"));
        }
        let ticket = Self::from(contents);
        if ticket.to_text()?.expose_secret() != text.trim() {
            return Err(TicketError::Corrupt);
        }
        Ok(ticket)
    }
}

impl From<Contents> for Ticket {
    fn from(contents: Contents) -> Self {
        let Contents { version: _, project, authority, authority_static, addresses, id, secret, expires } = contents;
        Self { project, authority, authority_static, addresses, id, secret, expires }
    }
}

impl Contents {
    fn check(&self) -> Result<(), TicketError> {
        if self.version != VERSION {
            return Err(TicketError::Invalid("another version than its prefix says"));
        }
        if self.addresses.is_empty() || self.addresses.len() > MAX_ADDRESSES {
            return Err(TicketError::Invalid("it must have 1 to 8 addresses"));
        }
        if self.addresses.iter().any(|address| address.port() == 0) {
            return Err(TicketError::Invalid("an address with port 0"));
        }
        if !is_acceptable_public(&self.authority_static) {
            return Err(TicketError::Invalid("the authority's key is not usable"));
        }
        Ok(())
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        // More than any contents need, so that the buffer never grows and leaves a copy of the secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TEXT));
        minicbor::encode(self, &mut *bytes).expect("writing to memory");
        bytes
    }
}

/// What follows `postern1_`.
fn strip_prefix(text: &str) -> Result<&str, TicketError> {
    if let Some(encoded) = text.strip_prefix(PREFIX) {
        return Ok(encoded);
    }
    if text.starts_with("postern") && PREFIX.starts_with(text) {
        return Err(TicketError::Truncated);
    }
    let version = text.strip_prefix("postern").and_then(|text| text.split_once('_')).map(|(version, _)| version);
    match version.filter(|digits| digits.bytes().all(|b| b.is_ascii_digit())).and_then(|digits| digits.parse().ok()) {
        Some(version) => Err(TicketError::NewerVersion { version }),
        None => Err(TicketError::NotATicket),
    }
}

fn decode_base64(encoded: &str) -> Result<Zeroizing<Vec<u8>>, TicketError> {
    // No whole number of bytes has 4n + 1 characters. The last one is left out here; in the end the text is compared.
    let whole = encoded.len() - usize::from(encoded.len() % 4 == 1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(encoded.len()));
    let encoded = encoded.get(..whole).ok_or(TicketError::Corrupt)?;
    BASE64.decode_vec(encoded, &mut bytes).map_err(|_| TicketError::Corrupt)?;
    Ok(bytes)
}

fn checksum(cbor: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = Sha256::new().chain_update(CHECKSUM_CONTEXT).chain_update(cbor).finalize();
    let mut checksum = [0; CHECKSUM_LEN];
    checksum.copy_from_slice(&digest[..CHECKSUM_LEN]);
    checksum
}

#[cfg(test)]
mod tests;
