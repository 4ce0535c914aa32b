//! Background processes: starting one and hearing how it went; and, in it, telling.

use std::ffi::OsString;
use std::time::Duration;

use postern_runtime::daemon::{AttachError, Attached, Launch, StartError};
use postern_runtime::files::Dir;
use postern_runtime::vault::{HomeKey, Opened};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::code;
use crate::context::Context;
use crate::error::CliError;

/// Bytes of the home key.
const KEY: usize = 32;

/// What a background process is told of its home, in the first byte: it is open, protected, or protected and not as a whole; the key follows
/// the latter two.
const OPEN: u8 = 0;
const WHOLE: u8 = 1;
const CHANGING: u8 = 2;

/// What is to run in the background.
pub struct Background<'a> {
    /// The hidden command that the process runs. No secret is in it.
    pub command: &'a [&'a str],
    /// The directory and name of its log.
    pub log: (&'a Dir, &'a str),
    /// What it is told in private.
    pub settings: Zeroizing<Vec<u8>>,
    /// How long it may take to come up.
    pub limit: Duration,
}

/// Starts a process and waits until it says that it is up; what it said.
pub fn start<T: DeserializeOwned>(context: &Context, background: Background<'_>) -> Result<T, CliError> {
    let (directory, name) = background.log;
    let look = || format!("look into its log: {}", directory.path().join(name).display());
    let mut arguments: Vec<OsString> = background.command.iter().map(OsString::from).collect();
    arguments.extend(["--home".into(), context.home_path()?.into_os_string()]);
    arguments.extend(context.daemon_arguments());
    let settings = with_key(context.home()?.key()?.as_ref(), &background.settings);
    let launch = Launch { arguments, log: directory.append(name)?, settings };
    let starting = launch.spawn().map_err(|error| CliError::from_error(code::START, &error))?;
    match starting.wait(background.limit, |_| {}) {
        Ok(started) => serde_json::from_value(started.detail)
            .map_err(|error| CliError::new(code::START, "the background process reported something else").why(error)),
        Err(StartError::Failed(detail)) => Err(read(&detail)
            .unwrap_or_else(|| CliError::new(code::START, "the background process could not start").try_this(look()))),
        Err(error @ StartError::TimedOut { .. }) => Err(CliError::from_error(code::START_TIMEOUT, &error).try_this(look())),
        Err(error) => Err(CliError::from_error(code::START, &error).try_this(look())),
    }
}

/// Does `work` as a background process. What fails while the caller still waits is told to it. To be called before any thread
/// is made.
pub fn run(context: &Context, work: impl FnOnce(&mut Option<Attached>, &[u8]) -> Result<(), CliError>) -> Result<(), CliError> {
    let attached = Attached::take().map_err(|error| match &error {
        AttachError::NoCaller => CliError::from_error(code::NO_CALLER, &error),
        AttachError::Io(_) | AttachError::TooLong => CliError::from_error(code::ATTACH, &error),
    })?;
    let (key, settings) = without_key(attached.settings())
        .ok_or_else(|| CliError::new(code::ATTACH, "the process that started this one said nothing that is understood"))?;
    context.use_key(key);
    let settings = Zeroizing::new(settings.to_vec());
    let mut attached = Some(attached);
    let ended = work(&mut attached, &settings);
    if let (Err(error), Some(attached)) = (&ended, attached) {
        attached.failed(&written(error));
    }
    ended
}

/// What the process is told, behind the key of a protected home: a daemon that starts in the background has nobody to ask, and needs no key file.
fn with_key(opened: Option<&Opened>, settings: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut told = Zeroizing::new(Vec::with_capacity(1 + KEY + settings.len()));
    match opened {
        Some(Opened { key, whole }) => {
            told.push(if *whole { WHOLE } else { CHANGING });
            told.extend_from_slice(key.expose_secret());
        }
        None => told.push(OPEN),
    }
    told.extend_from_slice(settings);
    told
}

fn without_key(told: &[u8]) -> Option<(Option<Opened>, &[u8])> {
    match told.split_first()? {
        (&OPEN, settings) => Some((None, settings)),
        (&kind @ (WHOLE | CHANGING), rest) => {
            let (key, settings) = rest.split_first_chunk::<KEY>()?;
            Some((Some(Opened { key: HomeKey::new(*key), whole: kind == WHOLE }), settings))
        }
        _ => None,
    }
}

fn written(error: &CliError) -> Value {
    json!({
        "class": error.exit,
        "code": error.code,
        "what": error.what,
        "why": error.why,
        "try": error.try_this,
    })
}

fn read(detail: &Value) -> Option<CliError> {
    let texts = |key: &str| -> Option<Vec<String>> { serde_json::from_value(detail.get(key)?.clone()).ok() };
    Some(CliError {
        exit: serde_json::from_value(detail.get("class")?.clone()).ok()?,
        code: detail.get("code")?.as_str()?.to_owned(),
        what: detail.get("what")?.as_str()?.to_owned(),
        why: texts("why")?,
        try_this: texts("try")?,
        refusal: None,
        access: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_travels_before_the_settings() {
        let opened = |whole| Some(Opened { key: HomeKey::new([7; KEY]), whole });
        for key in [None, opened(true), opened(false)] {
            let told = with_key(key.as_ref(), b"{}");
            let (arrived, settings) = without_key(&told).unwrap();
            assert!(arrived == key && settings == b"{}");
        }
        for bad in [&b""[..], b"3", b"\x01short"] {
            assert!(without_key(bad).is_none());
        }
    }

    #[test]
    fn an_error_arrives_as_it_was() {
        let error = CliError::new(code::NO_HOME, "what").why("first").why("second").try_this("this");
        let there = read(&written(&error)).unwrap();
        assert_eq!(written(&there), written(&error));
        assert!(read(&json!({"code": 1})).is_none());
    }
}
