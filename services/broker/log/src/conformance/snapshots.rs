//! Installing and loading snapshots.

use std::io;
use std::thread;

use super::{Group, Store, append, bodies, body, fill, loaded, open, snapshot};
use crate::{LogError, SnapshotState};

pub(super) const CASES: Group = &[
    ("a snapshot comes back, also after a reopen", comes_back),
    ("an empty snapshot is one", empty_snapshot),
    (
        "a large snapshot written in small pieces comes back",
        large_snapshot,
    ),
    (
        "the newest snapshot is loaded and two are kept",
        newest_wins,
    ),
    (
        "a snapshot at an equal offset replaces",
        equal_offset_replaces,
    ),
    (
        "a snapshot that fails leaves the one before",
        failed_snapshot,
    ),
    ("a snapshot past the tail is refused", past_the_tail),
    ("a snapshot within a frame is refused", within_a_frame),
    (
        "a snapshot older than the newest is refused",
        older_is_refused,
    ),
    ("a snapshot may be behind the tail", behind_the_tail),
    (
        "a snapshot is written while the log is appended to",
        concurrent_writer,
    ),
    ("a snapshot writer dies with the log", writer_dies),
];

fn comes_back(store: &mut dyn Store) {
    let mut log = open(store);
    append(&mut *log, b"one");
    let at = log.tail();
    snapshot(&mut *log, at, b"state");
    append(&mut *log, b"two");
    assert_eq!(loaded(&*log), Some((at, b"state".to_vec())));
    drop(log);
    let log = open(store);
    assert_eq!(loaded(&*log), Some((at, b"state".to_vec())));
    assert_eq!(bodies(&*log, at), [b"two"]);
}

fn empty_snapshot(store: &mut dyn Store) {
    let mut log = open(store);
    snapshot(&mut *log, 0, b"");
    drop(log);
    assert_eq!(loaded(&*open(store)), Some((0, Vec::new())));
}

fn large_snapshot(store: &mut dyn Store) {
    let mut log = open(store);
    let pieces: Vec<_> = (0..20_000).map(|number| body(number, 97)).collect();
    let install = log.install_snapshot(0, &mut |out| {
        pieces.iter().try_for_each(|piece| out.write_all(piece))
    });
    install.expect("the snapshot is installed");
    drop(log);
    assert!(loaded(&*open(store)) == Some((0, pieces.concat())));
}

fn newest_wins(store: &mut dyn Store) {
    let mut log = open(store);
    let mut at = Vec::new();
    for number in 0..5 {
        append(&mut *log, &body(number, 100));
        at.push(log.tail());
        let tail = log.tail();
        snapshot(&mut *log, tail, &body(number, 50));
    }
    for _ in 0..2 {
        assert_eq!(loaded(&*log), Some((at[4], body(4, 50))));
        let held: Vec<_> = log.snapshots().iter().map(|snapshot| snapshot.at).collect();
        assert_eq!(held, at[3..]);
        assert_eq!(log.snapshots()[1].state, SnapshotState::Intact);
        drop(log);
        log = open(store);
    }
}

fn equal_offset_replaces(store: &mut dyn Store) {
    let mut log = open(store);
    append(&mut *log, b"one");
    let at = log.tail();
    snapshot(&mut *log, at, b"first");
    snapshot(&mut *log, at, b"second");
    drop(log);
    let log = open(store);
    assert_eq!(loaded(&*log), Some((at, b"second".to_vec())));
    assert_eq!(log.snapshots().len(), 1);
}

fn failed_snapshot(store: &mut dyn Store) {
    let mut log = open(store);
    snapshot(&mut *log, 0, b"good");
    append(&mut *log, b"one");
    let failed = log.install_snapshot(log.tail(), &mut |out| {
        out.write_all(&[1; 100_000])?;
        Err(io::Error::other("the caller gives up"))
    });
    assert!(matches!(failed, Err(LogError::Io { .. })));
    append(&mut *log, b"the log goes on");
    for _ in 0..2 {
        assert_eq!(loaded(&*log), Some((0, b"good".to_vec())));
        drop(log);
        log = open(store);
    }
}

fn past_the_tail(store: &mut dyn Store) {
    let mut log = open(store);
    append(&mut *log, b"one");
    let past = log.tail() + 8;
    let refused = log.install_snapshot(past, &mut |_| Ok(()));
    assert!(matches!(refused, Err(LogError::OutOfRange { .. })));
}

fn within_a_frame(store: &mut dyn Store) {
    let mut log = open(store);
    append(&mut *log, &body(1, 100));
    let refused = log.install_snapshot(8, &mut |_| Ok(()));
    assert!(matches!(refused, Err(LogError::NotAFrame { .. })));
}

fn older_is_refused(store: &mut dyn Store) {
    let mut log = open(store);
    append(&mut *log, b"one");
    let at = log.tail();
    snapshot(&mut *log, at, b"new");
    let refused = log.install_snapshot(0, &mut |_| Ok(()));
    assert!(matches!(refused, Err(LogError::SnapshotTooOld { newest, .. }) if newest == at));
}

fn behind_the_tail(store: &mut dyn Store) {
    let mut log = open(store);
    let appended = fill(&mut *log, 2);
    let at = appended[appended.len() / 2].0;
    snapshot(&mut *log, at, b"halfway");
    drop(log);
    let log = open(store);
    assert_eq!(loaded(&*log), Some((at, b"halfway".to_vec())));
    let expected = appended[appended.len() / 2..].iter().map(|(_, body)| body);
    assert!(bodies(&*log, at).iter().eq(expected));
}

fn concurrent_writer(store: &mut dyn Store) {
    let mut log = open(store);
    fill(&mut *log, 1);
    let (at, writer) = (log.tail(), log.snapshot_writer());
    let writing = thread::spawn(move || {
        writer.install(at, &mut |out| {
            (0..50).try_for_each(|_| out.write_all(&[7; 10_000]))
        })
    });
    let appended = fill(&mut *log, 2);
    writing
        .join()
        .expect("no panic")
        .expect("the snapshot is installed");
    drop(log);
    let log = open(store);
    assert!(loaded(&*log) == Some((at, vec![7; 500_000])));
    assert!(
        bodies(&*log, at)
            .iter()
            .eq(appended.iter().map(|(_, body)| body))
    );
}

/// A writer that is still at work must not touch what belongs to the next owner.
fn writer_dies(store: &mut dyn Store) {
    let mut log = open(store);
    snapshot(&mut *log, 0, b"mine");
    let writer = log.snapshot_writer();
    drop(log);
    let log = open(store);
    assert!(
        writer
            .install(0, &mut |out| out.write_all(b"late"))
            .is_err()
    );
    assert_eq!(loaded(&*log), Some((0, b"mine".to_vec())));
}
