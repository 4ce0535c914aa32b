//! Starting background processes and hearing how it went.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use postern_runtime::daemon::{Launch, LaunchError, StartError};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{Class, CliError};

/// The arguments of a background process: what it is to do, and where its home and how loud it is. No secret is among them.
pub fn arguments(context: &Context, command: &[&str]) -> Result<Vec<OsString>, CliError> {
    let global = context.global();
    let mut arguments: Vec<OsString> = command.iter().map(OsString::from).collect();
    arguments.extend(["--home".into(), context.home_path()?.into_os_string()]);
    arguments.extend(["--log-format".into(), global.log_format.to_string().into()]);
    if global.verbose > 0 {
        arguments.push(format!("-{}", "v".repeat(usize::from(global.verbose))).into());
    }
    Ok(arguments)
}

/// Starts a process and waits until it says that it is up; what it said.
pub fn start<T: DeserializeOwned>(launch: Launch, log: &Path, limit: Duration) -> Result<T, CliError> {
    let look = || format!("look into its log: {}", log.display());
    let starting = launch.spawn().map_err(|error| match &error {
        LaunchError::Spawn(_) | LaunchError::Settings(_) => CliError::from_error(Class::Failure, "SPAWN", &error),
    })?;
    match starting.wait(limit, |_| {}) {
        Ok(started) => serde_json::from_value(started.detail)
            .map_err(|error| CliError::failure("SPAWN", "the background process reported something else").why(error)),
        Err(StartError::Failed(detail)) => Err(read(&detail)
            .unwrap_or_else(|| CliError::failure("SPAWN", "the background process could not start").try_this(look()))),
        Err(error @ StartError::TimedOut { .. }) => {
            Err(CliError::from_error(Class::TryLater, "START_TIMEOUT", &error).try_this(look()))
        }
        Err(error) => Err(CliError::from_error(Class::Failure, "SPAWN", &error).try_this(look())),
    }
}

/// An error, for the process that waits.
pub fn written(error: &CliError) -> Value {
    json!({
        "class": error.class,
        "code": error.code,
        "what": error.what,
        "why": error.why,
        "try": error.try_this,
    })
}

fn read(detail: &Value) -> Option<CliError> {
    let texts = |key: &str| -> Option<Vec<String>> { serde_json::from_value(detail.get(key)?.clone()).ok() };
    Some(CliError {
        class: serde_json::from_value(detail.get("class")?.clone()).ok()?,
        code: detail.get("code")?.as_str()?.to_owned(),
        what: detail.get("what")?.as_str()?.to_owned(),
        why: texts("why")?,
        try_this: texts("try")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_arrives_as_it_was() {
        let error = CliError::configuration("CODE", "what").why("first").why("second").try_this("this");
        let there = read(&written(&error)).unwrap();
        assert_eq!(written(&there), written(&error));
        assert!(read(&json!({"code": 1})).is_none());
    }
}
