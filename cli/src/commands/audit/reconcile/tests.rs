//! What two logs give, honest and forged.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use postern_proto::time::Timestamp;

use super::compare::Span;
use super::*;

fn line(side: &str, stream: u64, at: &str, end: &str, bytes: [u64; 2]) -> String {
    let (inlet, outlet) = ("a1".repeat(32), "b2".repeat(32));
    format!(
        r#"{{"api_version":"1","at":"{at}","started_at":"{at}","duration_ms":1,"stream":"{}-{stream}","side":"{side}","name":"x","inlet_identity":"P{inlet}","outlet_identity":"P{outlet}","outlet":"db","decision":"allowed","code":null,"bytes_to_outlet":{},"bytes_to_inlet":{},"end":"{end}"}}"#,
        "0c".repeat(16),
        bytes[0],
        bytes[1]
    )
}

fn log(lines: &[String]) -> Log {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("x");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let mut log = Log::default();
    read(&mut log, File::open(&path).unwrap(), &path).unwrap();
    log
}

#[test]
fn what_is_only_on_one_side_and_what_differs() {
    let t = |minute: u32| format!("2026-11-22T08:{minute:02}:00Z");
    let here = log(&[
        line("inlet", 0, &t(10), "clean", [5, 7]),
        line("inlet", 2, &t(11), "clean", [5, 7]),
        line("inlet", 4, &t(12), "link-lost", [100, 7]),
        line("inlet", 6, &t(13), "clean", [1, 1]),
        line("inlet", 8, &t(1), "clean", [1, 1]),
        "{\"api_version\":\"1\",\"at\":\"x\",\"lost\":3}".to_owned(),
        "{\"api_version\":\"1\",\"at\":\"x\",\"killed\":true}".to_owned(),
        "half a li".to_owned(),
    ]);
    let there = log(&[
        line("outlet", 0, &t(10), "clean", [5, 7]),
        line("outlet", 2, &t(11), "clean", [5, 9]),
        line("outlet", 4, &t(12), "link-lost", [60, 7]),
        line("outlet", 10, &t(11), "clean", [1, 1]),
        line("outlet", 12, &t(20), "clean", [1, 1]),
    ]);
    let document = compare(&here, &there);
    assert_eq!((document.ok, document.agree, document.lost_here, document.lost_there), (false, 2, 4, 0));
    assert_eq!((document.killed_here, document.killed_there), (1, 0));
    assert!(plain(&document).contains("1 times a node here was killed"));
    let [differ] = &document.differ[..] else { panic!("{:?}", document.differ) };
    assert!(differ.stream.ends_with("-2") && differ.field == "bytes_to_inlet" && differ.here == "7" && differ.there == "9");
    let ids = |shown: &[Shown]| shown.iter().map(|one| one.stream[33..].to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(&document.only_here), ["6"]);
    assert_eq!(ids(&document.only_there), ["10"]);
    assert_eq!(document.not_compared, 2, "before the other log begins, and after this one ends");
    let same = compare(&here, &log(&[]));
    assert!(same.ok && same.agree == 0);
    assert_eq!(document.compared, Some(Span { from: t(10), to: t(13) }));
    assert!(plain(&document).contains("compared: what ended here from 2026-11-22T08:10:00Z to 2026-11-22T08:13:00Z"));
    // Nobody has received more than was sent.
    let more = log(&[line("outlet", 4, &t(12), "link-lost", [101, 7])]);
    assert_eq!(compare(&here, &more).differ[0].field, "bytes_to_outlet");
}

/// A hundred streams, one every 40 s, as `side` tells them.
fn day(side: &str) -> Vec<String> {
    (0..100).map(|number| line(side, number, &at(number * 40), "clean", [5, 7])).collect()
}

fn at(second: u64) -> String {
    Timestamp::from_unix(1_795_305_600 + second).to_string()
}

#[test]
fn times_that_were_forged_hide_no_stream() {
    let here = log(&day("inlet"));
    // Ten lines are kept, and say that they are of the end of the day.
    let late = at(80_000);
    let forged: Vec<_> = (0..10).map(|number| line("outlet", number * 11, &late, "clean", [5, 7])).collect();
    let document = compare(&here, &log(&forged));
    assert!(!document.ok);
    assert_eq!((document.agree, document.only_here.len(), document.not_compared), (0, 90, 0), "{}", plain(&document));
    assert!(document.differ.iter().any(|found| found.field == "at" && found.there == late));
    // Text that sorts before or behind every time widens nothing, and is no time.
    for text in ["", "0", "zzzz", "2026-11-22T00:00:00", "9999-99-99T99:99:99Z"] {
        let forged: Vec<_> = (40..50).map(|number| line("outlet", number, text, "clean", [5, 7])).collect();
        let document = compare(&here, &log(&forged));
        assert!(!document.ok && document.differ.len() == 20 && document.only_here.is_empty(), "{text:?}: {}", plain(&document));
        let broken: Vec<_> = (40..50).map(|number| line("outlet", number, text, "link-lost", [5, 7])).collect();
        assert!(!compare(&here, &log(&broken)).ok, "{text:?}");
    }
    // Lines of streams that never were tell of a time that the log does not cover: what it lacks of that time is missed.
    let mut wide = day("outlet")[40..50].to_vec();
    wide.extend([line("outlet", 900, &at(0), "clean", [1, 1]), line("outlet", 901, &at(3_960), "clean", [1, 1])]);
    let document = compare(&here, &log(&wide));
    assert!(!document.ok && document.only_here.len() > 70, "{}", plain(&document));
}

#[test]
fn lines_that_were_dropped_between_others_are_missed() {
    let (here, mut sent) = (log(&day("inlet")), day("outlet"));
    sent.drain(20..30);
    let document = compare(&here, &log(&sent));
    assert_eq!((document.ok, document.agree, document.only_here.len(), document.not_compared), (false, 90, 10, 0));
    // Of a log that was cut as well.
    let document = compare(&here, &log(&sent[10..80]));
    assert_eq!((document.ok, document.agree, document.only_here.len(), document.not_compared), (false, 70, 10, 20));
    // All of one second.
    let same = |side: &str| (0..3).map(|number| line(side, number, &at(0), "clean", [5, 7])).collect::<Vec<_>>();
    let document = compare(&log(&same("inlet")), &log(&[same("outlet")[0].clone(), same("outlet")[2].clone()]));
    assert_eq!((document.ok, document.only_here.len()), (false, 1));
}

#[test]
fn an_honest_log_that_begins_later_or_ends_earlier_is_well() {
    let (here, sent) = (log(&day("inlet")), day("outlet"));
    for (from, to) in [(30, 100), (0, 70), (30, 70), (50, 51)] {
        let there = log(&sent[from..to]);
        for (document, of) in [(compare(&here, &there), "a part"), (compare(&there, &here), "the whole")] {
            assert!(document.ok, "{of}: {}", plain(&document));
            assert_eq!((document.agree, document.not_compared), (to - from, 100 - (to - from)), "{of}");
            let span = Span { from: at(from as u64 * 40), to: at((to - 1) as u64 * 40) };
            assert_eq!(document.compared.as_ref(), Some(&span));
            assert!(plain(&document).contains("were not compared"));
        }
    }
    // Many of one second, which two nodes write in different orders: a cut goes through the midst of them.
    let busy = |side: &str| (0..40).map(|number| line(side, number, &at(number / 10), "clean", [5, 7])).collect::<Vec<_>>();
    let cut: Vec<_> = busy("outlet")
        .into_iter()
        .enumerate()
        .filter(|(number, _)| ![0, 1, 3, 12, 14].contains(number))
        .map(|(_, one)| one)
        .collect();
    let document = compare(&log(&busy("inlet")), &log(&cut));
    assert!(!document.ok, "nothing is before the first that both have: it was not cut there");
    let before = (100..110).map(|number| line("inlet", number, "2026-11-21T23:59:58Z", "clean", [5, 7])).collect::<Vec<_>>();
    let document = compare(&log(&[before, busy("inlet")].concat()), &log(&cut));
    assert!(document.ok && document.not_compared == 15 && document.agree == 35, "{}", plain(&document));
    // Clocks may differ, and one that broke may end much later for one side.
    let slow: Vec<_> = (0..100).map(|number| line("outlet", number, &at(number * 40 + 299), "clean", [5, 7])).collect();
    assert!(compare(&here, &log(&slow)).ok);
    let broken = |side: &str, ended: u64| log(&[line(side, 0, &at(0), "link-lost", [1, 1]).replacen(&at(0), &at(ended), 1)]);
    assert!(compare(&broken("inlet", 9), &broken("outlet", 30_000)).ok);
}

#[test]
fn logs_with_nothing_in_common_are_not_well() {
    let (here, there) = (day("inlet"), day("outlet"));
    let document = compare(&log(&here[..50]), &log(&there[50..]));
    assert!(!document.ok && document.compared.is_none() && document.not_compared == 100);
    assert!(plain(&document).contains("no stream is in both"));
    // Nor is one whose writer calls itself otherwise.
    let renamed: Vec<_> = there.iter().map(|line| line.replace(&"b2".repeat(32), &"c3".repeat(32))).collect();
    let document = compare(&log(&here), &log(&renamed));
    assert!(!document.ok && document.differ.len() == 100 && document.differ[0].field == "outlet_identity");
}

#[test]
fn a_client_that_broke_off_contradicts_nobody() {
    let refused = |one: String| one.replace("\"decision\":\"allowed\"", "\"decision\":\"refused\"");
    let gone = |number: u64| line("inlet", number, &at(number), "application", [5, 0]);
    let inlet = [line("inlet", 0, &at(0), "clean", [5, 7]), gone(1), gone(2), line("inlet", 3, &at(3), "clean", [5, 7])];
    let mut outlet = vec![
        line("outlet", 0, &at(0), "clean", [5, 7]),
        refused(line("outlet", 1, &at(1), "refused", [0, 0])),
        line("outlet", 3, &at(3), "clean", [5, 7]),
    ];
    // Nothing says that a line is missing.
    let document = compare(&log(&inlet), &log(&outlet));
    assert!(!document.ok && document.differ.is_empty() && document.only_here.len() == 1, "{}", plain(&document));
    outlet.push("{\"api_version\":\"1\",\"at\":\"x\",\"lost\":1}".to_owned());
    for document in [compare(&log(&inlet), &log(&outlet)), compare(&log(&outlet), &log(&inlet))] {
        assert!(document.ok && document.agree == 3 && document.broken_off == 1, "{}", plain(&document));
        assert!(plain(&document).contains("1 connections broke off before any answer"));
    }
    // One line that was lost excuses one, and none that had an answer.
    let two: Vec<_> = outlet.iter().enumerate().filter(|(index, _)| *index != 1).map(|(_, one)| one.clone()).collect();
    let document = compare(&log(&inlet), &log(&two));
    assert_eq!((document.ok, document.broken_off, document.only_here.len()), (false, 1, 1));
    let answered = inlet.clone().map(|one| one.replace("\"bytes_to_inlet\":0", "\"bytes_to_inlet\":1"));
    let document = compare(&log(&answered), &log(&outlet));
    assert!(!document.ok && document.broken_off == 0 && document.differ.iter().any(|found| found.field == "decision"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// The file is the other company's: any bytes, or lines that somebody edited. It is read line by line, and shows as lines.
    #[test]
    fn whatever_the_other_side_sends_is_compared(
        edits in vec((any::<Index>(), any::<u8>()), 0..12),
        behind in vec(any::<u8>(), 0..600),
        long in 0..3_usize,
    ) {
        let t = |minute: u32| format!("2026-11-22T08:{minute:02}:00Z");
        let here = log(&[line("inlet", 0, &t(1), "clean", [5, 7]), line("inlet", 2, &t(2), "clean", [5, 7])]);
        let sent = [line("outlet", 0, &t(1), "clean", [5, 7]), line("outlet", 2, &t(2), "clean", [u64::MAX, 0])].join("\n");
        let mut sent = sent.into_bytes();
        for (at, byte) in edits {
            let at = at.index(sent.len());
            sent[at] = byte;
        }
        sent.push(b'\n');
        sent.extend(behind);
        sent.resize(sent.len() + long * MAX_LINE as usize, b'{');
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("theirs");
        std::fs::write(&path, sent).unwrap();
        let mut there = Log::default();
        read(&mut there, File::open(&path).unwrap(), &path).unwrap();
        let document = compare(&here, &there);
        prop_assert!(document.agree <= 2);
        let shown = plain(&document);
        prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        prop_assert!(serde_json::to_string(&document).is_ok());
    }
}
