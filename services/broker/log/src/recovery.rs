//! Opening a directory: first look at everything, then change what must be.
//!
//! [`inspect`] only reads. Whatever is wrong, it says so and nothing was touched. [`repair`] cuts
//! the torn tail and makes sure that what was found is on the disk, not only in a page cache:
//! after a failed sync or a kill the last frame may be readable and yet not durable, so it is
//! written once more and synced before anyone is told of it.

use std::io::IoSlice;
use std::sync::Arc;

use crate::chain::{Chain, Tail, check_length};
use crate::disk::{self, Disk};
use crate::format::{ARCHIVE_SUFFIX, offset_in_name, segment_name};
use crate::manifest::{self, Manifest};
use crate::segment::Segment;
use crate::{LogError, Offset, spare};

/// What was found in a directory.
#[derive(Debug)]
pub(crate) enum Found {
    /// No log yet. The names are what an open that did not finish left behind.
    Nothing {
        garbage: Vec<String>,
    },
    Log(FoundLog),
}

/// A log, found sound but for its tail.
#[derive(Debug)]
pub(crate) struct FoundLog {
    pub(crate) manifest: Manifest,
    /// Oldest first.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The last of them, to be written on.
    pub(crate) active: Arc<Segment>,
    /// Oldest first, unread.
    pub(crate) snapshots: Vec<Offset>,
    pub(crate) spares: Vec<String>,
    pub(crate) garbage: Vec<String>,
    pub(crate) tail: Tail,
}

impl FoundLog {
    /// A log that has just begun.
    pub(crate) fn new(manifest: Manifest, active: Arc<Segment>) -> Self {
        let (snapshots, spares, garbage) = Default::default();
        let segments = vec![Arc::clone(&active)];
        Self {
            manifest,
            segments,
            active,
            snapshots,
            spares,
            garbage,
            tail: Tail::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Listing {
    bases: Vec<Offset>,
    snapshots: Vec<Offset>,
    spares: Vec<String>,
    temporaries: Vec<String>,
    manifest: bool,
    archives: bool,
}

impl Listing {
    /// Names that are not ours are left alone.
    fn read(disk: &dyn Disk) -> Result<Self, LogError> {
        let names = disk
            .list()
            .map_err(LogError::io("list", disk.describe("")))?;
        let mut listing = Self::default();
        for name in names {
            if let Some(base) = offset_in_name(&name, ".seg") {
                listing.bases.push(base);
            } else if let Some(at) = offset_in_name(&name, ".snap") {
                listing.snapshots.push(at);
            } else if name == manifest::NAME {
                listing.manifest = true;
            } else if offset_in_name(&name, ARCHIVE_SUFFIX).is_some() {
                listing.archives = true;
            } else if name.starts_with(spare::PREFIX) {
                listing.spares.push(name);
            } else if name.ends_with(".tmp") {
                listing.temporaries.push(name);
            }
        }
        listing.bases.sort_unstable();
        listing.snapshots.sort_unstable();
        Ok(listing)
    }
}

/// Looks at a directory and changes nothing. `verify_all`: check also the frames below the newest
/// snapshot, which no restart reads.
pub(crate) fn inspect(disk: &dyn Disk, verify_all: bool) -> Result<Found, LogError> {
    let listing = Listing::read(disk)?;
    if !listing.manifest {
        return nothing(disk, listing);
    }
    let manifest = Manifest::load(disk)?;
    let kept = open_kept(disk, &manifest)?;
    let (chain, active) = open_chain(disk, &manifest, &listing)?;
    let newest = listing.snapshots.last().copied().unwrap_or(0);
    let verify_from = if verify_all { 0 } else { newest };
    if verify_all {
        check_kept(&kept, &manifest)?;
    }
    let proven = manifest.tail.max(newest);
    let tail = Chain {
        segments: &chain,
        manifest: &manifest,
    }
    .check(verify_from, proven)?;
    let is_kept = |base: &Offset| manifest.kept.iter().any(|(kept, _)| kept == base);
    let released = listing
        .bases
        .iter()
        .filter(|b| **b < manifest.floor && !is_kept(b));
    let garbage = released
        .map(|base| segment_name(*base))
        .chain(listing.temporaries)
        .collect();
    let segments = kept.into_iter().chain(chain).collect();
    let (snapshots, spares) = (listing.snapshots, listing.spares);
    Ok(Found::Log(FoundLog {
        manifest,
        segments,
        active,
        snapshots,
        spares,
        garbage,
        tail,
    }))
}

/// Without a manifest there may be nothing but what the first open leaves when it is cut short:
/// at most the first segment, empty.
fn nothing(disk: &dyn Disk, listing: Listing) -> Result<Found, LogError> {
    let lost = LogError::corrupt(&disk.describe(manifest::NAME), 0, "it is missing");
    let first_only = listing.bases.is_empty() || listing.bases == [0];
    if !first_only || !listing.snapshots.is_empty() || listing.archives {
        return Err(lost);
    }
    for base in &listing.bases {
        if Segment::open(disk, *base)?.header_after(*base)?.is_some() {
            return Err(lost);
        }
    }
    let segments = listing.bases.iter().map(|base| segment_name(*base));
    let garbage = segments
        .chain(listing.temporaries)
        .chain(listing.spares)
        .collect();
    Ok(Found::Nothing { garbage })
}

fn open_segment(
    disk: &dyn Disk,
    manifest: &Manifest,
    base: Offset,
) -> Result<Arc<Segment>, LogError> {
    let segment = Segment::open(disk, base)?;
    if segment.header.log_id != manifest.log_id {
        return Err(LogError::corrupt(
            &segment.path,
            16,
            "a segment of another log",
        ));
    }
    if segment.header.epoch > manifest.epoch {
        let found = format!("epoch {} above the newest", segment.header.epoch);
        return Err(LogError::corrupt(&segment.path, 40, found));
    }
    Ok(Arc::new(segment))
}

fn open_kept(disk: &dyn Disk, manifest: &Manifest) -> Result<Vec<Arc<Segment>>, LogError> {
    let mut segments = Vec::new();
    for (base, end) in &manifest.kept {
        let segment = match open_segment(disk, manifest, *base) {
            Err(error) if is_absent(&error) => {
                return Err(missing(*base, "the manifest names it"));
            }
            other => other?,
        };
        check_length(&segment, *end)?;
        segment.advance(*end);
        segments.push(segment);
    }
    Ok(segments)
}

fn is_absent(error: &LogError) -> bool {
    matches!(error, LogError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

fn missing(base: Offset, detail: impl Into<String>) -> LogError {
    LogError::MissingSegment {
        base,
        detail: detail.into(),
    }
}

/// Opens every segment from the floor on, which must be a chain without a gap, and names the last.
fn open_chain(
    disk: &dyn Disk,
    manifest: &Manifest,
    listing: &Listing,
) -> Result<(Vec<Arc<Segment>>, Arc<Segment>), LogError> {
    let mut chain: Vec<Arc<Segment>> = Vec::new();
    for base in listing.bases.iter().filter(|base| **base >= manifest.floor) {
        let segment = open_segment(disk, manifest, *base)?;
        let expected = chain.last().map_or(manifest.floor, |before| before.base());
        let linked = if chain.is_empty() {
            *base
        } else {
            segment.header.prev_base
        };
        if linked != expected {
            let base = if chain.is_empty() {
                manifest.floor
            } else {
                linked
            };
            return Err(missing(base, format!("{} follows it", segment.path)));
        }
        chain.push(segment);
    }
    match chain.last().cloned() {
        Some(active) => Ok((chain, active)),
        None => Err(missing(manifest.floor, "the log ends before it")),
    }
}

fn check_kept(kept: &[Arc<Segment>], manifest: &Manifest) -> Result<(), LogError> {
    let chain = Chain {
        segments: kept,
        manifest,
    };
    for segment in kept {
        chain.check_full(segment, segment.end(), &mut Tail::default())?;
    }
    Ok(())
}

/// Makes what was found durable and removes what is left over. The manifest with the new epoch is
/// for the caller to store: with it the log is open.
pub(crate) fn repair(
    disk: &dyn Disk,
    last: &Segment,
    tail: &Tail,
    garbage: &[String],
) -> Result<(), LogError> {
    rewrite(last, tail).map_err(LogError::io("repair", &last.path))?;
    remove(disk, garbage)?;
    disk.sync_dir()
        .map_err(LogError::io("sync the directory", disk.describe("")))
}

fn rewrite(last: &Segment, tail: &Tail) -> std::io::Result<()> {
    disk::write_zeros(&*last.file, last.position(tail.at), tail.torn)?;
    let mut buffer = vec![0; 1024 * 1024];
    let mut at = last.position(tail.last_frame.unwrap_or(tail.at));
    let end = last.position(tail.at);
    while at < end {
        let piece = (end - at).min(buffer.len() as u64) as usize;
        disk::read_exact(&*last.file, &mut buffer[..piece], at)?;
        last.file
            .write_at(&mut [IoSlice::new(&buffer[..piece])], at)?;
        at += piece as u64;
    }
    last.file.sync()
}

/// Removes files that are left over.
pub(crate) fn remove(disk: &dyn Disk, names: &[String]) -> Result<(), LogError> {
    for name in names {
        disk.remove(name)
            .map_err(LogError::io("remove", disk.describe(name)))?;
    }
    Ok(())
}
