//! Named places that a simulation should reach: a fault that never happens proves nothing.

macro_rules! points {
    ($($name:ident = $text:literal,)*) => {
        /// A place worth reaching.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Point { $(#[doc = $text] $name,)* }

        impl Point {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

points! {
    ProcessKilled = "process killed, page cache kept",
    PowerLost = "power lost",
    CutBeforeWrite = "crash before the write of a group",
    CutInWrite = "power cut in a write of a segment",
    CutInSync = "power cut in a sync of a segment",
    CutAfterSync = "crash after the sync, before the acknowledgement",
    CutInSnapshotWrite = "power cut in a write of a snapshot",
    CutInSnapshotSync = "power cut in the sync of a snapshot",
    CutInRename = "power cut in a rename",
    CutInDirSync = "power cut in a sync of the directory",
    CutInRemove = "power cut in a removal",
    CutInCreate = "power cut in a creation",
    CutInManifest = "power cut in the manifest",
    CutInRecovery = "crash during recovery",
    WriteFailed = "EIO of a write",
    NoSpace = "ENOSPC of a write",
    SyncFailed = "EIO of a sync",
    ReadFailed = "EIO of a read",
    DirFailed = "EIO of a directory operation",
    OpenFailed = "an open that failed by a fault",
    AppendFailed = "an append that failed by a fault",
    SnapshotTaken = "snapshot taken",
    SnapshotBehind = "changed before the snapshot came to it",
    SnapshotFailed = "snapshot given up",
    SnapshotLoaded = "recovery from a snapshot",
    ArchiveWritten = "archive file written",
    ArchiveFailed = "archive file given up",
    ArchiveRead = "task looked up where it may be archived",
    ArchiveRedriven = "archived task redriven",
    ArchiveRemoved = "archive file removed",
    SegmentsReleased = "segments released",
    BlobFromLog = "payload read back from the log",
    ClockForward = "clock stepped forward at restart",
    ClockBack = "clock stepped back at restart",
    LateTimer = "timers handled late",
    TwoGroups = "two groups on their way at once",
    ConnectionCut = "connection cut",
    MessageAfterCut = "message of an old connection after the new one's hello",
    FrameAgain = "frame sent again",
    SessionTakenOver = "session taken over by a new stream",
    CallUnknown = "call without an answer",
    WorkerDied = "worker died",
    WorkerReturned = "worker came back with leases",
    WorkerReplaced = "worker's old stream replaced",
    LeaseKept = "lease kept over a restart",
    LeaseLost = "lease lost at re-attachment",
    WorkerDeaf = "worker deaf until the broker gave it up",
    OutcomeLate = "outcome sent after the lease was lost",
    OutcomeTwice = "outcome sent twice",
    OutcomeRefused = "outcome refused",
    HandedBack = "attempt handed back",
    Drained = "worker drained",
    AttemptTimedOut = "attempt stopped at its time limit",
    Stopped = "attempt stopped by cancellation or expiry",
    Cancelled = "task cancelled",
    CancelLostRace = "cancel lost against the end",
    Expired = "task expired",
    SplitSet = "tasks divided between versions",
    RolledBack = "version's share taken away",
    SplitEnded = "tasks not divided any more",
    SplitRestored = "split kept over a restart",
    WeightsSet = "limit keys given weights",
    WeightsCleared = "weights of limit keys taken away",
    WeightsRestored = "weights kept over a restart",
    MethodGated = "method gated",
    DeadLetter = "dead letter made",
    Redriven = "task redriven",
    KeyRepeated = "idempotency key found its task",
    KeyConflict = "idempotency key with another request",
    KeyBoundary = "key used at the last and first instant of its window",
    DeadlineEdge = "queue resumed at the instant of a deadline",
    Paused = "queue paused",
    FlowChild = "flow submitted a child",
    FlowAgain = "flow run again found its children",
    FlowSuspended = "flow unloaded",
    Forgotten = "retention over, task forgotten",
}

/// How often each was reached.
#[derive(Debug, Clone)]
pub struct Points(Vec<u64>);

impl Default for Points {
    fn default() -> Self {
        Self(vec![0; Point::ALL.len()])
    }
}

impl Points {
    /// Notes one more time.
    pub fn hit(&mut self, point: Point) {
        self.0[point as usize] += 1;
    }

    /// How often.
    #[must_use]
    pub fn count(&self, point: Point) -> u64 {
        self.0[point as usize]
    }

    /// Adds what another seed reached.
    pub fn add(&mut self, other: &Self) {
        for (own, more) in self.0.iter_mut().zip(&other.0) {
            *own += more;
        }
    }

    /// Those never reached.
    pub fn missing(&self) -> impl Iterator<Item = Point> + '_ {
        let points = Point::ALL.iter().copied();
        points.filter(|point| self.count(*point) == 0)
    }
}
