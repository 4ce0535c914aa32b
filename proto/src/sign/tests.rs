use super::*;
use crate::secret::SecretBytes;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&SecretBytes::new([seed; 32]))
}

#[test]
fn a_statement_verifies_for_its_purpose_and_no_other() {
    let key = key(1);
    for made in Purpose::ALL {
        let signed = sign(made, &key, b"payload");
        assert_eq!(peek_key_id(&signed), Ok(key.key_id()));
        for asked in Purpose::ALL {
            let expected = if made == asked { Ok(b"payload".to_vec()) } else { Err(SignError::Type { expected: asked }) };
            assert_eq!(verify(asked, &key.public(), &signed), expected, "{made:?} as {asked:?}");
        }
    }
}
