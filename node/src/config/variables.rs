//! `$NAME` and `${NAME}` in keys and values; `$$` is a dollar sign.
//!
//! Values are put in after parsing, so that a value can never change the structure of the file: it stays inside the scalar it stands in.

use std::collections::{BTreeMap, BTreeSet};

use super::problem::{Place, Problem};
use super::suggest::did_you_mean;
use super::tree::{Key, Node, Value};

/// Most text that all values of one configuration may become, in bytes: a kilobyte of `$A$A…` must not become gigabytes.
const MAX_EXPANDED: usize = 4 * 1024 * 1024;

/// What `--variable` and the environment say. `--variable` beats the file's `variables:`, which beats the environment.
#[derive(Debug, Clone, Default)]
pub struct Variables {
    flags: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
}

/// Why a `--variable` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    #[error("`{0}` is not a variable: write NAME=VALUE")]
    Form(String),
    #[error("`{0}` is not a variable's name: use letters, digits and _, not beginning with a digit")]
    Name(String),
    #[error("Empty value for variable '{0}'")]
    Empty(String),
    #[error("variable '{0}' is given twice")]
    Twice(String),
}

impl Variables {
    /// From the values of `--variable` (each `NAME=VALUE`) and an environment.
    ///
    /// # Errors
    /// The first flag that is malformed, empty or given twice.
    pub fn new<'a>(
        flags: impl IntoIterator<Item = &'a str>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, VariableError> {
        let mut variables = Self { flags: BTreeMap::new(), environment: environment.into_iter().collect() };
        for flag in flags {
            let short = |text: &str| text.chars().take(80).collect::<String>();
            // What stands behind `=` may be a secret: it is in no error.
            let (name, value) = flag.split_once('=').ok_or_else(|| VariableError::Form(short(flag)))?;
            if !is_name(name) {
                return Err(VariableError::Name(short(name)));
            }
            if value.is_empty() {
                return Err(VariableError::Empty(name.to_owned()));
            }
            if variables.flags.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(VariableError::Twice(name.to_owned()));
            }
        }
        Ok(variables)
    }

    /// What is to be said of a `--variable` where there is no configuration.
    #[must_use]
    pub fn without_configuration(&self) -> Option<String> {
        self.flags.keys().next().map(|name| format!("--variable {name} has no configuration to stand in"))
    }

    /// From the values of `--variable` and the environment of this process; what there is not UTF-8 is left out.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_process_environment<'a>(flags: impl IntoIterator<Item = &'a str>) -> Result<Self, VariableError> {
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::new(flags, environment)
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(is_name_byte)
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Puts variables into one file's tree.
pub(crate) struct Substitution<'a> {
    outside: &'a Variables,
    file: BTreeMap<String, String>,
    /// Names that the file defines further down.
    ahead: Vec<String>,
    /// Names that the file uses or defines.
    named: BTreeSet<String>,
    budget: usize,
}

impl<'a> Substitution<'a> {
    pub(crate) fn new(outside: &'a Variables) -> Self {
        Self { outside, file: BTreeMap::new(), ahead: Vec::new(), named: BTreeSet::new(), budget: MAX_EXPANDED }
    }

    /// What is to be said of each `--variable` that stands nowhere in the file: mistyped, it leaves another value in force.
    pub(crate) fn unused(&self) -> impl Iterator<Item = String> {
        self.outside.flags.keys().filter(|name| !self.named.contains(*name)).map(|name| {
            let given = |name: &&String| self.outside.flags.contains_key(*name);
            let meant = did_you_mean(name, self.named.iter().filter(|name| !given(name)).map(String::as_str));
            format!("--variable {name} is not used here{}", meant.map(|meant| format!("; {meant}")).unwrap_or_default())
        })
    }

    /// Takes the file's `variables:`. A value may use variables that stand above it.
    pub(crate) fn define(&mut self, variables: &Node, problems: &mut Vec<Problem>) {
        let Value::Map(entries) = &variables.value else {
            if !variables.is_null() {
                problems.push(
                    Problem::new(variables.place, "`variables` must be a map")
                        .try_this("write `NAME: value` on lines of their own"),
                );
            }
            return;
        };
        self.ahead = entries.iter().rev().map(|(key, _)| key.text.clone()).collect();
        for (key, node) in entries {
            self.ahead.pop();
            self.named.insert(key.text.clone());
            if !is_name(&key.text) {
                problems.push(
                    Problem::new(key.place, format!("`{}` is not a variable's name", key.text))
                        .try_this("use letters, digits and _, not beginning with a digit"),
                );
                continue;
            }
            let Value::Scalar(scalar) = &node.value else {
                problems.push(Problem::new(node.place, format!("variable '{}' must be a text", key.text)));
                continue;
            };
            if node.is_null() || scalar.text.is_empty() {
                // A value from `--variable` makes the file's irrelevant.
                if !self.outside.flags.contains_key(&key.text) {
                    problems.push(empty(&key.text, node.place));
                }
                continue;
            }
            let Some(value) = self.expand(&scalar.text, node.place, problems) else { continue };
            if self.file.insert(key.text.clone(), value.unwrap_or_else(|| scalar.text.clone())).is_some() {
                problems.push(Problem::new(key.place, format!("variable '{}' is defined twice", key.text)));
            }
        }
    }

    /// Replaces every variable in the keys and values of `node`.
    fn apply(&mut self, node: &mut Node, problems: &mut Vec<Problem>) {
        match &mut node.value {
            Value::Scalar(scalar) => {
                if let Some(Some(text)) = self.expand(&scalar.text, node.place, problems) {
                    scalar.text = text;
                    scalar.substituted = true;
                }
            }
            Value::List(items) => items.iter_mut().for_each(|item| self.apply(item, problems)),
            Value::Map(entries) => {
                for (key, value) in entries {
                    self.apply_entry(key, value, problems);
                }
            }
        }
    }

    pub(crate) fn apply_entry(&mut self, key: &mut Key, value: &mut Node, problems: &mut Vec<Problem>) {
        if let Some(Some(text)) = self.expand(&key.text, key.place, problems) {
            key.text = text;
        }
        self.apply(value, problems);
    }

    /// `text` with its variables replaced: `Some(None)` where it has none, `None` where a problem was noted.
    fn expand(&mut self, text: &str, place: Place, problems: &mut Vec<Problem>) -> Option<Option<String>> {
        if !text.contains('$') {
            return Some(None);
        }
        let before = problems.len();
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(braced) = rest.strip_prefix('{') {
                let Some((name, after)) = braced.split_once('}') else {
                    problems.push(Problem::new(place, "`${` without `}`").try_this("write `$$` for a dollar sign"));
                    return None;
                };
                rest = after;
                if is_name(name) {
                    self.push_value(name, place, &mut out, problems);
                } else {
                    let name: String = name.chars().take(40).collect();
                    problems.push(
                        Problem::new(place, format!("`${{{name}}}` is not a variable")).try_this("write `$$` for a dollar sign"),
                    );
                }
            } else {
                let end = rest.bytes().position(|b| !is_name_byte(b)).unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                if is_name(name) {
                    self.push_value(name, place, &mut out, problems);
                    rest = after;
                } else {
                    // As in a shell, a dollar sign before anything that no name begins with stands for itself.
                    out.push('$');
                }
            }
            if out.len() > self.budget {
                problems.push(Problem::new(
                    place,
                    format!("the values of this configuration come to more than {MAX_EXPANDED} bytes"),
                ));
                self.budget = 0;
                return None;
            }
        }
        out.push_str(rest);
        self.budget = self.budget.saturating_sub(out.len());
        (problems.len() == before).then_some(Some(out))
    }

    fn push_value(&mut self, name: &str, place: Place, out: &mut String, problems: &mut Vec<Problem>) {
        self.named.insert(name.to_owned());
        let found = self.outside.flags.get(name).or_else(|| self.file.get(name));
        if found.is_none() && self.ahead.iter().any(|ahead| ahead == name) {
            problems.push(
                Problem::new(place, format!("variable '{name}' is used above its definition")).try_this("move its definition up"),
            );
            return;
        }
        match found.or_else(|| self.outside.environment.get(name)) {
            Some(value) if value.is_empty() => problems.push(empty(name, place)),
            Some(value) if out.len() + value.len() > self.budget => {
                out.extend(std::iter::repeat_n('?', self.budget + 1 - out.len()))
            }
            Some(value) => out.push_str(value),
            None => {
                let known = self.outside.flags.keys().chain(self.file.keys()).map(String::as_str);
                let suggestion = did_you_mean(name, known).unwrap_or_else(|| {
                    format!("give `--variable {name}=…`, or define it under `variables:` or in the environment")
                });
                problems.push(Problem::new(place, format!("variable '{name}' is not defined")).try_this(suggestion));
            }
        }
    }
}

fn empty(name: &str, place: Place) -> Problem {
    Problem::new(place, format!("Empty value for variable '{name}'")).try_this("give it a value, or remove it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree::parse;

    fn expand(text: &str, file: &str, flags: &[&str], environment: &[(&str, &str)]) -> Result<String, Vec<String>> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let variables = Variables::new(flags.iter().copied(), environment).unwrap();
        let mut substitution = Substitution::new(&variables);
        let mut problems = Vec::new();
        if !file.is_empty() {
            substitution.define(&parse(file).unwrap(), &mut problems);
        }
        let value = substitution.expand(text, Place::default(), &mut problems);
        if problems.is_empty() {
            Ok(value.unwrap().unwrap_or_else(|| text.to_owned()))
        } else {
            Err(problems.into_iter().map(|problem| problem.message).collect())
        }
    }

    #[test]
    fn forms() {
        let flags = ["A=1", "LONG_name2=x y"];
        for (text, expected) in [
            ("$A", "1"),
            ("${A}", "1"),
            ("a-$A-b", "a-1-b"),
            ("${A}B", "1B"),
            ("$LONG_name2.", "x y."),
            ("$$A", "$A"),
            ("$$$A", "$1"),
            ("cost: 5$", "cost: 5$"),
            ("$ 5 $1", "$ 5 $1"),
            ("é$A", "é1"),
        ] {
            assert_eq!(expand(text, "", &flags, &[]).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(expand("${A", "", &flags, &[]), Err(vec!["`${` without `}`".into()]));
        assert_eq!(expand("${A B}", "", &flags, &[]), Err(vec!["`${A B}` is not a variable".into()]));
        assert_eq!(expand("$AB", "", &flags, &[]), Err(vec!["variable 'AB' is not defined".into()]));
        assert_eq!(expand("$X$Y", "", &[], &[]).unwrap_err().len(), 2, "all problems at once");
    }

    #[test]
    fn flags_beat_the_file_beats_the_environment() {
        assert_eq!(expand("$A", "A: file", &["A=flag"], &[("A", "env")]).as_deref(), Ok("flag"));
        assert_eq!(expand("$A", "A: file", &[], &[("A", "env")]).as_deref(), Ok("file"));
        assert_eq!(expand("$A", "B: file", &[], &[("A", "env")]).as_deref(), Ok("env"));
        assert_eq!(expand("$B", "A: 1\nB: x$A", &[], &[]).as_deref(), Ok("x1"));
        assert_eq!(expand("$B", "A: 1\nB: x$A", &["A=2"], &[]).as_deref(), Ok("x2"));
        assert_eq!(
            expand("$B", "B: x$A\nA: 1", &[], &[("A", "env")]).unwrap_err()[0],
            "variable 'A' is used above its definition"
        );
    }

    #[test]
    fn values_are_not_expanded_again() {
        assert_eq!(expand("$A", "", &["A=$B", "B=1"], &[]).as_deref(), Ok("$B"));
    }

    #[test]
    fn empty_values() {
        assert_eq!(Variables::new(["X="], []).unwrap_err().to_string(), "Empty value for variable 'X'");
        assert!(matches!(Variables::new(["X"], []), Err(VariableError::Form(_))));
        assert!(matches!(Variables::new(["1X=2"], []), Err(VariableError::Name(_))));
        assert!(matches!(Variables::new(["X=1", "X=2"], []), Err(VariableError::Twice(_))));
        assert_eq!(expand("a", "X:", &[], &[]), Err(vec!["Empty value for variable 'X'".into()]));
        assert_eq!(expand("a", "X: ''", &[], &[]), Err(vec!["Empty value for variable 'X'".into()]));
        assert_eq!(expand("$X", "X:", &["X=1"], &[]).as_deref(), Ok("1"));
        assert_eq!(expand("$X", "", &[], &[("X", "")]), Err(vec!["Empty value for variable 'X'".into()]));
        assert_eq!(Variables::new(["X=a=b"], []).unwrap().flags["X"], "a=b");
    }

    #[test]
    fn a_kilobyte_never_becomes_gigabytes() {
        let mut file = "A0: xxxxxxxxxx\n".to_owned();
        for level in 1..40 {
            let below = level - 1;
            file.push_str(&format!("A{level}: $A{below}$A{below}$A{below}$A{below}\n"));
        }
        assert!(expand("$A39", &file, &[], &[]).unwrap_err()[0].contains("more than"));
    }
}
