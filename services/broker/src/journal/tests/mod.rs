//! What is written is read back, and what was written once is written the same for ever.

mod archives;
mod golden;
mod samples;

use plait_broker_core::ids::Offset;
use plait_broker_core::image::Image;
use plait_broker_core::record::{Blob, Reason, Record};
use proptest::prelude::*;

use super::*;

/// The blob as replay sees it: only its place is known.
fn placed(blob: &mut Blob, at: &mut Offset) {
    let len = blob.len;
    *blob = if len == 0 {
        Blob::default()
    } else {
        Blob::stored(*at, len)
    };
    *at += u64::from(len);
}

/// The record as replay sees it, its payloads standing from `at` on.
fn replayed(mut record: Record, at: &mut Offset) -> Record {
    match &mut record {
        Record::Submitted { tasks, .. } => {
            for task in tasks {
                placed(&mut task.request, at);
                placed(&mut task.envelope, at);
            }
        }
        Record::Succeeded { tasks } => tasks.iter_mut().for_each(|(_, blob)| placed(blob, at)),
        _ => {}
    }
    record
}

/// The body as the log joins it.
fn joined(frame: &EncodedFrame) -> Vec<u8> {
    let mut body = frame.head.to_vec();
    frame
        .payloads
        .iter()
        .for_each(|payload| body.extend_from_slice(payload));
    body
}

const BODY_AT: Offset = 4096;

fn check_frame(records: Vec<Record>, time: Millis) {
    let frame = encode(records.clone(), time).unwrap();
    let body = joined(&frame);
    assert_eq!(body.len() as u64, frame.len());
    let mut at = BODY_AT + frame.head.len() as u64;
    let expected: Vec<_> = records
        .into_iter()
        .map(|record| replayed(record, &mut at))
        .collect();
    let (found_time, found) = Decoder::default().frame(&body, BODY_AT).unwrap();
    assert_eq!(found_time, time);
    assert_eq!(found, expected);
}

proptest! {
    #[test]
    fn frames_are_read_back(
        records in prop::collection::vec(samples::record(), 0..6),
        time in samples::time(),
    ) {
        check_frame(records, time);
    }

    #[test]
    fn images_are_read_back(part in samples::image(), time in samples::time()) {
        let record = Record::Image(part);
        let chunk = encode_image(vec![record.clone()], time).unwrap();
        let (meta, rest) = split_head(&chunk).unwrap();
        prop_assert!(rest.is_empty());
        let (found_time, found) = Decoder::default().chunk(meta).unwrap();
        prop_assert_eq!(found_time, time);
        prop_assert_eq!(found, vec![record]);
    }

    #[test]
    fn broken_bytes_are_refused_and_never_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        records in prop::collection::vec(samples::record(), 1..3),
        flip in any::<prop::sample::Index>(),
    ) {
        let _ = Decoder::default().frame(&bytes, BODY_AT);
        let mut body = joined(&encode(records, 5).unwrap());
        let at = flip.index(body.len());
        body[at] ^= 0x41;
        let _ = Decoder::default().frame(&body, BODY_AT);
    }
}

#[test]
fn a_later_version_is_refused_by_name() {
    let meta = pb::FrameMeta {
        version: VERSION + 1,
        time_ms: 1,
        records: Vec::new(),
    };
    let error = Decoder::default().chunk(&meta.encode_to_vec()).unwrap_err();
    assert!(matches!(error, JournalError::FutureVersion { found } if found == VERSION + 1));
    assert!(error.to_string().contains("format version 2"), "{error}");
}

#[test]
fn a_frame_without_a_version_is_refused() {
    let error = Decoder::default().chunk(&[]).unwrap_err();
    assert!(
        matches!(error, JournalError::Unknown { field: "version" }),
        "{error}"
    );
}

#[test]
fn an_unknown_record_is_refused() {
    // Field 3, a record, with an unknown field 99 inside.
    let bytes = [0x08, 1, 0x1a, 3, 0x98, 0x06, 1];
    let error = Decoder::default().chunk(&bytes).unwrap_err();
    assert!(
        matches!(error, JournalError::Unknown { field: "kind" }),
        "{error}"
    );
}

#[test]
fn payloads_must_end_where_the_frame_does() {
    let record = samples::submitted(vec![samples::task(1, b"request", b"")]);
    let mut body = joined(&encode(vec![record], 5).unwrap());
    body.pop();
    assert!(matches!(
        Decoder::default().frame(&body, BODY_AT),
        Err(JournalError::Payloads { .. })
    ));
    body.extend_from_slice(b"too much");
    assert!(matches!(
        Decoder::default().frame(&body, BODY_AT),
        Err(JournalError::Payloads { .. })
    ));
}

#[test]
fn payloads_are_counted_not_copied() {
    let request = Bytes::from(vec![7; 1000]);
    let mut task = samples::task(1, b"", b"");
    task.request = Blob::resident(request.clone());
    let frame = encode(vec![samples::submitted(vec![task])], 5).unwrap();
    assert_eq!(frame.payloads[0].as_ptr(), request.as_ptr());
}

#[test]
fn a_snapshot_never_holds_payloads() {
    let record = samples::submitted(vec![samples::task(1, b"request", b"")]);
    assert!(matches!(
        encode_image(vec![record], 5),
        Err(JournalError::Payloads { .. })
    ));
    let mut image = samples::task_image(1);
    image.response = Blob::resident(Bytes::from_static(b"not in the log"));
    let record = Record::Image(Image::Tasks(vec![image]));
    assert!(matches!(
        encode_image(vec![record], 5),
        Err(JournalError::PayloadMissing)
    ));
}

#[test]
fn the_numbers_of_reasons_are_those_of_the_format() {
    for reason in Reason::ALL {
        let wire = pb::FailureReason::try_from(i32::from(reason as u8)).unwrap();
        assert!(wire.as_str_name().ends_with(match reason {
            Reason::ExpiredBeforeStart => "EXPIRED_BEFORE_START",
            Reason::ExpiredWhileRunning => "EXPIRED_WHILE_RUNNING",
            reason => reason.name(),
        }));
    }
}
