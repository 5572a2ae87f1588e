//! SIGTERM and SIGINT: the first drains, the second ends.

use tokio::sync::mpsc;

/// Where signals come from: the process's own, or a test.
#[derive(Debug)]
pub struct Signals {
    events: mpsc::Receiver<()>,
}

impl Signals {
    /// The signals of the process.
    pub fn of_process() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let (sender, events) = mpsc::channel(2);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if sender.send(()).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { events })
    }

    /// Signals that a sender gives.
    pub fn by_hand() -> (mpsc::Sender<()>, Self) {
        let (sender, events) = mpsc::channel(2);
        (sender, Self { events })
    }

    /// Waits for the next one; for ever when no more can come.
    pub(super) async fn next(&mut self) {
        if self.events.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
