//! What a file log does to its directory: rights, lock, sizes, reuse of files.

use std::fs;
use std::io::IoSlice;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use plait_broker_log::sim::SimDisk;
use plait_broker_log::{FileLog, FileLogOptions, Log, LogError};

fn small() -> FileLogOptions {
    FileLogOptions {
        segment_bytes: 16 * 1024,
        first_segment_bytes: 16 * 1024,
        background: false,
        ..FileLogOptions::default()
    }
}

fn bytes_in(dir: &Path) -> u64 {
    let sizes = fs::read_dir(dir).expect("the directory").map(|entry| {
        entry
            .and_then(|entry| entry.metadata())
            .expect("a file")
            .len()
    });
    sizes.sum()
}

fn names(dir: &Path, part: &str) -> Vec<String> {
    let names = fs::read_dir(dir).expect("the directory").map(|entry| {
        entry
            .expect("a file")
            .file_name()
            .into_string()
            .expect("a name")
    });
    names.filter(|name| name.contains(part)).collect()
}

#[test]
fn the_directory_is_created_for_its_owner_only() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("data/partition-0");
    let _log = FileLog::open(&dir, small()).expect("open");
    for path in [&dir, &parent.path().join("data")] {
        assert_eq!(
            fs::metadata(path)
                .expect("it is there")
                .permissions()
                .mode()
                & 0o777,
            0o700
        );
    }
    for name in names(&dir, "") {
        let mode = fs::metadata(dir.join(&name))
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{name} is open to others");
    }
}

#[test]
fn a_second_owner_is_told_who_the_first_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = FileLog::open(dir.path(), small()).expect("open");
    let error = FileLog::open(dir.path(), small()).expect_err("locked");
    let pid = std::process::id();
    assert!(matches!(error, LogError::Locked { pid: Some(holder), .. } if holder == pid));
    assert!(
        error.to_string().contains(&format!("process {pid}")),
        "{error}"
    );
    drop(first);
    FileLog::open(dir.path(), small()).expect("the lock went with its owner");
}

/// Zeroing a full segment takes far longer than a developer's start may.
#[test]
fn a_new_log_is_small() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = FileLog::open(dir.path(), FileLogOptions::default()).expect("open");
    log.append(&[IoSlice::new(b"hello")]).expect("append");
    assert!(bytes_in(dir.path()) < 2 * 1024 * 1024);
}

#[test]
fn segments_grow_to_their_full_size() {
    let disk = SimDisk::new(1);
    let options = FileLogOptions {
        first_segment_bytes: 8 * 1024,
        segment_bytes: 100_000,
        ..small()
    };
    let mut log = FileLog::open_on(disk.mount(), options).expect("open");
    while log.segments().len() < 5 {
        log.append(&[IoSlice::new(&[1; 1_000])]).expect("append");
    }
    let sizes: Vec<_> = log.segments().iter().map(|segment| segment.bytes).collect();
    assert_eq!(sizes, [8_192, 32_768, 100_000, 100_000, 100_000]);
}

#[test]
fn released_files_are_used_again_and_no_more_than_allowed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = FileLog::open(dir.path(), small()).expect("open");
    for round in 0..3 {
        while log.segments().len() < 8 {
            log.append(&[IoSlice::new(&[1; 1_000])]).expect("append");
        }
        let tail = log.tail();
        log.install_snapshot(tail, &mut |_| Ok(()))
            .expect("install");
        let middle = log.segments()[3].end;
        let some = log.release(middle, &|_, _| false).expect("release");
        let rest = log.release(tail, &|_, _| false).expect("release");
        assert_eq!((some.segments.len(), rest.segments.len()), (4, 3));
        assert_eq!((some.recycled, rest.recycled), (4, 0), "round {round}");
        assert_eq!(names(dir.path(), "spare-").len(), 4);
    }
    drop(log);
    // They serve the next owner too, unless their size is not the one wanted.
    let log = FileLog::open(dir.path(), small()).expect("open");
    assert_eq!(names(dir.path(), "spare-").len(), 4);
    drop(log);
    let other = FileLogOptions {
        segment_bytes: 32 * 1024,
        ..small()
    };
    FileLog::open(dir.path(), other).expect("open");
    assert!(names(dir.path(), "spare-").is_empty());
}

#[test]
fn a_frame_over_the_limit_is_refused_and_the_log_goes_on() {
    let disk = SimDisk::new(1);
    let options = FileLogOptions {
        body_bytes_max: 1_000,
        ..small()
    };
    let mut log = FileLog::open_on(disk.mount(), options).expect("open");
    log.append(&[IoSlice::new(&[1; 1_000])])
        .expect("at the limit");
    let error = log.append(&[IoSlice::new(&[1; 1_000]), IoSlice::new(&[1])]);
    assert!(matches!(
        error,
        Err(LogError::TooLarge {
            len: 1_001,
            max: 1_000
        })
    ));
    log.append(&[IoSlice::new(b"small")])
        .expect("the log is not poisoned");
}

#[test]
fn files_of_others_are_left_alone() {
    let disk = SimDisk::new(1);
    for name in ["README", "1.seg", "note.snap"] {
        disk.damage(name, Some(b"not ours".to_vec()));
    }
    for _ in 0..2 {
        FileLog::open_on(disk.mount(), small()).expect("open");
    }
    for name in ["README", "1.seg", "note.snap"] {
        assert_eq!(disk.contents(name).as_deref(), Some(&b"not ours"[..]));
    }
}

#[test]
fn leftovers_of_a_cut_open_and_snapshot_go() {
    let disk = SimDisk::new(1);
    drop(FileLog::open_on(disk.mount(), small()).expect("open"));
    for name in ["manifest.tmp", "00000000000000000000.snap.tmp"] {
        disk.damage(name, Some(vec![1; 100]));
    }
    drop(FileLog::open_on(disk.mount(), small()).expect("open"));
    let names = disk.mount().list().expect("list");
    assert!(
        !names.iter().any(|name| name.ends_with(".tmp")),
        "{names:?}"
    );
}
