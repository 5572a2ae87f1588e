//! From numbers of tasks to cells. Numbers are dense, so pages of cells find one in constant time; a page
//! whose tasks are all forgotten is given back.

use super::slab::NONE;
use crate::ids::TaskId;
use std::collections::VecDeque;

const PAGE_BITS: u32 = 12;
const PAGE: usize = 1 << PAGE_BITS;

/// Pages between the oldest and the newest task at most: 2^36 tasks. A number beyond is not taken.
const PAGES_MAX: u64 = 1 << 24;

#[derive(Debug)]
struct Page {
    cells: Box<[u32]>,
    used: u32,
}

/// Cells by number.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pages: VecDeque<Option<Page>>,
    /// Number of the first page.
    base: u64,
}

fn place(id: TaskId) -> (u64, usize) {
    (id.0 >> PAGE_BITS, id.0 as usize & (PAGE - 1))
}

impl Pages {
    /// A free cell for a number, to be filled at once. None: it is taken, or so far from the others that it cannot
    /// be right.
    pub(crate) fn claim(&mut self, id: TaskId) -> Option<&mut u32> {
        let (number, at) = place(id);
        if self.pages.is_empty() {
            self.base = number;
        }
        let end = self.base + self.pages.len() as u64;
        if number >= self.base.saturating_add(PAGES_MAX) || end.saturating_sub(number) > PAGES_MAX {
            return None;
        }
        while number < self.base {
            self.pages.push_front(None);
            self.base -= 1;
        }
        let index = (number - self.base) as usize;
        while self.pages.len() <= index {
            self.pages.push_back(None);
        }
        let fresh = || Page {
            cells: vec![NONE; PAGE].into_boxed_slice(),
            used: 0,
        };
        let page = self.pages[index].get_or_insert_with(fresh);
        let cell = page.cells.get_mut(at).filter(|cell| **cell == NONE)?;
        page.used += 1;
        Some(cell)
    }

    /// The cell of a number.
    pub(crate) fn get(&self, id: TaskId) -> Option<u32> {
        let (number, at) = place(id);
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        let cell = self.pages.get(index)?.as_ref()?.cells[at];
        (cell != NONE).then_some(cell)
    }

    /// The cell of a number that is known.
    pub(crate) fn get_mut(&mut self, id: TaskId) -> Option<&mut u32> {
        let (number, at) = place(id);
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        let cell = &mut self.pages.get_mut(index)?.as_mut()?.cells[at];
        (*cell != NONE).then_some(cell)
    }

    /// Forgets a number that is known.
    pub(crate) fn remove(&mut self, id: TaskId) {
        let (number, at) = place(id);
        let Some(index) = number.checked_sub(self.base) else {
            return;
        };
        let Some(entry) = self.pages.get_mut(index as usize) else {
            return;
        };
        let Some(page) = entry else { return };
        page.cells[at] = NONE;
        page.used -= 1;
        if page.used == 0 {
            *entry = None;
        }
        while matches!(self.pages.front(), Some(None)) {
            self.pages.pop_front();
            self.base += 1;
        }
        while matches!(self.pages.back(), Some(None)) {
            self.pages.pop_back();
        }
    }

    /// The last number before another one, and its cell.
    pub(crate) fn before(&self, id: TaskId) -> Option<(TaskId, u32)> {
        let (number, mut to) = place(TaskId(id.0.checked_sub(1)?));
        let last = (self.pages.len() as u64).checked_sub(1)?;
        let mut index = number.checked_sub(self.base)?;
        if index > last {
            (index, to) = (last, PAGE - 1);
        }
        loop {
            if let Some(page) = &self.pages[index as usize]
                && let Some(at) = page.cells[..=to].iter().rposition(|cell| *cell != NONE)
            {
                return Some((self.id(index, at), page.cells[at]));
            }
            index = index.checked_sub(1)?;
            to = PAGE - 1;
        }
    }

    fn id(&self, index: u64, at: usize) -> TaskId {
        TaskId((self.base + index) << PAGE_BITS | at as u64)
    }

    /// All cells by ascending number.
    pub(crate) fn ascending(&self) -> impl Iterator<Item = u32> + '_ {
        let pages = self.pages.iter().flatten();
        pages.flat_map(|page| page.cells.iter().copied().filter(|cell| *cell != NONE))
    }

    /// Cells by ascending number, from one on.
    pub(crate) fn ascending_from(&self, id: TaskId) -> impl Iterator<Item = (TaskId, u32)> + '_ {
        let (number, at) = place(id);
        let (skipped, mut from) = match number.checked_sub(self.base) {
            Some(skipped) => (skipped, at),
            None => (0, 0),
        };
        let pages = self.pages.iter().enumerate();
        let pages = pages.skip(usize::try_from(skipped).unwrap_or(usize::MAX));
        pages.flat_map(move |(index, page)| {
            let from = std::mem::take(&mut from);
            let cells = page.iter().flat_map(|page| page.cells.iter().enumerate());
            cells
                .skip(from)
                .filter(|(_, cell)| **cell != NONE)
                .map(move |(at, cell)| (self.id(index as u64, at), *cell))
        })
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }
}
