//! Feature flags: who is told of them, by which key a task reads them, and what a flow that is run again has read.

use crate::harness::*;
use bytes::Bytes;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const FLOW: &str = "/shop.v1.Orders/Settle";
const CHILD: &str = "/shop.v1.Orders/Charge";
const CHILDREN: ConnId = ConnId(3);
const TAG: ReplyTag = ReplyTag(7);

fn harness() -> Harness {
    let mut h = Harness::with_policies(config(), vec![policy(FLOW), policy(CHILD)]);
    h.attach(WORKER, "flows", &[FLOW], 2);
    h.attach(CHILDREN, "children", &[CHILD], 100);
    h
}

fn set(h: &mut Harness, key: &str, value: &'static [u8]) -> Vec<Effect> {
    h.apply(Command::KvPut {
        tag: TAG,
        key: name(key),
        value: Bytes::from_static(value),
        expected: None,
    })
}

fn delete(h: &mut Harness, key: &str) -> Vec<Effect> {
    let (tag, key, expected) = (TAG, name(key), None);
    h.apply(Command::KvDelete { tag, key, expected })
}

/// Who is told what of which flag.
fn told(effects: &[Effect]) -> Vec<(ConnId, String, Option<Bytes>)> {
    let change = |effect: &Effect| match effect {
        Effect::FlagChanged { conn, name, value } => Some((*conn, name.to_string(), value.clone())),
        _ => None,
    };
    effects.iter().filter_map(change).collect()
}

/// The flags of a welcome.
fn welcomed(effects: &[Effect]) -> Vec<(String, Bytes)> {
    let welcome = |effect: &Effect| match effect {
        Effect::WorkerWelcome { flags, .. } => Some(flags.clone()),
        _ => None,
    };
    let flags = effects.iter().find_map(welcome).expect("a welcome");
    let flag = |(name, value): (Arc<str>, Bytes)| (name.to_string(), value);
    flags.into_iter().map(flag).collect()
}

#[test]
fn every_attached_worker_is_told_of_a_change_and_of_nothing_else() {
    let mut h = harness();
    let value = Some(Bytes::from_static(b"on"));
    let both =
        |value: Option<Bytes>| [WORKER, CHILDREN].map(|conn| (conn, "a".to_owned(), value.clone()));
    assert_eq!(told(&set(&mut h, "flags/a", b"on")), both(value));
    assert_eq!(told(&set(&mut h, "flagship", b"on")), []);
    assert_eq!(told(&delete(&mut h, "flags/a")), both(None));
    assert_eq!(told(&delete(&mut h, "flags/a")), [], "there was none");
}

#[test]
fn a_worker_that_attaches_learns_all_flags_also_after_a_restart() {
    let mut h = harness();
    set(&mut h, "flags/b", b"2");
    set(&mut h, "flags/a", b"1");
    set(&mut h, "flags/c", b"3");
    delete(&mut h, "flags/b");
    h.restart();
    let effects = h.attach(WORKER, "flows", &[FLOW], 2);
    let flag = |name: &str, value| (name.to_owned(), Bytes::from_static(value));
    assert_eq!(welcomed(&effects), [flag("a", b"1"), flag("c", b"3")]);
}

#[test]
fn a_change_is_told_before_what_is_handed_out_after_it() {
    let mut h = harness();
    let mut effects = set(&mut h, "flags/a", b"on");
    effects.extend(h.submit_one(task(FLOW)).1);
    let at = |is: &dyn Fn(&Effect) -> bool| effects.iter().position(is);
    let change = at(&|e| matches!(e, Effect::FlagChanged { conn: WORKER, .. }));
    let attempt = at(&|e| matches!(e, Effect::Attempts { conn: WORKER, .. }));
    assert!(change.is_some() && change < attempt);
}

fn extra(attempt: &Attempt) -> AttemptExtra {
    attempt.extra.as_deref().cloned().unwrap_or_default()
}

fn call(parent: &Attempt, digest: u128, flags: &'static [u8]) -> SubmitTask {
    let mut task = child(CHILD, digest, (parent.task, parent.token), None);
    if let Some(options) = &mut task.options {
        options.flags = Bytes::from_static(flags);
    }
    task
}

fn flow(h: &mut Harness) -> Attempt {
    let parent = attempt(&h.submit_one(task(FLOW)).1, WORKER);
    assert!(extra(&parent).flags.is_empty());
    parent
}

fn rerun(h: &mut Harness, parent: &Attempt) -> Attempt {
    let failure = Err((status(UNAVAILABLE), Some(1)));
    h.outcome(WORKER, parent.task, parent.token, failure);
    attempt(&h.advance(1), WORKER)
}

fn read(attempt: &Attempt) -> Vec<Vec<u8>> {
    let mut read: Vec<Vec<u8>> = extra(attempt).flags.iter().map(|f| f.to_vec()).collect();
    read.sort();
    read
}

#[test]
fn a_flow_that_is_run_again_has_read_what_its_children_tell() {
    let mut h = harness();
    let first = flow(&mut h);
    h.submit(vec![
        call(&first, 1, b""),
        call(&first, 2, b"x"),
        call(&first, 3, b"x"),
    ]);
    let second = rerun(&mut h, &first);
    assert_eq!(read(&second), [b"x"], "each reading once");
    // A child that is found again is as it was recorded.
    h.submit(vec![call(&second, 1, b"y"), call(&second, 4, b"xz")]);
    let third = rerun(&mut h, &second);
    assert_eq!(read(&third), [&b"x"[..], b"xz"]);
}

#[test]
fn what_a_flow_has_read_survives_a_restart_from_log_and_from_snapshot() {
    for snapshot in [false, true] {
        let mut h = harness();
        let first = flow(&mut h);
        h.submit(vec![call(&first, 1, b"x")]);
        if snapshot {
            h.image();
        }
        h.restart();
        h.attach(CHILDREN, "children", &[CHILD], 100);
        let mut effects = h.attach(WORKER, "flows", &[FLOW], 2);
        for _ in 0..10 {
            effects.extend(h.advance(60_000));
        }
        let again = attempts(&effects, WORKER).pop().expect("it is run again");
        assert_eq!(
            (again.task, read(&again)),
            (first.task, vec![b"x".to_vec()])
        );
    }
}

#[test]
fn a_redriven_flow_keeps_what_the_children_that_it_keeps_tell() {
    let mut h = harness();
    let parent = flow(&mut h);
    let calls = vec![call(&parent, 1, b"x"), call(&parent, 2, b"xy")];
    let children = attempts(&h.submit(calls), CHILDREN);
    h.succeed(CHILDREN, &children[0]);
    h.fail(CHILDREN, &children[1], INVALID_ARGUMENT);
    h.fail(WORKER, &parent, INVALID_ARGUMENT);
    let redrive = Command::Redrive {
        tag: TAG,
        tasks: vec![parent.task],
        archived: BTreeMap::new(),
        dry_run: false,
    };
    let again = attempt(&h.apply(redrive), WORKER);
    assert_eq!(read(&again), [b"x"]);
}

#[test]
fn a_child_without_keys_reads_by_the_key_of_its_flow() {
    let mut h = harness();
    let keyless = flow(&mut h);
    let effects = h.submit(vec![call(&keyless, 1, b"")]);
    let silent = extra(&attempt(&effects, CHILDREN));
    assert_eq!(silent.flag_key, None, "without flags nobody asks");
    set(&mut h, "flags/a", b"on");
    let effects = h.submit(vec![call(&keyless, 2, b"")]);
    let of_id = extra(&attempt(&effects, CHILDREN)).flag_key;
    assert_eq!(of_id, Some(keyless.task.to_string().into()));
    let keyed = keyed(FLOW, "order-7", 1);
    let keyed = attempt(&h.submit_one(keyed).1, WORKER);
    assert_eq!(extra(&keyed).flag_key, None, "its own key says it");
    let mut own = call(&keyed, 2, b"");
    own.ordering_key = Some(name("customer-1"));
    let children = attempts(&h.submit(vec![call(&keyed, 1, b""), own]), CHILDREN);
    let keys: Vec<_> = children.iter().map(|child| extra(child).flag_key).collect();
    assert_eq!(keys, [Some(name("order-7")), None]);
}
