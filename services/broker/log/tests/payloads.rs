//! A payload that is not what was written is never handed out (I15).

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::Path;

use plait_broker_log::format::{SEGMENT_HEADER_LEN, segment_name};
use plait_broker_log::{FRAME_HEADER_LEN, FileLog, FileLogOptions, Log, LogError, Payloads};

const FRAMES: u8 = 4;
const PAYLOADS: usize = 5;
const LEN: usize = 40;

/// The places of all payloads, and what is in them.
type Written = Vec<((u64, usize), Vec<u8>)>;

/// A real directory, because a log that is open goes on with the very file that is damaged.
fn log_in(dir: &Path) -> FileLog {
    let options = FileLogOptions {
        segment_bytes: 8 * 1024,
        first_segment_bytes: 8 * 1024,
        background: false,
        ..FileLogOptions::default()
    };
    FileLog::open(dir, options).expect("open")
}

fn segment(dir: &Path) -> File {
    let path = dir.join(segment_name(0));
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.expect("the segment")
}

fn write(log: &mut FileLog) -> Written {
    let mut out = Vec::new();
    for frame in 0..FRAMES {
        let payloads: Vec<_> = (0..PAYLOADS)
            .map(|number| vec![frame * 16 + number as u8; LEN])
            .collect();
        let parts: Vec<_> = payloads.iter().map(|p| IoSlice::new(p)).collect();
        let offset = log.append(&parts).expect("append");
        let first = offset + FRAME_HEADER_LEN;
        let places = (first..).step_by(LEN).map(|at| (at, LEN));
        out.extend(places.zip(payloads));
    }
    out
}

#[test]
fn a_flipped_byte_of_a_frame_costs_its_payloads_and_no_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = log_in(dir.path());
    let written = write(&mut log);
    let file = segment(dir.path());
    let places: Vec<_> = written.iter().map(|(place, _)| *place).collect();
    let mut served = 0;
    for byte in SEGMENT_HEADER_LEN..SEGMENT_HEADER_LEN + log.tail() {
        let mut one = [0];
        file.read_exact_at(&mut one, byte).expect("a byte");
        file.write_all_at(&[one[0] ^ 0x10], byte).expect("a flip");
        let read = Payloads::new(log.reader()).read(&places);
        file.write_all_at(&one, byte).expect("a repair");
        let bad = read.iter().filter(|payload| payload.is_err()).count();
        // A frame of these ends on a multiple of the alignment: there is no padding to hit.
        assert_eq!(bad, PAYLOADS, "byte {byte}");
        for (payload, (place, expected)) in read.into_iter().zip(&written) {
            match payload {
                Ok(bytes) => {
                    assert_eq!(bytes, expected[..], "byte {byte}, payload {place:?}");
                    served += 1;
                }
                Err(error) => assert!(
                    matches!(*error, LogError::Corrupt { .. }),
                    "byte {byte}: {error}"
                ),
            }
        }
    }
    assert_eq!(
        served,
        log.tail() as usize * (usize::from(FRAMES) - 1) * PAYLOADS
    );
}

#[test]
fn a_payload_is_not_taken_from_a_frame_of_another_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = log_in(dir.path());
    let written = write(&mut log);
    let file = segment(dir.path());
    // The first frame, intact, in the second one's place.
    let mut frame = vec![0; log.tail() as usize / usize::from(FRAMES)];
    file.read_exact_at(&mut frame, SEGMENT_HEADER_LEN)
        .expect("a frame");
    let second = SEGMENT_HEADER_LEN + frame.len() as u64;
    file.write_all_at(&frame, second).expect("a copy");
    let places: Vec<_> = written.iter().map(|(place, _)| *place).collect();
    let read = Payloads::new(log.reader()).read(&places);
    let bad: Vec<_> = read.iter().map(Result::is_err).collect();
    let expected: Vec<_> = (0..places.len()).map(|n| n / PAYLOADS == 1).collect();
    assert_eq!(bad, expected);
}

#[test]
fn frames_that_were_checked_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = log_in(dir.path());
    let written = write(&mut log);
    let payloads = Payloads::new(log.reader());
    let places: Vec<_> = written.iter().map(|(place, _)| *place).collect();
    assert!(payloads.read(&places).iter().all(Result::is_ok));
    // What was proven stays served from memory though the disk lost it meanwhile.
    let lost = vec![0; log.tail() as usize];
    segment(dir.path())
        .write_all_at(&lost, SEGMENT_HEADER_LEN)
        .expect("a loss");
    assert!(payloads.read(&places).iter().all(Result::is_ok));
    assert!(
        Payloads::new(log.reader())
            .read(&places)
            .iter()
            .all(Result::is_err)
    );
}
