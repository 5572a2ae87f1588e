//! Records of every kind.

use std::sync::Arc;

use bytes::Bytes;
use plait::pb::control::v1 as control;
use plait::pb::v1::{KeyPath, MethodInfo};
use plait_broker_core::effect::{CAUSES, Error, TaskState, TimelineEvent};
use plait_broker_core::ids::{Millis, TaskId, Token};
use plait_broker_core::image::{Image, RateImage, TaskImage};
use plait_broker_core::policy::MethodPolicy;
use plait_broker_core::record::{
    Acceptance, Blob, ChildKey, ExpiryCause, Failure, NewTask, Reason, Record, Refusal,
    ReturnCause, Start,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

/// A plain task.
pub(super) fn task(id: u64, request: &'static [u8], envelope: &'static [u8]) -> NewTask {
    NewTask {
        id: TaskId(id),
        method: Arc::from("/a.B/C"),
        priority: 4,
        start_at: 5,
        expire_at: 1005,
        idempotency_key: None,
        ordering_key: None,
        limit_key: None,
        parent: None,
        flags: Bytes::new(),
        digest: 0,
        request: Blob::resident(Bytes::from_static(request)),
        envelope: Blob::resident(Bytes::from_static(envelope)),
    }
}

/// A submission without a session in which every task was accepted.
pub(super) fn submitted(tasks: Vec<NewTask>) -> Record {
    let acceptance = Acceptance {
        tasks: tasks.iter().map(|t| t.id.0).collect(),
        ..Acceptance::default()
    };
    Record::Submitted {
        session: None,
        acceptance,
        tasks,
    }
}

/// A finished task of a snapshot.
pub(super) fn task_image(id: u64) -> TaskImage {
    let mut task = task(id, b"", b"");
    task.request = Blob::stored(4200, 7);
    TaskImage {
        task,
        created_at: 5,
        state: TaskState::Succeeded,
        attempt: 1,
        backoff_step: 0,
        token: Token(9),
        worker: None,
        key_until: 0,
        ended_at: 8,
        response: Blob::stored(4300, 3),
        failure: None,
        dead_letter: false,
        events: Vec::new(),
    }
}

pub(super) fn time() -> impl Strategy<Value = Millis> {
    prop_oneof![Just(1_800_000_000_000), any::<u64>()]
}

pub(super) fn name() -> impl Strategy<Value = Arc<str>> {
    "[a-zü/.]{1,12}".prop_map(Arc::from)
}

fn blob() -> impl Strategy<Value = Blob> {
    vec(any::<u8>(), 0..40).prop_map(|bytes| Blob::resident(bytes.into()))
}

fn stored() -> impl Strategy<Value = Blob> {
    (any::<u64>(), any::<u32>()).prop_map(|(at, len)| match len {
        0 => Blob::default(),
        len => Blob::stored(at, len),
    })
}

fn id() -> impl Strategy<Value = TaskId> {
    prop_oneof![1..5000_u64, any::<u64>()].prop_map(TaskId)
}

fn ids() -> impl Strategy<Value = Vec<TaskId>> {
    vec(id(), 0..5)
}

fn state() -> impl Strategy<Value = TaskState> {
    use TaskState::*;
    select(vec![
        Scheduled, Ready, Running, Backoff, Suspended, Succeeded, Failed, Cancelled, Expired,
    ])
}

fn child() -> impl Strategy<Value = (TaskId, ChildKey)> {
    let key = prop_oneof![
        name().prop_map(ChildKey::Named),
        (any::<u128>(), any::<u32>()).prop_map(|(digest, nth)| ChildKey::Nth(digest, nth)),
    ];
    (id(), key)
}

fn new_task(blob: BoxedStrategy<Blob>) -> impl Strategy<Value = NewTask> {
    let keys = (of(name()), of(name()), of(name()));
    let times = (0..=9_u8, time(), time());
    let digest = prop_oneof![Just(0), any::<u128>()];
    let flags = vec(any::<u8>(), 0..9).prop_map(Bytes::from);
    let rest = (of(child()), digest, blob.clone(), blob, flags);
    (id(), select(vec!["/a.B/C", "/a.B/D"]), times, keys, rest).prop_map(
        |(id, method, (priority, start_at, expire_at), keys, rest)| NewTask {
            id,
            method: Arc::from(method),
            priority,
            start_at,
            expire_at,
            idempotency_key: keys.0,
            ordering_key: keys.1,
            limit_key: keys.2,
            flags: if rest.0.is_some() {
                rest.4
            } else {
                Bytes::new()
            },
            parent: rest.0,
            digest: rest.1,
            request: rest.2,
            envelope: rest.3,
        },
    )
}

fn error() -> impl Strategy<Value = Error> {
    prop_oneof![
        id().prop_map(|task| Error::LeaseLost { task }),
        (name(), any::<u64>(), any::<u64>()).prop_map(|(queue, limit, retry_after_ms)| {
            Error::QueueFull {
                queue,
                limit,
                retry_after_ms,
            }
        }),
        (name(), select(vec!["idempotency", "ordering", "limit"]))
            .prop_map(|(method, key)| Error::KeyMissing { method, key }),
        (id(), name()).prop_map(|(task, key)| Error::DuplicateKeyConflict { task, key }),
        (id(), name()).prop_map(|(parent, child)| Error::FlowDiverged { parent, child }),
        name().prop_map(|method| Error::MethodUnknown { method }),
        id().prop_map(|task| Error::TaskNotFound { task }),
        name().prop_map(|queue| Error::QueueNotFound { queue }),
        (id(), state()).prop_map(|(task, state)| Error::StateConflict { task, state }),
        any::<u64>().prop_map(|version| Error::VersionMismatch { version }),
        (any::<u64>(), any::<u64>())
            .prop_map(|(sequence, last)| Error::SequenceGap { sequence, last }),
        name().prop_map(|worker| Error::WorkerReplaced { worker }),
        (select(super::super::refusal::FIELDS.to_vec()), name())
            .prop_map(|(field, problem)| Error::Invalid { field, problem }),
    ]
}

fn acceptance() -> impl Strategy<Value = Acceptance> {
    let refusal = (any::<u32>(), error()).prop_map(|(index, error)| Refusal { index, error });
    (
        vec(any::<u64>(), 0..5),
        vec(refusal, 0..3),
        vec(any::<u32>(), 0..3),
    )
        .prop_map(|(tasks, refusals, existing)| Acceptance {
            tasks,
            refusals,
            existing,
        })
}

fn failure() -> impl Strategy<Value = Failure> {
    let bytes = || vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    (
        of(select(Reason::ALL.to_vec())),
        1..=16_u32,
        name(),
        bytes(),
        bytes(),
    )
        .prop_map(|(reason, code, message, details, trailers)| Failure {
            reason,
            code,
            message,
            details,
            trailers,
        })
}

fn policy() -> impl Strategy<Value = MethodPolicy> {
    (
        name(),
        name(),
        any::<[u32; 4]>(),
        any::<[u64; 6]>(),
        any::<[bool; 3]>(),
    )
        .prop_map(|(method, queue, small, large, flags)| {
            let key = |set: bool| set.then(KeyPath::default);
            let info = MethodInfo {
                method: method.to_string(),
                queue: queue.to_string(),
                idempotency_key: key(flags[0]),
                ordering_key: key(flags[1]),
                ..MethodInfo::default()
            };
            let policy = control::MethodPolicy {
                info: Some(info),
                deadline_ms: large[0],
                attempt_timeout_ms: large[1],
                max_attempts: small[0],
                initial_backoff_ms: large[2],
                max_backoff_ms: large[3],
                multiplier_permille: small[1],
                retryable_codes: small[2],
                idempotency_window_ms: large[4],
                priority: small[3] % 10,
                at_most_once: flags[2],
                retention_ms: large[5],
                ..control::MethodPolicy::default()
            };
            crate::policy::compiled(&policy).unwrap()
        })
}

/// A record of any kind but a snapshot's.
pub(super) fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        4 => hot(),
        2 => cold(),
        1 => control_records(),
    ]
}

fn hot() -> impl Strategy<Value = Record> {
    let session = of((any::<[u8; 16]>(), any::<u64>()));
    let start = (id(), any::<u64>(), 1..4_u32).prop_map(|(task, token, attempt)| Start {
        task,
        token: Token(token),
        attempt,
    });
    let tasks = || vec(new_task(blob().boxed()), 0..6);
    prop_oneof![
        (session, acceptance(), tasks()).prop_map(|(session, acceptance, tasks)| {
            Record::Submitted {
                session,
                acceptance,
                tasks,
            }
        }),
        tasks().prop_map(submitted),
        (name(), vec(start, 0..6)).prop_map(|(worker, starts)| Record::Started { worker, starts }),
        vec((id(), blob()), 0..6).prop_map(|tasks| Record::Succeeded { tasks }),
    ]
}

fn cold() -> impl Strategy<Value = Record> {
    use ReturnCause::*;
    let returned = select(vec![HandedBack, BrokerRestarted, ChildEnded]);
    let expired = select(vec![ExpiryCause::BeforeStart, ExpiryCause::WhileRunning]);
    prop_oneof![
        (id(), failure(), time(), any::<u32>()).prop_map(
            |(task, failure, ready_at, backoff_step)| Record::Retried {
                task,
                failure,
                ready_at,
                backoff_step
            }
        ),
        (ids(), returned).prop_map(|(tasks, cause)| Record::Returned { tasks, cause }),
        ids().prop_map(|tasks| Record::Suspended { tasks }),
        (id(), failure(), any::<bool>()).prop_map(|(task, failure, dead_letter)| {
            Record::Failed {
                task,
                failure,
                dead_letter,
            }
        }),
        (id(), name()).prop_map(|(task, reason)| Record::Cancelled { task, reason }),
        (ids(), expired).prop_map(|(tasks, cause)| Record::Expired { tasks, cause }),
        vec((id(), time()), 0..4).prop_map(|tasks| Record::Redriven { tasks }),
        ids().prop_map(|tasks| Record::Dropped { tasks }),
    ]
}

fn control_records() -> impl Strategy<Value = Record> {
    prop_oneof![
        vec(any::<[u8; 16]>(), 0..3).prop_map(|sessions| Record::SessionsDropped { sessions }),
        (name(), name()).prop_map(|(queue, reason)| Record::QueuePaused { queue, reason }),
        name().prop_map(|queue| Record::QueueResumed { queue }),
        vec(policy(), 0..3).prop_map(|policies| Record::PoliciesApplied { policies }),
        (name(), vec(any::<u8>(), 0..40), any::<u64>()).prop_map(|(key, value, version)| {
            Record::KvPut {
                key,
                value: value.into(),
                version,
            }
        }),
        name().prop_map(|key| Record::KvDeleted { key }),
    ]
}

/// Any part of a snapshot.
pub(super) fn image() -> impl Strategy<Value = Image> {
    let answers = vec((any::<u64>(), acceptance()), 0..3);
    prop_oneof![
        (any::<u64>(), any::<u64>(), time()).prop_map(|(next_task, kv_version, time)| {
            Image::Counters {
                next_task,
                kv_version,
                time,
            }
        }),
        vec(any_task_image(), 0..4).prop_map(Image::Tasks),
        rate_image().prop_map(Image::Rate),
        (any::<[u8; 16]>(), time(), answers).prop_map(|(session, last_used, answers)| {
            Image::Session {
                session,
                last_used,
                answers,
            }
        }),
    ]
}

fn rate_image() -> impl Strategy<Value = RateImage> {
    let arrival = || (time(), any::<u64>());
    let keys = vec((proptest::option::of(name()), arrival()), 0..4);
    (name(), arrival(), keys).prop_map(|(method, arrival, keys)| RateImage {
        method,
        arrival,
        keys,
    })
}

pub(super) fn any_task_image() -> impl Strategy<Value = TaskImage> {
    let event = (
        time(),
        state(),
        any::<u32>(),
        select(CAUSES.to_vec()),
        of(name()),
    )
        .prop_map(|(at, state, attempt, cause, worker)| TimelineEvent {
            at,
            state,
            attempt,
            cause,
            worker,
        });
    let life = (
        state(),
        any::<u32>(),
        any::<u32>(),
        any::<u64>(),
        of(name()),
    );
    let times = (time(), time(), time());
    let end = (stored(), of(failure()), any::<bool>(), vec(event, 0..4));
    (new_task(stored().boxed()), life, times, end).prop_map(|(task, life, times, end)| TaskImage {
        task,
        created_at: times.0,
        state: life.0,
        attempt: life.1,
        backoff_step: life.2,
        token: Token(life.3),
        worker: life.4,
        key_until: times.1,
        ended_at: times.2,
        response: end.0,
        failure: end.1,
        dead_letter: end.2,
        events: end.3,
    })
}
