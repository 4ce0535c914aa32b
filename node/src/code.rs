//! Stable codes: what scripts and searches rely on, in errors, JSON and logs. Every code of a crate stands in one list, made by
//! [`codes!`](crate::codes), from which `docs/reference/errors.md` is produced.

use std::fmt;

use crate::control::fault::Class;

/// A code with what it means, and how a command exits that fails with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code {
    text: &'static str,
    class: Class,
    meaning: &'static str,
}

impl Code {
    /// For [`codes!`](crate::codes), so that no code stands outside a list.
    #[doc(hidden)]
    #[must_use]
    pub const fn listed(text: &'static str, class: Class, meaning: &'static str) -> Self {
        Self { text, class, meaning }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.text
    }

    #[must_use]
    pub const fn class(self) -> Class {
        self.class
    }

    /// One or two sentences for the reference.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        self.meaning
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl PartialEq<str> for Code {
    fn eq(&self, other: &str) -> bool {
        self.text == other
    }
}

impl PartialEq<&str> for Code {
    fn eq(&self, other: &&str) -> bool {
        self.text == *other
    }
}

impl PartialEq<Code> for String {
    fn eq(&self, other: &Code) -> bool {
        self == other.text
    }
}

impl PartialEq<Code> for &str {
    fn eq(&self, other: &Code) -> bool {
        *self == other.text
    }
}

impl From<Code> for String {
    fn from(code: Code) -> Self {
        code.text.to_owned()
    }
}

/// Declares codes, and the list `ALL` of them: `NAME: Class, "Meaning.";` for each.
#[macro_export]
macro_rules! codes {
    (ALL; $($name:ident: $class:ident, $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $name: $crate::code::Code =
                $crate::code::Code::listed(stringify!($name), $crate::control::fault::Class::$class, $meaning);
        )*

        /// All of them, for the reference.
        pub const ALL: &[$crate::code::Code] = &[$($name),*];
    };
}
