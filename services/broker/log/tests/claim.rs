//! A log is looked at before it is claimed: until then nothing in its directory changes.

use std::collections::BTreeMap;
use std::fs;
use std::io::IoSlice;
use std::path::Path;
use std::time::SystemTime;

use crc32c::crc32c;
use plait_broker_log::sim::SimDisk;
use plait_broker_log::{FileLog, FileLogOptions, Log, LogError, RealDisk};

fn small() -> FileLogOptions {
    FileLogOptions {
        segment_bytes: 8192,
        first_segment_bytes: 8192,
        background: false,
        ..FileLogOptions::default()
    }
}

fn append(log: &mut FileLog, body: &[u8]) -> Result<u64, LogError> {
    log.append(&[IoSlice::new(body)])
}

/// A disk with a log of several segments, a snapshot, and the beginning of a frame that was never durable.
fn written() -> SimDisk {
    let disk = SimDisk::new(1);
    let mut log = FileLog::open_on(disk.mount(), small()).expect("open");
    for body in [[1; 3000], [2; 3000], [3; 3000]] {
        append(&mut log, &body).expect("append");
    }
    let at = log.tail();
    log.install_snapshot(at, &mut |out| out.write_all(b"state"))
        .expect("install");
    append(&mut log, b"after").expect("append");
    // Not by a clean end, which would prove its tail.
    disk.kill();
    drop(log);
    disk
}

#[test]
fn a_log_that_is_looked_at_is_read_and_not_changed() {
    let disk = written();
    let changes = disk.changes();
    let log = FileLog::inspect_on(disk.mount(), small()).expect("it is sound");
    let (at, _) = log.load_snapshot().expect("intact").expect("there is one");
    let frames: Vec<_> = log
        .frames(at)
        .expect("frames")
        .map(|frame| frame.expect("intact").body)
        .collect();
    assert_eq!(frames, [&b"after"[..]]);
    assert_eq!(log.archive().list().expect("the list"), [0; 0]);
    drop(log);
    assert_eq!(disk.changes(), changes);
}

#[test]
fn nothing_is_written_before_the_claim() {
    let disk = written();
    let mut log = FileLog::inspect_on(disk.mount(), small()).expect("it is sound");
    let (changes, at, epoch) = (disk.changes(), log.tail(), log.epoch());
    let refused = [
        append(&mut log, b"early").map(drop),
        log.install_snapshot(at, &mut |out| out.write_all(b"early")),
        log.archive().write(1, &mut |out| out.block(1, 2, b"early")),
        log.archive().remove(&[1]),
        log.release(at, &|_, _| false).map(drop),
    ];
    for result in refused {
        assert!(matches!(result, Err(LogError::Unclaimed)), "{result:?}");
    }
    assert_eq!(disk.changes(), changes);
    log.claim().expect("claim");
    log.claim().expect("a second claim does nothing");
    assert_eq!((log.epoch(), log.tail()), (epoch, at));
    append(&mut log, b"in time").expect("append");
    drop(log);
    let again = FileLog::open_on(disk.mount(), small()).expect("open");
    assert_eq!(again.epoch(), epoch + 1);
}

/// In a segment that has a successor.
#[test]
fn a_frame_of_a_later_release_is_no_corruption() {
    let disk = written();
    let name = "00000000000000000000.seg";
    let mut bytes = disk.contents(name).expect("it is there");
    let (offset, at) = (0_u64, 4096);
    assert_eq!(&bytes[at..at + 4], b"PLF\x01");
    bytes[at + 3] = 2;
    let sum = crc32c(&[&offset.to_le_bytes()[..], &bytes[at..at + 28]].concat());
    bytes[at + 28..at + 32].copy_from_slice(&sum.to_le_bytes());
    disk.damage(name, Some(bytes));
    let changes = disk.changes();
    let all = FileLogOptions {
        verify_all: true,
        ..small()
    };
    let error = FileLog::open_on(disk.mount(), all).expect_err("it is of a later release");
    let LogError::FutureFormat { found: 2, .. } = &error else {
        panic!("{error}")
    };
    let said = error.to_string();
    assert!(said.contains(name) && said.contains("start the release that wrote it"));
    assert_eq!(disk.changes(), changes);
}

fn state_of(dir: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let entries = fs::read_dir(dir).expect("the directory").map(|entry| {
        let entry = entry.expect("a file");
        let changed = entry.metadata().and_then(|found| found.modified());
        let bytes = fs::read(entry.path()).expect("readable");
        let name = entry.file_name().into_string().expect("a name");
        (name, (bytes, changed.expect("a time")))
    });
    entries.collect()
}

/// Its number stands in the lock file once it has claimed the log, and not before.
#[test]
fn the_lock_file_tells_of_the_last_who_claimed() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(FileLog::open(dir.path(), small()).expect("open"));
    fs::write(dir.path().join("lock"), "1\n").expect("an earlier owner");
    let before = state_of(dir.path());
    let disk = RealDisk::new(dir.path()).expect("the directory");
    let mut log = FileLog::inspect_on(std::sync::Arc::new(disk), small()).expect("it is sound");
    assert_eq!(state_of(dir.path()), before);
    let error = FileLog::open(dir.path(), small()).expect_err("locked all the same");
    assert!(matches!(error, LogError::Locked { .. }), "{error}");
    log.claim().expect("claim");
    let said = fs::read_to_string(dir.path().join("lock")).expect("the lock file");
    assert_eq!(said, format!("{}\n", std::process::id()));
    drop(log);
}
