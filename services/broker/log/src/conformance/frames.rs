//! Appending and replaying.

use std::io::IoSlice;

use super::{Group, Store, append, append_all, bodies, body, fill, frames, open};
use crate::{FRAME_HEADER_LEN, LogError};

pub(super) const CASES: Group = &[
    ("a new log is empty", new_log_is_empty),
    (
        "append returns where the frame starts",
        append_returns_the_start,
    ),
    ("parts are joined in order", parts_are_joined),
    ("a frame may have thousands of parts", many_parts),
    ("an empty body is a frame", empty_body),
    (
        "frames come back in order, from each of them on",
        frames_in_order,
    ),
    ("frames from the tail are none", frames_from_tail),
    ("frames past the tail are refused", frames_past_tail),
    ("frames from within a frame are refused", frames_from_within),
    (
        "frames survive a reopen and the log goes on",
        frames_survive,
    ),
    ("a frame of any length survives", any_length),
    ("a frame larger than a segment survives", oversize_frame),
    ("logical space has no holes", no_holes),
    ("the epoch grows with each open", epoch_grows),
    ("a frame carries its writer's epoch", frame_epoch),
    ("a log has one owner", one_owner),
    (
        "a payload that looks like a frame is none",
        payload_like_a_frame,
    ),
];

fn new_log_is_empty(store: &mut dyn Store) {
    for _ in 0..2 {
        let log = open(store);
        assert_eq!(log.tail(), 0);
        assert!(frames(&*log, 0).is_empty());
        assert!(
            log.load_snapshot()
                .expect("no snapshot is no error")
                .is_none()
        );
        assert!(log.snapshots().is_empty());
    }
}

fn append_returns_the_start(store: &mut dyn Store) {
    let mut log = open(store);
    for number in 0..10 {
        let tail = log.tail();
        assert_eq!(append(&mut *log, &body(number, 100)), tail);
        assert!(log.tail() >= tail + FRAME_HEADER_LEN + 100);
    }
    let all = frames(&*log, 0);
    assert_eq!(all.last().map(crate::Frame::end), Some(log.tail()));
}

fn parts_are_joined(store: &mut dyn Store) {
    let mut log = open(store);
    let parts = [&b"one"[..], b"", b"two", b"three"];
    log.append(&parts.map(IoSlice::new)).expect("append");
    assert_eq!(bodies(&*log, 0), [b"onetwothree"]);
}

fn many_parts(store: &mut dyn Store) {
    let mut log = open(store);
    let pieces: Vec<_> = (0..5_000).map(|number| body(number, 8)).collect();
    let parts: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    log.append(&parts).expect("append");
    assert_eq!(bodies(&*log, 0), [pieces.concat()]);
}

fn empty_body(store: &mut dyn Store) {
    let mut log = open(store);
    log.append(&[]).expect("no part");
    log.append(&[IoSlice::new(b"")]).expect("an empty part");
    append(&mut *log, b"after");
    drop(log);
    let log = open(store);
    assert_eq!(bodies(&*log, 0), [&b""[..], b"", b"after"]);
}

fn frames_in_order(store: &mut dyn Store) {
    let mut log = open(store);
    let appended = fill(&mut *log, 3);
    for (index, (offset, _)) in appended.iter().enumerate() {
        let expected = appended[index..].iter().map(|(_, body)| body);
        assert!(bodies(&*log, *offset).iter().eq(expected));
    }
    let offsets = frames(&*log, 0)
        .iter()
        .map(|frame| frame.offset)
        .collect::<Vec<_>>();
    assert!(offsets.iter().eq(appended.iter().map(|(offset, _)| offset)));
}

fn frames_from_tail(store: &mut dyn Store) {
    let mut log = open(store);
    append(&mut *log, b"one");
    assert!(frames(&*log, log.tail()).is_empty());
}

fn frames_past_tail(store: &mut dyn Store) {
    let mut log = open(store);
    append(&mut *log, b"one");
    let past = log.tail() + 8;
    assert!(matches!(
        log.frames(past).err(),
        Some(LogError::OutOfRange { .. })
    ));
}

fn frames_from_within(store: &mut dyn Store) {
    let mut log = open(store);
    append(&mut *log, &body(1, 100));
    append(&mut *log, &body(2, 100));
    for within in [1, 8, FRAME_HEADER_LEN, FRAME_HEADER_LEN + 8] {
        assert!(matches!(
            log.frames(within).err(),
            Some(LogError::NotAFrame { .. })
        ));
    }
}

fn frames_survive(store: &mut dyn Store) {
    let mut expected = Vec::new();
    for _ in 0..4 {
        let mut log = open(store);
        assert_eq!(bodies(&*log, 0), expected);
        let tail = log.tail();
        let appended = fill(&mut *log, 1);
        assert_eq!(appended.first().map(|(offset, _)| *offset), Some(tail));
        expected.extend(appended.into_iter().map(|(_, body)| body));
    }
}

fn any_length(store: &mut dyn Store) {
    let mut log = open(store);
    let expected: Vec<_> = (0..200).map(|len| vec![len as u8; len]).collect();
    append_all(&mut *log, &expected);
    assert_eq!(bodies(&*log, 0), expected);
    drop(log);
    assert_eq!(bodies(&*open(store), 0), expected);
}

fn oversize_frame(store: &mut dyn Store) {
    let mut log = open(store);
    let expected = [200_000, 10, 3_000_000, 50_000, 10].map(|len| body(len as u64, len));
    append_all(&mut *log, &expected);
    assert!(bodies(&*log, 0) == expected);
    drop(log);
    assert!(bodies(&*open(store), 0) == expected);
}

fn no_holes(store: &mut dyn Store) {
    let mut log = open(store);
    fill(&mut *log, 4);
    append(&mut *log, &body(1, 100_000));
    fill(&mut *log, 2);
    let mut next = 0;
    for frame in frames(&*log, 0) {
        assert_eq!(frame.offset, next);
        next = frame.end();
    }
    assert_eq!(next, log.tail());
    let mut next = 0;
    for segment in log.segments() {
        assert_eq!(segment.base, next);
        next = segment.end;
    }
    assert_eq!(next, log.tail());
}

fn epoch_grows(store: &mut dyn Store) {
    let mut last = 0;
    for _ in 0..5 {
        let epoch = open(store).epoch();
        assert!(epoch > last, "epoch {epoch} after {last}");
        last = epoch;
    }
}

fn frame_epoch(store: &mut dyn Store) {
    let mut expected = Vec::new();
    for number in 0..3 {
        let mut log = open(store);
        append(&mut *log, &body(number, 10));
        expected.push(log.epoch());
        let found: Vec<_> = frames(&*log, 0).iter().map(|frame| frame.epoch).collect();
        assert_eq!(found, expected);
    }
}

/// A second open is refused, or else it fences the first owner.
fn one_owner(store: &mut dyn Store) {
    let mut first = open(store);
    append(&mut *first, b"first");
    match store.open() {
        Err(LogError::Locked { .. }) => {
            append(&mut *first, b"still");
        }
        Err(other) => panic!("a second open must be refused as locked, not as: {other}"),
        Ok(_second) => assert!(first.append(&[]).is_err(), "the first owner must be fenced"),
    }
    drop(first);
    open(store);
}

fn payload_like_a_frame(store: &mut dyn Store) {
    let mut log = open(store);
    let first = append(&mut *log, b"innocent");
    let raw = log
        .reader()
        .read(first, FRAME_HEADER_LEN as usize + 8)
        .expect("read");
    let expected = [b"innocent".to_vec(), raw.to_vec(), raw.repeat(50)];
    append_all(&mut *log, &expected[1..]);
    drop(log);
    assert_eq!(bodies(&*open(store), 0), expected);
}
