//! Letting segments of a file log go: what may go, in which order, and reuse of the files.
//!
//! The manifest forgets a segment durably before its file is touched. From then on the file is
//! nothing: if it comes back at a crash, the next open removes it.

use std::sync::Arc;

use crate::format::segment_name;
use crate::manifest::Manifest;
use crate::spare::Spare;
use crate::{FileLog, Log, LogError, Offset, Released, SegmentInfo, SnapshotState, recovery};

impl FileLog {
    /// See [`Log::release`].
    pub(crate) fn release_segments(
        &mut self,
        keep_from: Offset,
        pinned: &dyn Fn(Offset, Offset) -> bool,
    ) -> Result<Released, LogError> {
        self.shared.check_writable()?;
        let bound = keep_from.min(self.newest_intact_snapshot());
        let held = self.segments();
        let goes = |s: &&SegmentInfo| {
            s.base != self.active.base() && s.end <= bound && !pinned(s.base, s.end)
        };
        let going: Vec<_> = held.iter().filter(goes).copied().collect();
        if going.is_empty() {
            return Ok(Released::default());
        }
        self.forget(&going, &held)?;
        let mut spares = Vec::new();
        for info in &going {
            let room = self.spares.ready() + spares.len() < self.options.spares_max;
            spares.extend(self.let_go(info, room)?);
        }
        let recycled = spares.len();
        spares
            .into_iter()
            .for_each(|spare| self.spares.offer(spare));
        Ok(Released {
            segments: going,
            recycled,
        })
    }

    fn newest_intact_snapshot(&self) -> Offset {
        let snapshots = self.shared.snapshots();
        let intact = snapshots
            .iter()
            .filter(|s| s.state == SnapshotState::Intact);
        intact.map(|s| s.at).max().unwrap_or(0)
    }

    /// Makes it durable that the segments `going` need not exist any more.
    fn forget(&mut self, going: &[SegmentInfo], held: &[SegmentInfo]) -> Result<(), LogError> {
        let floor = going
            .iter()
            .map(|s| s.end)
            .fold(self.manifest.floor, Offset::max);
        let kept = held.iter().filter(|s| s.base < floor && !going.contains(s));
        let manifest = Manifest {
            tail: self.tail,
            floor,
            kept: kept.map(|s| (s.base, s.end)).collect(),
            ..self.manifest.clone()
        };
        manifest.store(&*self.shared.disk)?;
        self.manifest = manifest;
        self.shared.set_floor(floor);
        Ok(())
    }

    /// Renames or removes a segment's file. A file that a reader still holds is never reused: the
    /// reader would see the bytes of another segment.
    fn let_go(&self, info: &SegmentInfo, room: bool) -> Result<Option<Spare>, LogError> {
        let Some(segment) = self.shared.remove_segment(info.base) else {
            return Ok(None);
        };
        let name = segment_name(info.base);
        let disk = &self.shared.disk;
        match Arc::try_unwrap(segment) {
            Ok(segment) if room && self.options.is_full_size(info.bytes) => {
                let spare = self.spares.new_name();
                let renamed = disk.rename(&name, &spare);
                renamed.map_err(LogError::io("rename", disk.describe(&name)))?;
                Ok(Some(Spare {
                    name: spare,
                    file: segment.file,
                    bytes: info.bytes,
                }))
            }
            _ => {
                recovery::remove(&**disk, &[name])?;
                Ok(None)
            }
        }
    }
}
