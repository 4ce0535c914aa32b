//! What the daemons count, and how monitoring systems read it: lists of [`Metric`]s, from which `docs/reference/metrics.md` is
//! produced, [`Count`]s that cost one relaxed addition, and an [`Exposition`] of them in the OpenMetrics text form.
//!
//! Labels take values from closed lists and from what the operator has named (inlets, outlets, relays); never from what a peer says.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::supervise::Supervisor;

/// What an [`Exposition`] is, for the header of an answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How the values of a metric move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only up, from 0 at the start of the process. Its name ends with `_total`.
    Counter,
    /// Up and down.
    Gauge,
}

impl Kind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// By what the values of a metric are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    pub name: &'static str,
    /// Which values it takes: a phrase for the reference.
    pub values: &'static str,
}

/// One family of values. Made by [`metrics!`](crate::metrics!), so that none stands outside a list.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// In full, with unit and `_total`.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [Label],
    /// A sentence or two for the reference and for whoever reads the values.
    pub meaning: &'static str,
}

impl Metric {
    /// The unit that the name ends with.
    #[must_use]
    pub fn unit(&self) -> Option<&'static str> {
        self.parts().1
    }

    /// The name without unit and `_total`, and the unit.
    fn parts(&self) -> (&'static str, Option<&'static str>) {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        ["bytes", "seconds"]
            .into_iter()
            .find_map(|unit| Some((name.strip_suffix(unit)?.strip_suffix('_')?, Some(unit))))
            .unwrap_or((name, None))
    }
}

/// Declares metrics, and the list `ALL` of them: `NAME: Kind "name" [labels], "Meaning.";` for each.
#[macro_export]
macro_rules! metrics {
    (ALL; $($name:ident: $kind:ident $text:literal [$($label:expr),*], $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub static $name: $crate::metrics::Metric = $crate::metrics::Metric {
                name: $text,
                kind: $crate::metrics::Kind::$kind,
                labels: &[$($label),*],
                meaning: $meaning,
            };
        )*

        /// All of them, for the reference.
        pub static ALL: &[&$crate::metrics::Metric] = &[$(&$name),*];
    };
}

/// What every process of ours tells.
pub mod process {
    use super::Label;

    const VERSION: Label = Label { name: "version", values: "the version of the program" };

    crate::metrics! {
        ALL;

        BUILD: Gauge "postern_build_info" [VERSION], "Always 1; its label says which program this is.";
        PANICS: Counter "postern_task_panics_total" [], "Tasks that ended by a fault of the program. Each served one peer, which lost its connection; the log says more.";
        TASKS: Gauge "postern_tasks" [], "Tasks that run now.";
    }
}

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn one(&self) {
        self.add(1);
    }

    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A count for each entry of a closed list of `N`.
#[derive(Debug)]
pub struct Counts<const N: usize>([Count; N]);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

impl<const N: usize> Counts<N> {
    /// Counts one for the entry `number`; nothing where the list has no such entry.
    pub fn one(&self, number: usize) {
        if let Some(count) = self.0.get(number) {
            count.one();
        }
    }

    /// The counts, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(Count::get)
    }
}

#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: u64,
}

/// The values of one moment.
#[derive(Debug, Default)]
pub struct Exposition(Vec<(&'static Metric, Vec<Sample>)>);

impl Exposition {
    /// Begins with what every process tells: `version` of the program, and how its tasks are.
    #[must_use]
    pub fn of_process(version: &str, supervisor: &Supervisor) -> Self {
        let mut exposition = Self::default();
        exposition.put(&process::BUILD, &[version], 1);
        exposition.put(&process::PANICS, &[], supervisor.panics());
        exposition.put(&process::TASKS, &[], supervisor.running() as u64);
        exposition
    }

    /// Adds a value, with those of the metric's labels in their order.
    pub fn put(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        let labels = metric.labels.iter().map(|label| label.name).zip(labels.iter().map(|value| (*value).to_owned())).collect();
        let sample = Sample { labels, value };
        match self.0.iter_mut().find(|(known, _)| known.name == metric.name) {
            Some((_, samples)) => samples.push(sample),
            None => self.0.push((metric, vec![sample])),
        }
    }

    /// The text to answer with.
    #[must_use]
    pub fn into_text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing to memory does not fail.
        let _ = text::encode(&mut text, &registry);
        text
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (metric, samples) in &self.0 {
            let (name, unit) = metric.parts();
            let unit = unit.map(|unit| Unit::Other(unit.to_owned()));
            let counter = |value| ConstCounter::new(value);
            let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let of_type = match metric.kind {
                Kind::Counter => counter(0).metric_type(),
                Kind::Gauge => gauge(0).metric_type(),
            };
            let mut family = encoder.encode_descriptor(name, metric.meaning, unit.as_ref(), of_type)?;
            let Some((last, others)) = samples.split_last().filter(|_| metric.labels.is_empty()) else {
                for Sample { labels, value } in samples {
                    let labelled = family.encode_family(labels)?;
                    match metric.kind {
                        Kind::Counter => counter(*value).encode(labelled)?,
                        Kind::Gauge => gauge(*value).encode(labelled)?,
                    }
                }
                continue;
            };
            debug_assert!(others.is_empty(), "{} twice", metric.name);
            match metric.kind {
                Kind::Counter => counter(last.value).encode(family)?,
                Kind::Gauge => gauge(last.value).encode(family)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Label = Label { name: "who", values: "anybody" };

    crate::metrics! {
        ALL;

        SEEN: Counter "postern_test_seen_bytes_total" [WHO], "Bytes seen.";
        UNTIL: Gauge "postern_test_until_timestamp_seconds" [], "Until when.";
        PLAIN: Gauge "postern_test_things" [], "Things.";
    }

    #[test]
    fn the_text_form() {
        let mut exposition = Exposition::default();
        exposition.put(&SEEN, &["a"], 7);
        exposition.put(&UNTIL, &[], 1_800_000_000);
        exposition.put(&PLAIN, &[], 0);
        exposition.put(&SEEN, &["b\"\\\n"], u64::MAX);
        assert_eq!(
            exposition.into_text(),
            "# HELP postern_test_seen_bytes Bytes seen.\n# TYPE postern_test_seen_bytes counter\n# UNIT postern_test_seen_bytes bytes\n\
             postern_test_seen_bytes_total{who=\"a\"} 7\n\
             postern_test_seen_bytes_total{who=\"b\\\"\\\\\\n\"} 18446744073709551615\n\
             # HELP postern_test_until_timestamp_seconds Until when.\n# TYPE postern_test_until_timestamp_seconds gauge\n\
             # UNIT postern_test_until_timestamp_seconds seconds\npostern_test_until_timestamp_seconds 1800000000\n\
             # HELP postern_test_things Things.\n# TYPE postern_test_things gauge\npostern_test_things 0\n# EOF\n"
        );
        assert_eq!(ALL.len(), 3);
        assert_eq!((SEEN.unit(), UNTIL.unit(), PLAIN.unit()), (Some("bytes"), Some("seconds"), None));
    }

    #[test]
    fn counts_of_a_list() {
        let counts = Counts::<2>::default();
        counts.one(1);
        counts.one(1);
        counts.one(7);
        assert_eq!(counts.iter().collect::<Vec<_>>(), [0, 2]);
    }
}
