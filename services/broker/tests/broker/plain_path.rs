//! Submit, attach, outcome, result.

use crate::support::{Broker, Submitter, Worker, frame};

#[tokio::test]
async fn a_task_is_submitted_run_and_answered() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let tasks = submitter.accept(1, frame(["a", "b"])).await;
    let attempts = worker.attempts(2).await;
    for got in &attempts {
        assert_eq!(got.method, 0);
        assert!((1..=30_000).contains(&got.timeout_ms));
        let answer = [b"echo ", got.payload.as_slice()].concat();
        assert!(worker.succeed(got, &answer).await.refused.is_empty());
    }
    assert_eq!(submitter.response(tasks[0]).await, b"echo a");
    assert_eq!(submitter.response(tasks[1]).await, b"echo b");
    assert_eq!(submitter.unread_results(), 0);
}
