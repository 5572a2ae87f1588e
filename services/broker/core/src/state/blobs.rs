//! Where the bytes of requests, envelopes and responses are: in memory, in the log, or both; and which regions
//! of the log are still needed.

use super::slab::{NONE, Slab};
use super::table::TaskTable;
use super::task::{Stage, Task, UNPLACED};
use crate::ids::{Offset, TaskId};
use crate::record::Blob;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Live blobs are counted by regions of 1 MiB.
const REGION_BITS: u32 = 20;

/// Waiting blobs up to this size get bytes of their own, so that they do not pin the buffer they arrived in.
const COPY_MAX: u32 = 64 * 1024;

/// Memory of a resident beyond its bytes: its entry, and what allocators round up.
const RESIDENT_BYTES: u64 = 160;

/// Bytes of one task in memory.
#[derive(Debug, Default)]
struct Resident {
    request: Option<Bytes>,
    envelope: Option<Bytes>,
    response: Option<Bytes>,
}

/// A blob whose record is on its way to the log. Its length is kept, because the task may be gone by then.
#[derive(Debug)]
enum Unplaced {
    Request {
        task: TaskId,
        request: u32,
        envelope: u32,
    },
    Response {
        task: TaskId,
        len: u32,
    },
}

/// Bytes in memory and regions of the log.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    residents: Slab<Resident>,
    /// Bytes in memory.
    pub(crate) bytes: u64,
    bytes_max: u64,
    regions: BTreeMap<u64, u64>,
    unplaced: VecDeque<Unplaced>,
    /// Whether blobs without a place are on their way to the log; in replay they are not.
    pub(crate) placing: bool,
    /// A region became free since this was last cleared.
    pub(crate) released: bool,
}

fn len_of(bytes: Option<&Bytes>) -> u64 {
    bytes.map_or(0, |bytes| bytes.len() as u64)
}

impl Blobs {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            ..Self::default()
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.residents.len() + self.unplaced.len() + self.regions.len()
    }

    /// What the bytes in memory take there.
    fn memory(&self) -> u64 {
        self.bytes + RESIDENT_BYTES * self.residents.len() as u64
    }

    fn resident(&mut self, task: &mut Task) -> &mut Resident {
        if task.resident == NONE {
            task.resident = self.residents.insert(Resident::default());
        }
        &mut self.residents[task.resident]
    }

    /// Takes request and envelope of a task that was accepted.
    pub(crate) fn take_request(&mut self, task: &mut Task, request: &Blob, envelope: &Blob) {
        let at = |blob: &Blob| blob.at.filter(|_| blob.len > 0);
        (task.request_len, task.envelope_len) = (request.len, envelope.len);
        task.request_at = match (at(request), at(envelope)) {
            (Some(at), _) => at,
            (None, Some(at)) => at.saturating_sub(Offset::from(request.len)),
            (None, None) => UNPLACED,
        };
        if let Some(at) = at(envelope)
            && at != task.envelope_at()
        {
            task.more_mut().envelope_at = Some(at);
        }
        if task.request_at != UNPLACED {
            self.hold_request(task);
            return;
        }
        if self.placing {
            self.unplaced.push_back(Unplaced::Request {
                task: task.id,
                request: request.len,
                envelope: envelope.len,
            });
        }
        if request.len == 0 && envelope.len == 0 {
            return;
        }
        self.bytes += len_of(request.bytes.as_ref()) + len_of(envelope.bytes.as_ref());
        let resident = self.resident(task);
        resident.request.clone_from(&request.bytes);
        resident.envelope = envelope.bytes.clone().filter(|bytes| !bytes.is_empty());
    }

    /// Takes the response of a task that is already SUCCEEDED.
    pub(crate) fn take_response(&mut self, task: &mut Task, response: &Blob) {
        let Stage::Done {
            response_at,
            response_len,
            ..
        } = &mut task.stage
        else {
            return;
        };
        *response_len = response.len;
        if let Some(at) = response.at.filter(|_| response.len > 0) {
            *response_at = at;
            self.hold(at, response.len);
            return;
        }
        if self.placing {
            self.unplaced.push_back(Unplaced::Response {
                task: task.id,
                len: response.len,
            });
        }
        if response.len > 0 {
            self.bytes += len_of(response.bytes.as_ref());
            self.resident(task).response.clone_from(&response.bytes);
        }
    }

    /// The log took the blobs of all records so far, one after the other from `area`. Gives back the slots of tasks
    /// whose responses are placed.
    pub(crate) fn place(&mut self, tasks: &mut TaskTable, area: Offset) -> Vec<u32> {
        let mut at = area;
        let mut responded = Vec::new();
        while let Some(entry) = self.unplaced.pop_front() {
            match entry {
                Unplaced::Request {
                    task,
                    request,
                    envelope,
                } => {
                    if let Some(slot) = tasks.find(task) {
                        self.place_request(&mut tasks[slot], at);
                    }
                    at += Offset::from(request) + Offset::from(envelope);
                }
                Unplaced::Response { task, len } => {
                    if let Some(slot) = tasks.find(task) {
                        self.place_response(&mut tasks[slot], at);
                        responded.push(slot);
                    }
                    at += Offset::from(len);
                }
            }
        }
        if self.unplaced.capacity() > 1 << 16 {
            self.unplaced.shrink_to(1 << 12);
        }
        responded
    }

    fn place_request(&mut self, task: &mut Task, at: Offset) {
        task.request_at = at;
        self.hold_request(task);
        if task.is_final() || self.memory() > self.bytes_max {
            self.evict_request(task);
        } else if task.lease() == NONE
            && let Some(resident) = self.residents.get_mut(task.resident)
        {
            unshare(&mut resident.request);
            unshare(&mut resident.envelope);
        }
    }

    /// Nobody waits for a response from here any more: what was to be sent has its own reference.
    fn place_response(&mut self, task: &mut Task, at: Offset) {
        if let Stage::Done {
            response_at,
            response_len,
            ..
        } = &mut task.stage
        {
            *response_at = at;
            let len = *response_len;
            self.hold(at, len);
        }
        if let Some(resident) = self.residents.get_mut(task.resident) {
            self.bytes -= len_of(resident.response.take().as_ref());
        }
        self.drop_if_empty(task);
    }

    /// The request of a final task need not stay in memory once the log has it.
    pub(crate) fn finished(&mut self, task: &mut Task) {
        if task.request_at != UNPLACED {
            self.evict_request(task);
        }
    }

    fn evict_request(&mut self, task: &mut Task) {
        if let Some(resident) = self.residents.get_mut(task.resident) {
            self.bytes -= len_of(resident.request.take().as_ref());
            self.bytes -= len_of(resident.envelope.take().as_ref());
        }
        self.drop_if_empty(task);
    }

    fn drop_if_empty(&mut self, task: &mut Task) {
        let empty = self.residents.get(task.resident).is_some_and(|resident| {
            resident.request.is_none() && resident.envelope.is_none() && resident.response.is_none()
        });
        if empty {
            self.residents.remove(task.resident);
            task.resident = NONE;
        }
    }

    fn evict_all(&mut self, task: &mut Task) {
        if let Some(resident) = self.residents.remove(task.resident) {
            for bytes in [&resident.request, &resident.envelope, &resident.response] {
                self.bytes -= len_of(bytes.as_ref());
            }
            task.resident = NONE;
        }
    }

    /// A task is forgotten, its blobs with it.
    pub(crate) fn forget(&mut self, task: &mut Task) {
        self.evict_all(task);
        if task.request_at != UNPLACED {
            self.release(task.request_at, task.request_len);
            self.release(task.envelope_at(), task.envelope_len);
        }
        if let Stage::Done {
            response_at,
            response_len,
            ..
        } = task.stage
            && response_at != UNPLACED
        {
            self.release(response_at, response_len);
        }
    }

    /// A task leaves memory and its blobs stay in the log: adds the regions where they are held.
    pub(crate) fn hand_over(&mut self, task: &mut Task, held: &mut BTreeMap<u64, u64>) {
        self.evict_all(task);
        let mut add = |at: Offset, len: u32| {
            for region in regions(at, len) {
                *held.entry(region).or_default() += 1;
            }
        };
        if task.request_at != UNPLACED {
            add(task.request_at, task.request_len);
            add(task.envelope_at(), task.envelope_len);
        }
        if let Stage::Done {
            response_at,
            response_len,
            ..
        } = task.stage
            && response_at != UNPLACED
        {
            add(response_at, response_len);
        }
    }

    /// Holds regions as a snapshot tells.
    pub(crate) fn hold_regions(&mut self, held: &BTreeMap<u64, u64>) {
        for (region, count) in held {
            *self.regions.entry(*region).or_default() += count;
        }
    }

    /// Lets go of regions that were handed over.
    pub(crate) fn release_regions(&mut self, held: &BTreeMap<u64, u64>) {
        for (region, count) in held {
            self.release_region(*region, *count);
        }
    }

    fn hold_request(&mut self, task: &Task) {
        self.hold(task.request_at, task.request_len);
        self.hold(task.envelope_at(), task.envelope_len);
    }

    fn hold(&mut self, at: Offset, len: u32) {
        for region in regions(at, len) {
            *self.regions.entry(region).or_default() += 1;
        }
    }

    fn release(&mut self, at: Offset, len: u32) {
        for region in regions(at, len) {
            self.release_region(region, 1);
        }
    }

    fn release_region(&mut self, region: u64, count: u64) {
        let Some(held) = self.regions.get_mut(&region) else {
            return;
        };
        *held = held.saturating_sub(count);
        if *held == 0 {
            self.regions.remove(&region);
            self.released = true;
        }
    }

    /// Whether a live blob may lie in `[from, to)`: exact up to the regions at both ends.
    pub(crate) fn needs(&self, from: Offset, to: Offset) -> bool {
        from < to && !crate::mutant::is(crate::mutant::Mutant::NothingNeeded) && {
            let (first, last) = (from >> REGION_BITS, (to - 1) >> REGION_BITS);
            self.regions.range(first..=last).next().is_some()
        }
    }

    /// The request of a task.
    pub(crate) fn request(&self, task: &Task) -> Blob {
        let bytes = self
            .residents
            .get(task.resident)
            .and_then(|own| own.request.clone());
        blob(bytes, task.request_at, task.request_len)
    }

    /// The envelope of a task.
    pub(crate) fn envelope(&self, task: &Task) -> Blob {
        if task.envelope_len == 0 {
            return Blob::default();
        }
        let bytes = self
            .residents
            .get(task.resident)
            .and_then(|own| own.envelope.clone());
        blob(bytes, task.envelope_at(), task.envelope_len)
    }

    /// The response of a task; empty while it has none.
    pub(crate) fn response(&self, task: &Task) -> Blob {
        let Stage::Done {
            response_at,
            response_len,
            ..
        } = task.stage
        else {
            return Blob::default();
        };
        let bytes = self
            .residents
            .get(task.resident)
            .and_then(|own| own.response.clone());
        blob(bytes, response_at, response_len)
    }
}

fn blob(bytes: Option<Bytes>, at: Offset, len: u32) -> Blob {
    if len == 0 {
        return Blob::resident(Bytes::new());
    }
    Blob {
        bytes,
        at: (at != UNPLACED).then_some(at),
        len,
    }
}

fn regions(at: Offset, len: u32) -> std::ops::RangeInclusive<u64> {
    if len == 0 {
        #[expect(
            clippy::reversed_empty_ranges,
            reason = "an empty blob lies in no region"
        )]
        return 1..=0;
    }
    (at >> REGION_BITS)..=(at.saturating_add(Offset::from(len) - 1) >> REGION_BITS)
}

fn unshare(bytes: &mut Option<Bytes>) {
    if let Some(bytes) = bytes
        && bytes.len() <= COPY_MAX as usize
        && !bytes.is_unique()
    {
        *bytes = Bytes::copy_from_slice(bytes);
    }
}
