//! What a later release wrote is refused by name, and left as it is.

use std::io::IoSlice;

use bytes::BufMut;
use plait_broker_log::sim::SimDisk;
use plait_broker_log::{FileLog, FileLogOptions, Log};

use super::recovery::{RecoveryError, recover};
use super::tests::options;

fn open(disk: &SimDisk) -> FileLog {
    let options = FileLogOptions {
        background: false,
        ..FileLogOptions::default()
    };
    FileLog::inspect_on(disk.mount(), options).unwrap()
}

/// A FrameMeta, or the chunk of a snapshot: its version, a time, and one record whose fact has this number.
fn meta(version: u8, fact: u8) -> Vec<u8> {
    const VARINT: u8 = 0;
    const BYTES: u8 = 2;
    // The tag of a field above 15 takes two bytes.
    let record = [fact << 3 | BYTES | 0x80, fact >> 4, 0];
    let mut meta = vec![1 << 3 | VARINT, version, 2 << 3 | VARINT, 7];
    meta.put_slice(&[3 << 3 | BYTES, 3]);
    meta.put_slice(&record);
    [&9_u32.to_le_bytes()[..], &meta].concat()
}

const UNKNOWN: u8 = 99;
const DROPPED: u8 = 11;

/// What recovery says of a log with this frame, and with a snapshot of this chunk behind it.
fn said(frame: &[u8], chunk: Option<&[u8]>) -> String {
    let disk = SimDisk::new(1);
    let mut log = open(&disk);
    log.append(&[IoSlice::new(frame)]).unwrap();
    if let Some(chunk) = chunk {
        let at = log.tail();
        log.install_snapshot(at, &mut |out| out.write_all(chunk))
            .unwrap();
    }
    drop(log);
    let changes = disk.changes();
    let log = open(&disk);
    let result = recover(&log, options().core, 1);
    drop(log);
    assert_eq!(disk.changes(), changes, "something was written");
    match result {
        Ok(state) => format!("{} records", state.found.records),
        Err(error @ (RecoveryError::Frame { .. } | RecoveryError::Snapshot { .. })) => {
            error.to_string()
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn records_of_a_later_version_are_refused() {
    assert_eq!(said(&meta(1, DROPPED), None), "1 records");
    let frame = said(&meta(2, DROPPED), None);
    assert!(
        frame.starts_with("00000000000000000000.seg, the frame at offset 0: "),
        "{frame}"
    );
    let snapshot = said(&meta(1, DROPPED), Some(&meta(2, DROPPED)));
    assert!(
        snapshot.starts_with("00000000000000000048.snap: "),
        "{snapshot}"
    );
    for text in [frame, snapshot] {
        assert!(
            text.contains("format version 2, this release reads versions 1 to 1"),
            "{text}"
        );
    }
}

/// A fact that is not understood must not be lost, so it is never passed over.
#[test]
fn a_record_of_an_unknown_kind_is_refused() {
    for text in [
        said(&meta(1, UNKNOWN), None),
        said(&meta(1, DROPPED), Some(&meta(1, UNKNOWN))),
    ] {
        assert!(
            text.contains("a record's kind has no meaning to this release"),
            "{text}"
        );
    }
}
