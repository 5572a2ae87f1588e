//! What is read from the disk: frames of the log, chunks of snapshots, blocks of archive files, whole segments.

use plait_broker::journal::{self, Decoder};
use plait_broker_log::format::segment_name;
use plait_broker_log::sim::SimDisk;
use plait_broker_log::{FileLog, FileLogOptions, Log};
use std::io::IoSlice;
use std::sync::OnceLock;

/// The body of a frame: it is understood or refused.
pub(crate) fn journal_frame(bytes: &[u8]) {
    let first = Decoder::default().frame(bytes, 4_096);
    let second = Decoder::default().frame(bytes, 4_096);
    assert_eq!(first.ok(), second.ok(), "the same bytes say the same");
}

/// A chunk of a snapshot, its length field taken off.
pub(crate) fn snapshot_chunk(bytes: &[u8]) {
    drop(Decoder::default().chunk(bytes));
}

/// A block of an archive file: what is understood is written and read again as it is.
pub(crate) fn archive_block(bytes: &[u8]) {
    let Ok(tasks) = journal::decode_block(bytes) else {
        return;
    };
    let Ok(block) = journal::encode_block(tasks.clone()) else {
        return;
    };
    let again = journal::decode_block(&block).expect("what was written is read");
    assert_eq!(tasks, again);
}

fn options() -> FileLogOptions {
    FileLogOptions {
        segment_bytes: 8 * 1024,
        first_segment_bytes: 8 * 1024,
        background: false,
        verify_all: true,
        ..FileLogOptions::default()
    }
}

/// The files of a small log.
fn files() -> &'static [(String, Vec<u8>)] {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let disk = SimDisk::new(1);
        let mut log = FileLog::open_on(disk.mount(), options()).expect("an empty disk");
        for number in 0..20_u8 {
            let body = vec![number; usize::from(number) * 7];
            log.append(&[IoSlice::new(&body)]).expect("append");
        }
        drop(log);
        let names = disk.mount().list().expect("list");
        let file = |name: String| (name.clone(), disk.contents(&name).expect("bytes"));
        names.into_iter().map(file).collect()
    })
}

/// A log whose first segment has these bytes from a place on: it opens and reads, or says why not; and no frame is
/// told that was not written.
pub(crate) fn log_segment(bytes: &[u8]) {
    let Some((place, damage)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let place = usize::from(u16::from_be_bytes(*place));
    let disk = SimDisk::new(1);
    for (name, contents) in files() {
        let mut contents = contents.clone();
        if *name == segment_name(0) {
            let from = place.min(contents.len());
            let to = (from + damage.len()).min(contents.len());
            contents[from..to].copy_from_slice(&damage[..to - from]);
        }
        disk.damage(name, Some(contents));
    }
    let Ok(log) = FileLog::open_on(disk.mount(), options()) else {
        return;
    };
    let Ok(frames) = log.frames(log.segments()[0].base) else {
        return;
    };
    for (number, frame) in frames.enumerate() {
        let Ok(frame) = frame else { return };
        let written = |body: &[u8]| {
            body.len() == number * 7 && body.iter().all(|b| usize::from(*b) == number)
        };
        assert!(
            written(&frame.body),
            "frame {number} is not what was written"
        );
    }
}
