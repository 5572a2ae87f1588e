//! The pure state machine of one partition: commands in, records and effects out.
//!
//! It reads no clock, no randomness, no socket and no file; time and entropy are arguments. It knows no
//! wire types and never reads a payload. The shell makes the records durable and only then carries
//! out the effects.
//!
//! # How it is built
//! - `state` is what records tell, and what follows from it. It changes by taking records in, in life as in
//!   replay. Ready lists, ordering lines, timers and counts are derived; after replay they are built once.
//! - `live` ends with the process: streams, windows, who waits for what, what the run of a flow asked for.
//! - `decide` makes records of commands and of time, takes them in, and sees to what follows.
//!
//! # What was decided
//! - **Attempts.** An attempt that was handed back, suspended, or cut off by a restart of the broker does not
//!   count: the next start has its number again. A worker that vanished costs those an attempt that
//!   it accepted, or that it had a slot for and may have begun: one that ends its worker's process does so before
//!   it is accepted. They are repeated by the ordinary backoff whatever codes are retried: the failure says
//!   nothing about the task.
//! - **AT_MOST_ONCE** fails with ABORTED whenever its worker is lost, accepted or not: what was sent may have begun.
//! - **Restart.** Leases wait `reattach_grace_ms` for a worker of the same id that brings them along. A flow
//!   with children is never taken up again in the middle: it runs anew and finds them.
//! - **Ordering.** A task takes its place when it is accepted, delayed or not. Places go by number, also for
//!   tasks that are run again; one with attempts behind it keeps the head.
//! - **Keys.** A task is kept until its retention and the window of its key are over, so both are forgotten together.
//! - **Flows.** A call that may have diverged is held, and the submissions of its session behind it, before
//!   anything is recorded. A failed flow that is run again keeps children that succeeded or still run; others
//!   are asked for anew.
//! - **Limits.** A key has at most one task of each priority in its method's ready list; the others wait in a line of
//!   its own, so a dispatch never looks at what is held, and keys take turns. What began and what runs follows from
//!   the log: no crash lets more begin.
//! - **Priorities** are strict, but for one of 16 starts that could have been a lower one's: no task waits for ever.
//!   The count is live, by class of workers; a restart begins it anew.
//! - **Retention** of a plain finished task ends by seconds, so it may stay 1.024 s longer.

pub mod command;
pub mod effect;
pub mod ids;
pub mod image;
pub mod metrics;
#[doc(hidden)]
pub mod mutant;
pub mod policy;
pub mod record;
pub mod split;
pub mod weight;

mod decide;
mod live;
mod partition;
mod rate;
mod state;
mod tag;

pub use decide::Busy;
pub use partition::{
    Config, Figures, LostAttempts, MethodFigures, Partition, QueueFigures, SideFigures,
    SplitFigures, Step, WorkerFigures, WorkerSaid,
};
