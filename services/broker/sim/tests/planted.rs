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
