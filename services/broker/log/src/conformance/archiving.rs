//! Archive files: written once, whole or not at all, found again by number and key.

use std::io;

use super::{Group, Store, append, body, open};
use crate::{Archive, LogError};

pub(super) const CASES: Group = &[
    ("an archive is read back after an open", read_back),
    ("a block is found by its keys", found_by_keys),
    ("an archive without blocks is one", empty),
    ("an archive that fails is absent", failing_is_absent),
    ("keys must ascend", keys_ascend),
    ("a number that is not there is told", absent),
    (
        "removed archives are gone and open ones can be read on",
        removed,
    ),
    ("an archive replaces the one of its number", replaced),
    ("appends go on while an archive is written", appends_go_on),
];

/// Block `n` has the keys `10 n + 1` to `10 n + 5`.
fn write(archive: &dyn Archive, number: u64, blocks: u64) {
    let written = archive.write(number, &mut |out| {
        (0..blocks).try_for_each(|n| out.block(10 * n + 1, 10 * n + 5, &body(n + number, 300)))
    });
    written.expect("the archive is written");
}

fn check(archive: &dyn Archive, number: u64, blocks: u64) {
    let file = archive.open(number).expect("the archive opens");
    assert_eq!(file.blocks() as u64, blocks);
    for n in 0..blocks {
        let bytes = file.read(n as usize).expect("the block is intact");
        assert_eq!(bytes, body(n + number, 300));
    }
}

fn read_back(store: &mut dyn Store) {
    {
        let log = open(store);
        write(&*log.archive(), 7, 40);
        write(&*log.archive(), 3, 1);
        check(&*log.archive(), 7, 40);
    }
    let log = open(store);
    assert_eq!(log.archive().list().expect("a list"), [3, 7]);
    check(&*log.archive(), 7, 40);
    check(&*log.archive(), 3, 1);
}

fn found_by_keys(store: &mut dyn Store) {
    let log = open(store);
    write(&*log.archive(), 1, 3);
    let file = log.archive().open(1).expect("the archive opens");
    let cases = [
        (0, None),
        (1, None),
        (2, Some(0)),
        (6, Some(0)),
        (11, Some(0)),
        (12, Some(1)),
        (21, Some(1)),
        (22, Some(2)),
        (u64::MAX, Some(2)),
    ];
    for (key, block) in cases {
        assert_eq!(file.block_below(key), block, "below {key}");
    }
}

fn empty(store: &mut dyn Store) {
    let log = open(store);
    write(&*log.archive(), 1, 0);
    check(&*log.archive(), 1, 0);
    let file = log.archive().open(1).expect("the archive opens");
    assert_eq!(file.block_below(u64::MAX), None);
}

fn failing_is_absent(store: &mut dyn Store) {
    let log = open(store);
    let failed = log.archive().write(5, &mut |out| {
        out.block(1, 2, b"some")?;
        Err(io::Error::other("given up"))
    });
    assert!(matches!(failed, Err(LogError::Io { .. })), "{failed:?}");
    assert_eq!(log.archive().list().expect("a list"), [0; 0]);
    write(&*log.archive(), 5, 2);
    check(&*log.archive(), 5, 2);
}

fn keys_ascend(store: &mut dyn Store) {
    let log = open(store);
    for (first, last, may) in [(5, 6, false), (4, 9, false), (8, 7, false), (6, 6, true)] {
        let failed = log.archive().write(5, &mut |out| {
            out.block(3, 5, b"before")?;
            out.block(first, last, b"after")
        });
        assert_eq!(failed.is_ok(), may, "{first} to {last} after 3 to 5");
    }
}

fn is_absent(archive: &dyn Archive, number: u64) -> bool {
    match archive.open(number) {
        Err(LogError::Io { source, .. }) => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

fn absent(store: &mut dyn Store) {
    let log = open(store);
    assert!(is_absent(&*log.archive(), 9));
    log.archive().remove(&[9]).expect("nothing to remove");
}

fn removed(store: &mut dyn Store) {
    {
        let log = open(store);
        let archive = log.archive();
        for number in [1, 2, 3] {
            write(&*archive, number, 4);
        }
        let held = archive.open(2).expect("the archive opens");
        archive.remove(&[1, 2]).expect("they are removed");
        assert_eq!(held.read(3).expect("it is held"), body(5, 300));
        assert!(is_absent(&*archive, 2));
    }
    let log = open(store);
    assert_eq!(log.archive().list().expect("a list"), [3]);
    check(&*log.archive(), 3, 4);
}

fn replaced(store: &mut dyn Store) {
    let log = open(store);
    write(&*log.archive(), 1, 4);
    write(&*log.archive(), 1, 2);
    check(&*log.archive(), 1, 2);
}

fn appends_go_on(store: &mut dyn Store) {
    let mut log = open(store);
    let archive = log.archive();
    let written = archive.write(1, &mut |out| {
        for n in 0..5 {
            append(&mut *log, &body(n, 500));
            out.block(n, n, &body(n + 1, 300))?;
        }
        Ok(())
    });
    written.expect("the archive is written");
    check(&*archive, 1, 5);
    assert_eq!(super::bodies(&*log, 0).len(), 5);
}
