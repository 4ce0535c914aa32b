//! On what a run was made: figures of one machine say nothing about another.

use std::fs;

use serde_json::{Value, json};

#[derive(Debug)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub memory: u64,
    pub kernel: String,
}

impl Machine {
    pub fn this() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown");
            line.trim_start_matches([':', ' ', '\t']).trim().to_owned()
        };
        let memory = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<u64>().unwrap_or_default() << 10;
        let name = rustix::system::uname();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: field("/proc/cpuinfo", "model name"),
            memory,
            kernel: format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        let Self { cores, processor, memory, kernel } = self;
        format!("{cores} cores of {processor}, {} GiB, {kernel}", (memory + (1 << 29)) >> 30)
    }

    pub fn json(&self) -> Value {
        json!({ "cores": self.cores, "processor": self.processor, "memory_bytes": self.memory, "kernel": self.kernel })
    }
}
