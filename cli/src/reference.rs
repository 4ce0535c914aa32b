//! `docs/reference/cli.md`, `errors.md` and `metrics.md`, produced from the command line and the lists of codes and of metrics. The tests fail when a
//! page is stale; `UPDATE_REFERENCE=1 cargo test -p postern-cli reference` writes it anew.

mod metrics;

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::{Arg, ArgAction, Command, CommandFactory, Parser};
use postern_node::code::Code;
use postern_node::control::code as shared;
use postern_node::control::fault::Class;
use postern_node::engine::{Step, code as portal};

use crate::args::Cli;
use crate::code;

/// Widest line of a help text: where the width of the terminal is not known, clap folds at 100.
const WIDTH: usize = 98;

#[track_caller]
fn check(page: &str, text: &str) {
    let path = format!("{}/../docs/reference/{page}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = stands.lines().zip(text.lines()).position(|(stands, made)| stands != made);
    let line = differs.unwrap_or_else(|| stands.lines().count().min(text.lines().count())) + 1;
    assert!(
        stands == text,
        "docs/reference/{page} is stale from line {line} on; write it anew with\n  \
         UPDATE_REFERENCE=1 cargo test -p postern-cli reference"
    );
}

/// The whole command line, with the global flags in every command.
fn command_line() -> Command {
    let mut root = Cli::command();
    root.build();
    root
}

/// Every command that somebody may type, with its words, from the top down.
fn commands<'a>(command: &'a Command, words: &str, found: &mut Vec<(String, &'a Command)>) {
    for child in command.get_subcommands().filter(|child| !child.is_hide_set() && child.get_name() != "help") {
        let words = format!("{words} {}", child.get_name());
        found.push((words.clone(), child));
        commands(child, &words, found);
    }
}

fn all(root: &Command) -> Vec<(String, &Command)> {
    let mut found = Vec::new();
    commands(root, "postern", &mut found);
    assert!(found.len() > 40, "{}", found.len());
    found
}

/// The arguments of a command itself, without the global flags and `--help`.
fn own_arguments(command: &Command) -> Vec<&Arg> {
    let shown = |arg: &&Arg| !arg.is_hide_set() && !arg.is_global_set() && !["help", "version"].contains(&arg.get_id().as_str());
    let (places, flags): (Vec<&Arg>, Vec<&Arg>) = command.get_arguments().filter(shown).partition(|arg| arg.is_positional());
    places.into_iter().chain(flags).collect()
}

/// `-f, --flag VALUE` or `NAME`.
fn spelling(arg: &Arg) -> String {
    let value = || {
        let names = arg.get_value_names().map(|names| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" "));
        names.unwrap_or_else(|| arg.get_id().as_str().to_uppercase())
    };
    if arg.is_positional() {
        return value();
    }
    let mut text = arg.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    text.push_str(&format!("--{}", arg.get_long().unwrap_or_default()));
    if matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
        text.push_str(&format!(" {}", value()));
    }
    text
}

/// What it means, and its default, which stands in brackets at the end of the help where clap does not know it.
fn help(arg: &Arg) -> (String, String) {
    let text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let (mut text, mut default) = match text.split_once(" [default: ") {
        Some((text, default)) => (text.to_owned(), default.trim_end_matches(']').to_owned()),
        None => (text, String::new()),
    };
    if let [value] = arg.get_default_values()
        && !arg.is_hide_default_value_set()
        && matches!(arg.get_action(), ArgAction::Set)
    {
        default = format!("`{}`", value.to_string_lossy());
    }
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() && !matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse) {
        write!(text, ": {}", values.join(", ")).unwrap();
    }
    if let Some(variable) = arg.get_env() {
        let variable = variable.to_string_lossy();
        if !text.contains(&*variable) {
            write!(text, " (also `{variable}`)").unwrap();
        }
    }
    (text, default)
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn table(arguments: &[&Arg]) -> String {
    let mut text = "| | | default |\n|---|---|---|\n".to_owned();
    for arg in arguments {
        let (help, default) = help(arg);
        let needed = if arg.is_required_set() { "**needed**".to_owned() } else { default };
        writeln!(text, "| `{}` | {} | {} |", cell(&spelling(arg)), cell(&help), cell(&needed)).unwrap();
    }
    text
}

/// The text behind the flags: prose, and lines to type.
fn after(command: &Command) -> (String, Vec<String>) {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (examples, prose): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("  "));
    let prose: Vec<&str> = prose.into_iter().filter(|line| !line.ends_with("xamples:") && *line != "Start here:").collect();
    (prose.join("\n").trim().to_owned(), examples.into_iter().map(|line| line.trim_start().to_owned()).collect())
}

const CLI_INTRO: &str = "\
# The command line

This page is produced from the program by `cli/src/reference.rs`, which fails when it is stale. `postern COMMAND --help` says the same.

Results go to standard output, and nothing else does; what is said to a person goes to standard error. On a terminal, results are texts and
tables. In a pipe, `create` prints one bare line (the node's name, `/service/NAME`, `HOST:PORT`, …), and `show` and `list` print JSON:
[documents](json.md). Errors have a [code](errors.md) that stays the same.

Questions are asked on a terminal only; where nobody can be asked, deleting needs `-y`.

NODE is the name of a node or `/node/NAME`. A bare port is one of 127.0.0.1. Durations are `500ms`, `10s`, `5m`, `24h`, `7d`; a bare number is
seconds. Expressions are those of the [policy language](policy-language.md). Places and variables of the environment are in [places](places.md).
";

fn cli_page() -> String {
    let root = command_line();
    let mut page = format!("{CLI_INTRO}\n## Exit codes\n\n{}", exit_codes());
    let globals: Vec<&Arg> = root.get_arguments().filter(|arg| arg.is_global_set() && arg.get_id() != "help").collect();
    write!(page, "\n## Flags of every command\n\nThey stand before or after the command.\n\n{}", table(&globals)).unwrap();
    for (words, command) in all(&root) {
        let level = if words.split(' ').count() == 2 { "##" } else { "###" };
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        write!(page, "\n{level} `{words}`\n\n{about}.\n").unwrap();
        if command.has_subcommands() {
            continue;
        }
        let usage = command.clone().bin_name(&words).render_usage().to_string();
        write!(page, "\n```text\n{}\n```\n", usage.trim_start_matches("Usage: ").trim()).unwrap();
        let arguments = own_arguments(command);
        if !arguments.is_empty() {
            write!(page, "\n{}", table(&arguments)).unwrap();
        }
        let (prose, examples) = after(command);
        if !prose.is_empty() {
            write!(page, "\n{prose}\n").unwrap();
        }
        if !examples.is_empty() {
            write!(page, "\n```text\n{}\n```\n", examples.join("\n")).unwrap();
        }
    }
    page
}

const fn meaning(class: Class) -> &'static str {
    match class {
        Class::Failure => {
            "It failed, or what was named does not exist. `status`, `policy test`, `audit reconcile`: not all is well; `explain`: something else than a policy is in the way"
        }
        Class::Usage => "The command line is wrong",
        Class::Unreachable => "Something that had to be reached cannot be",
        Class::TryLater => "It was reached, and says to come back: a limit, busy, a lock",
        Class::Denied => "It is not permitted. `explain`: somebody denies it",
        Class::Configuration => "The configuration is wrong, or the home is not in the state that the command needs",
    }
}

fn exit_codes() -> String {
    let mut text = "| exit code | meaning |\n|---|---|\n| 0 | Done |\n".to_owned();
    for class in Class::ALL {
        writeln!(text, "| {} | {} |", class.exit_code(), meaning(class)).unwrap();
    }
    text
}

const ERRORS_INTRO: &str = "\
# Errors and codes

This page is produced from the program by `cli/src/reference.rs`, which fails when it is stale.

An error says what happened, why, and what to try. Its code stays the same, and stands in the log and in JSON, too: with `--output json`,
an error is a [document](json.md#errors) on standard error.

```text
error: node `n1` was not found
  try: look at those that there are: postern node list
  code: NOT_FOUND
```
";

fn errors_page() -> String {
    let mut page = format!("{ERRORS_INTRO}\n## Exit codes\n\n{}", exit_codes());
    page.push_str("\n## Codes of commands\n\n| code | exit | meaning |\n|---|---|---|\n");
    let sorted: BTreeMap<&str, &Code> = shared::ALL.iter().chain(code::ALL).map(|code| (code.as_str(), code)).collect();
    for code in sorted.values() {
        writeln!(page, "| `{code}` | {} | {} |", code.class().exit_code(), cell(code.meaning())).unwrap();
    }
    page.push_str(
        "\n## Why bytes do not pass\n\nThe codes of a portal, in `status`, in `waiting` of `node show` and in the log of the node. With them stands the step \
         that failed:\n\n| step | what it needs |\n|---|---|\n| `node` | The node runs |\n",
    );
    for step in Step::ALL {
        writeln!(page, "| `{}` | {} |", step.as_str(), step.meaning()).unwrap();
    }
    page.push_str("\n| code | meaning |\n|---|---|\n");
    let sorted: BTreeMap<&str, &Code> = portal::ALL.iter().map(|code| (code.as_str(), code)).collect();
    for code in sorted.values() {
        writeln!(page, "| `{code}` | {} |", cell(code.meaning())).unwrap();
    }
    page
}

#[test]
fn reference_of_the_command_line() {
    check("cli.md", &cli_page());
}

#[test]
fn reference_of_errors() {
    check("errors.md", &errors_page());
}

#[test]
fn reference_has_every_code_once() {
    let mut texts: Vec<&str> = shared::ALL.iter().chain(code::ALL).map(|code| code.as_str()).collect();
    let count = texts.len();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), count, "a code of the commands has the name of one of the node");
    for code in shared::ALL.iter().chain(code::ALL).chain(portal::ALL) {
        let meaning = code.meaning();
        assert!(meaning.ends_with('.') && meaning.starts_with(|c: char| c.is_uppercase() || c == '`'), "{code}: {meaning}");
    }
}

#[test]
fn everything_has_a_help_text_that_fits() {
    let root = command_line();
    for (words, command) in all(&root) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(!about.is_empty() && !about.ends_with('.'), "{words}: {about:?}");
        for arg in own_arguments(command) {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with(|c: char| c.is_uppercase() || c == '/'), "{words} {}: {help:?}", arg.get_id());
        }
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in after.lines() {
            assert!(line.chars().count() <= WIDTH, "{words}: too wide: {line}");
        }
    }
}

/// Every example in a help text is one that the command line takes.
#[test]
fn examples_can_be_typed() {
    let root = command_line();
    let mut typed = 0;
    for (words, command) in std::iter::once(("postern".to_owned(), &root)).chain(all(&root)) {
        for example in after(command).1 {
            let line = shell_words(&example);
            if let Err(error) = Cli::try_parse_from(&line) {
                panic!("{words}: {example}\n{error}");
            }
            typed += 1;
        }
    }
    assert!(typed > 25, "{typed}");
}

/// The words of a line as a shell divides them, up to a redirection or a comment.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars().chain([' ']) {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => {
                if ["#", ">", "<"].contains(&word.as_str()) {
                    return words;
                }
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    words
}
