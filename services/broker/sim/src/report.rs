//! Results of campaigns as records, and records as a report for people.

use crate::campaign::{Layer, Record, Totals};
use crate::check::Invariant;
use crate::points::Point;
use std::fmt::Write;

/// The record of a run of seeds, from the first one on, which took so many seconds. `stamp` is the day and the commit.
#[must_use]
pub fn of_run(
    layer: Layer,
    totals: &Totals,
    (from, seconds): (u64, f64),
    stamp: (&str, &str),
) -> Record {
    let (campaign, others, notes) = match layer {
        Layer::Core => {
            let others = vec!["I16 a failed sync is fatal", "I18 clock steps"];
            (
                "simulation of core, journal, log and recovery",
                others,
                core_notes(totals),
            )
        }
        Layer::Mesh => {
            let others = vec!["I16 a failed sync is fatal"];
            (
                "simulation of the whole broker in a network",
                others,
                mesh_notes(totals),
            )
        }
    };
    let others = others.into_iter().map(ToString::to_string);
    Record {
        campaign: campaign.to_owned(),
        invariants: Invariant::ALL
            .into_iter()
            .filter(|invariant| *invariant != Invariant::History)
            .map(|invariant| invariant.name().to_owned())
            .chain(others)
            .collect(),
        tried: totals.seeds,
        violations: totals.failed.len() as u64,
        unit: "seeds".to_owned(),
        seeds: Some([from, from + totals.seeds.saturating_sub(1)]),
        seconds,
        date: stamp.0.to_owned(),
        commit: stamp.1.to_owned(),
        notes,
    }
}

fn core_notes(totals: &Totals) -> String {
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
    format!(
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
    )
}

fn mesh_notes(totals: &Totals) -> String {
    let counts = totals.counts.iter();
    let counts: Vec<String> = counts
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    format!(
        "{} tasks, {} attempts, {} broker crashes, {} checks; {}; at most {} virtual ms from the last fault to rest",
        totals.tasks,
        totals.attempts,
        totals.crashes,
        totals.checks,
        counts.join(", "),
        totals.rest_ms_max,
    )
}

/// The record of a hunt for mutants.
#[cfg(feature = "mutants")]
#[must_use]
pub fn of_mutants(
    layer: Layer,
    rows: &[crate::mutants::Row],
    (from, seconds): (u64, f64),
    stamp: (&str, &str),
) -> Record {
    let survivors = rows.iter().filter(|row| row.found.is_none()).count() as u64;
    let found = |row: &crate::mutants::Row| match &row.found {
        Some((seed, what)) if row.hits > 1 => {
            format!(
                "{} (seed {seed}, {} of {} seeds: {what})",
                row.name, row.hits, row.tried
            )
        }
        Some((seed, what)) => format!("{} (seed {seed} of {}: {what})", row.name, row.tried),
        None => format!("{} SURVIVED {} seeds", row.name, row.tried),
    };
    let most = rows.iter().map(|row| row.tried).max().unwrap_or(0);
    Record {
        campaign: match layer {
            Layer::Core => "deliberate bugs in the real code".to_owned(),
            Layer::Mesh => "deliberate bugs in the real code, in a network".to_owned(),
        },
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
