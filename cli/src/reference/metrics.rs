//! `docs/reference/metrics.md`, from the lists of metrics.

use std::fmt::Write;

use postern_authority::server::metrics as authority;
use postern_node::engine::metrics as node;
use postern_proto::authority::Refusal;
use postern_relay::server::{DropReason, metrics as relay};
use postern_runtime::metrics::{Kind, Metric, process};

use super::{cell, check};

const METRICS_INTRO: &str = "\
# Metrics

This page is produced from the program by `cli/src/reference/metrics.rs`, which fails when it is stale. How to have them collected, and what to watch, is in
[monitoring](../guides/monitoring.md).

A node answers at `/metrics` of its `--http-server-port`, on 127.0.0.1; the servers at `/metrics` of their `--metrics ADDR`; nobody answers where that
was not asked for. The form is [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/) text, which Prometheus and its kin read.

Counters begin at 0 when the process starts. Units are seconds and bytes, times are Unix time. Labels take their values from the lists below and from what the
operator has named, never from what a peer says: no identifier, attribute or address of a peer stands in them. What is told of an inlet or
outlet begins anew when it is deleted and made again.
";

fn metrics_table(metrics: &[&Metric]) -> String {
    let mut text = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in metrics {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{}`", label.name)).collect();
        let (name, kind) = (metric.name, metric.kind.as_str());
        writeln!(text, "| `{name}` | {kind} | {} | {} |", labels.join(", "), cell(metric.meaning)).unwrap();
    }
    let mut labels: Vec<_> = metrics.iter().flat_map(|metric| metric.labels.iter().map(|label| (*metric, label))).collect();
    labels.sort_by_key(|(_, label)| (label.name, label.values));
    if labels.is_empty() {
        return text;
    }
    text.push_str("\n| label | of | values |\n|---|---|---|\n");
    for same in labels.chunk_by(|(_, one), (_, other)| one == other) {
        let names: Vec<String> = same.iter().map(|(metric, _)| format!("`{}`", metric.name)).collect();
        let label = same[0].1;
        writeln!(text, "| `{}` | {} | {} |", label.name, names.join(", "), cell(label.values)).unwrap();
    }
    text
}

fn values<'a>(heading: &str, column: &str, values: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut text = format!("\n### {heading}\n\n| {column} | |\n|---|---|\n");
    for (name, meaning) in values {
        writeln!(text, "| `{name}` | {} |", cell(&meaning)).unwrap();
    }
    text
}

/// The first letter made large.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn metrics_page() -> String {
    let mut page = format!("{METRICS_INTRO}\n## Of every process\n\n{}", metrics_table(process::ALL));
    write!(page, "\n## Of a node\n\n{}", metrics_table(node::ALL)).unwrap();
    let causes = node::Cause::ALL.iter().map(|cause| (cause.as_str(), cause.meaning().to_owned()));
    page.push_str(&values("How connections end", "cause", causes));
    write!(page, "\n## Of a relay\n\n{}", metrics_table(relay::ALL)).unwrap();
    let refusals = postern_proto::link::Refusal::ALL.iter().map(|refusal| (refusal.as_str(), sentence(&refusal.to_string())));
    page.push_str(&values("Why a relay refuses", "reason", refusals));
    let drops = DropReason::ALL.iter().map(|reason| (reason.as_str(), reason.meaning().to_owned()));
    page.push_str(&values("Why a relay drops connections", "reason", drops));
    write!(page, "\n## Of an authority\n\n{}", metrics_table(authority::ALL)).unwrap();
    let refusals = Refusal::NAMES.into_iter().zip(Refusal::MEANINGS.map(str::to_owned));
    page.push_str(&values("Why an authority refuses", "reason", refusals));
    page
}

#[test]
fn reference_of_metrics() {
    check("metrics.md", &metrics_page());
}

/// The conventions of Prometheus, which tools rely on.
#[test]
fn metrics_have_proper_names() {
    let all: Vec<&Metric> = [process::ALL, node::ALL, relay::ALL, authority::ALL].concat();
    let mut names: Vec<&str> = all.iter().map(|metric| metric.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len(), "a name twice");
    for metric in all {
        let name = metric.name;
        assert!(name.starts_with("postern_") && name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
        assert!(metric.meaning.ends_with('.') && metric.meaning.starts_with(char::is_alphanumeric), "{name}");
        assert!(["timestamp", "byte"].iter().all(|word| !name.contains(word) || metric.unit().is_some()), "{name}");
    }
}
