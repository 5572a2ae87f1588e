//! Results of campaigns as records, and records as a report for people.

use crate::campaign::{Record, Totals};
use crate::check::Invariant;
use crate::points::Point;
use std::fmt::Write;

/// The record of a run of seeds. `stamp` is the day and the commit.
#[must_use]
pub fn of_run(totals: &Totals, from: u64, seconds: f64, stamp: (&str, &str)) -> Record {
    let reached = Point::ALL.len() - totals.points.missing().count();
    let (power, kills) = (
        totals.points.count(Point::PowerLost),
        totals.points.count(Point::ProcessKilled),
    );
    let injected: u64 = [
        Point::WriteFailed,
        Point::NoSpace,
        Point::SyncFailed,
        Point::ReadFailed,
        Point::DirFailed,
    ]
    .into_iter()
    .map(|point| totals.points.count(point))
    .sum();
    Record {
        campaign: "simulation of core, journal, log and recovery".to_owned(),
        invariants: Invariant::ALL
            .into_iter()
            .filter(|invariant| *invariant != Invariant::History)
            .map(|invariant| invariant.name().to_owned())
            .chain([
                "I16 a failed sync is fatal".to_owned(),
                "I18 clock steps".to_owned(),
            ])
            .collect(),
        tried: totals.seeds,
        violations: totals.failed.len() as u64,
        unit: "seeds".to_owned(),
        seeds: Some([from, from + totals.seeds.saturating_sub(1)]),
        seconds,
        date: stamp.0.to_owned(),
        commit: stamp.1.to_owned(),
        notes: format!(
            "{} tasks, {} attempts, {} broker crashes ({power} power losses, {kills} kills), {} worker crashes, \
             {injected} disk errors, {} checks; {reached} of {} named places reached; at most {} virtual ms from the \
             last fault to rest",
            totals.tasks,
            totals.attempts,
            totals.crashes,
            totals.worker_crashes,
            totals.checks,
            Point::ALL.len(),
            totals.rest_ms_max,
        ),
    }
}

/// The record of a hunt for mutants.
#[cfg(feature = "mutants")]
#[must_use]
pub fn of_mutants(
    rows: &[crate::mutants::Row],
    from: u64,
    seconds: f64,
    stamp: (&str, &str),
) -> Record {
    let survivors = rows.iter().filter(|row| row.found.is_none()).count() as u64;
    let found = |row: &crate::mutants::Row| match &row.found {
        Some((seed, what)) => format!("{} (seed {seed} of {}: {what})", row.name, row.tried),
        None => format!("{} SURVIVED {} seeds", row.name, row.tried),
    };
    let most = rows.iter().map(|row| row.tried).max().unwrap_or(0);
    Record {
        campaign: "deliberate bugs in the real code".to_owned(),
        invariants: vec!["the simulation finds what it must".to_owned()],
        tried: rows.len() as u64,
        violations: survivors,
        unit: "mutants".to_owned(),
        seeds: Some([from, from + most.saturating_sub(1)]),
        seconds,
        date: stamp.0.to_owned(),
        commit: stamp.1.to_owned(),
        notes: rows.iter().map(found).collect::<Vec<_>>().join("; "),
    }
}

/// Records as a table and, below, their notes.
#[must_use]
pub fn markdown(records: &[Record]) -> String {
    let mut text = String::new();
    let head = "| campaign | tried | violations | seeds | took | date | commit |\n|---|---|---|---|---|---|---|\n";
    text.push_str(head);
    for record in records {
        let seeds = record
            .seeds
            .map_or_else(String::new, |[from, to]| format!("{from} to {to}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} {} | {} | {seeds} | {:.0} s | {} | {} |",
            record.campaign,
            record.tried,
            record.unit,
            record.violations,
            record.seconds,
            record.date,
            record.commit
        );
    }
    for record in records {
        let invariants = record.invariants.join(", ");
        let _ = writeln!(
            text,
            "\n**{}** ({invariants}): {}.",
            record.campaign, record.notes
        );
    }
    text
}
