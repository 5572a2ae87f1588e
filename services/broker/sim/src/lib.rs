//! Deterministic simulation of the broker's state machine, log and recovery, and the checker of histories.

pub mod campaign;
pub mod check;
mod dice;
mod disk;
pub mod history;
pub mod mesh;
pub mod mutants;
mod plan;
pub mod points;
pub mod report;
pub mod world;
