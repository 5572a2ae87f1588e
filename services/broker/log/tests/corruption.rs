//! Damage is detected, never served (I15): every byte of every file, and whole files.

use std::collections::BTreeMap;
use std::io::{IoSlice, Read};

use plait_broker_log::format::{SEGMENT_HEADER_LEN, frame_size, segment_name, snapshot_name};
use plait_broker_log::sim::SimDisk;
use plait_broker_log::{
    FRAME_HEADER_LEN, FileLog, FileLogOptions, Log, LogError, Offset, SnapshotState,
};

type Files = BTreeMap<String, Vec<u8>>;

/// The snapshot and the frames.
type View = (Option<(Offset, Vec<u8>)>, Vec<(Offset, Vec<u8>)>);

fn options() -> FileLogOptions {
    FileLogOptions {
        segment_bytes: 8 * 1024,
        first_segment_bytes: 8 * 1024,
        background: false,
        verify_all: true,
        ..FileLogOptions::default()
    }
}

fn open(disk: &SimDisk) -> Result<FileLog, LogError> {
    FileLog::open_on(disk.mount(), options())
}

fn append(log: &mut FileLog, body: &[u8]) -> Offset {
    log.append(&[IoSlice::new(body)]).expect("append")
}

fn files(disk: &SimDisk) -> Files {
    let names = disk.mount().list().expect("list");
    names
        .into_iter()
        .map(|name| (name.clone(), disk.contents(&name).expect("bytes")))
        .collect()
}

fn disk_with(files: &Files) -> SimDisk {
    let disk = SimDisk::new(1);
    for (name, bytes) in files {
        disk.damage(name, Some(bytes.clone()));
    }
    disk
}

/// Everything a user can see of a log, or the error that stops him.
fn view(disk: &SimDisk) -> Result<View, LogError> {
    let log = open(disk)?;
    let snapshot = match log.load_snapshot()? {
        None => None,
        Some((at, mut body)) => {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes)
                .expect("a checked snapshot is readable");
            Some((at, bytes))
        }
    };
    let first = log.segments()[0].base;
    let frames = log
        .frames(first)?
        .map(|frame| frame.map(|f| (f.offset, f.body.to_vec())));
    Ok((snapshot, frames.collect::<Result<_, _>>()?))
}

/// Several segments, two snapshots, a clean end.
fn sound() -> Files {
    let disk = SimDisk::new(42);
    let mut log = open(&disk).expect("open");
    for number in 0..12_u8 {
        append(&mut log, &[number; 900]);
        if number == 5 || number == 8 {
            let tail = log.tail();
            log.install_snapshot(tail, &mut |out| out.write_all(&[number; 200]))
                .expect("install");
        }
    }
    drop(log);
    files(&disk)
}

fn is_clear(error: &LogError) -> bool {
    matches!(
        error,
        LogError::Corrupt { .. } | LogError::MissingSegment { .. } | LogError::FutureFormat { .. }
    )
}

#[test]
fn every_byte_flipped_is_detected_or_harmless() {
    let sound = sound();
    let right = view(&disk_with(&sound)).expect("the sound log opens");
    let older = (right.0.clone(), &right.1);
    let mut detected = 0;
    for (name, bytes) in &sound {
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let disk = disk_with(&sound);
            disk.damage(name, Some(damaged));
            match view(&disk) {
                Err(error) => {
                    assert!(is_clear(&error), "{name} byte {at}: {error}");
                    detected += 1;
                }
                // A corrupt newest snapshot gives way to the older one; all else must be equal.
                Ok((snapshot, frames)) => {
                    assert!(
                        frames == *older.1,
                        "{name} byte {at}: other frames are served"
                    );
                    let fell_back = name.ends_with(".snap") && snapshot != older.0;
                    assert!(fell_back || snapshot == older.0, "{name} byte {at}");
                    if let Some((_, body)) = snapshot.filter(|_| fell_back) {
                        assert_eq!(body, [5; 200]);
                        detected += 1;
                    }
                }
            }
        }
    }
    // Twelve frames of 932 bytes, the segment headers and the snapshots; the rest carries nothing.
    assert!(
        detected > 12 * 932 + 2 * 64,
        "only {detected} flips were detected"
    );
}

#[test]
fn every_truncation_is_detected() {
    let sound = sound();
    let right = view(&disk_with(&sound)).expect("the sound log opens");
    for (name, bytes) in sound.iter().filter(|(name, _)| !name.ends_with(".snap")) {
        for len in (0..bytes.len()).step_by(61) {
            let disk = disk_with(&sound);
            disk.damage(name, Some(bytes[..len].to_vec()));
            match view(&disk) {
                Err(error) => assert!(is_clear(&error), "{name} cut to {len}: {error}"),
                Ok(found) => assert!(found == right, "{name} cut to {len}"),
            }
        }
    }
}

#[test]
fn every_missing_file_is_detected() {
    let sound = sound();
    let right = view(&disk_with(&sound)).expect("the sound log opens");
    for name in sound.keys().filter(|name| !name.starts_with("spare")) {
        let disk = disk_with(&sound);
        disk.damage(name, None);
        match view(&disk) {
            Err(error) => assert!(is_clear(&error), "{name}: {error}"),
            Ok(found) => assert!(name.ends_with(".snap") && found.1 == right.1, "{name}"),
        }
    }
}

#[test]
fn swapped_segments_and_foreign_segments_are_detected() {
    let sound = sound();
    let names: Vec<_> = sound.keys().filter(|name| name.ends_with(".seg")).collect();
    assert!(names.len() >= 3);
    let swapped = disk_with(&sound);
    swapped.damage(names[0], sound.get(names[1]).cloned());
    swapped.damage(names[1], sound.get(names[0]).cloned());
    assert!(matches!(open(&swapped), Err(LogError::Corrupt { .. })));

    let other = SimDisk::new(77);
    append(&mut open(&other).expect("open"), b"of another partition");
    let foreign = disk_with(&sound);
    foreign.damage(&segment_name(0), other.contents(&segment_name(0)));
    let error = open(&foreign).expect_err("a segment of another log");
    assert!(error.to_string().contains("another log"), "{error}");
}

#[test]
fn a_refused_open_writes_nothing() {
    let sound = sound();
    let middle = sound
        .keys()
        .filter(|name| name.ends_with(".seg"))
        .nth(1)
        .expect("three segments");
    let damage: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes[0] = b'X',
        |bytes| bytes[8] = 9,
        |bytes| bytes[5000] ^= 1,
        Vec::clear,
    ];
    for change in damage {
        let mut files = sound.clone();
        change(files.get_mut(middle).expect("it is there"));
        let disk = disk_with(&files);
        let error = open(&disk).expect_err("damaged");
        assert!(
            is_clear(&error) && error.to_string().contains(middle.as_str()),
            "{error}"
        );
        assert_eq!(disk.changes(), 0, "{error}");
        assert!(self::files(&disk) == files);
    }
}

#[test]
fn a_future_version_is_named() {
    let sound = sound();
    for (name, at) in [(segment_name(0), 8), ("manifest".to_owned(), 8)] {
        let mut bytes = sound[&name].clone();
        bytes[at] = 2;
        let disk = disk_with(&sound);
        disk.damage(&name, Some(bytes));
        let error = open(&disk).expect_err("a later release wrote it");
        assert!(
            matches!(
                error,
                LogError::FutureFormat {
                    found: 2,
                    supported: 1,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_missing_segment_in_the_middle_is_named() {
    let sound = sound();
    let middle = sound
        .keys()
        .filter(|name| name.ends_with(".seg"))
        .nth(1)
        .expect("three segments");
    let disk = disk_with(&sound);
    disk.damage(middle, None);
    let error = open(&disk).expect_err("missing");
    let LogError::MissingSegment { base, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(&segment_name(base), middle);
    assert_eq!(disk.changes(), 0);
}

/// A log of three frames, ended without a clean end, and where its frames lie.
fn unclean() -> (Files, [Offset; 3]) {
    let disk = SimDisk::new(5);
    let mut log = open(&disk).expect("open");
    let offsets = [1, 2, 3].map(|number| append(&mut log, &[number; 700]));
    disk.kill();
    drop(log);
    (files(&disk), offsets)
}

fn position(offset: Offset) -> usize {
    (SEGMENT_HEADER_LEN + offset) as usize
}

#[test]
fn a_bad_frame_before_a_good_one_is_corruption() {
    let (files, offsets) = unclean();
    let name = segment_name(0);
    for (index, offset) in offsets[..2].iter().enumerate() {
        for at in [0, 5, 30, FRAME_HEADER_LEN + 100] {
            let mut bytes = files[&name].clone();
            bytes[position(offset + at)] ^= 0x10;
            let disk = disk_with(&files);
            disk.damage(&name, Some(bytes));
            let error = open(&disk).expect_err("corrupt");
            let LogError::Corrupt {
                file,
                position,
                found,
            } = &error
            else {
                panic!("{error}")
            };
            assert_eq!(
                (file.as_str(), *position),
                (&*format!("sim/{name}"), 4096 + offset)
            );
            let next = format!("offset {}", offsets[index + 1]);
            assert!(found.contains(&next), "{error}");
            assert_eq!(disk.changes(), 0);
        }
    }
}

/// Not a torn write: this release must not cut what it does not understand.
#[test]
fn a_last_frame_of_a_future_version_is_not_cut() {
    let (files, offsets) = unclean();
    let mut bytes = files[&segment_name(0)].clone();
    bytes[position(offsets[2] + 3)] = 2;
    let disk = disk_with(&files);
    disk.damage(&segment_name(0), Some(bytes));
    let error = open(&disk).expect_err("a later release wrote it");
    assert!(
        matches!(error, LogError::FutureFormat { found: 2, .. }),
        "{error}"
    );
    assert_eq!(disk.changes(), 0);
}

/// Even the header alone of a later frame proves that the bad one was durable.
#[test]
fn two_bad_bodies_at_the_end_are_corruption() {
    let (files, offsets) = unclean();
    let mut bytes = files[&segment_name(0)].clone();
    bytes[position(offsets[1] + 100)] ^= 1;
    bytes[position(offsets[2] + 100)] ^= 1;
    let disk = disk_with(&files);
    disk.damage(&segment_name(0), Some(bytes));
    assert!(matches!(open(&disk), Err(LogError::Corrupt { .. })));
}

#[test]
fn a_torn_tail_is_cut_and_zeroed() {
    let (files, offsets) = unclean();
    let name = segment_name(0);
    let torn = position(offsets[2]);
    let size = frame_size(700) as usize;
    for lost in [
        torn + 40..torn + 200,
        torn + 600..torn + size,
        torn + 28..torn + 32,
    ] {
        let mut bytes = files[&name].clone();
        bytes[lost].fill(0);
        let disk = disk_with(&files);
        disk.damage(&name, Some(bytes));
        let log = open(&disk).expect("a torn tail is no corruption");
        assert_eq!(log.tail(), offsets[2]);
        assert!(log.recovery().torn_bytes >= FRAME_HEADER_LEN);
        let cut = log.recovery().torn_bytes as usize;
        let after = disk.contents(&name).expect("bytes");
        assert!(after[torn..torn + cut].iter().all(|byte| *byte == 0));
    }
}

/// What an earlier open has shown can never again be a torn tail.
#[test]
fn a_proven_tail_is_never_cut() {
    let (files, offsets) = unclean();
    let disk = disk_with(&files);
    let log = open(&disk).expect("open");
    disk.kill();
    drop(log);
    let mut bytes = disk.contents(&segment_name(0)).expect("bytes");
    bytes[position(offsets[2] + 100)] ^= 1;
    disk.damage(&segment_name(0), Some(bytes));
    let error = open(&disk).expect_err("the frame was durable");
    assert!(error.to_string().contains("was durable up to"), "{error}");
}

/// Nor can a frame whose effect is in a snapshot.
#[test]
fn a_frame_below_a_snapshot_is_never_cut() {
    let disk = SimDisk::new(5);
    let mut log = open(&disk).expect("open");
    let offset = append(&mut log, &[1; 700]);
    let tail = log.tail();
    log.install_snapshot(tail, &mut |_| Ok(()))
        .expect("install");
    disk.kill();
    drop(log);
    let mut bytes = disk.contents(&segment_name(0)).expect("bytes");
    bytes[position(offset + 100)] ^= 1;
    disk.damage(&segment_name(0), Some(bytes));
    assert!(matches!(open(&disk), Err(LogError::Corrupt { .. })));
}

#[test]
fn a_corrupt_newest_snapshot_gives_way_to_the_older() {
    let sound = sound();
    let snaps: Vec<_> = sound
        .keys()
        .filter(|name| name.ends_with(".snap"))
        .collect();
    let disk = disk_with(&sound);
    let mut bytes = sound[snaps[1]].clone();
    bytes[100] ^= 1;
    disk.damage(snaps[1], Some(bytes));
    let mut log = open(&disk).expect("open");
    let (at, _) = log.load_snapshot().expect("the older one").expect("one");
    assert_eq!(&snapshot_name(at), snaps[0]);
    let states: Vec<_> = log
        .snapshots()
        .iter()
        .map(|snapshot| snapshot.state)
        .collect();
    assert_eq!(states, [SnapshotState::Intact, SnapshotState::Corrupt]);
    // Releasing is bound by the intact one, and a new snapshot clears the corrupt one away.
    let released = log.release(log.tail(), &|_, _| false).expect("release");
    assert!(released.segments.iter().all(|segment| segment.end <= at));
    let tail = log.tail();
    log.install_snapshot(tail, &mut |out| out.write_all(b"new"))
        .expect("install");
    assert_eq!(
        log.snapshots().iter().map(|s| s.at).collect::<Vec<_>>(),
        [at, tail]
    );
}

#[test]
fn no_snapshot_to_reach_back_to_is_an_error() {
    let disk = SimDisk::new(9);
    let mut log = open(&disk).expect("open");
    let mut newest = String::new();
    for number in 0..2_u8 {
        (0..10).for_each(|_| drop(log.append(&[IoSlice::new(&[number; 900])])));
        let tail = log.tail();
        log.install_snapshot(tail, &mut |out| out.write_all(b"state"))
            .expect("install");
        newest = snapshot_name(tail);
    }
    log.release(log.tail(), &|_, _| false).expect("release");
    drop(log);
    let mut bytes = disk.contents(&newest).expect("bytes");
    bytes[33] ^= 1;
    disk.damage(&newest, Some(bytes));
    let log = open(&disk).expect("open");
    let error = log
        .load_snapshot()
        .err()
        .expect("the log does not reach back");
    assert!(
        matches!(&error, LogError::NoSnapshot { begins, .. } if *begins > 0),
        "{error}"
    );
    assert!(error.to_string().contains(&newest), "{error}");
}
