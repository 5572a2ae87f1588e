//! What a seed of this layer is like: drawn once, as in the other.

use std::time::Duration;

use plait_broker_log::sim::Faults;

use crate::dice::Dice;
use crate::world::limits::Limiting;

/// One seed's rates. Times are milliseconds unless a name says otherwise.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// How long faults and new work go on.
    pub(super) chaos: u64,
    /// How finely hosts take turns, and the shortest way of a message.
    pub(super) tick: u64,
    /// The longest way of a message.
    pub(super) way: u64,
    /// Mean time at the disk.
    pub(super) disk_time: u64,
    pub(super) clients: usize,
    pub(super) workers: usize,
    /// Mean time between two acts of one client, the operator, and of the faults.
    pub(super) client_every: u64,
    pub(super) operator_every: u64,
    pub(super) fault_every: Option<u64>,
    /// Mean time of a handler.
    pub(super) handler: u64,
    /// Tasks of a frame at most, bytes of a payload at most.
    pub(super) frame: u64,
    pub(super) payload: u64,
    /// Weights of the kinds of faults.
    pub(super) crash: u64,
    pub(super) power: u64,
    pub(super) link: u64,
    pub(super) peer: u64,
    pub(super) disk_fault: u64,
    pub(super) disk: Faults,
    /// Shares of a thousand.
    pub(super) keyed: u64,
    pub(super) ordered: u64,
    pub(super) delayed: u64,
    pub(super) hurried: u64,
    pub(super) failing: u64,
    /// Limits of the broker.
    pub(super) resident_bytes_max: u64,
    pub(super) snapshot_bytes: u64,
    pub(super) finished_in_memory: u64,
    pub(super) reattach_grace: u64,
    /// Whether finished tasks are soon forgotten.
    pub(super) brief: bool,
    pub(super) limits: Limiting,
}

impl Plan {
    pub(super) fn draw(seed: u64) -> Self {
        let dice = &mut Dice::new(seed, 11);
        let quiet = dice.permille(60);
        Self {
            chaos: dice.range(3_000, 12_000),
            tick: one_of(dice, &[1, 4, 8, 8]),
            way: one_of(dice, &[2, 10, 60]),
            disk_time: one_of(dice, &[0, 2, 20, 60]),
            clients: dice.range(1, 3) as usize,
            workers: dice.range(1, 3) as usize,
            client_every: dice.range(60, 400),
            operator_every: dice.range(600, 3_000),
            fault_every: (!quiet).then(|| dice.range(200, 1_500)),
            handler: one_of(dice, &[1, 20, 200, 800]),
            frame: one_of(dice, &[1, 4, 8]),
            payload: one_of(dice, &[0, 40, 300, 9_000]),
            crash: one_of(dice, &[0, 2, 6]),
            power: one_of(dice, &[0, 4, 10]),
            link: one_of(dice, &[0, 3, 8]),
            peer: one_of(dice, &[0, 2, 6]),
            disk_fault: one_of(dice, &[0, 0, 2, 4]),
            disk: Self::disk_faults(dice),
            keyed: one_of(dice, &[0, 200, 500]),
            ordered: one_of(dice, &[0, 300, 700]),
            delayed: one_of(dice, &[0, 100, 400]),
            hurried: one_of(dice, &[0, 80, 300]),
            failing: one_of(dice, &[0, 100, 300, 600]),
            resident_bytes_max: one_of(dice, &[0, 500, 1 << 20]),
            snapshot_bytes: one_of(dice, &[2_000, 20_000, 1 << 20]),
            finished_in_memory: one_of(dice, &[3, 20, 1_000_000]),
            reattach_grace: one_of(dice, &[700, 3_000, 10_000]),
            brief: dice.permille(200),
            limits: Limiting::draw(seed),
        }
    }

    fn disk_faults(dice: &mut Dice) -> Faults {
        let rate = one_of(dice, &[2, 10, 50]) as f64 / 1_000.0;
        let mut some = |share| if dice.permille(share) { rate } else { 0.0 };
        // A failed read is told as a lost payload, which is another campaign's.
        Faults {
            write_error: some(400),
            no_space: some(400),
            sync_error: some(500),
            dir_error: some(300),
            ..Faults::default()
        }
    }

    pub(super) fn tick(&self) -> Duration {
        Duration::from_millis(self.tick)
    }
}

fn one_of(dice: &mut Dice, values: &[u64]) -> u64 {
    values[dice.below(values.len() as u64) as usize]
}
