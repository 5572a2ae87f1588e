//! Submissions into frames: columns for what every task has, rare options apart.

use super::ticket::Ticket;
use crate::contracts::Method;
use crate::pb::v1::{IndexedOptions, SubmitFrame, TaskOptions};
use bytes::Bytes;
use prost::Message as _;
use std::collections::VecDeque;
use std::sync::Arc;

/// Tasks in one frame at most, unless the broker's welcome says fewer.
pub(crate) const TASKS_MAX: usize = 256;

/// Frames that were sent and are not accepted, beyond which only full ones are sent: one that the broker makes durable
/// and one that is ready for it then.
pub(crate) const UNDER_WAY: usize = 2;

/// Bytes of payloads, keys and options after which a frame is full. The broker decodes no message of 4 MiB.
pub(crate) const BYTES_MAX: usize = 1 << 20;

/// One task that waits to be sent.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) method: Arc<Method>,
    pub(crate) payload: Bytes,
    /// Empty: none.
    pub(crate) idempotency_key: Box<str>,
    /// Empty: none.
    pub(crate) ordering_key: Box<str>,
    /// Empty: none.
    pub(crate) limit_key: Box<str>,
    /// Shared by the submissions that have the same ones.
    pub(crate) options: Option<Arc<TaskOptions>>,
    pub(crate) ticket: Arc<Ticket>,
    /// Permits of the session's bound on memory that it holds until it is accepted.
    pub(crate) weight: u32,
}

/// A frame with those who wait for its tasks, in its order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) frame: SubmitFrame,
    pub(crate) tickets: Vec<Arc<Ticket>>,
    pub(crate) weight: u32,
}

/// Takes the next frame's worth of submissions from the front of `queue`.
pub(crate) fn take(queue: &mut VecDeque<Submission>, tasks_max: usize) -> Batch {
    let count = size(queue, tasks_max);
    let mut batch = Batch::default();
    batch.frame.payloads.reserve_exact(count);
    batch.tickets.reserve_exact(count);
    let mut columns = Columns {
        common: queue.front().and_then(|first| first.options.clone()),
        ..Default::default()
    };
    for submission in queue.drain(..count) {
        batch.add(submission, &mut columns);
    }
    batch.finish(columns);
    batch
}

fn size(queue: &VecDeque<Submission>, tasks_max: usize) -> usize {
    let common = queue.front().and_then(|first| first.options.as_ref());
    let mut bytes = 0;
    let fits = |submission: &&Submission| {
        let first = bytes == 0;
        let keys = [
            &submission.idempotency_key,
            &submission.ordering_key,
            &submission.limit_key,
        ];
        let keys: usize = keys.iter().map(|key| key.len()).sum();
        bytes += submission.payload.len() + keys + 1;
        if let Some(own) = &submission.options
            && (first || !common.is_some_and(|common| Arc::ptr_eq(common, own)))
        {
            bytes += own.encoded_len();
        }
        first || bytes <= BYTES_MAX
    };
    queue.iter().take(tasks_max.max(1)).take_while(fits).count()
}

/// What is left out of the frame when all tasks agree.
#[derive(Debug, Default)]
struct Columns {
    methods: Vec<Arc<Method>>,
    method_index: Vec<u32>,
    common: Option<Arc<TaskOptions>>,
    options: Vec<(u32, Arc<TaskOptions>)>,
    others: bool,
}

impl Batch {
    fn add(&mut self, submission: Submission, columns: &mut Columns) {
        let index = self.tickets.len();
        columns.add_method(submission.method);
        put(
            &mut self.frame.idempotency_keys,
            index,
            submission.idempotency_key,
        );
        put(
            &mut self.frame.ordering_keys,
            index,
            submission.ordering_key,
        );
        put(&mut self.frame.limit_keys, index, submission.limit_key);
        columns.add_options(index as u32, submission.options);
        self.frame.payloads.push(submission.payload);
        self.tickets.push(submission.ticket);
        self.weight += submission.weight;
    }

    fn finish(&mut self, columns: Columns) {
        let count = self.tickets.len();
        pad(&mut self.frame.idempotency_keys, count);
        pad(&mut self.frame.ordering_keys, count);
        pad(&mut self.frame.limit_keys, count);
        self.frame.methods = columns
            .methods
            .iter()
            .map(|method| method.route.to_string())
            .collect();
        if columns.methods.len() > 1 {
            self.frame.method_index = columns.method_index;
        }
        if columns.others {
            let entry = |(index, options): (u32, Arc<TaskOptions>)| IndexedOptions {
                index,
                options: Some(TaskOptions::clone(&options)),
            };
            self.frame.options = columns.options.into_iter().map(entry).collect();
        } else {
            self.frame.common = columns.common.as_deref().cloned();
        }
    }
}

impl Columns {
    fn add_method(&mut self, method: Arc<Method>) {
        let same = |known: &Arc<Method>| known.route == method.route;
        let index = match self.methods.last() {
            Some(last) if same(last) => self.methods.len() - 1,
            _ => self.methods.iter().position(same).unwrap_or_else(|| {
                self.methods.push(method);
                self.methods.len() - 1
            }),
        };
        self.method_index.push(index as u32);
    }

    /// Options are compared by identity: equal ones that are not shared only cost their bytes.
    fn add_options(&mut self, index: u32, options: Option<Arc<TaskOptions>>) {
        self.others |= match (&self.common, &options) {
            (Some(common), Some(options)) => !Arc::ptr_eq(common, options),
            (common, options) => common.is_some() != options.is_some(),
        };
        self.options.extend(options.map(|options| (index, options)));
    }
}

/// Puts a value that is rarely there into its column.
fn put(column: &mut Vec<String>, index: usize, value: Box<str>) {
    if !value.is_empty() {
        pad_to(column, index);
        column.push(value.into_string());
    }
}

/// A column is empty or has an entry for every task.
fn pad(column: &mut Vec<String>, count: usize) {
    if !column.is_empty() {
        pad_to(column, count);
    }
}

fn pad_to(column: &mut Vec<String>, count: usize) {
    column.resize_with(count, String::new);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pb::v1::Metadatum;

    pub(crate) fn method(path: &str) -> Arc<Method> {
        Arc::new(Method {
            path: path.into(),
            route: path.into(),
            served_routes: vec![path.into()],
            queue: "echo".into(),
            idempotency_key: None,
            ordering_key: None,
            limit_key: None,
        })
    }

    pub(crate) fn submission(method: &Arc<Method>, payload: &'static [u8]) -> Submission {
        Submission {
            method: Arc::clone(method),
            payload: Bytes::from_static(payload),
            idempotency_key: Box::default(),
            ordering_key: Box::default(),
            limit_key: Box::default(),
            options: None,
            ticket: Arc::new(Ticket::new(false, None)),
            weight: 1,
        }
    }

    #[test]
    fn what_all_have_in_common_takes_no_column() {
        let method = method("/a.B/C");
        let options = Some(Arc::new(TaskOptions {
            priority: Some(9),
            ..Default::default()
        }));
        let with = || Submission {
            options: options.clone(),
            ..submission(&method, b"x")
        };
        let batch = take(&mut VecDeque::from([with(), with()]), TASKS_MAX);
        assert_eq!(batch.frame.methods, ["/a.B/C"]);
        assert!(batch.frame.method_index.is_empty() && batch.frame.idempotency_keys.is_empty());
        assert_eq!(batch.frame.common.expect("common").priority, Some(9));
        assert!(batch.frame.options.is_empty());
        assert_eq!(
            (
                batch.frame.payloads.len(),
                batch.tickets.len(),
                batch.weight
            ),
            (2, 2, 2)
        );
    }

    #[test]
    fn what_differs_is_told_by_task() {
        let (one, two) = (method("/a.B/C"), method("/a.B/D"));
        let options = Some(Arc::new(TaskOptions {
            priority: Some(9),
            ..Default::default()
        }));
        let mut queue = VecDeque::from([
            submission(&one, b"0"),
            Submission {
                idempotency_key: "k".into(),
                ..submission(&two, b"1")
            },
            Submission {
                options,
                ..submission(&one, b"2")
            },
        ]);
        let frame = take(&mut queue, TASKS_MAX).frame;
        assert_eq!(frame.methods, ["/a.B/C", "/a.B/D"]);
        assert_eq!(frame.method_index, [0, 1, 0]);
        assert_eq!(frame.idempotency_keys, ["", "k", ""]);
        assert!(
            frame.ordering_keys.is_empty() && frame.limit_keys.is_empty() && frame.common.is_none()
        );
        assert_eq!(frame.options.len(), 1);
        assert_eq!(frame.options[0].index, 2);
    }

    #[test]
    fn a_frame_ends_at_its_limits() {
        static LARGE: [u8; 600_000] = [0; 600_000];
        let method = method("/a.B/C");
        let mut queue: VecDeque<_> = (0..3).map(|_| submission(&method, &LARGE)).collect();
        assert_eq!(take(&mut queue, TASKS_MAX).tickets.len(), 1);
        assert_eq!(take(&mut queue, 0).tickets.len(), 1);
        let tall = |_| Submission {
            options: Some(Arc::new(TaskOptions {
                metadata: vec![Metadatum {
                    key: "k".to_owned(),
                    value: Bytes::from_static(&LARGE),
                }],
                ..Default::default()
            })),
            ..submission(&method, b"")
        };
        let mut queue: VecDeque<_> = (0..3).map(tall).collect();
        assert_eq!(take(&mut queue, TASKS_MAX).tickets.len(), 1);
        let mut queue: VecDeque<_> = (0..300).map(|_| submission(&method, b"")).collect();
        assert_eq!(take(&mut queue, TASKS_MAX).tickets.len(), TASKS_MAX);
        assert_eq!(take(&mut queue, TASKS_MAX).tickets.len(), 300 - TASKS_MAX);
    }
}
