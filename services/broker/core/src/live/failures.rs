//! Who is to be told at once when attempts of a method begin to fail.

use crate::ids::ReplyTag;

/// Failures of a method since its figures were taken last that are worth early figures: as many as a worker's breaker
/// needs, and half of what a method's needs if its policy does not say.
pub(crate) const FAILURES_MIN: u64 = 10;

/// The share of failures among a method's outcomes is worth it from one in so many: below, hardly any breaker opens.
pub(crate) const SHARE: u64 = 4;

/// Whoever waits for failures, and whether there are some.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    waiting: Option<ReplyTag>,
    begun: bool,
}

impl Failures {
    /// Somebody waits in place of whoever waited before, who is given back.
    pub(crate) fn wait(&mut self, tag: ReplyTag) -> Option<ReplyTag> {
        self.waiting.replace(tag)
    }

    /// A method fails.
    pub(crate) fn begin(&mut self) {
        self.begun = true;
    }

    /// Figures are taken: what failed before is told.
    pub(crate) fn told(&mut self) {
        self.begun = false;
    }

    /// Whom to tell now.
    pub(crate) fn take_due(&mut self) -> Option<ReplyTag> {
        if self.begun {
            self.waiting.take()
        } else {
            None
        }
    }
}
