//! How many direct calls of one method may be under way: a limit that learns (Gradient2).
//!
//! It follows the time that calls take, in windows: while they take no longer than they use to, it grows; when they
//! take longer, or are dropped, it shrinks. Calls over it wait in a line, first come first served, within their own
//! deadlines.

/// How the limit moves, and how long the line may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The first limit. Default 20.
    pub initial: u32,
    /// The lowest limit. Default 1.
    pub min: u32,
    /// The highest limit. Default 200.
    pub max: u32,
    /// What the limit may grow by in a window, before smoothing. Default 4.
    pub queue: u32,
    /// How much longer than usual calls may take before the limit shrinks, in permille. Default 1,500.
    pub tolerance_permille: u32,
    /// The share of a new limit in the next one, in permille. Default 200.
    pub smoothing_permille: u32,
    /// Windows that the usual time is an average of. Default 600.
    pub long_window: u32,
    /// Windows of the plain mean, before the average. Default 10.
    pub warmup: u32,
    /// The shortest window, in milliseconds. Default 1,000.
    pub window_ms: u64,
    /// Calls in a window, at least. Default 10.
    pub window_calls: u64,
    /// Calls in the line; one more is refused with RESOURCE_EXHAUSTED. Default 1,000.
    pub waiting_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            initial: 20,
            min: 1,
            max: 200,
            queue: 4,
            tolerance_permille: 1_500,
            smoothing_permille: 200,
            long_window: 600,
            warmup: 10,
            window_ms: 1_000,
            window_calls: 10,
            waiting_max: 1_000,
        }
    }
}
