//! The partition: the face of the state machine.

use crate::command::Command;
use crate::effect::{Effect, QueueView, TaskView};
use crate::ids::{ArchiveId, Millis, Offset, TaskId};
use crate::image::TaskImage;
use crate::live::Live;
use crate::live::splits::SPANS;
use crate::metrics::Metrics;
use crate::policy::MethodPolicy;
use crate::record::Record;
use crate::split::Split;
use crate::state::State;
use crate::weight::Weights;
use bytes::Bytes;
use std::ops::Bound;
use std::sync::Arc;

/// What one step led to.
#[derive(Debug, Default)]
pub struct Step {
    /// Facts to make durable, in order.
    pub records: Vec<Record>,
    /// What to do once they are.
    pub effects: Vec<Effect>,
}

/// Limits of a partition.
#[derive(Debug, Clone)]
pub struct Config {
    /// Of the log's owner; the upper part of every token.
    pub epoch: u64,
    /// Bytes of requests, responses and envelopes that may stay in memory. Beyond it, blobs live in the log only.
    pub resident_bytes_max: u64,
    /// Unfinished tasks of one queue beyond which submissions are refused.
    pub queue_tasks_max: u64,
    /// How long leases from before a restart wait for their worker, ms.
    pub reattach_grace_ms: u64,
    /// How long a flow's call that matches no record waits for another call before it counts as diverged, ms.
    pub divergence_grace_ms: u64,
    /// How long an idle session is remembered, ms.
    pub session_ttl_ms: u64,
    /// Finished tasks that stay in memory; beyond it the shell is told to move the oldest to archive files.
    pub finished_in_memory: u64,
    /// Attempts in one frame at most.
    pub frame_attempts_max: usize,
}

/// Figures since the last time they were taken.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Every attached worker.
    pub workers: Vec<WorkerFigures>,
    /// Every queue.
    pub queues: Vec<QueueFigures>,
    /// Every method with something to tell.
    pub methods: Vec<MethodFigures>,
    /// Workers that went away with attempts under way; at most 1000.
    pub lost: Vec<LostAttempts>,
    /// Every method whose service is split.
    pub splits: Vec<SplitFigures>,
}

/// Workers that figures tell were lost; more are not told.
pub(crate) const LOST_MAX: usize = 1000;

/// Tasks that figures name for one of them.
pub(crate) const LOST_TASKS_MAX: usize = 10;

/// Attempts that ended because their worker went away.
#[derive(Debug, Clone)]
pub struct LostAttempts {
    /// The worker's id.
    pub worker: Arc<str>,
    /// How many.
    pub attempts: u32,
    /// The first of their tasks; at most 10.
    pub tasks: Vec<TaskId>,
}

/// One worker.
#[derive(Debug, Clone)]
pub struct WorkerFigures {
    /// Its id.
    pub worker: Arc<str>,
    /// Its offer.
    pub slots: u32,
    /// Its window.
    pub window: u32,
    /// Unfinished attempts, suspended flows not counted.
    pub in_flight: u32,
    /// Suspended flows it keeps in memory.
    pub suspended: u32,
    /// Ended well.
    pub succeeded: u64,
    /// Failed.
    pub failed: u64,
    /// Dispatch to outcome, ms, summed.
    pub busy_ms: u64,
    /// What its attempts say of it.
    pub said: WorkerSaid,
}

/// What attempts say of a worker that began since its gate was set last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerSaid {
    /// The place of a method in the figures, and how many of its attempts say that the worker is well, or ill.
    pub methods: Vec<(u32, u64, u64)>,
    /// How many say nothing.
    pub nothing: u64,
    /// Attempts that its gate lets begin; `None`: there is none.
    pub permits: Option<u32>,
}

/// One queue.
#[derive(Debug, Clone)]
pub struct QueueFigures {
    /// Its name.
    pub queue: Arc<str>,
    /// May start.
    pub ready: u64,
    /// Run.
    pub running: u64,
    /// Wait for a time.
    pub waiting: u64,
    /// Age of the oldest READY task, ms.
    pub oldest_ready_ms: u64,
    /// Whether it is paused.
    pub paused: bool,
    /// Dead letters.
    pub dead_letters: u64,
    /// READY tasks that limits hold.
    pub held: u64,
}

/// One method.
#[derive(Debug, Clone)]
pub struct MethodFigures {
    /// Full path.
    pub method: Arc<str>,
    /// Submitted.
    pub submitted: u64,
    /// Attempts by gRPC code.
    pub outcomes: [u64; 17],
    /// Those of them that began since the method's gate was set last.
    pub fresh: [u64; 17],
    /// Attempts that may begin; `None`: any number.
    pub permits: Option<u32>,
    /// Put back for a retry.
    pub retried: u64,
    /// Dispatch to outcome, ms, summed.
    pub busy_ms: u64,
}

/// One method whose service is split.
#[derive(Debug, Clone)]
pub struct SplitFigures {
    /// Full path.
    pub method: Arc<str>,
    /// The version that has the share.
    pub version: Arc<str>,
    /// What its workers did.
    pub own: SideFigures,
    /// What workers of other versions did.
    pub others: SideFigures,
}

/// One side of a split.
#[derive(Debug, Clone)]
pub struct SideFigures {
    /// Workers that take tasks of the method; over several routes, of the one with the most.
    pub workers: u32,
    /// Attempts by gRPC code.
    pub outcomes: [u64; 17],
    /// Attempts that were lost with their workers; not among the outcomes.
    pub lost: u64,
    /// Dispatch to outcome, ms, summed.
    pub busy_ms: u64,
    /// Outcomes by the time from dispatch to outcome. Up to 7 ms a span is 1 ms; from there on four spans double the
    /// time: span n begins at (4 + n mod 4) << (n / 4 - 1) ms.
    pub spans: [u64; SPANS],
}

impl Default for SideFigures {
    fn default() -> Self {
        Self {
            workers: 0,
            outcomes: [0; 17],
            lost: 0,
            busy_ms: 0,
            spans: [0; SPANS],
        }
    }
}

/// The state machine of one partition.
///
/// What survives a crash changes through records only: [`apply`](Self::apply) and
/// [`dispatch`](Self::dispatch) decide on
/// records and take them in at once, and [`replay`](Self::replay) takes in the same ones later.
#[derive(Debug)]
pub struct Partition {
    pub(crate) config: Config,
    pub(crate) state: State,
    pub(crate) live: Live,
}

/// Tasks in one record of a snapshot that is taken at once.
const IMAGE_TASKS: usize = 256;

impl Partition {
    /// An empty partition whose places in tables are the same in every process: for tests and simulation.
    pub fn new(config: Config) -> Self {
        Self::seeded(config, 0)
    }

    /// An empty partition. The seed is to be unpredictable, since whoever submits chooses keys: with it nobody can find
    /// ones that fall upon one another. Nothing durable depends on it.
    pub fn seeded(config: Config, seed: u64) -> Self {
        let state = State::new(config.resident_bytes_max, seed);
        Self {
            config,
            state,
            live: Live::default(),
        }
    }

    /// Rebuilds state from a record read from the log or a snapshot. `time` is its frame's.
    pub fn replay(&mut self, record: Record, time: Millis) {
        self.state.evolve(&record, time);
    }

    /// To be called once after replay, before the first command: leases of before wait for their workers.
    pub fn recovered(&mut self, now: Millis) {
        self.recover(now);
    }

    /// To be called after [`recovered`](Self::recovered): goes on with the splits of `Command::SetSplits`.
    pub fn restore_splits(&mut self, splits: Vec<Split>, now: Millis) {
        let now = self.clock(now);
        self.enforce_splits(splits, now);
    }

    /// To be called after [`recovered`](Self::recovered), before anything is handed out: goes on with the weights of
    /// `Command::SetWeights`, of one method.
    pub fn restore_weights(&mut self, method: Arc<str>, weights: Weights, now: Millis) {
        let now = self.clock(now);
        self.enforce_weights((method, weights), now);
    }

    /// Takes one command. Adds to `step`.
    ///
    /// `now` must be the time of the frame that the step's records are written with: all commands of one frame are
    /// applied, and dispatched, at the same `now`, or replay would tell other times. `entropy` is 64 random bits.
    pub fn apply(&mut self, command: Command, now: Millis, entropy: u64, step: &mut Step) {
        self.decide(command, now, entropy, step);
    }

    /// Hands READY tasks to workers with room. To be called after the commands of a group. Adds to `step`.
    pub fn dispatch(&mut self, now: Millis, entropy: u64, step: &mut Step) {
        let now = self.clock(now);
        self.live.seed(entropy);
        self.sort_sides();
        self.assign(now, step);
        self.settle(step);
    }

    /// Tells where the blobs of the records since the last call were placed: they stand one after the other from
    /// `area`, in the order of the records, and inside one in the order of its fields
    /// (Submitted: request then envelope of each task; Succeeded: responses). Drops bytes beyond `resident_bytes_max`.
    pub fn place(&mut self, area: Offset) {
        self.state.place(area);
    }

    /// When `Command::Tick` is due next; at once if that is not after the present.
    pub fn next_timer(&self) -> Option<Millis> {
        self.next_instant()
    }

    /// A task.
    pub fn task(&self, id: TaskId) -> Option<TaskView> {
        self.state
            .tasks
            .seek(id)
            .map(|found| self.view_found(&found))
    }

    /// Tasks below `before` that `keep` accepts, newest first, at most `limit`, looking at no more than `scan` tasks;
    /// and where to go on, if there is more.
    pub fn tasks_before(
        &self,
        before: TaskId,
        limit: usize,
        scan: usize,
        keep: &dyn Fn(&TaskView) -> bool,
    ) -> (Vec<TaskView>, Option<TaskId>) {
        self.list_before(before, limit, scan, keep)
    }

    /// Queues by name.
    pub fn queues(&self) -> Vec<QueueView> {
        self.queue_views()
    }

    /// Unfinished attempts that attached workers hold, suspended flows not counted: what a drain waits for.
    pub fn in_flight(&self) -> u64 {
        let workers = &self.live.workers;
        let held = |number: &u32| u64::from(workers.slab[*number].in_flight());
        workers.by_id.values().map(held).sum()
    }

    /// Policies by method path.
    pub fn policies(&self) -> Vec<MethodPolicy> {
        let methods = &self.state.methods;
        methods
            .by_path
            .values()
            .map(|number| methods.policy(*number).clone())
            .collect()
    }

    /// The routes of a method that tasks were or are sent by: its path, and its path with "@" and a number.
    pub fn routes(&self, method: &str) -> Vec<Arc<str>> {
        let methods = &self.state.methods;
        let routes = methods.routes_of(method).iter();
        routes
            .filter(|list| methods.route_of(**list) == **list)
            .map(|route| Arc::clone(&methods.policy(*route).method))
            .collect()
    }

    /// The policy of a method, or of one of its routes.
    pub fn policy(&self, method: &str) -> Option<&MethodPolicy> {
        self.state
            .methods
            .find(method)
            .map(|number| self.state.methods.policy(number))
    }

    /// A key of the key-value space: value and version.
    pub fn kv_get(&self, key: &str) -> Option<(Bytes, u64)> {
        self.state.kv.entries.get(key).cloned()
    }

    /// Keys with a prefix, after `after`, in order.
    pub fn kv_list(&self, prefix: &str, after: &str, limit: usize) -> Vec<(Arc<str>, Bytes, u64)> {
        let from = if after < prefix {
            Bound::Included(prefix)
        } else {
            Bound::Excluded(after)
        };
        let range = self
            .state
            .kv
            .entries
            .range::<str, _>((from, Bound::Unbounded));
        range
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, (value, version))| (Arc::clone(key), value.clone(), *version))
            .collect()
    }

    /// Takes the figures.
    pub fn take_figures(&mut self, now: Millis) -> Figures {
        self.figures(now)
    }

    /// Takes only what breakers go by, when `Command::AwaitFailures` is answered; the next figures have the rest.
    pub fn take_early_figures(&mut self) -> Figures {
        self.early_figures()
    }

    /// What metrics tell. It takes nothing away, so anybody may ask, and looks at methods, queues and workers only.
    pub fn metrics(&self, now: Millis) -> Metrics {
        self.collect_metrics(now)
    }

    /// Chooses finished tasks to be moved to an archive file, if more are in memory than may be and none are on their
    /// way. Write what [`archive_part`](Self::archive_part) gives until it gives nothing, make the file durable,
    /// then say so by `Command::ArchiveWritten`.
    pub fn begin_archive(&mut self) -> Option<ArchiveId> {
        self.begin_archive_now()
    }

    /// The next `most` tasks for the archive file, ascending; none: these were all. Fewer than `most` may be given
    /// before the end.
    pub fn archive_part(&mut self, most: usize) -> Vec<TaskImage> {
        self.state.move_some(most)
    }

    /// The living archive files that may tell of a task. Read them only when [`task`](Self::task) knows nothing.
    pub fn archives_of(&self, id: TaskId) -> Vec<ArchiveId> {
        let files = self.state.archives.files.iter();
        let covering = files.filter(|(_, file)| file.covers(id));
        covering.map(|(archive, _)| *archive).collect()
    }

    /// All living archive files with the lowest and highest number in each.
    pub fn archives(&self) -> Vec<(ArchiveId, TaskId, TaskId)> {
        let files = self.state.archives.files.iter();
        files
            .map(|(archive, file)| (*archive, file.first, file.last))
            .collect()
    }

    /// A task as an archive file has it, as a reader sees it at `now`. A task that is in memory is told from there.
    /// None: it is in neither any more, because its retention is over or because the file is not alive.
    pub fn archived_task(
        &self,
        archive: ArchiveId,
        image: &TaskImage,
        now: Millis,
    ) -> Option<TaskView> {
        self.view_archived(archive, image, now)
    }

    /// The state as records, in batches, for a snapshot. Blobs are told by their place in the log; one that was not
    /// [placed](Self::place) yet comes with its bytes, and a restored one then has no place: take images after placing.
    ///
    /// It is taken in parts, and may be changed in between: what it tells is the state as it was when this was called.
    /// One that was begun before is given up.
    pub fn begin_image(&mut self, now: Millis) {
        self.state.begin_image(now);
    }

    /// The next record of the snapshot that was begun, with at most so many tasks; None: that was all.
    pub fn image_part(&mut self, most: usize) -> Option<Record> {
        self.state.image_part(most)
    }

    /// The whole of [`begin_image`](Self::begin_image) at once.
    pub fn image(&mut self, now: Millis) -> impl Iterator<Item = Record> + '_ {
        self.begin_image(now);
        std::iter::from_fn(|| self.image_part(IMAGE_TASKS))
    }

    /// No more parts will be asked for.
    pub fn abandon_image(&mut self) {
        self.state.imaging = None;
    }

    /// How many tasks of the snapshot are in memory because they changed before their part was taken, some hundreds of
    /// bytes each. Whoever takes parts too slowly sees it grow.
    pub fn image_backlog(&self) -> usize {
        self.state.saved()
    }

    /// Whether a live blob lies in `[from, to)` of the log. Live blobs are counted by regions of 1 MiB, so one that
    /// lies less than a region outside of the range may be taken for one inside.
    pub fn needs(&self, from: Offset, to: Offset) -> bool {
        self.state.blobs.needs(from, to)
    }

    /// Archive files, and tasks in them: for metrics.
    pub fn archived(&self) -> (u64, u64) {
        let archives = &self.state.archives;
        (archives.files.len() as u64, archives.tasks())
    }

    /// Bytes of blobs in memory, and tasks in memory: for metrics and back-pressure.
    pub fn load(&self) -> (u64, u64) {
        (self.state.blobs.bytes, self.state.tasks.len() as u64)
    }
}
