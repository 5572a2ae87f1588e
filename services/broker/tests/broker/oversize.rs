//! A message over the limit of decoding is refused in Plait's words, and hurts nobody else.

use plait::pb::control::v1 as control;
use plait::pb::v1 as pb;
use plait::pb::v1::attach_request::Message as FromWorker;
use plait::pb::v1::submit_stream_request::Message as FromSubmitter;
use prost::Message;

use crate::support::{Broker, Submitter, Worker, check_refusal, frame, info};

/// Bytes of the longest message, with the default limits of payloads.
const LIMIT: usize = 4 << 20;

/// A frame of which a message of exactly `size` bytes is made by `wrap`; no payload is over its limit.
fn sized<M: Message>(size: usize, wrap: impl Fn(pb::SubmitFrame) -> M) -> M {
    const EACH: usize = 1_000_000;
    let mut payloads = vec![vec![b'x'; EACH]; size / EACH];
    // The last one's length field has its full width, so that bytes count one by one.
    payloads.push(vec![b'y'; 50_000]);
    let short = wrap(frame(payloads.clone())).encoded_len();
    payloads
        .last_mut()
        .unwrap()
        .resize(50_000 + size - short, b'y');
    let message = wrap(frame(payloads));
    assert_eq!(message.encoded_len(), size);
    message
}

fn check(status: &tonic::Status) {
    check_refusal(status, "TOO_LARGE", "message");
    let info = info(status.details()).unwrap();
    assert_eq!(info.metadata["limit"], LIMIT.to_string());
    assert_eq!(info.metadata["size"], (LIMIT + 1).to_string());
}

#[tokio::test]
async fn a_call_of_one_byte_too_many_is_refused() {
    let broker = Broker::start().await;
    let call = |tasks| pb::SubmitTasksRequest {
        tasks: Some(tasks),
        ..pb::SubmitTasksRequest::default()
    };
    let fits = broker.tasks().submit_tasks(sized(LIMIT, call)).await;
    assert_eq!(fits.unwrap().into_inner().accepted.unwrap().tasks.len(), 5);
    let refused = broker.tasks().submit_tasks(sized(LIMIT + 1, call)).await;
    check(&refused.unwrap_err());
    // Services without a limit of their own have the library's, which is the same.
    let value = vec![0; LIMIT];
    let put = control::PutEntryRequest {
        key: "k".to_owned(),
        value: value.into(),
        ..control::PutEntryRequest::default()
    };
    let refused = broker.key_values().put_entry(put).await.unwrap_err();
    check_refusal(&refused, "TOO_LARGE", "message");
}

#[tokio::test]
async fn a_submitters_stream_ends_with_the_reason_and_others_go_on() {
    let broker = Broker::start().await;
    let request = |tasks| pb::SubmitStreamRequest {
        message: Some(FromSubmitter::Submit(pb::SequencedSubmit {
            sequence: 1,
            tasks: Some(tasks),
            r#await: true,
        })),
    };
    let mut other = Submitter::open(&broker, 2).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let fits = sized(LIMIT, request).message.unwrap();
    submitter.send(fits).await;
    let accepted = submitter.accepted(1).await.accepted.unwrap();
    assert_eq!(accepted.tasks.len(), 5);
    submitter
        .send(sized(LIMIT + 1, request).message.unwrap())
        .await;
    check(&submitter.end().await.unwrap_err());
    assert_eq!(other.accept(1, frame(["a"])).await.len(), 1);
}

#[tokio::test]
async fn a_workers_stream_ends_with_the_reason() {
    let broker = Broker::start().await;
    let mut worker = Worker::attach(&broker, "w").await;
    let mut frame = pb::OutcomeFrame {
        sequence: 1,
        payloads: vec![vec![0; LIMIT - 100].into()],
        ..pb::OutcomeFrame::default()
    };
    let request = |frame| pb::AttachRequest {
        message: Some(FromWorker::Outcomes(frame)),
        ..pb::AttachRequest::default()
    };
    let missing = LIMIT + 1 - request(frame.clone()).encoded_len();
    frame.payloads = vec![vec![0; LIMIT - 100 + missing].into()];
    let message = request(frame).message;
    worker.send(message).await;
    check(&worker.end().await.unwrap_err());
}
