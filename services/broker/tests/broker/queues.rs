//! Queues: pausing them, and what they say of themselves.

use plait::pb::v1 as pb;
use tonic::Code;

use crate::support::calls::{get, submit};
use crate::support::{Broker, Worker, frame, reason};

#[tokio::test]
async fn a_paused_queue_keeps_what_it_takes() {
    let mut broker = Broker::start().await;
    let pause = pb::PauseQueueRequest {
        name: "test".to_owned(),
        reason: "lunch".to_owned(),
    };
    let paused = broker
        .tasks()
        .pause_queue(pause)
        .await
        .unwrap()
        .into_inner()
        .queue
        .unwrap();
    assert!(paused.paused);
    let tasks = submit(&broker, "", false, frame(["a"]))
        .await
        .unwrap()
        .tasks;
    assert_eq!(
        get(&broker, tasks[0]).await.unwrap().state(),
        pb::TaskState::Parked
    );
    broker.crash_and_restart().await;
    let get_queue = pb::GetQueueRequest {
        name: "test".to_owned(),
    };
    let queue = broker
        .tasks()
        .get_queue(get_queue)
        .await
        .unwrap()
        .into_inner()
        .queue
        .unwrap();
    assert!(queue.paused && queue.oldest_ready_time.is_some());
    assert_eq!(queue.methods, [crate::support::ECHO]);
    let mut worker = Worker::attach(&broker, "w").await;
    let resume = pb::ResumeQueueRequest {
        name: "test".to_owned(),
    };
    broker.tasks().resume_queue(resume).await.unwrap();
    assert_eq!(worker.attempt().await.task, tasks[0]);
    let nowhere = pb::GetQueueRequest {
        name: "nowhere".to_owned(),
    };
    let status = broker.tasks().get_queue(nowhere).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::NotFound, "QUEUE_NOT_FOUND")
    );
    let pause = pb::PauseQueueRequest {
        name: "nowhere".to_owned(),
        reason: String::new(),
    };
    let status = broker.tasks().pause_queue(pause).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}
