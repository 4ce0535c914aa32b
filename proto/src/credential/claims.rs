//! The claims of a credential and their one encoding (RFC 8392, RFC 8949 section 4.2.1).

use std::fmt;
use std::time::Duration;

use minicbor::data::Type;
use minicbor::decode::Error;
use minicbor::{Decoder, Encoder};

use super::attributes::{AttributeError, MAX_ATTRIBUTES, check_attributes};
use crate::authority::Attributes;
use crate::handshake::is_acceptable_public;
use crate::id::{CredentialId, Identifier, ProjectId, StaticPublic};
use crate::name::RelayName;
use crate::sign::{MAX_CREDENTIAL, Purpose, SigningKey, sign};
use crate::time::Timestamp;

/// Most relay names in one credential.
pub const MAX_RELAY_NAMES: usize = 32;

/// Longest validity. Receivers forget that a credential was voided when none from before that moment can still be valid.
pub const MAX_LIFETIME: Duration = Duration::from_secs(7 * 86_400);

// Claim keys: registered ones by RFC 8392 and RFC 8747, ours from the private range (less than −65536).
const ISS: i64 = 1;
const SUB: i64 = 2;
const AUD: i64 = 3;
const EXP: i64 = 4;
const NBF: i64 = 5;
const CTI: i64 = 7;
const CNF: i64 = 8;
const ATTRIBUTES: i64 = -65_537;
const RELAY_NAMES: i64 = -65_538;

// `cnf` holds a COSE_Key (RFC 9052 section 7) under 1: kty (1) OKP (1), crv (−1) X25519 (4), x (−2).
const CNF_KEY: i64 = 1;
const KTY: (i64, i64) = (1, 1);
const CRV: (i64, i64) = (-1, 4);
const X: i64 = -2;

/// To whom a credential may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Audience {
    /// Peers, end to end. Carries the attributes, and no relay names.
    Member,
    /// Relays, and through them everybody who looks up a relay name. Carries relay names, and no attributes.
    Relay,
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Member => "member",
            Self::Relay => "relay",
        })
    }
}

/// What a credential says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The authority's identity.
    pub issuer: Identifier,
    /// The member.
    pub subject: Identifier,
    pub project: ProjectId,
    pub audience: Audience,
    pub not_before: Timestamp,
    pub expires: Timestamp,
    pub id: CredentialId,
    /// The node's static key: the credential is worth nothing without its secret.
    pub confirmation: StaticPublic,
    /// Empty for [`Audience::Relay`].
    pub attributes: Attributes,
    /// Empty for [`Audience::Member`].
    pub relay_names: Vec<RelayName>,
}

/// Why claims make no credential. The same holds where they are issued and where they are verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    #[error("a credential for relays carries attributes, which relays must not learn")]
    AttributesForRelay,
    #[error("a credential for peers carries relay names")]
    RelayNamesForMember,
    #[error("{count} relay names are more than the limit of {MAX_RELAY_NAMES}")]
    TooManyRelayNames { count: usize },
    #[error("the credential expires at {expires}, not after it begins to be valid at {not_before}")]
    EmptyValidity { not_before: Timestamp, expires: Timestamp },
    #[error("the credential is valid for {} s; the limit is {} s", lifetime.as_secs(), MAX_LIFETIME.as_secs())]
    LongValidity { lifetime: Duration },
    /// Of low order or not canonical: no handshake would accept it.
    #[error("the node's static key is not usable")]
    UnusableStatic,
    #[error("the credential would have {len} bytes; the limit is {MAX_CREDENTIAL}: use fewer or shorter attributes or names")]
    TooLarge { len: usize },
}

/// Makes the credential that says `claims`, signed by a key of the project's key ring. Relay names are sorted, and named once.
///
/// # Errors
/// [`ClaimsError`] where a verifier would refuse it.
pub fn issue(key: &SigningKey, claims: &Claims) -> Result<Vec<u8>, ClaimsError> {
    let mut claims = claims.clone();
    claims.relay_names.sort();
    claims.relay_names.dedup();
    claims.check()?;
    let signed = sign(Purpose::Credential, key, &claims.encode());
    if signed.len() > MAX_CREDENTIAL {
        return Err(ClaimsError::TooLarge { len: signed.len() });
    }
    Ok(signed)
}

impl Claims {
    pub(super) fn check(&self) -> Result<(), ClaimsError> {
        check_attributes(&self.attributes)?;
        match self.audience {
            Audience::Relay if !self.attributes.is_empty() => return Err(ClaimsError::AttributesForRelay),
            Audience::Member if !self.relay_names.is_empty() => return Err(ClaimsError::RelayNamesForMember),
            _ => {}
        }
        if self.relay_names.len() > MAX_RELAY_NAMES {
            return Err(ClaimsError::TooManyRelayNames { count: self.relay_names.len() });
        }
        let Self { not_before, expires, .. } = *self;
        if not_before >= expires {
            return Err(ClaimsError::EmptyValidity { not_before, expires });
        }
        let lifetime = expires.since(not_before);
        if lifetime > MAX_LIFETIME {
            return Err(ClaimsError::LongValidity { lifetime });
        }
        if !is_acceptable_public(&self.confirmation) {
            return Err(ClaimsError::UnusableStatic);
        }
        Ok(())
    }

    fn audience_text(&self) -> String {
        format!("postern:{}/{}", self.project, self.audience)
    }

    /// The claims as they are signed.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        self.write(&mut encoder).expect("writing to memory");
        encoder.into_writer()
    }

    fn write(&self, e: &mut Encoder<Vec<u8>>) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        let optional = [!self.attributes.is_empty(), !self.relay_names.is_empty()];
        e.map(7 + optional.into_iter().map(u64::from).sum::<u64>())?;
        e.i64(ISS)?.str(&self.issuer.to_string())?;
        e.i64(SUB)?.str(&self.subject.to_string())?;
        e.i64(AUD)?.str(&self.audience_text())?;
        e.i64(EXP)?.u64(self.expires.as_unix())?;
        e.i64(NBF)?.u64(self.not_before.as_unix())?;
        e.i64(CTI)?.bytes(self.id.as_bytes())?;
        e.i64(CNF)?.map(1)?.i64(CNF_KEY)?.map(3)?;
        e.i64(KTY.0)?.i64(KTY.1)?.i64(CRV.0)?.i64(CRV.1)?.i64(X)?.bytes(self.confirmation.as_bytes())?;
        if !self.attributes.is_empty() {
            // Deterministic order is that of the encoded keys: shorter first, as their length comes first.
            let mut sorted: Vec<_> = self.attributes.iter().collect();
            sorted.sort_by_key(|(key, _)| (key.len(), key.as_bytes()));
            e.i64(ATTRIBUTES)?.map(sorted.len() as u64)?;
            for (key, value) in sorted {
                e.str(key)?.str(value)?;
            }
        }
        if !self.relay_names.is_empty() {
            e.i64(RELAY_NAMES)?.array(self.relay_names.len() as u64)?;
            for name in &self.relay_names {
                e.str(name.as_str())?;
            }
        }
        Ok(())
    }

    /// Reads exactly what [`Self::encode`] writes, in its order; [`Self::check`] is still to be done. Lengths that the bytes
    /// claim are bounded before anything is kept, and nothing nests deeper than the claims themselves.
    pub(super) fn decode(payload: &[u8]) -> Result<Self, Error> {
        let mut d = Decoder::new(payload);
        let fields = d.map()?.ok_or_else(indefinite)?;
        if !(7..=9).contains(&fields) {
            return Err(Error::message("another number of claims"));
        }
        let issuer = text(expect(&mut d, ISS)?)?;
        let subject = text(expect(&mut d, SUB)?)?;
        let (project, audience) = read_audience(expect(&mut d, AUD)?.str()?)?;
        let expires = Timestamp::from_unix(expect(&mut d, EXP)?.u64()?);
        let not_before = Timestamp::from_unix(expect(&mut d, NBF)?.u64()?);
        let id = CredentialId::from_bytes(array(expect(&mut d, CTI)?)?);
        let confirmation = read_confirmation(expect(&mut d, CNF)?)?;
        let (mut attributes, mut relay_names) = (Attributes::new(), Vec::new());
        for _ in 7..fields {
            match d.i64()? {
                ATTRIBUTES if attributes.is_empty() && relay_names.is_empty() => attributes = read_attributes(&mut d)?,
                RELAY_NAMES if relay_names.is_empty() => relay_names = read_relay_names(&mut d)?,
                _ => return Err(Error::message("an unknown claim")),
            }
        }
        if d.position() != payload.len() {
            return Err(Error::message("bytes after the claims"));
        }
        Ok(Self { issuer, subject, project, audience, not_before, expires, id, confirmation, attributes, relay_names })
    }
}

fn indefinite() -> Error {
    Error::message("indefinite length")
}

/// Reads `key`, which must come next, and returns the decoder at its value.
fn expect<'d, 'b>(d: &'d mut Decoder<'b>, key: i64) -> Result<&'d mut Decoder<'b>, Error> {
    if d.i64()? == key { Ok(d) } else { Err(Error::message("a claim is missing, repeated or out of order")) }
}

fn text<T: std::str::FromStr>(d: &mut Decoder<'_>) -> Result<T, Error> {
    d.str()?.parse().map_err(|_| Error::message("not an identifier"))
}

fn array<const N: usize>(d: &mut Decoder<'_>) -> Result<[u8; N], Error> {
    d.bytes()?.try_into().map_err(|_| Error::message("another length"))
}

fn read_audience(text: &str) -> Result<(ProjectId, Audience), Error> {
    let unknown = || Error::message("not an audience");
    let (project, audience) = text.strip_prefix("postern:").and_then(|text| text.split_once('/')).ok_or_else(unknown)?;
    let audience = match audience {
        "member" => Audience::Member,
        "relay" => Audience::Relay,
        _ => return Err(unknown()),
    };
    Ok((project.parse().map_err(|_| unknown())?, audience))
}

fn read_confirmation(d: &mut Decoder<'_>) -> Result<StaticPublic, Error> {
    let other = || Error::message("not an X25519 key");
    if d.map()? != Some(1) || d.i64()? != CNF_KEY || d.map()? != Some(3) {
        return Err(other());
    }
    for (key, value) in [KTY, CRV] {
        if d.i64()? != key || d.i64()? != value {
            return Err(other());
        }
    }
    Ok(StaticPublic::from_bytes(array(expect(d, X)?)?))
}

fn read_attributes(d: &mut Decoder<'_>) -> Result<Attributes, Error> {
    let count = d.map()?.ok_or_else(indefinite)?;
    if count == 0 || count > MAX_ATTRIBUTES as u64 {
        return Err(Error::message("another number of attributes"));
    }
    let mut attributes = Attributes::new();
    for _ in 0..count {
        let key = d.str()?.to_owned();
        if attributes.insert(key, d.str()?.to_owned()).is_some() {
            return Err(Error::message("an attribute twice"));
        }
    }
    Ok(attributes)
}

fn read_relay_names(d: &mut Decoder<'_>) -> Result<Vec<RelayName>, Error> {
    let count = d.array()?.ok_or_else(indefinite)?;
    if count == 0 || count > MAX_RELAY_NAMES as u64 {
        return Err(Error::message("another number of relay names"));
    }
    let mut names: Vec<RelayName> = Vec::new();
    for _ in 0..count {
        if d.datatype()? != Type::String {
            return Err(Error::message("not a relay name"));
        }
        let name: RelayName = d.decode()?;
        if names.last().is_some_and(|last| *last >= name) {
            return Err(Error::message("relay names out of order"));
        }
        names.push(name);
    }
    Ok(names)
}
