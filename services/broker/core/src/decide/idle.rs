//! Whether something goes on that needs no time to pass: what a clock waits for before it is moved ahead.

use crate::effect::TaskState;
use crate::ids::Millis;
use crate::partition::Partition;
use crate::state::slab::NONE;
use std::sync::Arc;

/// What would go on although no time passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Busy {
    /// Attempts of this method run.
    Running(Arc<str>),
    /// Tasks of this method may start, and no attached worker serves it.
    Unserved(Arc<str>),
}

impl Partition {
    /// A method with something to do; none if whatever is left waits for a time, for a child, or for somebody who
    /// resumes a queue. Looks at every method.
    pub fn busy(&self, now: Millis) -> Option<Busy> {
        let methods = &self.state.methods;
        let classes = &self.live.workers.classes;
        methods.by_path.values().find_map(|number| {
            let method = methods.get(*number);
            if method.counted(TaskState::Running) > 0 {
                return Some(Busy::Running(Arc::clone(&method.path)));
            }
            let lists = [
                Some(*number),
                Some(method.second).filter(|second| *second != NONE),
            ];
            let waits = |list: &u32| {
                let waits = methods.may_start(*list) && methods.startable(*list, now) > 0;
                waits && !classes.serve(*list)
            };
            let unserved = lists.into_iter().flatten().any(|list| waits(&list));
            unserved.then(|| Busy::Unserved(Arc::clone(&method.path)))
        })
    }
}
