//! Policy expressions as YAML and flags give them.

use postern_proto::policy::{Expr, ParseError};

/// Why a text is no policy expression, and where within it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionFault {
    /// One sentence without a full stop.
    pub message: String,
    /// What to write instead, where that can be told.
    pub help: Option<String>,
    /// Counted from 1, within the expression.
    pub line: usize,
    /// Counted from 1 in characters, within the expression's line.
    pub column: usize,
    /// How many characters are meant.
    pub width: usize,
    /// The fault with the line and a caret, as it is shown for a command-line flag.
    pub shown: String,
}

/// Parses an `allow:`.
///
/// # Errors
/// [`ExpressionFault`] with the place within `text`.
pub fn parse_expression(text: &str) -> Result<Expr, ExpressionFault> {
    text.parse().map_err(|error: ParseError| ExpressionFault {
        message: error.fault().to_string(),
        help: error.help().map(str::to_owned),
        line: error.line(),
        column: error.column(),
        width: text.get(error.span()).map_or(1, |marked| marked.lines().next().map_or(1, |line| line.chars().count())).max(1),
        shown: error.to_string(),
    })
}
