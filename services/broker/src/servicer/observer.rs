//! The scheduler's stream: what happens, figures in their time, and early ones when attempts begin to fail.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream;
use plait::pb::control::v1 as pb;
use plait::pb::control::v1::observe_response::Event;
use plait::pb::v1::ErrorReason;
use plait_broker_core::command::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep, sleep_until};
use tonic::{Code, Status};

use super::Context;
use super::figures;
use super::hub::Hub;
use crate::partition::CallError;
use crate::status::Refused;

/// How often figures come when nothing else is asked for.
pub(super) const FIGURES_INTERVAL: Duration = Duration::from_secs(1);

/// Early figures come at least so long after the ones before: however attempts fail, telling of it costs little.
const EARLY_AFTER: Duration = Duration::from_millis(50);

/// When figures come.
#[derive(Debug)]
pub(super) struct Figures {
    interval: Duration,
    ticks: Interval,
    early: bool,
    /// When the last ones were taken.
    taken: Instant,
}

impl Figures {
    /// Every `interval`, and in between if `early`.
    pub(super) fn new(interval: Duration, early: bool) -> Self {
        let taken = Instant::now();
        let mut ticks = tokio::time::interval_at(taken + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            interval,
            ticks,
            early,
            taken,
        }
    }
}

/// What the observer of this number is sent.
pub(super) fn stream(
    context: Context,
    events: mpsc::Receiver<pb::ObserveResponse>,
    figures: Figures,
    number: u64,
) -> impl Stream<Item = Result<pb::ObserveResponse, Status>> + Send {
    let hub = Arc::clone(&context.hub);
    let failing = figures.early.then(|| failing(&context, figures.taken));
    let observer = Observer {
        context,
        events,
        figures,
        failing,
        _seat: Seat { hub, number },
    };
    stream::unfold(Some(observer), async |observer| observer?.next().await)
}

/// Being the scheduler, as long as it lives.
struct Seat {
    hub: Arc<Hub>,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.observer_gone(self.number);
    }
}

/// What is polled for events.
struct Observer {
    context: Context,
    events: mpsc::Receiver<pb::ObserveResponse>,
    figures: Figures,
    /// Done when early figures are due; None: they are not wanted.
    failing: Option<BoxFuture<'static, ()>>,
    _seat: Seat,
}

impl Observer {
    async fn next(mut self) -> Option<(Result<pb::ObserveResponse, Status>, Option<Self>)> {
        let failing = async {
            match &mut self.failing {
                Some(failing) => failing.await,
                None => pending().await,
            }
        };
        let early = tokio::select! {
            biased;
            event = self.events.recv() => {
                let Some(event) = event else {
                    let message = "another scheduler observes, or this one did not read";
                    let code = Code::Aborted;
                    let status = Refused::new(code, ErrorReason::StateConflict, message).into();
                    return Some((Err(status), None));
                };
                return Some((Ok(event), Some(self)));
            }
            _ = self.figures.ticks.tick() => false,
            () = failing => true,
        };
        match self.take(early).await {
            Ok(event) => Some((Ok(event), Some(self))),
            Err(stopped) => Some((Err(stopped), None)),
        }
    }

    async fn take(&mut self, early: bool) -> Result<pb::ObserveResponse, Status> {
        let now = Instant::now();
        let since = std::mem::replace(&mut self.figures.taken, now);
        let taken = self.context.partition.query(move |p, now| match early {
            true => p.take_early_figures(),
            false => p.take_figures(now),
        });
        let interval = if early {
            now - since
        } else {
            self.figures.interval
        };
        let told = figures::message(taken.await?, interval, early);
        if early {
            self.failing = Some(failing(&self.context, now));
        }
        let event = Some(Event::Figures(told));
        Ok(pb::ObserveResponse { event })
    }
}

/// Done when attempts fail that no figures told of, and the last figures are old enough. Never, where the partition is
/// down: that ends the stream.
fn failing(context: &Context, taken: Instant) -> BoxFuture<'static, ()> {
    let partition = context.partition.clone();
    Box::pin(async move {
        loop {
            let wait = |tag| Command::AwaitFailures { tag };
            match partition.call(0, wait).await {
                Ok(_) => break,
                Err(CallError::Overloaded) => sleep(FIGURES_INTERVAL).await,
                Err(_) => pending().await,
            }
        }
        sleep_until(taken + EARLY_AFTER).await;
    })
}
