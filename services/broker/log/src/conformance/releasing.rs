//! Letting segments go.

use super::{Group, Store, append, append_all, bodies, body, fill, loaded, open, snapshot};
use crate::{LogError, Offset, SegmentInfo};

pub(super) const CASES: Group = &[
    ("without a snapshot nothing goes", needs_a_snapshot),
    ("what lies below the newest snapshot goes", below_goes),
    (
        "nothing past the newest snapshot goes",
        never_past_the_snapshot,
    ),
    ("nothing from keep_from on goes", keep_from_is_kept),
    (
        "a snapshot found at open counts once it is loaded",
        counts_once_loaded,
    ),
    ("the segment being written never goes", active_stays),
    ("pinned segments stay and can be read", pinned_stay),
    ("a pin that is let go lets the segment go", pin_let_go),
    ("what went cannot be read", gone_is_gone),
    ("reused space never shows old frames", reused_space),
    (
        "a reader of a segment that goes never sees other bytes",
        reader_of_what_goes,
    ),
];

const NONE: &dyn Fn(Offset, Offset) -> bool = &|_, _| false;

fn needs_a_snapshot(store: &mut dyn Store) {
    let mut log = open(store);
    fill(&mut *log, 3);
    let released = log.release(log.tail(), NONE).expect("release");
    assert!(released.segments.is_empty());
    assert_eq!(log.segments()[0].base, 0);
}

fn below_goes(store: &mut dyn Store) {
    let mut log = open(store);
    fill(&mut *log, 4);
    let (held, tail) = (log.segments(), log.tail());
    snapshot(&mut *log, tail, b"state");
    let released = log.release(tail, NONE).expect("release");
    assert_eq!(released.segments, held[..held.len() - 1]);
    assert_eq!(log.segments(), held[held.len() - 1..]);
    let more = append(&mut *log, b"more");
    drop(log);
    let log = open(store);
    assert_eq!(loaded(&*log), Some((tail, b"state".to_vec())));
    assert_eq!((more, bodies(&*log, tail)), (tail, vec![b"more".to_vec()]));
}

fn never_past_the_snapshot(store: &mut dyn Store) {
    let mut log = open(store);
    fill(&mut *log, 2);
    let at = log.tail();
    snapshot(&mut *log, at, b"state");
    let after = fill(&mut *log, 3);
    let released = log.release(log.tail(), NONE).expect("release");
    assert!(released.segments.iter().all(|segment| segment.end <= at));
    drop(log);
    assert!(
        bodies(&*open(store), at)
            .iter()
            .eq(after.iter().map(|(_, body)| body))
    );
}

fn keep_from_is_kept(store: &mut dyn Store) {
    let mut log = open(store);
    let appended = fill(&mut *log, 4);
    let tail = log.tail();
    snapshot(&mut *log, tail, b"state");
    let keep_from = appended[appended.len() / 2].0;
    let released = log.release(keep_from, NONE).expect("release");
    assert!(
        released
            .segments
            .iter()
            .all(|segment| segment.end <= keep_from)
    );
    let expected = appended[appended.len() / 2..].iter().map(|(_, body)| body);
    assert!(bodies(&*log, keep_from).iter().eq(expected));
}

fn counts_once_loaded(store: &mut dyn Store) {
    let mut log = open(store);
    fill(&mut *log, 3);
    let tail = log.tail();
    snapshot(&mut *log, tail, b"state");
    drop(log);
    let mut log = open(store);
    assert!(
        log.release(tail, NONE)
            .expect("release")
            .segments
            .is_empty()
    );
    assert!(loaded(&*log).is_some());
    assert!(
        !log.release(tail, NONE)
            .expect("release")
            .segments
            .is_empty()
    );
}

fn active_stays(store: &mut dyn Store) {
    let mut log = open(store);
    append(&mut *log, b"one");
    let tail = log.tail();
    snapshot(&mut *log, tail, b"state");
    assert!(
        log.release(tail, NONE)
            .expect("release")
            .segments
            .is_empty()
    );
    assert_eq!(bodies(&*log, 0), [b"one"]);
}

/// Releases all but every second segment, and returns those that stayed with their frames.
fn release_every_second(log: &mut dyn crate::Log) -> Vec<(Offset, Vec<u8>)> {
    let appended = fill(log, 6);
    let tail = log.tail();
    snapshot(log, tail, b"state");
    let held = log.segments();
    let pins: Vec<SegmentInfo> = held.iter().skip(1).step_by(2).copied().collect();
    let pinned = |base, end| pins.iter().any(|pin| (pin.base, pin.end) == (base, end));
    let released = log.release(tail, &pinned).expect("release");
    assert!(released.segments.iter().all(|gone| !pins.contains(gone)));
    assert!(pins.iter().all(|pin| log.segments().contains(pin)));
    let in_pin = |at: &Offset| pins.iter().any(|pin| (pin.base..pin.end).contains(at));
    appended.into_iter().filter(|(at, _)| in_pin(at)).collect()
}

fn pinned_stay(store: &mut dyn Store) {
    let mut log = open(store);
    let kept = release_every_second(&mut *log);
    for _ in 0..3 {
        let reader = log.reader();
        for (offset, body) in &kept {
            assert_eq!(
                reader.frame(*offset).expect("a pinned frame").body,
                body[..]
            );
        }
        drop(log);
        log = open(store);
    }
}

fn pin_let_go(store: &mut dyn Store) {
    let mut log = open(store);
    release_every_second(&mut *log);
    drop(log);
    let mut log = open(store);
    let (at, _) = loaded(&*log).expect("the snapshot");
    log.release(at, NONE).expect("release");
    assert_eq!(log.segments().len(), 1);
    drop(log);
    assert_eq!(open(store).segments().len(), 1);
}

fn gone_is_gone(store: &mut dyn Store) {
    let mut log = open(store);
    let appended = fill(&mut *log, 3);
    let tail = log.tail();
    snapshot(&mut *log, tail, b"state");
    let released = log.release(tail, NONE).expect("release").segments;
    assert!(!released.is_empty());
    for _ in 0..2 {
        let reader = log.reader();
        let gone = |at| {
            released
                .iter()
                .any(|segment| (segment.base..segment.end).contains(&at))
        };
        for (offset, _) in appended.iter().filter(|(at, _)| gone(*at)) {
            let out = |error| matches!(error, Some(LogError::OutOfRange { .. }));
            assert!(out(reader.frame(*offset).err()));
            assert!(out(reader.read(*offset, 1).err()));
            assert!(out(log.frames(*offset).err()));
        }
        drop(log);
        log = open(store);
    }
}

fn reused_space(store: &mut dyn Store) {
    let mut at = 0;
    let mut expected = Vec::new();
    for round in 0..8_u64 {
        let mut log = open(store);
        assert_eq!(bodies(&*log, at), expected, "round {round}");
        assert_eq!(loaded(&*log).map_or(0, |(at, _)| at), at);
        fill(&mut *log, 3);
        at = log.tail();
        snapshot(&mut *log, at, b"state");
        log.release(at, NONE).expect("release");
        // A few frames of another size into space that held many.
        expected = (0..round).map(|number| body(number, 333)).collect();
        append_all(&mut *log, &expected);
    }
}

fn reader_of_what_goes(store: &mut dyn Store) {
    let mut log = open(store);
    let appended = fill(&mut *log, 3);
    let reader = log.reader();
    let reading = std::thread::spawn(move || {
        for (offset, body) in appended.iter().cycle().take(20_000) {
            match reader.frame(*offset) {
                Ok(frame) => assert_eq!(frame.body, body[..]),
                Err(LogError::OutOfRange { .. }) => return,
                Err(other) => panic!("the reader saw something else: {other}"),
            }
        }
    });
    let tail = log.tail();
    snapshot(&mut *log, tail, b"state");
    log.release(tail, NONE).expect("release");
    fill(&mut *log, 6);
    reading.join().expect("the reader saw nothing else");
}
