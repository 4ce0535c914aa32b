//! Questions, asked only where somebody can answer.

use std::io::{self, BufRead, Write};

use crate::code;
use crate::context::Context;
use crate::error::CliError;

/// Longest answer that is read.
const MAX_ANSWER: u64 = 64;

/// Asks whether to go on; `yes` is the flag `-y`.
///
/// Fails as a usage error, naming `-y`, where nobody can answer.
pub fn confirm(context: &Context, question: &str, yes: bool) -> Result<(), CliError> {
    use io::Read;
    if yes {
        return Ok(());
    }
    if !context.may_ask() {
        return Err(CliError::new(code::NEEDS_CONFIRMATION, format!("{question} Nobody is there to answer"))
            .try_this("add -y to do it without a question"));
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().lock().take(MAX_ANSWER).read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CliError::new(code::DECLINED, "nothing was done").try_this("answer y, or add -y to do it without a question")),
    }
}
