//! What metrics tell of a partition. Sums begin with the process and are in no record: they tell of a process's
//! work, and start at 0 again in the next one.

use crate::effect::{HeldBy, TaskState};
use crate::ids::Millis;
use std::sync::Arc;

/// Sizes that spans are told apart by: up to 1 ms, 2 ms, 4 ms and so on to 2^21 ms (35 minutes), and longer ones.
const BUCKETS: usize = 23;

/// States of tasks that are not final, in the order of [`QueueMetrics::depth`].
pub const UNFINISHED: [TaskState; 6] = [
    TaskState::Scheduled,
    TaskState::Ready,
    TaskState::Running,
    TaskState::Backoff,
    TaskState::Suspended,
    TaskState::Parked,
];

/// Final states, in the order of [`MethodMetrics::ended`].
pub const FINAL: [TaskState; 4] = [
    TaskState::Succeeded,
    TaskState::Failed,
    TaskState::Cancelled,
    TaskState::Expired,
];

/// Spans of time, counted by their size.
#[derive(Debug, Clone, Default)]
pub struct Spans {
    counts: [u64; BUCKETS],
    sum_ms: u64,
}

impl Spans {
    /// Counts one.
    pub(crate) fn count(&mut self, ms: Millis) {
        // The number of the smallest power of two that is not below it.
        let bits = u64::BITS - ms.saturating_sub(1).leading_zeros();
        self.counts[(bits as usize).min(BUCKETS - 1)] += 1;
        self.sum_ms = self.sum_ms.saturating_add(ms);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum += count;
        }
        self.sum_ms = self.sum_ms.saturating_add(other.sum_ms);
    }

    /// How many there were of at most so many milliseconds, by ascending bound; without a bound: all.
    pub fn up_to(&self) -> impl Iterator<Item = (Option<Millis>, u64)> + '_ {
        let bound = |at: usize| (at + 1 < BUCKETS).then(|| 1 << at);
        let mut sum = 0;
        self.counts.iter().enumerate().map(move |(at, count)| {
            sum += count;
            (bound(at), sum)
        })
    }

    /// All of them together, ms.
    pub fn sum_ms(&self) -> u64 {
        self.sum_ms
    }
}

/// Why the lease of an attempt ended before its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// The attempt took longer than its policy allows.
    AttemptTimedOut,
    /// Its worker went away.
    WorkerLost,
    /// Its worker did not come back after a restart of the broker.
    BrokerRestarted,
}

impl LeaseEnd {
    /// Every reason, in the order of [`MethodMetrics::leases_expired`].
    pub const ALL: [Self; 3] = [
        Self::AttemptTimedOut,
        Self::WorkerLost,
        Self::BrokerRestarted,
    ];
}

/// What a method's gate says of its breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Any number of attempts may begin.
    Closed,
    /// Probes may.
    HalfOpen,
    /// None may.
    Open,
}

/// A partition, as metrics tell of it.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Queues by name.
    pub queues: Vec<QueueMetrics>,
    /// Methods by path, all routes of one together.
    pub methods: Vec<MethodMetrics>,
    /// Attached workers.
    pub workers: u64,
    /// Those of them whose gates let them have no attempts, or only some.
    pub workers_gated: u64,
    /// Attempts that they offer to hold.
    pub slots: u64,
    /// Attempts that they hold, suspended flows not counted.
    pub in_flight: u64,
    /// Tasks in memory.
    pub tasks_in_memory: u64,
    /// Bytes of payloads in memory.
    pub resident_bytes: u64,
    /// Living archive files.
    pub archives: u64,
    /// Tasks in them.
    pub archived_tasks: u64,
}

/// A queue, as metrics tell of it.
#[derive(Debug, Clone)]
pub struct QueueMetrics {
    /// Its name.
    pub queue: Arc<str>,
    /// Tasks by state, in the order of [`UNFINISHED`].
    pub depth: [u64; UNFINISHED.len()],
    /// Dead letters.
    pub dead_letters: u64,
    /// Age of the oldest task that is READY or PARKED, ms; 0: there is none.
    pub oldest_ms: u64,
    /// Whether it is paused.
    pub paused: bool,
}

/// A method, as metrics tell of it.
#[derive(Debug, Clone)]
pub struct MethodMetrics {
    /// Full path.
    pub method: Arc<str>,
    /// Its queue.
    pub queue: Arc<str>,
    /// Its breaker, as its gate tells.
    pub breaker: BreakerState,
    /// READY tasks that limits hold, in the order of [`HeldBy::ALL`]; `None`: it has no limits.
    pub held: Option<[u64; HeldBy::ALL.len()]>,
    /// Tasks that were accepted.
    pub submitted: u64,
    /// Attempts that ended, by gRPC code.
    pub attempts: [u64; 17],
    /// Attempts that were put back for a retry.
    pub retried: u64,
    /// Dispatch to outcome of those attempts, ms, summed.
    pub busy_ms: u64,
    /// Tasks that ended, in the order of [`FINAL`].
    pub ended: [u64; FINAL.len()],
    /// Leases that ended without an outcome, in the order of [`LeaseEnd::ALL`].
    pub leases_expired: [u64; LeaseEnd::ALL.len()],
    /// From when a task might start to its first start.
    pub waits: Spans,
    /// From acceptance to the end.
    pub durations: Spans,
}

#[cfg(test)]
mod tests {
    use super::Spans;

    #[test]
    fn a_span_is_counted_at_the_first_bound_that_is_not_below_it() {
        for (ms, bound) in [
            (0, Some(1)),
            (1, Some(1)),
            (2, Some(2)),
            (3, Some(4)),
            (4, Some(4)),
            (5, Some(8)),
            (1 << 21, Some(1 << 21)),
            ((1 << 21) + 1, None),
            (u64::MAX, None),
        ] {
            let mut spans = Spans::default();
            spans.count(ms);
            let first = spans.up_to().find(|(_, count)| *count == 1);
            assert_eq!(first.map(|(bound, _)| bound), Some(bound), "{ms} ms");
            assert_eq!(
                (spans.up_to().last(), spans.sum_ms()),
                (Some((None, 1)), ms)
            );
        }
    }

    #[test]
    fn bounds_are_doubled_and_counts_never_fall() {
        let (mut spans, mut more) = (Spans::default(), Spans::default());
        (0..10_000).for_each(|ms| spans.count(ms));
        more.count(3);
        spans.add(&more);
        let found: Vec<_> = spans.up_to().collect();
        assert_eq!(
            found[..4],
            [(Some(1), 2), (Some(2), 3), (Some(4), 6), (Some(8), 10)]
        );
        assert_eq!(found.len(), 23);
        assert!(found.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        assert_eq!(found[22], (None, 10_001));
    }
}
