//! Nonsense in, no panic out: records that do not fit, commands about tasks that do not exist, values at the edges.

use crate::harness::*;
use bytes::Bytes;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::image::{Image, RateImage, TaskImage};
use plait_broker_core::policy::{Limits, MethodPolicy, Rate};
use plait_broker_core::record::*;
use plait_broker_core::{Partition, Step};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Any number, the edges more often than chance would have them.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..3, Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()]
}

fn id() -> impl Strategy<Value = TaskId> {
    prop_oneof![9 => 0u64..8, 1 => number()].prop_map(TaskId)
}

fn ids() -> impl Strategy<Value = Vec<TaskId>> {
    vec(id(), 0..5)
}

fn token() -> impl Strategy<Value = Token> {
    prop_oneof![0u64..5, (0u64..4).prop_map(|n| 1 << 40 | n), number()].prop_map(Token)
}

fn time() -> impl Strategy<Value = Millis> {
    prop_oneof![START..START + 5_000, number()]
}

fn text() -> impl Strategy<Value = std::sync::Arc<str>> {
    prop_oneof!["", "w1", "w2", "orders", "/shop.v1.Orders/Charge", "/x"].prop_map(Into::into)
}

fn blob() -> impl Strategy<Value = Blob> {
    prop_oneof![
        Just(Blob::default()),
        Just(Blob::resident(Bytes::from_static(b"bytes"))),
        (number(), any::<u32>()).prop_map(|(at, len)| Blob::stored(at, len)),
    ]
}

fn child_key() -> impl Strategy<Value = ChildKey> {
    prop_oneof![
        text().prop_map(ChildKey::Named),
        (0u128..3, 0u32..2).prop_map(|(digest, nth)| ChildKey::Nth(digest, nth)),
    ]
}

fn new_task() -> impl Strategy<Value = NewTask> {
    let keys = (
        proptest::option::of(text()),
        proptest::option::of(text()),
        proptest::option::of(text()),
        proptest::option::of((id(), child_key())),
    );
    (
        id(),
        text(),
        any::<u8>(),
        time(),
        time(),
        keys,
        blob(),
        blob(),
    )
        .prop_map(
            |(id, method, priority, start_at, expire_at, keys, request, envelope)| NewTask {
                id,
                method,
                priority,
                start_at,
                expire_at,
                idempotency_key: keys.0,
                ordering_key: keys.1,
                limit_key: keys.2,
                flags: flags_of(keys.3.as_ref()),
                parent: keys.3,
                digest: 1,
                request,
                envelope,
            },
        )
}

/// Some children tell of feature flags, some of the same ones.
fn flags_of(parent: Option<&(TaskId, ChildKey)>) -> Bytes {
    match parent {
        Some((TaskId(number), _)) if number % 3 > 0 => Bytes::from(vec![*number as u8 % 3]),
        _ => Bytes::new(),
    }
}

fn limited(policy: MethodPolicy) -> MethodPolicy {
    let rate = Rate {
        starts: 3,
        period_ms: 1_000,
        burst: 2,
    };
    let limits = Limits {
        rate: Some(rate),
        rate_by_key: true,
        running_max: 2,
        running_per_key_max: 1,
        fair_by_key: false,
    };
    MethodPolicy { limits, ..policy }
}

fn state() -> impl Strategy<Value = TaskState> {
    (0usize..10).prop_map(|at| {
        [
            TaskState::Scheduled,
            TaskState::Ready,
            TaskState::Running,
            TaskState::Backoff,
            TaskState::Suspended,
            TaskState::Parked,
            TaskState::Succeeded,
            TaskState::Failed,
            TaskState::Cancelled,
            TaskState::Expired,
        ][at]
    })
}

fn task_image() -> impl Strategy<Value = TaskImage> {
    let numbers = (any::<u32>(), any::<u32>(), token(), time(), time());
    (
        new_task(),
        time(),
        state(),
        numbers,
        proptest::option::of(text()),
        blob(),
        any::<bool>(),
    )
        .prop_map(
            |(task, created_at, state, numbers, worker, response, dead_letter)| TaskImage {
                task,
                created_at,
                state,
                attempt: numbers.0,
                backoff_step: numbers.1,
                token: numbers.2,
                worker,
                key_until: numbers.3,
                ended_at: numbers.4,
                response,
                failure: dead_letter.then(Failure::default),
                dead_letter,
                events: Vec::new(),
            },
        )
}

fn image() -> impl Strategy<Value = Image> {
    let answers = vec((number(), vec(number(), 0..4)), 0..4);
    prop_oneof![
        4 => vec(task_image(), 0..4).prop_map(Image::Tasks),
        1 => (text(), (time(), any::<u64>()), proptest::option::of(text())).prop_map(
            |(method, arrival, key)| Image::Rate(RateImage {
                method,
                arrival,
                keys: vec![(key, arrival)],
            })
        ),
        1 => (0u64..100, number(), time())
            .prop_map(|(next_task, kv_version, time)| Image::Counters { next_task, kv_version, time }),
        1 => (time(), answers).prop_map(|(last_used, answers)| Image::Session {
            session: SESSION,
            last_used,
            answers: answers
                .into_iter()
                .map(|(n, tasks)| (n, Acceptance { tasks, ..Acceptance::default() }))
                .collect(),
        }),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let start = (id(), token(), any::<u32>()).prop_map(|(task, token, attempt)| Start {
        task,
        token,
        attempt,
    });
    let cause = prop_oneof![
        Just(ReturnCause::HandedBack),
        Just(ReturnCause::BrokerRestarted),
        Just(ReturnCause::ChildEnded)
    ];
    prop_oneof![
        4 => (vec(new_task(), 0..6), number()).prop_map(|(tasks, n)| Record::Submitted {
            session: Some((SESSION, n)),
            acceptance: Acceptance { tasks: vec![n, n.wrapping_add(1)], ..Acceptance::default() },
            tasks,
        }),
        4 => (text(), vec(start, 0..5)).prop_map(|(worker, starts)| Record::Started { worker, starts }),
        2 => vec((id(), blob()), 0..5).prop_map(|tasks| Record::Succeeded { tasks }),
        1 => (id(), time(), any::<u32>()).prop_map(|(task, ready_at, backoff_step)| {
            Record::Retried { task, failure: Failure::default(), ready_at, backoff_step }
        }),
        1 => (ids(), cause).prop_map(|(tasks, cause)| Record::Returned { tasks, cause }),
        1 => ids().prop_map(|tasks| Record::Suspended { tasks }),
        1 => (id(), any::<bool>()).prop_map(|(task, dead_letter)| {
            Record::Failed { task, failure: Failure::default(), dead_letter }
        }),
        1 => (id(), text()).prop_map(|(task, reason)| Record::Cancelled { task, reason }),
        1 => ids().prop_map(|tasks| Record::Expired { tasks, cause: ExpiryCause::WhileRunning }),
        1 => vec((id(), time()), 0..4).prop_map(|tasks| Record::Redriven { tasks }),
        1 => ids().prop_map(|tasks| Record::Dropped { tasks }),
        1 => text().prop_map(|queue| Record::QueuePaused { reason: queue.clone(), queue }),
        1 => text().prop_map(|queue| Record::QueueResumed { queue }),
        1 => (text(), number()).prop_map(|(key, version)| {
            Record::KvPut { key, value: Bytes::new(), version }
        }),
        2 => image().prop_map(Record::Image),
    ]
}

fn submit_task() -> impl Strategy<Value = SubmitTask> {
    let parent = proptest::option::of((id(), token(), proptest::option::of(text())));
    let numbers = (
        number(),
        proptest::option::of(number()),
        proptest::option::of(any::<u8>()),
    );
    (
        text(),
        proptest::option::of(text()),
        proptest::option::of(text()),
        parent,
        numbers,
    )
        .prop_map(
            |(method, idempotency_key, ordering_key, parent, numbers)| SubmitTask {
                method,
                request: Bytes::from_static(b"r"),
                digest: 1,
                idempotency_key,
                ordering_key,
                limit_key: None,
                options: Some(Box::new(SubmitOptions {
                    delay_ms: numbers.0,
                    deadline_ms: numbers.1,
                    priority: numbers.2,
                    parent,
                    ..SubmitOptions::default()
                })),
            },
        )
}

fn command() -> impl Strategy<Value = Command> {
    let conn = || (0u64..4).prop_map(ConnId);
    let lease = || vec((id(), token()), 0..4);
    let sequence = || prop_oneof![0u64..5, number()];
    let tag = ReplyTag(1);
    prop_oneof![
        4 => (conn(), sequence(), vec(submit_task(), 0..5)).prop_map(|(conn, sequence, tasks)| {
            let origin = SubmitOrigin::Session { conn, session: SESSION, sequence };
            Command::Submit(Submit { origin, await_results: true, tasks })
        }),
        1 => conn().prop_map(|conn| Command::SessionOpened { conn, session: SESSION }),
        1 => conn().prop_map(|conn| Command::SessionClosed { conn }),
        1 => (conn(), ids(), ids(), proptest::option::of((id(), token()))).prop_map(
            |(conn, tasks, forget, parent)| Command::Await { conn, tasks, forget, parent }
        ),
        3 => (conn(), text(), vec(text(), 0..3), any::<u32>(), lease()).prop_map(
            |(conn, worker, methods, slots, held)| Command::WorkerAttached(WorkerAttach {
                version: "".into(),
                conn, worker, methods, slots: slots % 64, held,
            })
        ),
        1 => conn().prop_map(|conn| Command::WorkerDetached { conn, reason: name("") }),
        2 => (conn(), number()).prop_map(|(conn, sequence)| Command::WorkerAccepted { conn, sequence }),
        3 => (conn(), vec((id(), token(), any::<bool>(), any::<u32>()), 0..4)).prop_map(|(conn, all)| {
            let outcomes = all.into_iter().map(|(task, token, good, code)| Outcome {
                task,
                token,
                result: if good { Ok(Bytes::new()) } else { Err((status(code), Some(u64::from(code)))) },
            });
            Command::Outcomes { conn, sequence: 1, outcomes: outcomes.collect() }
        }),
        1 => (conn(), lease()).prop_map(|(conn, leases)| Command::HandBack { conn, leases }),
        1 => (conn(), lease()).prop_map(|(conn, leases)| Command::Suspend { conn, leases }),
        1 => (conn(), any::<u32>()).prop_map(|(conn, slots)| Command::WorkerResized { conn, slots: slots % 64 }),
        1 => id().prop_map(move |task| Command::Cancel { tag, task, reason: name("") }),
        1 => ids().prop_map(move |tasks| Command::Redrive { tag, tasks, archived: BTreeMap::new(), dry_run: false }),
        1 => (conn(), id()).prop_map(|(conn, task)| Command::Watch { conn, task }),
        1 => conn().prop_map(|conn| Command::Unwatch { conn }),
        1 => (text(), any::<u32>()).prop_map(move |(worker, window)| {
            Command::SetWindows { tag, windows: vec![(worker, window)] }
        }),
        1 => (text(), any::<Option<u32>>(), any::<u64>()).prop_map(move |(method, permits, valid_ms)| {
            Command::SetGates { tag, gates: vec![Gate { method, permits, valid_ms }] }
        }),
        1 => (text(), any::<Option<u32>>(), any::<u64>()).prop_map(move |(worker, permits, valid_ms)| {
            Command::SetWorkerGates { tag, gates: vec![WorkerGate { worker, permits, valid_ms }] }
        }),
        1 => Just(()).prop_map(move |()| Command::AwaitFailures { tag }),
        3 => Just(()).prop_map(|()| Command::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_records_and_any_commands_are_survived(
        records in vec((record(), time()), 0..40),
        commands in vec((command(), time()), 0..60),
    ) {
        let mut partition = Partition::new(config());
        let policies = vec![limited(policy(METHOD)), policy(OTHER)];
        partition.replay(Record::PoliciesApplied { policies }, START);
        for (record, time) in records {
            partition.replay(record, time);
        }
        partition.recovered(START);
        for (command, now) in commands {
            let mut step = Step::default();
            partition.apply(command, now, now, &mut step);
            partition.dispatch(now, now, &mut step);
            partition.place(now);
            partition.next_timer();
        }
        let image: Vec<Record> = partition.image(START).collect();
        let mut restored = Partition::new(config());
        for record in image {
            restored.replay(record, START);
        }
        restored.recovered(START);
        partition.queues();
        partition.take_figures(START);
        partition.tasks_before(TaskId(u64::MAX), 10, 100, &|_| true);
    }
}

#[test]
fn a_request_that_claims_the_end_of_all_offsets_is_survived() {
    for envelope in [
        Blob::default(),
        Blob::stored(3, 5),
        Blob::resident(Bytes::from_static(b"e")),
    ] {
        let mut partition = Partition::new(config());
        let policies = vec![limited(policy(METHOD))];
        partition.replay(Record::PoliciesApplied { policies }, START);
        let task = NewTask {
            id: TaskId(1),
            method: name(METHOD),
            priority: 4,
            start_at: START,
            expire_at: START + 1_000,
            idempotency_key: None,
            ordering_key: None,
            limit_key: None,
            parent: None,
            flags: Bytes::new(),
            digest: 1,
            request: Blob::stored(u64::MAX - 1, 5),
            envelope,
        };
        let submitted = Record::Submitted {
            session: None,
            acceptance: Acceptance::default(),
            tasks: vec![task],
        };
        partition.replay(submitted, START);
        partition.recovered(START);
        assert_eq!(
            partition
                .tasks_before(TaskId(u64::MAX), 10, 100, &|_| true)
                .0
                .len(),
            1
        );
    }
}
