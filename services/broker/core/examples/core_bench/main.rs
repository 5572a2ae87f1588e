//! What a task costs in the state machine alone: `cargo run --release -p plait-broker-core --example core_bench`.
//!
//! One thread, frames of 128. It prints nanoseconds of processor time a task for tasks that are handed out
//! at once, for tasks that wait
//! in a backlog first, for replay and for recovery, and the memory that a waiting task takes.

mod cases;
mod rig;

use cases::{at_once, backlog, finished, flow, idle, limits, memory, priorities, shares, splits};
use rig::Shape;

fn main() {
    let tasks: u64 = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(1_000_000);
    let plain = Shape::default();
    let traced = Shape {
        envelope: true,
        ..plain
    };
    let keyed = Shape {
        idempotency: true,
        ..plain
    };
    let ordered = Shape {
        ordering: true,
        ..plain
    };
    match std::env::args().nth(2).as_deref() {
        Some("limits") => limits(tasks),
        Some("priorities") => priorities(tasks),
        Some("shares") => shares(tasks),
        Some("splits") => splits(tasks),
        Some("memory") => memory("plain", plain, tasks),
        Some("memory-finished") => finished("plain", plain, u64::MAX, tasks),
        Some("memory-finished-keyed") => finished("with key", keyed, u64::MAX, tasks),
        Some("memory-archived") => finished("plain, archived", plain, 250_000, tasks),
        Some("memory-archived-keyed") => finished("with key, archived", keyed, 250_000, tasks),
        Some("memory-keyed") => memory("with idempotency key", keyed, tasks),
        Some("memory-traced") => memory("with envelope", traced, tasks),
        _ => {
            at_once("at once: plain", plain, tasks);
            at_once("at once: with envelope", traced, tasks);
            at_once("at once: with idempotency key", keyed, tasks);
            at_once("at once: with ordering key (10,000)", ordered, tasks);
            priorities(tasks);
            shares(tasks);
            limits(tasks);
            splits(tasks);
            backlog("backlog: plain", plain, tasks);
            flow(10_000);
            flow(100_000);
            idle();
        }
    }
}
