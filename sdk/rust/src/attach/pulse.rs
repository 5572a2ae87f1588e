//! Whether the broker still lives.

use super::HEARTBEAT;
use crate::pb::v1::WorkerWelcome;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior};
use tonic::Status;

/// The broker's signs of life. Ticks and not time are counted: after a handler that held up this thread, the broker
/// has not been silent, but was not listened to.
#[derive(Debug)]
pub(super) struct Pulse {
    ticks: Interval,
    pub(super) silent: u32,
}

impl Pulse {
    /// Ticks a heartbeat interval.
    const TICKS: u32 = 2;

    pub(super) fn new(interval: Duration) -> Self {
        let mut ticks = tokio::time::interval(interval / Self::TICKS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, silent: 0 }
    }

    /// Waits for a tick; an error after three intervals without a message.
    pub(super) async fn tick(&mut self) -> Result<(), Status> {
        self.ticks.tick().await;
        self.silent += 1;
        match self.silent {
            silent if silent > 3 * Self::TICKS => Err(Status::unavailable("the broker is silent")),
            _ => Ok(()),
        }
    }
}

/// The heartbeat interval that the broker wants.
pub(super) fn interval(welcome: &WorkerWelcome) -> Duration {
    let told = welcome
        .heartbeat_interval
        .and_then(|told| Duration::try_from(told).ok());
    told.filter(|told| !told.is_zero())
        .unwrap_or(HEARTBEAT)
        .max(Duration::from_millis(20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn three_intervals_of_silence_are_an_error() {
        let mut pulse = Pulse::new(Duration::from_secs(1));
        for _ in 0..6 {
            pulse.tick().await.expect("not yet");
        }
        assert!(pulse.tick().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_starts_the_count_anew() {
        let mut pulse = Pulse::new(Duration::from_secs(1));
        for _ in 0..20 {
            pulse.tick().await.expect("the broker spoke");
            pulse.silent = 0;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_was_held_up_is_no_silence() {
        let mut pulse = Pulse::new(Duration::from_secs(1));
        pulse.tick().await.expect("the first");
        tokio::time::advance(Duration::from_secs(60)).await;
        pulse.tick().await.expect("one tick, however late");
    }

    #[test]
    fn an_interval_that_is_none_is_the_default() {
        let interval = |told: Option<Duration>| {
            let heartbeat_interval = told.and_then(|told| told.try_into().ok());
            super::interval(&WorkerWelcome {
                heartbeat_interval,
                ..Default::default()
            })
        };
        assert_eq!(interval(None), HEARTBEAT);
        assert_eq!(interval(Some(Duration::ZERO)), HEARTBEAT);
        assert_eq!(
            interval(Some(Duration::from_secs(2))),
            Duration::from_secs(2)
        );
        assert_eq!(
            interval(Some(Duration::from_nanos(1))),
            Duration::from_millis(20)
        );
    }
}
