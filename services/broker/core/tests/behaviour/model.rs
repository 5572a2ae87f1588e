//! Random worlds against a simple model: clients, workers that crash and lie, flows, a broker that crashes at
//! any record, and clocks that jump. A ledger judges every record; the world judges every effect.
//!
//! `PLAIT_MODEL_SEEDS=1000:500` runs seeds 1000 to 1499 instead of the default ones; a failure prints its seed.

mod ledger;
mod policies;
mod random;
mod world;

use world::World;

fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("PLAIT_MODEL_SEEDS").unwrap_or_else(|_| "1:120".to_owned());
    let (first, count) = text.split_once(':').expect("FIRST:COUNT");
    let first = first.parse().expect("a number");
    first..first + count.parse::<u64>().expect("a number")
}

#[test]
fn random_worlds_keep_every_promise() {
    for seed in seeds() {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..400 {
                world.act();
            }
            world.heal();
            world.forget();
        });
        if let Err(cause) = outcome {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(cause);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_log() {
    let run = |seed| {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.act();
        }
        format!("{:?}", world.log())
    };
    for seed in [3, 7] {
        assert_eq!(run(seed), run(seed));
    }
}
