//! The result of a run, as a table and as a document.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::endings::Endings;
use crate::machine::Machine;
use crate::results::{Results, Unit};
use crate::targets::Verdict;
use crate::ways::{Kind, Part};

/// What the others are compared with.
const BASE: Kind = Kind::Chain;

pub struct Report {
    pub command: String,
    pub machine: Machine,
    pub rounds: u32,
    pub bytes: u64,
    /// The ways that ran, what they are, and of which processes.
    pub ways: Vec<(Kind, String, Vec<Part>)>,
    pub missing: Vec<(Kind, String)>,
    /// What else is to be known about this run.
    pub notes: Vec<String>,
    pub results: Results,
    /// How connections end, where that was tried.
    pub endings: Option<Endings>,
    pub verdicts: Vec<Verdict>,
    /// It was a smoke run.
    pub means_nothing: bool,
}

impl Report {
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "command:       {}", self.command)?;
        writeln!(out, "machine:       {}", self.machine.line())?;
        for (kind, what, parts) in &self.ways {
            let mut parts: Vec<_> = parts.iter().map(|part| format!("{}: {}", part.place.name(), part.name)).collect();
            parts.dedup();
            let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
            writeln!(out, "{:<15}{what}{parts}", format!("{}:", kind.name()))?;
        }
        for (kind, how) in &self.missing {
            writeln!(out, "{:<15}{how}", format!("{}:", kind.name()))?;
        }
        writeln!(out, "Medians of {} interleaved rounds; × is the median of the rounds' ratios to the chain.", self.rounds)?;
        for note in &self.notes {
            writeln!(out, "{note}")?;
        }
        if self.means_nothing {
            writeln!(out, "A smoke run: these figures mean nothing.")?;
        }
        writeln!(out)?;
        let width = self.results.figures().iter().map(|figure| figure.title.chars().count()).max().unwrap_or(0).max(8);
        write!(out, "{:width$}", "")?;
        for (kind, ..) in &self.ways {
            write!(out, " {:>17}", kind.name())?;
        }
        writeln!(out)?;
        for figure in self.results.figures() {
            write!(out, "{:<width$}", figure.title)?;
            for (kind, ..) in &self.ways {
                let Some(value) = self.results.median(&figure.key, *kind) else {
                    write!(out, " {:>10} {:>6}", "–", "")?;
                    continue;
                };
                let ratio = self.results.ratio(&figure.key, *kind, BASE).filter(|_| *kind != BASE);
                let ratio = ratio.map(|ratio| format!("{ratio:.2}×")).unwrap_or_default();
                write!(out, " {:>10} {ratio:>6}", number(value, figure.unit))?;
            }
            writeln!(out, "  {}", if figure.unit == Unit::Bytes { "" } else { figure.unit.name() })?;
        }
        if let Some(endings) = &self.endings {
            endings.write(out)?;
        }
        writeln!(out)?;
        let width = self.verdicts.iter().map(|verdict| verdict.title.chars().count()).max().unwrap_or(0);
        for verdict in &self.verdicts {
            let value = verdict.value.map_or_else(|| "–".to_owned(), |value| verdict.by.text(value));
            writeln!(out, "{:<width$}  {value:>8}  {:<20}  {}", verdict.title, verdict.must, verdict.word())?;
        }
        Ok(())
    }

    pub fn json(&self) -> Value {
        let figures: Map<_, _> = self
            .results
            .figures()
            .iter()
            .map(|figure| {
                let ways: Map<_, _> = self
                    .ways
                    .iter()
                    .filter_map(|(kind, ..)| {
                        let median = self.results.median(&figure.key, *kind)?;
                        let ratio = self.results.ratio(&figure.key, *kind, BASE);
                        let samples = self.results.samples(&figure.key, *kind);
                        Some((kind.name().to_owned(), json!({ "median": median, "ratio": ratio, "samples": samples })))
                    })
                    .collect();
                (figure.key.clone(), json!({ "title": figure.title.trim(), "unit": figure.unit.name(), "ways": ways }))
            })
            .collect();
        let ways: Map<_, _> = self.ways.iter().map(|(kind, what, _)| (kind.name().to_owned(), json!(what))).collect();
        let missing: Map<_, _> = self.missing.iter().map(|(kind, how)| (kind.name().to_owned(), json!(how))).collect();
        json!({
            "command": self.command,
            "machine": self.machine.json(),
            "rounds": self.rounds,
            "bytes": self.bytes,
            "smoke": self.means_nothing,
            "ways": ways,
            "not_measured": missing,
            "notes": self.notes,
            "figures": figures,
            "endings": self.endings.as_ref().map(Endings::json),
            "targets": self.verdicts.iter().map(Verdict::json).collect::<Vec<_>>(),
        })
    }
}

/// A figure with about three digits that mean something.
pub fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => {
            let kibibytes = value / 1024.0;
            if kibibytes.abs() >= 1024.0 { format!("{:.1} MiB", kibibytes / 1024.0) } else { format!("{kibibytes:.1} KiB") }
        }
        Unit::PerSecond => format!("{value:.0}"),
        Unit::Gigabits | Unit::Seconds | Unit::Trips => format!("{value:.2}"),
        Unit::Microseconds if value >= 1000.0 => format!("{value:.0}"),
        Unit::Microseconds | Unit::Milliseconds | Unit::Megabits => format!("{value:.1}"),
    }
}
