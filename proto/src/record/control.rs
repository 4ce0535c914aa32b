//! Control records: what one side of a stream tells the other beside data, and the opens and attaches that go before them.

use super::{HEADER_LEN, Header, Kind, MAX_CONTROL_BODY, MAX_OPEN, RecordError, split};
use crate::aead::{KEY_LEN, Opener, Sealer, Suite, TAG_LEN};
use crate::id::RefusalId;
use crate::secret::SecretBytes;

/// Longest reason in a reject: what a control record has room for behind the code and the id.
pub const MAX_REASON: usize = MAX_CONTROL_BODY - 1 - RefusalId::LEN;

/// What one side tells the other beside data. Codes and layouts: `docs/protocol/streams.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// The target was reached; data may follow.
    Accept,
    /// No byte reached the target.
    Reject(Box<Reject>),
    /// `received` data records were opened; the peer may send up to byte offset `credit`.
    Ack {
        received: u64,
        credit: u64,
    },
    /// The stream is over, without a clean end.
    Reset(ResetCode),
    Ping {
        number: u64,
    },
    Pong {
        number: u64,
    },
    /// Answer to an attach: the stream is live; `received` data records were opened here.
    Attached {
        received: u64,
    },
    /// Answer to an attach: both directions ended cleanly after `count` data records from here.
    Finished {
        count: u64,
    },
}

/// That a stream was not opened, as its opener is told: as much as the outlet discloses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub code: RejectCode,
    /// What both sides log it under.
    pub id: RefusalId,
    /// Why, for a person; at most [`MAX_REASON`] bytes. Empty where the outlet does not disclose it.
    pub reason: String,
}

impl Reject {
    /// A reject that says its code and no more.
    #[must_use]
    pub const fn new(code: RejectCode, id: RefusalId) -> Self {
        Self { code, id, reason: String::new() }
    }

    /// The same, with as much of `reason` as may be sent, on one line.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        self.reason = bounded_reason(reason);
        self
    }
}

/// As much of `reason` as may be sent: one line, at most [`MAX_REASON`] bytes, nothing that steers a terminal.
#[must_use]
pub fn bounded_reason(reason: &str) -> String {
    let mut text = String::new();
    for c in reason.chars().map(|c| if steers(c) { ' ' } else { c }) {
        if text.len() + c.len_utf8() > MAX_REASON {
            break;
        }
        text.push(c);
    }
    text
}

/// Whether a character moves a cursor, hides, or turns the line around.
const fn steers(c: char) -> bool {
    matches!(
        c,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

/// Why a stream was not opened. A peer that may not use an outlet cannot tell it from one that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum RejectCode {
    #[error("there is no such outlet, or this node may not use it")]
    NotAvailable = 1,
    #[error("the target refused the connection")]
    TargetRefused = 2,
    #[error("the target did not answer in time")]
    TargetTimeout = 3,
    #[error("the target cannot be reached")]
    TargetUnreachable = 4,
    #[error("the target's name cannot be resolved")]
    TargetName = 5,
    #[error("a limit of the outlet's node is reached")]
    Busy = 6,
    #[error("the stream id was used before or is too old")]
    StreamId = 7,
    #[error("the outlet's node is shutting down")]
    ShuttingDown = 8,
    #[error("the outlet's target leads back into this portal")]
    Loop = 9,
    #[error("the outlet's policy does not allow this node")]
    Denied = 10,
}

/// Why a stream ended without a clean end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum ResetCode {
    #[error("the application closed its connection abruptly")]
    Application = 1,
    #[error("the policy no longer allows it")]
    Policy = 2,
    #[error("a credential expired or was voided")]
    Credential = 3,
    #[error("the peer broke the protocol")]
    Protocol = 4,
    #[error("the link was lost")]
    LinkLost = 5,
    #[error("a time limit passed")]
    Timeout = 6,
    #[error("the node is shutting down")]
    ShuttingDown = 7,
    #[error("the inlet or outlet was deleted")]
    Deleted = 8,
}

impl RejectCode {
    const ALL: [Self; 10] = [
        Self::NotAvailable,
        Self::TargetRefused,
        Self::TargetTimeout,
        Self::TargetUnreachable,
        Self::TargetName,
        Self::Busy,
        Self::StreamId,
        Self::ShuttingDown,
        Self::Loop,
        Self::Denied,
    ];

    /// A stable name, as it stands in JSON and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAvailable => "NOT_AVAILABLE",
            Self::TargetRefused => "TARGET_REFUSED",
            Self::TargetTimeout => "TARGET_TIMEOUT",
            Self::TargetUnreachable => "TARGET_UNREACHABLE",
            Self::TargetName => "TARGET_NAME",
            Self::Busy => "BUSY",
            Self::StreamId => "STREAM_ID",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::Loop => "LOOP",
            Self::Denied => "DENIED",
        }
    }
}

impl ResetCode {
    const ALL: [Self; 8] = [
        Self::Application,
        Self::Policy,
        Self::Credential,
        Self::Protocol,
        Self::LinkLost,
        Self::Timeout,
        Self::ShuttingDown,
        Self::Deleted,
    ];

    /// The code with this number on the wire.
    #[must_use]
    pub fn from_wire(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u8 == code)
    }
}

impl Control {
    const ACCEPT: u8 = 0;
    const REJECT: u8 = 1;
    const ACK: u8 = 2;
    const RESET: u8 = 3;
    const PING: u8 = 4;
    const PONG: u8 = 5;
    const ATTACHED: u8 = 6;
    const FINISHED: u8 = 7;

    fn encode(&self) -> Vec<u8> {
        let (control_type, numbers): (u8, &[u64]) = match self {
            Self::Accept => (Self::ACCEPT, &[]),
            Self::Reject(reject) => {
                let mut text = vec![Self::REJECT, reject.code as u8];
                text.extend_from_slice(reject.id.as_bytes());
                text.extend_from_slice(bounded_reason(&reject.reason).as_bytes());
                return text;
            }
            Self::Ack { received, credit } => (Self::ACK, &[*received, *credit]),
            Self::Reset(code) => return vec![Self::RESET, *code as u8],
            Self::Ping { number } => (Self::PING, &[*number]),
            Self::Pong { number } => (Self::PONG, &[*number]),
            Self::Attached { received } => (Self::ATTACHED, &[*received]),
            Self::Finished { count } => (Self::FINISHED, &[*count]),
        };
        let mut text = vec![control_type];
        numbers.iter().for_each(|number| text.extend_from_slice(&number.to_be_bytes()));
        text
    }

    fn decode(text: &[u8]) -> Result<Self, RecordError> {
        let (&control_type, body) = text.split_first().ok_or(RecordError::Length { length: 0 })?;
        let wrong_length = RecordError::Length { length: body.len() };
        let one = || body.try_into().map(u64::from_be_bytes).map_err(|_| wrong_length);
        let code = || if let [code] = body { Ok(*code) } else { Err(wrong_length) };
        Ok(match control_type {
            Self::ACCEPT if body.is_empty() => Self::Accept,
            Self::REJECT => {
                let (&code, rest) = body.split_first().ok_or(wrong_length)?;
                let (id, reason) = rest.split_first_chunk().ok_or(wrong_length)?;
                let known = RejectCode::ALL.into_iter().find(|known| *known as u8 == code);
                let reason = std::str::from_utf8(reason).ok().filter(|reason| bounded_reason(reason) == **reason);
                Self::Reject(Box::new(Reject {
                    code: known.ok_or(RecordError::UnknownType(code))?,
                    id: RefusalId::from_bytes(*id),
                    reason: reason.ok_or(wrong_length)?.to_owned(),
                }))
            }
            Self::ACK => {
                let (received, credit) = body.split_at_checked(8).ok_or(wrong_length)?;
                Self::Ack {
                    received: u64::from_be_bytes(received.try_into().map_err(|_| wrong_length)?),
                    credit: u64::from_be_bytes(credit.try_into().map_err(|_| wrong_length)?),
                }
            }
            Self::RESET => {
                let code = code()?;
                Self::Reset(ResetCode::from_wire(code).ok_or(RecordError::UnknownType(code))?)
            }
            Self::PING => Self::Ping { number: one()? },
            Self::PONG => Self::Pong { number: one()? },
            Self::ATTACHED => Self::Attached { received: one()? },
            Self::FINISHED => Self::Finished { count: one()? },
            Self::ACCEPT => return Err(wrong_length),
            other => return Err(RecordError::UnknownType(other)),
        })
    }
}

/// Seals the control records that one side sends on one path, and the open or attach before them.
pub struct ControlSealer(Sealer);

impl ControlSealer {
    #[must_use]
    pub fn new(suite: Suite, secret: &SecretBytes<KEY_LEN>) -> Self {
        Self(Sealer::new(suite, secret))
    }

    /// Appends `control` as a record.
    ///
    /// # Errors
    /// [`RecordError::Aead`] where the counter is used up.
    pub fn seal(&mut self, control: Control, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let text = control.encode();
        let header = Header { kind: Kind::Control, length: text.len() + TAG_LEN }.to_bytes();
        let sealed = self.0.seal_vec(&header, text)?;
        out.extend_from_slice(&header);
        out.extend_from_slice(&sealed);
        Ok(())
    }

    /// Appends a frame of `kind` (open or attach): `clear` bytes, authenticated with the header, then `text` sealed.
    ///
    /// # Errors
    /// [`RecordError::Length`] where the frame would be longer than [`MAX_OPEN`].
    pub fn seal_opening(&mut self, kind: Kind, clear: &[u8], text: Vec<u8>, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let length = clear.len() + text.len() + TAG_LEN;
        if length > MAX_OPEN {
            return Err(RecordError::Length { length });
        }
        let mut aad = Header { kind, length }.to_bytes().to_vec();
        aad.extend_from_slice(clear);
        let sealed = self.0.seal_vec(&aad, text)?;
        out.extend_from_slice(&aad);
        out.extend_from_slice(&sealed);
        Ok(())
    }
}

/// Opens the control records that one side receives on one path, without gaps, and the open or attach before them.
pub struct ControlOpener(Opener);

impl ControlOpener {
    #[must_use]
    pub fn new(suite: Suite, secret: &SecretBytes<KEY_LEN>) -> Self {
        Self(Opener::new(suite, secret))
    }

    /// Opens a whole record (header included).
    ///
    /// # Errors
    /// [`RecordError`]: final.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Control, RecordError> {
        let (header, sealed) = split(record)?;
        Control::decode(self.0.open(&header, sealed)?)
    }

    /// Opens a whole frame that begins with a header and `clear` bytes that are not encrypted.
    ///
    /// # Errors
    /// [`RecordError`]: final.
    pub fn open_opening<'a>(&mut self, clear: usize, frame: &'a mut [u8]) -> Result<&'a mut [u8], RecordError> {
        let length = frame.len();
        let (aad, sealed) = frame.split_at_mut_checked(HEADER_LEN + clear).ok_or(RecordError::Length { length })?;
        Ok(self.0.open(aad, sealed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_round_trips() {
        let secret = SecretBytes::random();
        let mut sealer = ControlSealer::new(Suite::ChaChaPoly, &secret);
        let mut opener = ControlOpener::new(Suite::ChaChaPoly, &secret);
        let mut all = vec![
            Control::Accept,
            Control::Ack { received: 1, credit: u64::MAX },
            Control::Ping { number: 7 },
            Control::Pong { number: 7 },
            Control::Attached { received: 3 },
            Control::Finished { count: 9 },
        ];
        let id = RefusalId::from_bytes([5; 8]);
        all.extend(RejectCode::ALL.map(|code| Control::Reject(Box::new(Reject::new(code, id)))));
        all.push(Control::Reject(Box::new(Reject::new(RejectCode::Denied, id).because(&"ä\n".repeat(MAX_REASON)))));
        all.extend(ResetCode::ALL.map(Control::Reset));
        for control in all {
            let mut out = Vec::new();
            sealer.seal(control.clone(), &mut out).unwrap();
            assert!(Header::parse(out[..4].try_into().unwrap()).is_ok());
            assert_eq!(opener.open(&mut out), Ok(control));
        }
    }

    #[test]
    fn control_bodies_have_exact_lengths() {
        for text in [
            &[][..],
            &[0, 0],
            &[1],
            &[1, 99],
            &[1, 1, 1],
            &[1, 1, 0, 0, 0, 0, 0, 0, 0],
            &[1, 99, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0xff],
            &[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'\n'],
            &[2; 16],
            &[2; 18],
            &[3, 0],
            &[4; 8],
            &[200],
        ] {
            assert!(Control::decode(text).is_err(), "{text:?}");
        }
    }
}
