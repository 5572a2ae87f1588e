//! Finished tasks leave memory for archive files, and nobody can tell.

use crate::harness::*;
use bytes::Bytes;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::image::TaskImage;
use plait_broker_core::record::*;
use plait_broker_core::{Config, Partition};
use std::collections::BTreeMap;

/// Tasks of one file with this setting: two.
const IN_MEMORY: u64 = 16;

/// A harness whose log tells places, and the files beside it.
struct Bench {
    h: Harness,
    area: Offset,
    files: BTreeMap<ArchiveId, BTreeMap<TaskId, TaskImage>>,
}

impl Bench {
    fn new() -> Self {
        let mut failing = policy(OTHER);
        failing.dead_letter_retention_ms = 200_000_000;
        failing.max_attempts = 1;
        let config = Config {
            finished_in_memory: IN_MEMORY,
            ..config()
        };
        let mut h = Harness::with_policies(config, vec![policy(METHOD), failing]);
        h.attach(WORKER, "w", &[METHOD, OTHER], 1_000);
        Self {
            h,
            area: 0,
            files: BTreeMap::new(),
        }
    }

    fn place(&mut self) {
        self.h.partition.place(self.area);
        self.area += 1 << 20;
    }

    /// A task that ended, well or not.
    fn done(&mut self, task: SubmitTask) -> TaskId {
        let fails = *task.method == *OTHER;
        let (id, effects) = self.h.submit_one(task);
        self.place();
        let attempt = attempt(&effects, WORKER);
        match fails {
            true => self.h.fail(WORKER, &attempt, INVALID_ARGUMENT),
            false => self.h.succeed(WORKER, &attempt),
        };
        self.place();
        id
    }

    /// Finished tasks until so many would be in memory.
    fn fill(&mut self, count: u64) {
        for _ in 0..count {
            self.done(task(METHOD));
        }
    }

    /// Reads what is to be written; whether anything is.
    fn read(&mut self) -> Option<(ArchiveId, BTreeMap<TaskId, TaskImage>)> {
        let archive = self.h.partition.begin_archive()?;
        let mut file = BTreeMap::new();
        loop {
            let part = self.h.partition.archive_part(1);
            if part.is_empty() {
                return Some((archive, file));
            }
            file.extend(part.into_iter().map(|image| (image.id(), image)));
        }
    }

    /// Writes files for as long as there are too many tasks in memory.
    fn archive(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some((archive, file)) = self.read() {
            self.files.insert(archive, file);
            effects.extend(self.written(archive, true));
        }
        effects
    }

    fn written(&mut self, archive: ArchiveId, written: bool) -> Vec<Effect> {
        self.h.apply(Command::ArchiveWritten { archive, written })
    }

    /// A task as files tell of it.
    fn archived(&self, id: TaskId) -> Option<TaskView> {
        assert!(self.h.partition.task(id).is_none(), "{id} is in memory");
        let archives = self.h.partition.archives_of(id).into_iter();
        archives
            .filter_map(|archive| {
                let image = self.files[&archive].get(&id)?;
                self.h.partition.archived_task(archive, image, self.h.now)
            })
            .next()
    }

    fn redrive(&mut self, id: TaskId) -> Reply {
        let read = self.h.partition.archives_of(id).into_iter();
        let read = read
            .filter_map(|archive| Some((archive, self.files[&archive].get(&id)?.clone())))
            .next();
        let command = |archived| Command::Redrive {
            tag: ReplyTag(1),
            tasks: vec![id],
            archived,
            dry_run: false,
        };
        let first = reply(&self.h.apply(command(BTreeMap::new())));
        assert!(matches!(first, Reply::Archived(wanted) if wanted == [id]));
        reply(&self.h.apply(command(BTreeMap::from([(id, read)]))))
    }

    fn counted(&self, state: TaskState) -> u64 {
        let queues = self.h.partition.queues();
        let counts = queues.iter().flat_map(|queue| queue.counts.clone());
        counts.filter(|(of, _)| *of == state).map(|(_, n)| n).sum()
    }
}

#[test]
fn memory_is_bounded_and_what_left_it_is_told_the_same() {
    let mut bench = Bench::new();
    let first = bench.done(task(METHOD));
    let before = format!("{:?}", bench.h.view(first));
    bench.fill(200);
    bench.archive();
    let (_, in_memory) = bench.h.partition.load();
    assert!(
        (IN_MEMORY..IN_MEMORY + 2).contains(&in_memory),
        "{in_memory}"
    );
    let (files, tasks) = bench.h.partition.archived();
    assert_eq!((tasks, files), (201 - in_memory, (201 - in_memory) / 2));
    let view = bench.archived(first).expect("it is in a file");
    assert_eq!(format!("{view:?}"), before);
    assert_eq!(bench.counted(TaskState::Succeeded), 201);
    let effects = bench.h.apply(Command::Await {
        conn: CLIENT,
        tasks: vec![first, TaskId(9_999)],
        forget: vec![],
        parent: None,
    });
    assert!(effects.iter().any(
        |effect| matches!(effect, Effect::ResultsArchived { tasks, .. } if *tasks == [first])
    ));
    assert_eq!(
        results(&effects, CLIENT).len(),
        1,
        "the other one is not known"
    );
    let watch = Command::Watch {
        conn: ConnId(9),
        task: first,
    };
    let effects = bench.h.apply(watch);
    assert!(matches!(effects[..], [Effect::WatchArchived { task, .. }] if task == first));
}

#[test]
fn a_snapshot_holds_what_is_in_memory_and_tells_the_same_state() {
    let mut bench = Bench::new();
    let first = bench.done(keyed(METHOD, "k", 7));
    bench.fill(200);
    bench.archive();
    let image = bench.h.image();
    let tasks = image.iter().map(|record| match record {
        Record::Image(plait_broker_core::image::Image::Tasks(tasks)) => tasks.len(),
        _ => 0,
    });
    assert_eq!(tasks.sum::<usize>() as u64, bench.h.partition.load().1);
    let mut restored = Partition::new(bench.h.config.clone());
    image
        .iter()
        .for_each(|record| restored.replay(record.clone(), bench.h.now));
    restored.recovered(bench.h.now);
    bench.h.partition = restored;
    assert_eq!(bench.h.image(), image);
    assert_eq!(bench.counted(TaskState::Succeeded), 201);
    assert!(bench.archived(first).is_some());
    bench.h.apply(Command::SessionOpened {
        conn: CLIENT,
        session: SESSION,
    });
    let effects = bench.h.submit(vec![keyed(METHOD, "k", 7)]);
    assert_eq!(acceptance(&effects).tasks, [first.0]);
}

#[test]
fn the_key_of_an_archived_task_stands_for_it_to_the_end_of_its_window() {
    let mut bench = Bench::new();
    let begun = bench.h.now;
    let first = bench.done(keyed(METHOD, "k", 7));
    bench.fill(100);
    bench.archive();
    assert!(bench.archived(first).is_some());
    let effects = bench
        .h
        .submit(vec![keyed(METHOD, "k", 7), keyed(METHOD, "k", 8)]);
    let accepted = acceptance(&effects);
    assert_eq!(
        (accepted.tasks[0], &accepted.existing[..]),
        (first.0, &[0][..])
    );
    let conflict =
        |error: &Error| matches!(error, Error::DuplicateKeyConflict { task, .. } if *task == first);
    assert!(conflict(&accepted.refusals[0].error));
    let effects = bench.h.submit(vec![keyed(OTHER, "k", 7)]);
    assert!(
        acceptance(&effects).existing.is_empty(),
        "another method's key"
    );
    bench.h.now = begun + 86_400_000 - 1;
    let effects = bench.h.submit(vec![keyed(METHOD, "k", 7)]);
    assert_eq!(acceptance(&effects).tasks, [first.0]);
    bench.h.now = begun + 86_400_000;
    let effects = bench.h.submit(vec![keyed(METHOD, "k", 7)]);
    assert!(
        acceptance(&effects).existing.is_empty(),
        "the window is over"
    );
}

#[test]
fn what_an_old_file_tells_of_a_task_that_was_run_again_is_never_served() {
    let mut bench = Bench::new();
    let failed = bench.done(task(OTHER));
    bench.fill(100);
    bench.h.advance(80_000_000);
    bench.fill(100);
    bench.h.advance(6_400_000);
    bench.fill(100);
    bench.archive();
    // Short retentions come first, so that the dead letter moves last of all.
    while bench.h.partition.task(failed).is_some() {
        bench.done(task(OTHER));
        bench.archive();
    }
    let dead = bench.counted(TaskState::Failed);
    assert!(matches!(bench.redrive(failed), Reply::Count(1)));
    assert_eq!(bench.counted(TaskState::Failed), dead - 1);
    assert!(!bench.h.state(failed).is_final());
    let attempt = AttemptOf(&bench.h, failed).token();
    bench
        .h
        .outcome(WORKER, failed, attempt, Ok(Bytes::from_static(b"r")));
    bench.place();
    assert_eq!(bench.h.state(failed), TaskState::Succeeded);
    bench.h.advance(86_400_000 + 2_048);
    assert!(bench.h.partition.archived().0 > 0, "the file is alive");
    assert!(bench.archived(failed).is_none(), "it is over and forgotten");
}

/// The present attempt of a running task, told by the log.
struct AttemptOf<'a>(&'a Harness, TaskId);

impl AttemptOf<'_> {
    fn token(&self) -> Token {
        let starts = self
            .0
            .log
            .iter()
            .rev()
            .filter_map(|(_, record)| match record {
                Record::Started { starts, .. } => starts.iter().find(|start| start.task == self.1),
                _ => None,
            });
        starts.map(|start| start.token).next().expect("it started")
    }
}

#[test]
fn a_file_that_is_not_written_leaves_its_tasks_where_they_are() {
    let mut bench = Bench::new();
    bench.fill(IN_MEMORY + 1);
    assert_eq!(bench.h.partition.begin_archive(), None, "there is room");
    bench.fill(1);
    let (archive, file) = bench.read().expect("too many");
    assert_eq!(file.len(), 2);
    assert_eq!(bench.h.partition.begin_archive(), None, "one at a time");
    assert!(bench.written(archive, false).is_empty());
    assert_eq!(bench.h.partition.archived(), (0, 0));
    let (again, same) = bench.read().expect("still too many");
    assert!(again > archive && same.len() == 2);
    bench.files.insert(again, same);
    bench.written(again, true);
    assert_eq!(bench.h.partition.archived(), (1, 2));
    let effects = bench.written(archive, true);
    let released = |effect: &Effect| matches!(effect, Effect::ArchivesReleased { archives } if *archives == [archive]);
    assert!(effects.len() == 1 && released(&effects[0]), "{effects:?}");
    assert!(bench.written(again, true).is_empty(), "a living one stays");
}

#[test]
fn a_task_that_is_run_again_while_it_is_written_stays() {
    let mut bench = Bench::new();
    let failed: Vec<TaskId> = (0..IN_MEMORY + 2)
        .map(|_| bench.done(task(OTHER)))
        .collect();
    let (archive, file) = bench.read().expect("too many");
    assert_eq!(file.keys().copied().collect::<Vec<_>>(), failed[..2]);
    let redrive = Command::Redrive {
        tag: ReplyTag(1),
        tasks: vec![failed[0]],
        archived: BTreeMap::new(),
        dry_run: false,
    };
    assert!(matches!(reply(&bench.h.apply(redrive)), Reply::Count(1)));
    bench.files.insert(archive, file);
    bench.written(archive, true);
    assert_eq!(bench.h.partition.archived(), (1, 1));
    assert!(!bench.h.state(failed[0]).is_final());
    assert!(bench.archived(failed[1]).is_some());
}

#[test]
fn payloads_of_archived_tasks_keep_their_place_in_the_log_until_their_file_goes() {
    let mut bench = Bench::new();
    let first = bench.done(task(METHOD));
    bench.fill(100);
    bench.archive();
    assert!(bench.archived(first).is_some());
    assert!(bench.h.partition.needs(0, 1 << 20), "the first request");
    let all = bench.h.partition.archived().0;
    let effects = bench.h.advance(86_400_000 + 2_048);
    let released = effects.iter().filter_map(|effect| match effect {
        Effect::ArchivesReleased { archives } => Some(archives.len() as u64),
        _ => None,
    });
    assert_eq!(released.sum::<u64>(), all);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::LogReleasable))
    );
    assert!(!bench.h.partition.needs(0, u64::MAX));
    assert_eq!(bench.counted(TaskState::Succeeded), 0);
    assert_eq!(bench.archived(first).map(|view| view.id), None);
}

#[test]
fn a_longer_retention_holds_for_archived_tasks_too() {
    let mut bench = Bench::new();
    let first = bench.done(task(METHOD));
    bench.fill(100);
    bench.archive();
    let mut longer = policy(METHOD);
    longer.retention_ms = 2 * 86_400_000;
    bench.h.apply(Command::ApplyPolicies {
        tag: ReplyTag(1),
        policies: vec![longer],
    });
    bench.h.advance(86_400_000 + 5_000);
    assert!(bench.archived(first).is_some());
    bench.h.advance(86_400_000);
    assert!(bench.archived(first).is_none());
    assert_eq!(bench.h.partition.archived(), (0, 0));
}
