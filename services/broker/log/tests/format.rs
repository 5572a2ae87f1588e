//! Format version 1, built by hand from its description: what the log writes must be exactly
//! these bytes, and what is built by hand must open. If this test fails, the change needs a new
//! format version.

use std::io::{IoSlice, Read};

use crc32c::crc32c;
use plait_broker_log::sim::SimDisk;
use plait_broker_log::{FileLog, FileLogOptions, Log};

const LOG_ID: u64 = 0x1111_2222_3333_4444;
const SALT: u64 = 0x5555_6666_7777_8888;

fn options() -> FileLogOptions {
    FileLogOptions {
        first_segment_bytes: 8192,
        background: false,
        ..FileLogOptions::default()
    }
}

fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32c(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

fn begins(magic: &[u8; 8], fourth: u32, fields: &[u64]) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.extend(1_u32.to_le_bytes());
    out.extend(fourth.to_le_bytes());
    fields
        .iter()
        .for_each(|field| out.extend(field.to_le_bytes()));
    out
}

fn segment(log_id: u64, base: u64, epoch: u64, salt: u64) -> Vec<u8> {
    let mut out = begins(b"PLAITSEG", 0, &[log_id, base, base, epoch, salt]);
    out.extend([0; 4]);
    let mut out = summed(out);
    out.resize(4096, 0);
    out
}

fn frame(offset: u64, epoch: u64, salt: u64, body: &[u8]) -> Vec<u8> {
    let mut out = b"PLF\x01".to_vec();
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(epoch.to_le_bytes());
    out.extend(salt.to_le_bytes());
    out.extend(crc32c(body).to_le_bytes());
    let sum = crc32c(&[&offset.to_le_bytes()[..], &out].concat());
    out.extend(sum.to_le_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

fn manifest(log_id: u64, epoch: u64, tail: u64, floor: u64, kept: &[u64]) -> Vec<u8> {
    let mut out = begins(
        b"PLAITMAN",
        kept.len() as u32 / 2,
        &[log_id, epoch, tail, floor],
    );
    kept.iter()
        .for_each(|field| out.extend(field.to_le_bytes()));
    summed(out)
}

fn snapshot(log_id: u64, at: u64, body: &[u8]) -> Vec<u8> {
    let mut out = begins(b"PLAITSNP", 0, &[log_id, at]);
    out.extend(body);
    out.extend(b"PLAITEND");
    out.extend((body.len() as u64).to_le_bytes());
    summed(out)
}

#[test]
fn what_is_built_by_hand_opens() {
    let disk = SimDisk::new(1);
    // A kept segment 0..80, a hole up to 160, and the segment that is written.
    let kept = [
        segment(LOG_ID, 0, 3, 9),
        frame(0, 3, 9, b"old"),
        frame(40, 4, 9, b"older"),
    ];
    let active = [
        segment(LOG_ID, 160, 5, SALT),
        frame(160, 5, SALT, b"first"),
        frame(200, 6, SALT, b""),
        vec![0xff; 100],
    ];
    disk.damage("00000000000000000000.seg", Some(kept.concat()));
    disk.damage("00000000000000000160.seg", Some(active.concat()));
    disk.damage(
        "00000000000000000200.snap",
        Some(snapshot(LOG_ID, 200, b"state")),
    );
    disk.damage("manifest", Some(manifest(LOG_ID, 6, 200, 160, &[0, 80])));

    let log = FileLog::open_on(disk.mount(), options()).expect("it is a sound log");
    assert_eq!((log.epoch(), log.tail()), (7, 232));
    let (at, mut body) = log.load_snapshot().expect("intact").expect("there is one");
    let mut state = Vec::new();
    body.read_to_end(&mut state).expect("readable");
    assert_eq!((at, &state[..]), (200, &b"state"[..]));
    let frames: Vec<_> = log
        .frames(160)
        .expect("frames")
        .map(|f| f.expect("frame"))
        .collect();
    let seen: Vec<_> = frames
        .iter()
        .map(|f| (f.offset, f.epoch, &f.body[..]))
        .collect();
    assert_eq!(seen, [(160, 5, &b"first"[..]), (200, 6, b"")]);
    assert_eq!(log.reader().frame(40).expect("kept").body, b"older"[..]);
}

#[test]
fn what_is_written_is_what_is_described() {
    let disk = SimDisk::new(1);
    let mut log = FileLog::open_on(disk.mount(), options()).expect("open");
    log.append(&[IoSlice::new(b"one"), IoSlice::new(b"two")])
        .expect("append");
    log.install_snapshot(40, &mut |out| out.write_all(b"state"))
        .expect("install");
    drop(log);
    let file = |name: &str| disk.contents(name).expect("it is there");
    let bytes = file("00000000000000000000.seg");
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let (log_id, salt) = (number(16), number(48));
    let mut expected = [segment(log_id, 0, 1, salt), frame(0, 1, salt, b"onetwo")].concat();
    expected.resize(8192, 0);
    assert!(bytes == expected);
    assert_eq!(
        file("00000000000000000040.snap"),
        snapshot(log_id, 40, b"state")
    );
    assert_eq!(file("manifest"), manifest(log_id, 1, 40, 0, &[]));
}

/// A log is opened again and again by its owner's epochs, which only grow within it.
#[test]
fn an_epoch_that_falls_or_is_ahead_is_corruption() {
    for (first, second) in [(5, 4), (5, 7), (2, 5)] {
        let disk = SimDisk::new(1);
        let parts = [
            segment(LOG_ID, 0, 3, SALT),
            frame(0, first, SALT, b"one"),
            frame(40, second, SALT, b"two"),
        ];
        disk.damage("00000000000000000000.seg", Some(parts.concat()));
        disk.damage("manifest", Some(manifest(LOG_ID, 6, 0, 0, &[])));
        let error = FileLog::open_on(disk.mount(), options()).expect_err("no owner did this");
        assert!(error.to_string().contains("epoch"), "{error}");
    }
}
