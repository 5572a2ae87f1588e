//! Cutting what goes out into frames of bounded size.

use crate::limits::{FRAME_BYTES, FRAME_ITEMS};

/// Cuts items into frames of at most [`FRAME_ITEMS`] that end with the one that takes them over [`FRAME_BYTES`].
pub(super) fn frames<T>(items: Vec<T>, bytes: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    if first(&items, &bytes) == items.len() {
        return if items.is_empty() {
            Vec::new()
        } else {
            vec![items]
        };
    }
    let mut out = Vec::with_capacity(items.len().div_ceil(FRAME_ITEMS));
    let mut frame = Vec::with_capacity(FRAME_ITEMS);
    let mut total = 0;
    for item in items {
        total += bytes(&item);
        frame.push(item);
        if frame.len() == FRAME_ITEMS || total >= FRAME_BYTES {
            out.push(std::mem::replace(
                &mut frame,
                Vec::with_capacity(FRAME_ITEMS),
            ));
            total = 0;
        }
    }
    if !frame.is_empty() {
        out.push(frame);
    }
    out
}

/// How many items the first frame holds.
fn first<T>(items: &[T], bytes: impl Fn(&T) -> usize) -> usize {
    let mut total = 0;
    for (index, item) in items.iter().enumerate().take(FRAME_ITEMS) {
        total += bytes(item);
        if total >= FRAME_BYTES {
            return index + 1;
        }
    }
    items.len().min(FRAME_ITEMS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_bounded_by_items_and_bytes() {
        let lens = |items: Vec<usize>| -> Vec<usize> {
            frames(items, |bytes| *bytes).iter().map(Vec::len).collect()
        };
        assert_eq!(lens(vec![1; 600]), [256, 256, 88]);
        assert_eq!(lens(vec![FRAME_BYTES / 2; 5]), [2, 2, 1]);
        assert_eq!(lens(vec![FRAME_BYTES * 3; 2]), [1, 1]);
        assert!(frames(Vec::<u8>::new(), |_| 1).is_empty());
    }
}
