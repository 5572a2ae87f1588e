//! The simulated disk as one process sees it.

use std::io::{self, IoSlice};
use std::sync::{Arc, MutexGuard};

use super::bytes::SimBytes;
use super::{EIO, ENOSPC, Faults, Rename, SimDisk, State, end};
use crate::disk::{Disk, DiskFile, DiskLock, LockError};

/// One process's view: it dies with the process.
#[derive(Debug)]
pub(super) struct SimMount {
    pub(super) disk: SimDisk,
    pub(super) generation: u64,
}

impl SimMount {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        state.check(self.generation)?;
        Ok(state)
    }

    fn handle(&self, file: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            disk: self.disk.clone(),
            file,
            generation: self.generation,
        })
    }

    fn change_names(&self, rename: Rename) -> io::Result<()> {
        let mut state = self.disk.lock();
        let dying = state.begin(self.generation)?;
        let error = state.faults.dir_error;
        state.may_fail(error, EIO)?;
        rename.apply(&mut state.names);
        state.renames.push(rename);
        end(dying)
    }
}

impl Disk for SimMount {
    fn describe(&self, name: &str) -> String {
        format!("sim/{name}")
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.lock().add(SimBytes::default());
        self.change_names(Rename {
            from: None,
            to: Some((name.to_owned(), file)),
        })?;
        Ok(self.handle(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.state()?.find(name)?;
        Ok(self.handle(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.state()?.find(from)?;
        let to = Some((to.to_owned(), file));
        self.change_names(Rename {
            from: Some(from.to_owned()),
            to,
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state()?.find(name)?;
        self.change_names(Rename {
            from: Some(name.to_owned()),
            to: None,
        })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state()?.names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let dying = state.begin(self.generation)?;
        let error = state.faults.dir_error;
        state.may_fail(error, EIO)?;
        if !dying && !state.faults.syncs_lie {
            state.renames.clear();
            state.durable_names = state.names.clone();
        }
        end(dying)
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, LockError> {
        let mut state = self.state().map_err(LockError::Io)?;
        if !state.locked.insert(name.to_owned()) {
            return Err(LockError::Held(None));
        }
        let (disk, generation) = (self.disk.clone(), self.generation);
        Ok(Box::new(SimLock {
            disk,
            name: name.to_owned(),
            generation,
        }))
    }

    fn entropy(&self) -> u64 {
        self.disk.lock().random.number()
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
    generation: u64,
}

impl DiskFile for SimFile {
    fn write_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        let mut bytes = Vec::new();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        let mut state = self.disk.lock();
        let dying = state.begin(self.generation)?;
        let Faults {
            write_error,
            no_space,
            ..
        } = state.faults;
        let refused = state.may_fail(write_error, EIO);
        let refused = refused.and_then(|()| state.may_fail(no_space, ENOSPC));
        if refused.is_err() {
            bytes.truncate(state.random.below(bytes.len() + 1));
        }
        state.files[self.file].write(&bytes, at as usize);
        refused?;
        end(dying)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.lock();
        state.check(self.generation)?;
        let error = state.faults.read_error;
        state.may_fail(error, EIO)?;
        let cache = &state.files[self.file].cache;
        let start = cache.len().min(at as usize);
        let count = buf.len().min(cache.len() - start);
        buf[..count].copy_from_slice(&cache[start..start + count]);
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let dying = state.begin(self.generation)?;
        let error = state.faults.sync_error;
        let failed = state.may_fail(error, EIO);
        let State {
            files,
            random,
            faults,
            ..
        } = &mut *state;
        if failed.is_err() {
            files[self.file].write_back(random, 0.5);
        } else if !dying && !faults.syncs_lie {
            files[self.file].sync();
        }
        failed?;
        end(dying)
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.disk.lock();
        state.check(self.generation)?;
        Ok(state.files[self.file].cache.len() as u64)
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    name: String,
    generation: u64,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.generation == self.generation {
            state.locked.remove(&self.name);
        }
    }
}
