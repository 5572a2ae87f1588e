//! Reading beside the writer.

use std::thread;

use super::{Group, Store, append, body, fill, open};
use crate::{FRAME_HEADER_LEN, LogError, Payloads};

pub(super) const CASES: Group = &[
    (
        "a payload is read at its place in the frame",
        payload_at_its_place,
    ),
    ("a payload is read after a reopen", payload_after_reopen),
    ("bytes past the tail are refused", past_the_tail),
    ("bytes across two segments are refused", across_segments),
    ("a frame is read by its offset", frame_by_offset),
    ("a wrong offset is no frame", wrong_offset),
    ("a payload's frame is found", frame_of_a_payload),
    (
        "payloads are read together, each as it was written",
        payloads_together,
    ),
    (
        "readers work while the log is appended to",
        concurrent_reader,
    ),
    ("a reader outlives the log", reader_outlives),
];

fn payload_at_its_place(store: &mut dyn Store) {
    let mut log = open(store);
    let reader = log.reader();
    for (offset, body) in fill(&mut *log, 2) {
        for (start, len) in [(0, body.len()), (10, 100), (999, 1), (1_000, 0)] {
            let at = offset + FRAME_HEADER_LEN + start as u64;
            let bytes = reader.read(at, len).expect("read");
            assert_eq!(bytes, body[start..start + len]);
        }
    }
}

fn payload_after_reopen(store: &mut dyn Store) {
    let mut log = open(store);
    let appended = fill(&mut *log, 2);
    drop(log);
    let reader = open(store).reader();
    for (offset, body) in appended {
        assert_eq!(
            reader
                .read(offset + FRAME_HEADER_LEN, body.len())
                .expect("read"),
            body
        );
    }
}

fn past_the_tail(store: &mut dyn Store) {
    let mut log = open(store);
    let reader = log.reader();
    let refused = |at, len| matches!(reader.read(at, len), Err(LogError::OutOfRange { .. }));
    assert!(refused(0, 1));
    append(&mut *log, &body(1, 96));
    let tail = log.tail();
    assert!(reader.read(tail - 1, 1).is_ok());
    assert!(refused(tail - 1, 2) && refused(tail, 1) && refused(tail + 1, 1));
    assert!(refused(0, usize::MAX) && refused(u64::MAX, 1));
}

fn across_segments(store: &mut dyn Store) {
    let mut log = open(store);
    fill(&mut *log, 2);
    let reader = log.reader();
    for segment in log.segments().iter().rev().skip(1) {
        let across = reader.read(segment.end - 1, 2);
        assert!(matches!(across, Err(LogError::OutOfRange { .. })));
    }
}

fn frame_by_offset(store: &mut dyn Store) {
    let mut log = open(store);
    let reader = log.reader();
    for (offset, body) in fill(&mut *log, 2) {
        let frame = reader.frame(offset).expect("frame");
        assert_eq!((frame.offset, frame.epoch), (offset, log.epoch()));
        assert_eq!(frame.body, body);
    }
}

fn wrong_offset(store: &mut dyn Store) {
    let mut log = open(store);
    append(&mut *log, &body(1, 96));
    let reader = log.reader();
    for at in [1, 8, FRAME_HEADER_LEN, log.tail() - 8] {
        assert!(matches!(reader.frame(at), Err(LogError::NotAFrame { .. })));
    }
    assert!(matches!(
        reader.frame(log.tail()),
        Err(LogError::OutOfRange { .. })
    ));
}

fn frame_of_a_payload(store: &mut dyn Store) {
    let mut log = open(store);
    let mut appended = fill(&mut *log, 2);
    // A frame longer than what is looked through at once, full of what looks like frames.
    let raw = log.reader().read(appended[0].0, 600).expect("read");
    let long = [&raw[..], &[0; 3][..]].concat().repeat(5_000);
    appended.push((append(&mut *log, &long), long));
    let reader = log.reader();
    for (offset, body) in &appended {
        let (first, len) = (offset + FRAME_HEADER_LEN, body.len() as u64);
        for at in [first, first + len / 2, first + len - 1] {
            let found = reader.locate(at).expect("locate");
            assert_eq!(found.start, *offset);
            assert_eq!(reader.frame(found.start).expect("frame").end(), found.end);
        }
    }
    let tail = log.tail();
    assert!(matches!(
        reader.locate(tail),
        Err(LogError::OutOfRange { .. })
    ));
}

fn payloads_together(store: &mut dyn Store) {
    let mut log = open(store);
    let appended = fill(&mut *log, 2);
    let payloads = Payloads::new(log.reader());
    let place = |(offset, body): &(u64, Vec<u8>), start: usize, len: usize| {
        let at = offset + FRAME_HEADER_LEN + start as u64;
        ((at, len), body[start..start + len].to_vec())
    };
    // In an order that is not the log's, many of one frame, a whole one, and an empty one.
    let spots = [(999, 1), (0, 10), (10, 100), (0, 1_000), (5, 0)];
    let wanted: Vec<_> = spots
        .iter()
        .flat_map(|(start, len)| appended.iter().rev().map(|own| place(own, *start, *len)))
        .collect();
    let places: Vec<_> = wanted.iter().map(|(at, _)| *at).collect();
    for _ in 0..2 {
        for (read, (_, expected)) in payloads.read(&places).into_iter().zip(&wanted) {
            assert_eq!(read.expect("a payload"), expected[..]);
        }
    }
    let beyond = (log.tail() + FRAME_HEADER_LEN, 5);
    let across = (appended[0].0 + FRAME_HEADER_LEN, appended[0].1.len() + 1);
    let mixed = payloads.read(&[beyond, places[0], across]);
    assert!(mixed[0].is_err() && mixed[1].is_ok() && mixed[2].is_err());
}

fn concurrent_reader(store: &mut dyn Store) {
    let mut log = open(store);
    let appended = fill(&mut *log, 1);
    let reader = log.reader();
    let reading = thread::spawn(move || {
        for _ in 0..20 {
            for (offset, body) in &appended {
                assert_eq!(reader.frame(*offset).expect("frame").body, body[..]);
            }
        }
    });
    fill(&mut *log, 3);
    reading.join().expect("the reader saw what was written");
}

fn reader_outlives(store: &mut dyn Store) {
    let mut log = open(store);
    let offset = append(&mut *log, b"kept");
    let reader = log.reader();
    drop(log);
    assert_eq!(reader.frame(offset).expect("frame").body, b"kept"[..]);
}
