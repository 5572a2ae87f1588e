//! Data directories that earlier versions left, opened by this one: what it tells of them is on record beside them.
//!
//! `tests/support/golden.py` makes a directory, once for each format of the log that is released. What it must tell is
//! written once, too: `PLAIT_GOLDEN=write cargo test -p plait-broker golden`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use plait_broker_core::Partition;
use plait_broker_core::effect::TaskView;
use plait_broker_core::ids::TaskId;
use plait_broker_core::record::{Blob, Failure};
use plait_broker_log::{FileLog, FileLogOptions, Log, Payloads};

use super::recovery::{State, check_archives, recover};
use super::tests::options;
use crate::journal;

/// Tasks of a directory are few.
const ALL: usize = 100_000;

fn directories() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// A copy, since opening a log writes to it.
fn copy(data: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

/// Everything that a reader can ask for, in words that no change of the code's own types changes.
fn tell(log: &FileLog) -> String {
    let mut state = recover(log, options().core, 1).unwrap();
    check_archives(&*log.archive(), &state.partition).unwrap();
    let mut text = String::new();
    tell_contracts(&state.partition, &mut text);
    let payloads = Payloads::new(log.reader());
    for task in tasks(log, &state).into_values() {
        tell_task(&task, &payloads, &mut text);
    }
    for queue in state.partition.queues() {
        let counts = queue.counts.iter().filter(|(_, count)| *count > 0);
        let counts: Vec<_> = counts
            .map(|(state, count)| format!("{state:?} {count}"))
            .collect();
        writeln!(text, "queue {} {}", queue.name, counts.join(", ")).unwrap();
        let (paused, dead) = (queue.paused.as_deref(), queue.dead_letters);
        writeln!(text, "  paused {paused:?}, {dead} dead letters").unwrap();
    }
    // It goes on from there.
    state.partition.recovered(state.time);
    text
}

fn tell_contracts(partition: &Partition, text: &mut String) {
    for policy in partition.policies() {
        let (deadline, attempts) = (policy.deadline_ms, policy.max_attempts);
        let keys = (policy.needs_idempotency_key, policy.needs_ordering_key);
        writeln!(text, "method {} in {}", policy.method, policy.queue).unwrap();
        writeln!(
            text,
            "  deadline {deadline}, attempts {attempts}, keys {keys:?}"
        )
        .unwrap();
    }
    for (key, value, version) in partition.kv_list("", "", ALL) {
        let sum = xxhash_rust::xxh3::xxh3_64(&value);
        writeln!(
            text,
            "key {key} version {version}: {} bytes, {sum:016x}",
            value.len()
        )
        .unwrap();
    }
}

/// All tasks, from memory and from archive files.
fn tasks(log: &FileLog, state: &State) -> BTreeMap<TaskId, TaskView> {
    let partition = &state.partition;
    let (views, more) = partition.tasks_before(TaskId(u64::MAX), ALL, ALL, &|_| true);
    assert!(more.is_none());
    let mut found: BTreeMap<_, _> = views.into_iter().map(|view| (view.id, view)).collect();
    for (archive, ..) in partition.archives() {
        let file = log.archive().open(archive.0).unwrap();
        for block in 0..file.blocks() {
            for image in journal::decode_block(&file.read(block).unwrap()).unwrap() {
                let view = partition
                    .archived_task(archive, &image, state.time)
                    .unwrap();
                found.entry(view.id).or_insert(view);
            }
        }
    }
    found
}

fn tell_task(task: &TaskView, payloads: &Payloads, text: &mut String) {
    let TaskView {
        id, method, state, ..
    } = task;
    let (attempt, priority) = (task.attempt, task.priority);
    writeln!(
        text,
        "task {id} {method} {state:?} attempt {attempt} priority {priority}"
    )
    .unwrap();
    let keys = (
        task.idempotency_key.as_deref(),
        task.ordering_key.as_deref(),
    );
    writeln!(text, "  keys {keys:?}").unwrap();
    let times = [
        task.created_at,
        task.start_at,
        task.expire_at,
        task.ended_at,
    ];
    writeln!(text, "  created, starts, expires, ended {times:?}").unwrap();
    if let Some((parent, key)) = &task.parent {
        writeln!(text, "  child of {parent}: {key:?}").unwrap();
    }
    if task.child_count > 0 || task.dead_letter {
        let (children, dead) = (task.child_count, task.dead_letter);
        writeln!(text, "  {children} children, dead letter {dead}").unwrap();
    }
    if let Some(failure) = &task.failure {
        tell_failure(failure, text);
    }
    for (name, blob) in [
        ("request", &task.request),
        ("response", &task.response),
        ("envelope", &task.envelope),
    ] {
        writeln!(text, "  {name} {}", hex(&read(blob, payloads))).unwrap();
    }
    for event in &task.events {
        let (at, state, cause) = (event.at, event.state, event.cause);
        writeln!(
            text,
            "  at {at} {state:?} {cause} attempt {}",
            event.attempt
        )
        .unwrap();
    }
}

fn tell_failure(failure: &Failure, text: &mut String) {
    let reason = failure.reason.map(|reason| reason.name());
    let (code, message) = (failure.code, &failure.message);
    writeln!(text, "  failure {code} {reason:?} {message:?}").unwrap();
    let (details, trailers) = (hex(&failure.details), hex(&failure.trailers));
    writeln!(text, "  details {details} trailers {trailers}").unwrap();
}

fn read(blob: &Blob, payloads: &Payloads) -> bytes::Bytes {
    match (&blob.bytes, blob.at) {
        (Some(bytes), _) => bytes.clone(),
        (None, Some(at)) => {
            let mut read = payloads.read(&[(at, blob.len as usize)]);
            read.pop().unwrap().unwrap()
        }
        (None, None) => bytes::Bytes::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_directories_tell_what_they_told() {
    let directories = directories();
    assert!(!directories.is_empty());
    for directory in directories {
        let data = copy(&directory.join("data"));
        let options = FileLogOptions {
            background: false,
            verify_all: true,
            ..FileLogOptions::default()
        };
        let told = tell(&FileLog::open(data.path(), options).unwrap());
        let record = directory.join("told.txt");
        if std::env::var_os("PLAIT_GOLDEN").is_some_and(|value| value == "write") {
            assert!(!record.exists(), "{} is written once", record.display());
            fs::write(&record, &told).unwrap();
        }
        let expected = fs::read_to_string(&record).unwrap();
        assert!(
            told == expected,
            "{} tells something else:\n{told}",
            directory.display()
        );
    }
}
