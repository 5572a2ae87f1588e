//! Commands of a scheduler are done in its own epoch only.

use crate::harness::*;
use bytes::Bytes;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;

const TAG: ReplyTag = ReplyTag(7);

fn lead(h: &mut Harness) -> u64 {
    let put = Command::KvPut {
        tag: TAG,
        key: name(LEADER_KEY),
        value: Bytes::new(),
        expected: None,
    };
    match h.apply(put).pop() {
        Some(Effect::Reply {
            reply: Reply::Version(epoch),
            ..
        }) => epoch,
        other => panic!("{other:?}"),
    }
}

fn write(h: &mut Harness, epoch: u64) -> Vec<Effect> {
    let put = Command::KvPut {
        tag: TAG,
        key: name("k"),
        value: Bytes::new(),
        expected: None,
    };
    h.apply(Command::Fenced {
        tag: TAG,
        epoch,
        command: Box::new(put),
    })
}

fn is_fenced(effects: &[Effect], by: u64) -> bool {
    matches!(effects, [Effect::Reply { tag: TAG, reply: Reply::Fenced(current) }] if *current == by)
}

#[test]
fn a_command_is_done_in_the_present_epoch_only() {
    let mut h = Harness::new();
    let old = lead(&mut h);
    assert!(!is_fenced(&write(&mut h, old), old));
    let kept = h.partition.kv_get("k");
    let new = lead(&mut h);
    assert!(is_fenced(&write(&mut h, old), new));
    assert_eq!(h.partition.kv_get("k"), kept);
    assert!(!is_fenced(&write(&mut h, new), new));
    assert_ne!(h.partition.kv_get("k"), kept);
}

#[test]
fn an_epoch_of_another_data_directory_is_refused() {
    let mut h = Harness::new();
    assert!(is_fenced(&write(&mut h, 5), 0));
}
