//! Submitting by a call of its own.

use plait::pb::v1 as pb;

use crate::support::calls::submit;
use crate::support::{Broker, frame, refusal_reason};

#[tokio::test]
async fn a_call_with_a_request_id_is_done_once() {
    let mut broker = Broker::start().await;
    let first = submit(&broker, "request-1", false, frame(["a"]))
        .await
        .unwrap();
    assert_eq!(
        submit(&broker, "request-1", false, frame(["a"]))
            .await
            .unwrap(),
        first
    );
    broker.crash_and_restart().await;
    assert_eq!(
        submit(&broker, "request-1", false, frame(["a"]))
            .await
            .unwrap(),
        first
    );
    let other = submit(&broker, "request-2", false, frame(["a"]))
        .await
        .unwrap();
    assert_ne!(other.tasks, first.tasks);
}

#[tokio::test]
async fn a_dry_run_submits_nothing() {
    let broker = Broker::start().await;
    let unknown = pb::SubmitFrame {
        methods: vec!["/no.Such/Method".to_owned()],
        ..frame(["a"])
    };
    let refused = submit(&broker, "", true, unknown).await.unwrap();
    assert_eq!(refusal_reason(&refused.refusals[0]), "METHOD_UNKNOWN");
    assert!(
        submit(&broker, "", true, frame(["a"]))
            .await
            .unwrap()
            .refusals
            .is_empty()
    );
    let all = broker
        .tasks()
        .list_tasks(pb::ListTasksRequest::default())
        .await
        .unwrap();
    assert!(all.into_inner().tasks.is_empty());
}
