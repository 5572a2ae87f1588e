//! `plait-sim`: runs simulated worlds, replays one, and checks histories.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use plait_broker::clock::monotonic;
use plait_broker_sim::campaign::{self, Layer, Record, Seeds, Totals};
use plait_broker_sim::{check, history, report};

/// Deterministic simulation of the broker, and the checker of histories.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds.
    Run(Run),
    /// Run one seed again and tell what happened.
    Replay(Replay),
    /// Check a history: one JSON object a line.
    Check {
        /// The file; `-` is standard input.
        file: PathBuf,
    },
    /// Turn each deliberate bug on in turn, until a seed finds it.
    #[cfg(feature = "mutants")]
    Mutants(Mutants),
    /// Write a report from the results of campaigns.
    Report {
        /// Results, as `--result` writes them.
        results: Vec<PathBuf>,
    },
}

#[derive(Args)]
struct Run {
    /// What is simulated.
    #[arg(long, value_enum, default_value = "core")]
    layer: Layer,
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Stop after so many seconds, even with seeds left.
    #[arg(long)]
    time: Option<u64>,
    /// Go on after a violation.
    #[arg(long)]
    keep_going: bool,
    /// Fail when a named place was not reached.
    #[arg(long)]
    all_points: bool,
    /// Write the result of the campaign to this file.
    #[arg(long)]
    result: Option<PathBuf>,
    /// The commit, for the result.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The day, for the result.
    #[arg(long, default_value = "unknown")]
    date: String,
}

#[derive(Args)]
struct Replay {
    /// What is simulated.
    #[arg(long, value_enum, default_value = "core")]
    layer: Layer,
    /// The seed.
    seed: u64,
    /// Print every entry of the history.
    #[arg(long, short)]
    verbose: bool,
    /// Of the history only what concerns this task, as `t0000000000000007`.
    #[arg(long)]
    task: Option<String>,
    /// Write the history to this file.
    #[arg(long)]
    history: Option<PathBuf>,
}

#[cfg(feature = "mutants")]
#[derive(Args)]
struct Mutants {
    /// What is simulated.
    #[arg(long, value_enum, default_value = "core")]
    layer: Layer,
    /// Seeds for each at most.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Run all seeds with each, to tell in how many it is found.
    #[arg(long)]
    keep_going: bool,
    /// Only those whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Write the result of the campaign to this file.
    #[arg(long)]
    result: Option<PathBuf>,
    /// The commit, for the result.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The day, for the result.
    #[arg(long, default_value = "unknown")]
    date: String,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(run) => run_seeds(&run),
        Command::Replay(again) => replay(&again),
        Command::Check { file } => check_file(&file),
        #[cfg(feature = "mutants")]
        Command::Mutants(mutants) => run_mutants(&mutants),
        Command::Report { results } => write_report(&results),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(io::stderr(), "plait-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_seeds(run: &Run) -> Result<bool> {
    // A seed that panics is reported as such; its backtrace comes with `replay`.
    std::panic::set_hook(Box::new(|_| {}));
    let seeds = Seeds {
        from: run.from,
        count: run.seeds,
        threads: run.threads,
        keep_going: run.keep_going,
        layer: run.layer,
    };
    let started = monotonic();
    let mut told = Duration::ZERO;
    let mut out = io::stdout().lock();
    let mut shown = 0;
    let totals = campaign::run(&seeds, run.time.map(Duration::from_secs), &mut |totals| {
        let passed = started.elapsed();
        if totals.failed.len() > shown {
            shown = totals.failed.len();
            let seeds: Vec<&u64> = totals.failed.keys().collect();
            let _ = writeln!(out, "failed so far: {seeds:?}");
        }
        if passed >= told + Duration::from_secs(10) {
            told = passed;
            let line = progress(totals, passed);
            let _ = writeln!(out, "{line}");
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    write!(out, "{}", totals.text(run.layer, seconds))?;
    for failed in totals.failed.values().take(20) {
        writeln!(out, "seed {}: {}", failed.seed, failed.texts[0])?;
        let layer = run.layer.name();
        writeln!(
            out,
            "  replay: plait-sim replay {} --layer {layer} --verbose",
            failed.seed
        )?;
    }
    let missing: Vec<&str> = totals.points.missing().map(|point| point.name()).collect();
    if run.all_points && !missing.is_empty() {
        writeln!(out, "never reached: {missing:?}")?;
    }
    if let Some(path) = &run.result {
        let record = report::of_run(
            run.layer,
            &totals,
            (run.from, seconds),
            (&run.date, &run.commit),
        );
        write_json(path, &record)?;
    }
    let all = !run.all_points || missing.is_empty();
    Ok(totals.failed.is_empty() && all)
}

fn progress(totals: &Totals, passed: Duration) -> String {
    format!(
        "{:>6.0} s: {} seeds, {} tasks, {} attempts, {} crashes, {} checks, {} failed",
        passed.as_secs_f64(),
        totals.seeds,
        totals.tasks,
        totals.attempts,
        totals.crashes,
        totals.checks,
        totals.failed.len()
    )
}

fn replay(again: &Replay) -> Result<bool> {
    let mut out = io::stdout().lock();
    let outcome = again.layer.run(again.seed);
    if let Some(path) = &again.history {
        let mut file = BufWriter::new(create(path)?);
        history::write(&outcome.history, &mut file)?;
        file.flush()?;
    }
    for entry in &outcome.history {
        let line = serde_json::to_string(entry)?;
        let wanted = again
            .task
            .as_ref()
            .is_none_or(|task| line.contains(task.as_str()));
        if again.verbose && wanted {
            writeln!(out, "{line}")?;
        }
    }
    for violation in &outcome.violations {
        writeln!(out, "{violation}")?;
    }
    writeln!(
        out,
        "seed {}: {} entries, {} tasks, {} attempts, {} crashes, trace {:016x}, {} violations",
        again.seed,
        outcome.history.len(),
        outcome.tasks,
        outcome.attempts,
        outcome.crashes,
        outcome.hash,
        outcome.violations.len()
    )?;
    Ok(outcome.violations.is_empty())
}

fn check_file(path: &PathBuf) -> Result<bool> {
    let entries = if path.as_os_str() == "-" {
        history::read(io::stdin().lock())?
    } else {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        history::read(BufReader::new(file))?
    };
    let report = check::check(&entries);
    let mut out = io::stdout().lock();
    for violation in &report.violations {
        writeln!(out, "{violation}")?;
    }
    writeln!(
        out,
        "{} entries, {} tasks, {} attempts, {} violations",
        entries.len(),
        report.tasks,
        report.attempts,
        report.violations.len()
    )?;
    for (invariant, count) in &report.checks {
        writeln!(out, "{count:>10}  {}", invariant.name())?;
    }
    Ok(report.violations.is_empty())
}

#[cfg(feature = "mutants")]
fn run_mutants(wanted: &Mutants) -> Result<bool> {
    use plait_broker_sim::mutants;
    std::panic::set_hook(Box::new(|_| {}));
    let started = monotonic();
    let mut out = io::stdout().lock();
    writeln!(out, "{}", mutants::HEAD)?;
    let mut rows = Vec::new();
    for mutant in mutants::all() {
        if !mutant.name().contains(&wanted.only) || !mutant.is_in(wanted.layer) {
            continue;
        }
        let seeds = Seeds {
            from: wanted.from,
            count: wanted.seeds,
            threads: wanted.threads,
            keep_going: wanted.keep_going,
            layer: wanted.layer,
        };
        let row = mutants::hunt(mutant, &seeds);
        writeln!(out, "{row}")?;
        out.flush()?;
        rows.push(row);
    }
    let survivors = rows.iter().filter(|row| row.found.is_none()).count();
    writeln!(out, "{} mutants, {survivors} survived", rows.len())?;
    if let Some(path) = &wanted.result {
        let seconds = started.elapsed().as_secs_f64();
        let record = report::of_mutants(
            wanted.layer,
            &rows,
            (wanted.from, seconds),
            (&wanted.date, &wanted.commit),
        );
        write_json(path, &record)?;
    }
    Ok(survivors == 0)
}

fn write_report(results: &[PathBuf]) -> Result<bool> {
    let mut records: Vec<Record> = Vec::new();
    for path in results {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let record = serde_json::from_reader(BufReader::new(file));
        records.push(record.with_context(|| format!("reading {}", path.display()))?);
    }
    io::stdout()
        .lock()
        .write_all(report::markdown(&records).as_bytes())?;
    Ok(records.iter().all(|record| record.violations == 0))
}

fn write_json(path: &PathBuf, record: &Record) -> Result<()> {
    let mut file = create(path)?;
    serde_json::to_writer_pretty(&mut file, record)?;
    writeln!(file)?;
    Ok(())
}

fn create(path: &PathBuf) -> Result<File> {
    File::create(path).with_context(|| format!("creating {}", path.display()))
}
