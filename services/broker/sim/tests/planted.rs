//! A clean history passes, and each planted violation is found, by the invariant that it breaks.

use plait_broker_sim::{check, history};

const HEAD: &str = include_str!("histories/head.jsonl");
const FIRST: &str = include_str!("histories/first.jsonl");
const SECOND: &str = include_str!("histories/second.jsonl");

fn found(text: &str) -> Vec<&'static str> {
    let entries = history::read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
    let report = check::check(&entries);
    let names = report
        .violations
        .iter()
        .map(|violation| violation.invariant.name());
    names.collect()
}

#[test]
fn a_clean_history_passes() {
    assert_eq!(found(&format!("{HEAD}{FIRST}{SECOND}")), Vec::<&str>::new());
}

/// What is added after a clean history, and what must be found.
const ADDED: &str = include_str!("histories/added.txt");

#[test]
fn each_planted_violation_is_found() {
    let planted: Vec<(&str, &str)> = ADDED
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .collect();
    assert_eq!(planted.len(), 21);
    for (invariant, line) in planted {
        let names = found(&format!("{HEAD}{FIRST}{SECOND}{line}\n"));
        let hit = names.iter().any(|name| name.starts_with(invariant));
        assert!(hit, "{invariant} in {names:?} for {line}");
    }
}

#[test]
fn planted_violations_of_several_lines_are_found() {
    let twice = r#"{"at":20,"event":"effect","key":"k","task":1,"token":11}
{"at":21,"event":"effect","key":"k","task":2,"token":12}
"#;
    let key = r#"{"at":20,"event":"submit.invoke","id":3,"client":"d","method":"/M","key":"k","digest":1}
{"at":21,"event":"submit.ok","id":3,"task":3,"created_at":150}
{"at":22,"event":"get","task":3,"state":"EXPIRED","code":4,"broker_at":99999}
"#;
    let paused = r#"{"at":6,"event":"pause.ok","queue":"q"}
"#;
    let cases = [
        ("I2", format!("{HEAD}{FIRST}{SECOND}{twice}")),
        ("I2", format!("{HEAD}{FIRST}{SECOND}{key}")),
        ("paused", format!("{HEAD}{FIRST}{paused}{SECOND}")),
        ("I19", format!("{HEAD}{FIRST}")),
        (
            "I4",
            format!("{HEAD}{SECOND}{}", FIRST.replace("\"at\":6", "\"at\":12")),
        ),
    ];
    for (invariant, text) in cases {
        let names = found(&text);
        let hit = names.iter().any(|name| name.starts_with(invariant));
        assert!(hit, "{invariant} in {names:?} for {text}");
    }
}

#[test]
fn limits_are_checked() {
    // The second attempt begins 20 ms of the broker's clock after the first; when that was over, or before.
    let (head, end) = HEAD.split_at(HEAD.find(r#"{"at":5,"#).expect("an outcome"));
    let (begin, rest) = SECOND.split_at(SECOND.find(r#"{"at":8,"#).expect("a start"));
    let apart = format!("{HEAD}{FIRST}{SECOND}");
    let early = begin.replace(r#""at":7"#, r#""at":4"#);
    let beside = format!("{head}{early}{end}{FIRST}{rest}");
    let of_another_key = beside.replace(r#""digest":2"#, r#""digest":2,"limit":"b""#);
    let cases = [
        (false, &apart, r#"{"starts":1,"period_ms":22,"burst":1}"#),
        (true, &apart, r#"{"starts":1,"period_ms":22,"burst":2}"#),
        (true, &apart, r#"{"starts":1,"period_ms":21,"burst":1}"#),
        (true, &apart, r#"{"starts":2,"period_ms":40,"burst":1}"#),
        (true, &apart, r#"{"running":1}"#),
        (false, &beside, r#"{"running":1}"#),
        (false, &beside, r#"{"running_per_key":1}"#),
        (true, &of_another_key, r#"{"running_per_key":1}"#),
        (false, &of_another_key, r#"{"running":1}"#),
    ];
    for (holds, text, limits) in cases {
        let policy = format!("\"retryable\":[14],\"limits\":{limits}");
        let names = found(&text.replace(r#""retryable":[14]"#, &policy));
        assert_eq!(!names.contains(&"limited"), holds, "{limits}: {names:?}");
    }
}

/// As a recorder of real processes makes it: no dispatch is seen, attempts may end before their handlers start.
const REAL: &str = include_str!("histories/real.jsonl");

#[test]
fn a_history_of_real_processes_is_checked_for_what_it_can_tell() {
    assert_eq!(found(REAL), Vec::<&str>::new());
    let late = r#"{"at":5,"event":"start","task":1,"token":12,"attempt":2,"worker":"w","of":1}
"#;
    let zombie = REAL.replace("\"slack_ms\":0", "\"slack_ms\":0,\"zombies\":true");
    assert_eq!(found(&format!("{zombie}{late}")), Vec::<&str>::new());
    let ended = r#"{"at":8,"event":"start","task":1,"token":16,"attempt":6,"worker":"w","of":1}
"#;
    let cases = [
        ("I3", format!("{REAL}{late}")),
        ("I7", format!("{zombie}{ended}")),
        ("I11", REAL.replace("\"attempt\":5", "\"attempt\":10")),
        (
            "result",
            REAL.replace(
                "\"code\":0,\"digest\":\"abc\"",
                "\"code\":0,\"digest\":\"b\"",
            ),
        ),
        ("result", REAL.replace(",\"unseen\":[\"/O\"]", "")),
    ];
    for (invariant, text) in cases {
        let names = found(&text);
        let hit = names.iter().any(|name| name.starts_with(invariant));
        assert!(hit, "{invariant} in {names:?} for {text}");
    }
}
