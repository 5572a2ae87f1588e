//! The broker's work at the disk, on the simulation's one thread: each time it is woken it takes a while.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use plait_broker::threads::{Ended, Errand, Threads, Work};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use crate::dice::Dice;

/// No threads at all.
#[derive(Debug)]
pub(super) struct NoThreads {
    dice: Mutex<Dice>,
    /// Mean time at the disk, ms.
    mean: u64,
}

impl NoThreads {
    pub(super) fn new(dice: Dice, mean: u64) -> Self {
        Self {
            dice: Mutex::new(dice),
            mean,
        }
    }

    fn dice(&self) -> Dice {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        Dice::new(dice.number(), 0)
    }
}

impl Threads for NoThreads {
    fn start(&self, _: &'static str, work: Work) -> io::Result<Ended> {
        let (done, ended) = oneshot::channel();
        let slow = Slow {
            work,
            dice: self.dice(),
            mean: self.mean,
            wait: None,
        };
        tokio::spawn(async move {
            slow.await;
            // Whoever started it may be gone.
            let _ = done.send(());
        });
        Ok(ended)
    }

    fn run(&self, errand: Errand) {
        let wait = span(&mut self.dice(), self.mean);
        tokio::spawn(async move {
            sleep(wait).await;
            errand();
        });
    }

    fn may_block(&self) -> bool {
        false
    }
}

fn span(dice: &mut Dice, mean: u64) -> Duration {
    Duration::from_millis(if mean == 0 { 0 } else { dice.span(mean) })
}

/// Work that goes on a while after it was woken.
struct Slow {
    work: Work,
    dice: Dice,
    mean: u64,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Future for Slow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let (dice, mean) = (&mut this.dice, this.mean);
        let wait = this
            .wait
            .get_or_insert_with(|| Box::pin(sleep(span(dice, mean))));
        ready!(wait.as_mut().poll(cx));
        this.wait = None;
        this.work.as_mut().poll(cx)
    }
}
