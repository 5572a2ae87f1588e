//! What a seed is like: rates of work and faults are drawn once for each seed, so that some seeds know one kind of
//! trouble only, some all, and some none.

use crate::dice::Dice;
use crate::world::limits::Limiting;
use crate::world::steering::Steering;
use crate::world::weighing::Weighing;
use plait_broker_log::sim::Faults;

/// One seed's rates. Times are microseconds unless a name says otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// How long faults and new work go on.
    pub(crate) chaos: u64,
    pub(crate) clients: u64,
    pub(crate) workers: u64,
    /// Mean time between two acts of one client, operator, and of the faults.
    pub(crate) client_every: u64,
    pub(crate) operator_every: u64,
    pub(crate) fault_every: Option<u64>,
    /// Mean of a message's way, and of a sync.
    pub(crate) way: u64,
    pub(crate) sync: u64,
    /// Mean time of a handler.
    pub(crate) handler: u64,
    /// Tasks of a frame at most.
    pub(crate) frame: u64,
    /// Bytes of a request or response at most.
    pub(crate) payload: u64,
    /// Weights of the kinds of faults.
    pub(crate) crash: u64,
    pub(crate) power: u64,
    pub(crate) cut: u64,
    pub(crate) worker_fault: u64,
    pub(crate) disk_fault: u64,
    pub(crate) disk: Faults,
    /// Whether the wall clock steps at restarts.
    pub(crate) clock_steps: bool,
    /// Shares of a thousand.
    pub(crate) keyed: u64,
    pub(crate) ordered: u64,
    pub(crate) delayed: u64,
    pub(crate) hurried: u64,
    pub(crate) flows: u64,
    pub(crate) failing: u64,
    pub(crate) snapshots: u64,
    pub(crate) late_timers: u64,
    /// Limits of the state machine.
    pub(crate) resident_bytes_max: u64,
    pub(crate) frame_attempts_max: usize,
    pub(crate) queue_tasks_max: u64,
    pub(crate) finished_in_memory: u64,
    /// Whether finished tasks are soon forgotten, so that the log can let go of their payloads.
    pub(crate) brief: bool,
    pub(crate) limits: Limiting,
    pub(crate) steering: Steering,
    pub(crate) weighing: Weighing,
}

const MS: u64 = 1_000;

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let dice = &mut Dice::new(seed, 1);
        let quiet = dice.permille(60);
        // Enough payload to fill several of the regions by which the log lets go of them.
        let bulky = dice.permille(60);
        let chaos = dice.range(2_500, 8_000) * MS;
        let (steering, weighing) = (Steering::draw(seed), Weighing::draw(seed));
        // Weights show where more waits than can start.
        let (workers_max, client_every_max) = if weighing.is_on() { (1, 120) } else { (4, 400) };
        Self {
            chaos,
            clients: dice.range(1, 3),
            workers: dice.range(1, workers_max),
            client_every: dice.range(60, client_every_max) * MS,
            operator_every: dice.range(300, 2_500) * MS,
            fault_every: (!quiet).then(|| dice.range(120, 1_200) * MS),
            way: one_of(dice, &[100, 500, 3 * MS, 20 * MS]),
            sync: one_of(dice, &[100, MS, 10 * MS, 50 * MS]),
            handler: one_of(dice, &[MS, 20 * MS, 200 * MS, 800 * MS]),
            frame: one_of(dice, &[1, 4, 8]),
            payload: if bulky {
                120_000
            } else {
                one_of(dice, &[0, 40, 300])
            },
            crash: one_of(dice, &[0, 2, 6]),
            // A power cut is what may take a snapshot from a log that let go of all before it.
            power: if bulky { 10 } else { one_of(dice, &[0, 4, 10]) },
            cut: one_of(dice, &[0, 3, 8]),
            worker_fault: one_of(dice, &[0, 3, 8]),
            disk_fault: one_of(dice, &[0, 0, 2, 5]),
            disk: Self::disk_faults(dice),
            clock_steps: dice.permille(350),
            keyed: one_of(dice, &[0, 200, 500]),
            ordered: one_of(dice, &[0, 300, 700]),
            delayed: one_of(dice, &[0, 100, 400]),
            hurried: one_of(dice, &[0, 80, 300]),
            flows: one_of(dice, &[0, 60, 200]),
            failing: one_of(dice, &[0, 100, 300, 600]),
            snapshots: if bulky {
                60
            } else {
                one_of(dice, &[0, 5, 20, 60])
            },
            late_timers: one_of(dice, &[0, 100, 500]),
            resident_bytes_max: one_of(dice, &[0, 500, 1 << 20]),
            frame_attempts_max: one_of(dice, &[1, 5, 64]) as usize,
            queue_tasks_max: one_of(dice, &[12, 1_000, 1_000]),
            finished_in_memory: one_of(dice, &[3, 20, 1_000_000]),
            brief: bulky || dice.permille(200),
            limits: Limiting::draw(seed)
                .patient(steering.is_on())
                .weighed(weighing.is_on()),
            steering,
            weighing,
        }
    }

    fn disk_faults(dice: &mut Dice) -> Faults {
        let rate = one_of(dice, &[2, 10, 50]) as f64 / 1_000.0;
        let mut some = |share| if dice.permille(share) { rate } else { 0.0 };
        Faults {
            write_error: some(400),
            no_space: some(400),
            sync_error: some(500),
            read_error: some(150),
            dir_error: some(300),
            syncs_lie: false,
        }
    }
}

fn one_of(dice: &mut Dice, values: &[u64]) -> u64 {
    values[dice.below(values.len() as u64) as usize]
}
