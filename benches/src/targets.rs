//! The targets that Postern has to meet, and whether a run met them.

use serde_json::{Value, json};

use crate::results::{Results, Unit};
use crate::table::number;
use crate::ways::Kind;

/// Which way a figure has to go.
#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast,
    AtMost,
}

/// What a figure of Postern is measured by.
#[derive(Debug, Clone, Copy)]
pub enum Measure {
    /// By its ratio to the same figure of another way.
    Ratio(Kind),
    /// By itself.
    Value(Unit),
}

impl Measure {
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Ratio(_) => format!("{value:.2}"),
            Self::Value(unit) => number(value, unit),
        }
    }
}

struct Target {
    title: &'static str,
    key: &'static str,
    by: Measure,
    bound: Bound,
    must: f64,
    goal: f64,
}

const TARGETS: &[Target] = &[
    Target {
        title: "throughput of 1 stream, against the plaintext chain",
        key: "throughput-1",
        by: Measure::Ratio(Kind::Chain),
        bound: Bound::AtLeast,
        must: 0.85,
        goal: 0.95,
    },
    Target {
        title: "throughput of 8 streams, against the plaintext chain",
        key: "throughput-8",
        by: Measure::Ratio(Kind::Chain),
        bound: Bound::AtLeast,
        must: 0.85,
        goal: 0.95,
    },
    Target {
        title: "new connections at 8, against the plaintext chain",
        key: "connections-8",
        by: Measure::Ratio(Kind::Chain),
        bound: Bound::AtLeast,
        must: 1.1,
        goal: 1.3,
    },
    Target {
        title: "round trip of 64 bytes (p50), against the plaintext chain",
        key: "round-trip-p50",
        by: Measure::Ratio(Kind::Chain),
        bound: Bound::AtMost,
        must: 1.25,
        goal: 1.15,
    },
    Target {
        title: "relay CPU for a GiB, against one plaintext splicing hop",
        key: "cpu-middle",
        by: Measure::Ratio(Kind::Chain),
        bound: Bound::AtMost,
        must: 1.1,
        goal: 1.1,
    },
    Target {
        title: "throughput of 1 stream, against rathole with Noise",
        key: "throughput-1",
        by: Measure::Ratio(Kind::RatholeNoise),
        bound: Bound::AtLeast,
        must: 2.0,
        goal: 2.4,
    },
    Target {
        title: "throughput of 1 stream, against Ockam",
        key: "throughput-1",
        by: Measure::Ratio(Kind::Ockam),
        bound: Bound::AtLeast,
        must: 2.0,
        goal: 2.4,
    },
    Target {
        title: "new connections at 8, against rathole by TCP",
        key: "connections-8",
        by: Measure::Ratio(Kind::RatholeTcp),
        bound: Bound::AtLeast,
        must: 0.9,
        goal: 1.0,
    },
    Target {
        title: "bytes at a far target on a warm channel, in one-way trips (two and more: a round trip too many)",
        key: "far-trips",
        by: Measure::Value(Unit::Trips),
        bound: Bound::AtMost,
        must: 1.5,
        goal: 1.1,
    },
    Target {
        title: "memory of one more idle stream, relay",
        key: "idle-margin-middle",
        by: Measure::Value(Unit::Bytes),
        bound: Bound::AtMost,
        must: 2048.0,
        goal: 2048.0,
    },
    Target {
        title: "memory of one more idle stream, inlet node",
        key: "idle-margin-near",
        by: Measure::Value(Unit::Bytes),
        bound: Bound::AtMost,
        must: 8192.0,
        goal: 8192.0,
    },
    Target {
        title: "memory of one more idle stream, outlet node",
        key: "idle-margin-far",
        by: Measure::Value(Unit::Bytes),
        bound: Bound::AtMost,
        must: 8192.0,
        goal: 8192.0,
    },
];

/// What became of a target.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub title: &'static str,
    pub by: Measure,
    /// `None`: what it takes was not measured.
    pub value: Option<f64>,
    /// What must be, in words.
    pub must: String,
    pub met: bool,
    pub goal_met: bool,
}

pub fn judge(results: &Results) -> Vec<Verdict> {
    TARGETS.iter().map(|target| target.judge(results)).collect()
}

impl Target {
    fn judge(&self, results: &Results) -> Verdict {
        let value = match self.by {
            Measure::Ratio(base) => results.ratio(self.key, Kind::Postern, base),
            Measure::Value(_) => results.median(self.key, Kind::Postern),
        };
        let holds = |limit: f64| {
            value.is_some_and(|value| match self.bound {
                Bound::AtLeast => value >= limit,
                Bound::AtMost => value <= limit,
            })
        };
        let sign = match self.bound {
            Bound::AtLeast => '≥',
            Bound::AtMost => '≤',
        };
        let goal = if self.goal == self.must { String::new() } else { format!(", goal {}", self.by.text(self.goal)) };
        let must = format!("{sign} {}{goal}", self.by.text(self.must));
        Verdict { title: self.title, by: self.by, value, must, met: holds(self.must), goal_met: holds(self.goal) }
    }
}

impl Verdict {
    pub fn word(&self) -> &'static str {
        match self {
            Self { value: None, .. } => "not measured",
            Self { goal_met: true, .. } => "met, goal too",
            Self { met: true, .. } => "met",
            _ => "missed",
        }
    }

    pub fn json(&self) -> Value {
        json!({ "target": self.title, "value": self.value, "must": self.must, "result": self.word() })
    }
}
