use super::*;
use crate::authority::{Attributes, RingKey};
use crate::id::{CredentialId, Identifier, ProjectId, StaticPublic};
use crate::secret::SecretBytes;
use crate::sign::SigningKey;
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);
const STATIC: StaticPublic = StaticPublic::from_bytes([9; 32]);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(NOW.as_unix().checked_add_signed(seconds).unwrap())
}

fn key() -> SigningKey {
    SigningKey::from_seed(&SecretBytes::new([1; 32]))
}

fn ring() -> KeyRing {
    let keys = vec![RingKey::new(&key().public(), at(-86_400), at(86_400 * 30))];
    KeyRing::new(ProjectId::from_bytes([1; 16]), Identifier::from_bytes([2; 32]), keys).unwrap()
}

fn claims() -> Claims {
    Claims {
        issuer: Identifier::from_bytes([2; 32]),
        subject: Identifier::from_bytes([3; 32]),
        project: ProjectId::from_bytes([1; 16]),
        audience: Audience::Member,
        not_before: NOW,
        expires: at(86_400),
        id: CredentialId::from_bytes([4; 16]),
        confirmation: STATIC,
        attributes: Attributes::from([("app".to_owned(), "app1".to_owned()), ("inlet-to-saas".to_owned(), "true".to_owned())]),
        relay_names: Vec::new(),
    }
}

fn relay_claims() -> Claims {
    let relay_names = vec!["saas-relay".parse().unwrap(), "db".parse().unwrap()];
    Claims { audience: Audience::Relay, attributes: Attributes::new(), relay_names, ..claims() }
}

fn verify_at(bytes: &[u8], now: Timestamp) -> Result<VerifiedCredential, CredentialError> {
    Verifier { ring: &ring(), voided: &Voided::default(), now }.verify(bytes, Audience::Member, Holder::Handshake(STATIC))
}

#[test]
fn a_credential_verifies() {
    let bytes = issue(&key(), &claims()).unwrap();
    let verified = verify_at(&bytes, NOW).unwrap();
    assert_eq!(verified.attributes(), &claims().attributes);
    assert_eq!((verified.subject(), verified.static_key(), verified.bytes()), (claims().subject, STATIC, bytes.as_slice()));

    let bytes = issue(&key(), &relay_claims()).unwrap();
    let verifier = Verifier { ring: &ring(), voided: &Voided::default(), now: NOW };
    let verified = verifier.verify(&bytes, Audience::Relay, Holder::Published).unwrap();
    assert_eq!(verified.relay_names().iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["db", "saas-relay"]);
}
