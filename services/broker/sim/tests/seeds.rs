//! The same seed is the same world, in this process and in another; and some seeds hold.

use std::process::Command;

use plait_broker_sim::{campaign, world};

fn trace_of_a_process(seed: u64) -> String {
    let replay = Command::new(env!("CARGO_BIN_EXE_plait-sim"))
        .args(["replay", &seed.to_string()])
        .output()
        .expect("plait-sim runs");
    let text = String::from_utf8(replay.stdout).expect("text");
    let (_, after) = text.rsplit_once("trace ").expect("a trace is told");
    after[..16].to_owned()
}

#[test]
fn the_same_seed_is_the_same_trace_in_every_process() {
    for seed in [3, 92, 3265] {
        let trace = format!("{:016x}", world::run(seed).hash);
        assert_eq!(trace, trace_of_a_process(seed), "seed {seed}");
        assert_eq!(trace, trace_of_a_process(seed), "seed {seed}, once more");
    }
    assert_ne!(world::run(3).hash, world::run(4).hash);
}

/// Seeds that found bugs, and the first ones.
#[test]
fn seeds_hold() {
    let found = [92, 830, 1244, 1378, 3265, 3792, 12701, 13190, 14308];
    for seed in found {
        let outcome = world::run(seed);
        assert!(
            outcome.violations.is_empty(),
            "{seed}: {:?}",
            outcome.violations
        );
    }
    let seeds = campaign::Seeds {
        from: 1,
        count: 60,
        threads: 2,
        keep_going: true,
        layer: campaign::Layer::Core,
    };
    let totals = campaign::run(&seeds, None, &mut |_| {});
    assert!(totals.failed.is_empty(), "{:?}", totals.failed);
    assert!(totals.crashes > 60 && totals.checks > 10_000);
}
