//! That every part of the bench works; its figures are of no interest here.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

/// The program that is measured, which `cargo test --workspace` builds beside the bench.
fn postern() -> &'static Path {
    let path = Path::new(env!("CARGO_BIN_EXE_postern-bench")).with_file_name("postern");
    assert!(path.is_file(), "there is no {}: `cargo build -p postern-cli` builds it", path.display());
    Box::leak(path.into_boxed_path())
}

fn bench(arguments: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern-bench"));
    command.arg("--smoke").arg("--postern").arg(postern()).args(arguments).assert()
}

#[test]
fn a_smoke_run_takes_every_figure() {
    let run = bench(&["--output", "json"]).success();
    let document: Value = serde_json::from_slice(&run.get_output().stdout).expect("one document");
    let figures = document["figures"].as_object().expect("figures");
    for key in ["throughput-1", "throughput-8", "throughput-64", "connections-8", "connections-64-p99", "round-trip-p50"] {
        for way in ["direct", "chain", "postern"] {
            let median = figures[key]["ways"][way]["median"].as_f64();
            assert!(median.is_some_and(|value| value > 0.0), "{key} of {way}: {}", figures[key]);
        }
    }
    for key in ["cpu-near", "cpu-middle", "cpu-far", "peak-memory-middle", "idle-16-near", "idle-margin-middle"] {
        assert!(figures[key]["ways"]["postern"]["median"].is_number(), "{key}: {document:#}");
    }
    for (case, ways) in document["endings"].as_object().expect("endings") {
        assert!(ways["direct"].is_null() && ways["postern"].is_null(), "{case}: {ways}");
    }
    // Where the machine has no namespaces, the bench says so.
    let apart = figures["far-throughput-loss"]["ways"]["postern"]["median"].is_number() && figures["far-cold"].is_object();
    assert!(apart || document["notes"].to_string().contains("not measured"), "{document:#}");
    assert!(document["targets"].as_array().is_some_and(|targets| targets.iter().all(|target| target["result"].is_string())));
}

#[test]
fn idle_nodes_stay() {
    let run = bench(&["--output", "json", "idle-nodes", "--nodes", "12", "--minutes", "0.001"]).success();
    let document: Value = serde_json::from_slice(&run.get_output().stdout).expect("one document");
    assert_eq!(document["lost"], 0, "{document:#}");
    assert!(document["memory_each_at_end_bytes"].is_number() && document["cpu_percent"].is_number(), "{document:#}");
}

#[test]
fn nodes_and_streams_come_back() {
    let run = bench(&["--output", "json", "storm", "--nodes", "60", "--streams", "16", "--away", "0.5"]).success();
    let document: Value = serde_json::from_slice(&run.get_output().stdout).expect("one document");
    assert_eq!((&document["missing"], &document["streams_lost"]), (&0.into(), &0.into()), "{document:#}");
    assert!(
        document["targets"].as_array().is_some_and(|targets| targets.iter().all(|target| target["result"] == "met")),
        "{document:#}"
    );
}

#[test]
fn a_missing_postern_is_told_with_how_to_build_it() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern-bench"));
    let run = command.args(["--smoke", "--ways", "postern", "--postern", "/nowhere/postern"]).assert().failure();
    let told = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(told.contains("cargo build") && told.contains("/nowhere/postern"), "{told}");
}
