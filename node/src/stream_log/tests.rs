use std::fs;

use postern_runtime::files::Dir;
use tokio_util::sync::CancellationToken;

use super::writer::{FILES, MAX_FILE};
use super::*;

fn dir() -> (tempfile::TempDir, Dir) {
    let home = tempfile::TempDir::new().unwrap();
    let dir = Dir::open_or_take_over(home.path()).unwrap();
    (home, dir)
}

fn own() -> Identifier {
    Identifier::from_bytes([1; 32])
}

fn peer() -> Identifier {
    Identifier::from_bytes([2; 32])
}

fn entries(dir: &Dir, name: &str) -> Vec<Entry> {
    let text = fs::read_to_string(dir.path().join(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn carried(log: &StreamLog, number: u64) {
    let mut stream = log.open(Side::Outlet, "db", "db", own());
    stream.with(ChannelId::from_bytes([3; 16]), number, peer());
    stream.ended("clean", (5, 7));
}

async fn write_all(log: StreamLog, writer: Writer, dir: &Dir) {
    let stop = CancellationToken::new();
    stop.cancel();
    writer.run(dir.try_clone().unwrap(), stop).await;
    drop(log);
}

#[tokio::test]
async fn both_sides_write_the_same_of_a_stream() {
    let (_home, dir) = dir();
    let (log, writer) = StreamLog::new(Arc::new(Clock::new()));
    carried(&log, 4);
    let mut stream = log.open(Side::Inlet, "web\n{\"forged\":1}", "db", peer());
    stream.with(ChannelId::from_bytes([3; 16]), 4, own());
    stream.ended("clean", (7, 5));
    let mut refused = log.open(Side::Inlet, "web", "db", own());
    refused.refused("NO_PEER", None);
    refused.ended("refused", (0, 0));
    write_all(log, writer, &dir).await;
    let entries = entries(&dir, FILES[0]);
    let [Entry::Stream(outlet), Entry::Stream(inlet), Entry::Stream(refused)] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(outlet.stream.as_deref(), Some(format!("{}-4", "03".repeat(16)).as_str()));
    assert_eq!(
        (&outlet.stream, outlet.bytes_to_inlet, outlet.bytes_to_outlet, outlet.inlet_identity, outlet.outlet_identity),
        (&inlet.stream, inlet.bytes_to_inlet, inlet.bytes_to_outlet, inlet.inlet_identity, inlet.outlet_identity)
    );
    assert_eq!((outlet.own(), outlet.peer()), (Some(own()), Some(peer())));
    assert_eq!(inlet.name, "web\n{\"forged\":1}", "in one line");
    assert_eq!((refused.decision, refused.code.as_deref(), &refused.stream), (Decision::Refused, Some("NO_PEER"), &None));
}

#[tokio::test]
async fn what_does_not_fit_is_counted_and_keeps_nobody() {
    let (_home, dir) = dir();
    let (log, writer) = StreamLog::new(Arc::new(Clock::new()));
    for number in 0..QUEUE as u64 + 100 {
        carried(&log, number);
    }
    assert_eq!(log.lost(), 100);
    write_all(log, writer, &dir).await;
    let entries = entries(&dir, FILES[0]);
    assert!(matches!(entries[0], Entry::Lost(Lost { lost: 100, .. })), "{:?}", entries[0]);
    assert_eq!(entries.len(), QUEUE + 1);
}

#[tokio::test]
async fn files_are_put_aside_and_the_oldest_goes() {
    let (_home, dir) = dir();
    for round in 0..FILES.len() as u64 + 2 {
        let (log, writer) = StreamLog::new(Arc::new(Clock::new()));
        for number in 0..2 * 256 {
            carried(&log, round * 1_000 + number);
        }
        // As long as it may get.
        if round > 0 {
            fs::OpenOptions::new().write(true).open(dir.path().join(FILES[0])).unwrap().set_len(MAX_FILE).unwrap();
        }
        write_all(log, writer, &dir).await;
    }
    assert!(FILES.iter().all(|name| dir.contains(name).unwrap()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), FILES.len());
}

#[tokio::test]
async fn a_line_that_a_crash_cut_is_ended() {
    let (_home, dir) = dir();
    dir.write(FILES[0], b"{\"api_version\":\"1\",\"at").unwrap();
    let (log, writer) = StreamLog::new(Arc::new(Clock::new()));
    carried(&log, 1);
    write_all(log, writer, &dir).await;
    let text = fs::read_to_string(dir.path().join(FILES[0])).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(serde_json::from_str::<Entry>(lines[1]).is_ok());
}

#[tokio::test]
async fn what_a_kill_may_have_lost_is_said_at_the_next_start() {
    let (_home, dir) = dir();
    let run = async |number| {
        let (log, writer) = StreamLog::new(Arc::new(Clock::new()));
        carried(&log, number);
        (log, writer)
    };
    let (log, writer) = run(1).await;
    write_all(log, writer, &dir).await;
    let (log, writer) = run(2).await;
    write_all(log, writer, &dir).await;
    assert!(entries(&dir, FILES[0]).iter().all(|entry| matches!(entry, Entry::Stream(_))), "it was stopped");
    // Killed: the task is dropped at some time after it has begun.
    let (_log, writer) = run(3).await;
    let writing = tokio::spawn(writer.run(dir.try_clone().unwrap(), CancellationToken::new()));
    while entries(&dir, FILES[0]).len() < 3 {
        tokio::task::yield_now().await;
    }
    writing.abort();
    assert!(writing.await.is_err());
    for number in [4, 5] {
        let (log, writer) = run(number).await;
        write_all(log, writer, &dir).await;
        let entries = entries(&dir, FILES[0]);
        assert!(matches!(entries[3], Entry::Killed(Killed { killed: true, .. })), "{entries:?}");
        assert_eq!(entries.len() as u64, number + 1, "said once");
    }
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_survived() {
    let (_home, dir) = dir();
    // Something else stands where the file should be.
    fs::create_dir(dir.path().join(FILES[0])).unwrap();
    let (log, writer) = StreamLog::new(Arc::new(Clock::new()));
    carried(&log, 1);
    let seen = log.clone();
    write_all(log, writer, &dir).await;
    assert_eq!(seen.lost(), 1);
}

#[tokio::test]
async fn who_is_refused_without_end_pushes_nothing_out() {
    let (_home, dir) = dir();
    let (log, writer) = StreamLog::new(Arc::new(Clock::new()));
    for number in 0..2 * u64::from(REFUSALS) {
        let mut stream = log.open(Side::Outlet, "db", "db", own());
        stream.with(ChannelId::from_bytes([3; 16]), number, peer());
        stream.refused("DENIED", None);
        stream.ended("refused", (0, 0));
    }
    carried(&log, 1);
    // A second may have passed meanwhile.
    let counted = log.lost();
    assert!((u64::from(REFUSALS) - 100..=u64::from(REFUSALS)).contains(&counted), "{counted}");
    write_all(log, writer, &dir).await;
    let entries = entries(&dir, FILES[0]);
    assert!(matches!(entries[0], Entry::Lost(Lost { lost, .. }) if lost == counted), "{:?}", entries[0]);
    assert!(matches!(entries.last(), Some(Entry::Stream(line)) if line.decision == Decision::Allowed));
}
