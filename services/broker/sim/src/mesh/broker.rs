//! The broker's process: all of it but its sockets, its disk and its threads.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use plait_broker::config::Settings;
use plait_broker::entropy::Entropy;
use plait_broker::partition::Surroundings;
use plait_broker::server::{self, Signals};
use plait_broker_core::ids::Millis;
use plait_broker_log::sim::SimDisk;
use plait_broker_log::{FileLog, FileLogOptions};
use tokio::sync::watch;
use tonic::service::Routes;

use super::net;
use super::plan::Plan;
use super::story::Shared;
use super::threads::NoThreads;
use crate::check::Invariant;
use crate::dice::Dice;
use crate::disk::{Seen, Watched};
use crate::history::Event;

/// What outlives a process.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) seed: u64,
    pub(super) plan: Plan,
    pub(super) disk: SimDisk,
    pub(super) seen: Arc<Seen>,
    pub(super) story: Shared,
}

impl Machine {
    /// The process ended by itself, for which there must be a cause.
    fn ended(&self, errors: u32, text: String) {
        let injected = self.seen.errors() > errors || self.disk.is_off();
        self.story.with(|story| {
            if !injected {
                let text = format!("the broker ended, and nothing is wrong with its disk: {text}");
                story.wrong(Invariant::AckedIsKept, text);
            }
            story.ended = Some(text);
        });
    }
}

/// One life of the broker. It never returns: whoever runs it ends it.
pub(super) async fn run(machine: Machine, life: u64) -> turmoil::Result {
    let errors = machine.seen.errors();
    let ended = live(&machine, life).await;
    machine.ended(errors, ended.err().unwrap_or_default());
    pending().await
}

async fn live(machine: &Machine, life: u64) -> Result<(), String> {
    let plan = &machine.plan;
    machine.story.with(super::story::Story::new_life);
    let options = FileLogOptions {
        segment_bytes: 32 * 1024,
        first_segment_bytes: 8 * 1024,
        background: false,
        spares_max: 2,
        ..FileLogOptions::default()
    };
    let disk = Watched::mount(&machine.disk, &machine.seen);
    let log = FileLog::open_on(disk, options).map_err(|error| error.to_string())?;
    let dice = Dice::new(machine.seed, 100 + life);
    let surroundings = Surroundings {
        test_kit: false,
        threads: Arc::new(NoThreads::new(dice, plan.disk_time)),
        wall,
        entropy: Entropy::seeded(machine.seed.wrapping_add(life << 32)),
        witness: Some(Arc::new(machine.story.clone())),
    };
    let settings = Settings {
        resident_bytes_max: plan.resident_bytes_max,
        snapshot_bytes: plan.snapshot_bytes,
        finished_in_memory: plan.finished_in_memory,
        reattach_grace: Duration::from_millis(plan.reattach_grace),
        ..Settings::default()
    };
    let connections = net::listen().await.map_err(|error| error.to_string())?;
    let (_signal, signals) = Signals::by_hand();
    let (process, errors) = (machine.clone(), machine.seen.errors());
    let (_open, never) = watch::channel(false);
    let serve = move |routes: Routes, mut closing: watch::Receiver<bool>| {
        let routes = net::dated(routes);
        process.story.tell(Event::Restart {
            what: "broker".into(),
            broker_at: None,
        });
        async move {
            // A process that ends takes its connections with it: they close when the host is crashed, at once.
            let closed = async {
                let _ = closing.wait_for(|closed| *closed).await;
                process.ended(errors, "its log failed".to_owned());
                pending::<()>().await;
            };
            let mut serving = pin!(server::serve(connections, routes, never));
            tokio::select! {
                biased;
                served = &mut serving => served,
                () = closed => Ok(()),
            }
        }
    };
    let running = server::run_in(&settings, Box::new(log), surroundings, signals, serve);
    running.await.map_err(|error| error.to_string())
}

/// The wall clock, ms.
fn wall() -> Millis {
    let since = turmoil::since_epoch().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}
