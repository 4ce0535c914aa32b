//! What an attribute may be. The same limits hold where attributes are issued and where they are verified.

use crate::authority::Attributes;

/// Most attributes of a member.
pub const MAX_ATTRIBUTES: usize = 32;

/// Longest key of an attribute, in bytes.
pub const MAX_ATTRIBUTE_KEY: usize = 64;

/// Longest value of an attribute, in bytes.
pub const MAX_ATTRIBUTE_VALUE: usize = 256;

/// Keys that begin with this mean something to the protocol and are never granted as attributes.
pub const RESERVED_PREFIX: &str = "postern-";

/// Why attributes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    #[error("{count} attributes are more than the limit of {MAX_ATTRIBUTES}")]
    TooMany { count: usize },
    #[error("an attribute has an empty name")]
    EmptyKey,
    #[error("the attribute name `{key}…` has {len} bytes; the limit is {MAX_ATTRIBUTE_KEY}")]
    LongKey { key: String, len: usize },
    #[error("the value of the attribute `{key}` has {len} bytes; the limit is {MAX_ATTRIBUTE_VALUE}")]
    LongValue { key: String, len: usize },
    #[error("the attribute name `{key}` begins with `{RESERVED_PREFIX}`, which is reserved")]
    Reserved { key: String },
    /// The key is shown with its control characters escaped.
    #[error("the name of the attribute `{key}` contains a control character")]
    ControlInKey { key: String },
    #[error("the value of the attribute `{key}` contains a control character")]
    ControlInValue { key: String },
}

/// Checks `attributes` against every limit. Keys and values are bytes to compare, so no normalisation is done: two texts
/// that look alike are two texts.
///
/// # Errors
/// [`AttributeError`], for the first attribute that is not allowed.
pub fn check_attributes(attributes: &Attributes) -> Result<(), AttributeError> {
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(AttributeError::TooMany { count: attributes.len() });
    }
    attributes.iter().try_for_each(|(key, value)| check_attribute(key, value))
}

pub(super) fn check_attribute(key: &str, value: &str) -> Result<(), AttributeError> {
    if key.is_empty() {
        return Err(AttributeError::EmptyKey);
    }
    if key.len() > MAX_ATTRIBUTE_KEY {
        let start: String = key.chars().take(16).flat_map(char::escape_debug).collect();
        return Err(AttributeError::LongKey { key: start, len: key.len() });
    }
    let shown = || key.escape_debug().to_string();
    if key.contains(is_control) {
        return Err(AttributeError::ControlInKey { key: shown() });
    }
    if key.starts_with(RESERVED_PREFIX) {
        return Err(AttributeError::Reserved { key: shown() });
    }
    if value.len() > MAX_ATTRIBUTE_VALUE {
        return Err(AttributeError::LongValue { key: shown(), len: value.len() });
    }
    if value.contains(is_control) {
        return Err(AttributeError::ControlInValue { key: shown() });
    }
    Ok(())
}

/// Control characters (Unicode Cc), line separators, and those that change the direction of the text around them (Unicode
/// UAX 9): each makes what a person is shown differ from what is compared.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> Result<(), AttributeError> {
        check_attributes(&Attributes::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn limits_are_exact() {
        let many = |n: usize| (0..n).map(|i| (format!("a{i}"), String::new())).collect::<Attributes>();
        assert_eq!(check_attributes(&many(32)), Ok(()));
        assert_eq!(check_attributes(&many(33)), Err(AttributeError::TooMany { count: 33 }));
        assert_eq!(one(&"k".repeat(64), &"v".repeat(256)), Ok(()));
        assert!(matches!(one(&"k".repeat(65), ""), Err(AttributeError::LongKey { len: 65, .. })));
        assert!(matches!(one("k", &"v".repeat(257)), Err(AttributeError::LongValue { len: 257, .. })));
        assert!(matches!(one(&"é".repeat(33), ""), Err(AttributeError::LongKey { len: 66, .. })), "bytes, not characters");
        assert_eq!(one("", ""), Err(AttributeError::EmptyKey));
    }

    #[test]
    fn reserved_and_deceptive_texts_are_refused() {
        for key in ["postern-", "postern-role"] {
            assert_eq!(one(key, "x"), Err(AttributeError::Reserved { key: key.to_owned() }));
        }
        for fine in ["postern", "Postern-role", "role", "e\u{301}", "é"] {
            assert_eq!(one(fine, fine), Ok(()));
        }
        for c in ['\0', '\n', '\u{1b}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{2028}', '\u{200f}'] {
            assert!(matches!(one(&format!("a{c}b"), ""), Err(AttributeError::ControlInKey { .. })), "{c:?}");
            assert!(matches!(one("a", &format!("a{c}b")), Err(AttributeError::ControlInValue { .. })), "{c:?}");
            let shown = one(&format!("a{c}b"), "").unwrap_err().to_string();
            assert!(!shown.contains(c), "errors show no control character");
        }
    }
}
