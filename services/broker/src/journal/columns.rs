//! The two kinds of columns of the log's format: delta and collapsed. See record.proto.

use super::JournalError;

/// Each number less the one before; the first less 0.
pub(super) fn deltas(numbers: impl IntoIterator<Item = u64>) -> Vec<i64> {
    let mut last = 0_u64;
    let delta = |number: u64| {
        let delta = number.wrapping_sub(last) as i64;
        last = number;
        delta
    };
    numbers.into_iter().map(delta).collect()
}

/// Undoes [`deltas`].
pub(super) fn undelta(deltas: &[i64]) -> impl Iterator<Item = u64> + '_ {
    deltas.iter().scan(0_u64, |last, delta| {
        *last = last.wrapping_add(*delta as u64);
        Some(*last)
    })
}

/// No entry when all are `default`, one when all are equal, else all.
pub(super) fn collapse<T: PartialEq>(mut column: Vec<T>, default: &T) -> Vec<T> {
    let Some((first, rest)) = column.split_first() else {
        return column;
    };
    if rest.iter().all(|value| value == first) {
        let keep = usize::from(first != default);
        column.truncate(keep);
    }
    column
}

/// A collapsed column of what rows say.
pub(super) fn column<S, T: PartialEq>(rows: &[S], default: &T, value: impl Fn(&S) -> T) -> Vec<T> {
    // Mostly all rows agree: then nothing is allocated but the one entry.
    let Some((first, rest)) = rows.split_first() else {
        return Vec::new();
    };
    let first = value(first);
    if rest.iter().any(|row| value(row) != first) {
        return rows.iter().map(value).collect();
    }
    if first == *default {
        Vec::new()
    } else {
        vec![first]
    }
}

/// A collapsed column of keys, empty for none.
pub(super) fn keys<S>(rows: &[S], key: impl Fn(&S) -> Option<&str>) -> Vec<String> {
    let Some((first, rest)) = rows.split_first() else {
        return Vec::new();
    };
    let text = |row: &S| key(row).unwrap_or_default().to_owned();
    if rest.iter().any(|row| key(row) != key(first)) {
        return rows.iter().map(text).collect();
    }
    key(first).map(str::to_owned).into_iter().collect()
}

/// A collapsed column that is read by index.
#[derive(Debug)]
pub(super) struct Collapsed<'a, T> {
    values: &'a [T],
    default: T,
}

impl<'a, T> Collapsed<'a, T> {
    /// Checks that the column fits `count` tasks.
    pub(super) fn new(
        name: &'static str,
        values: &'a [T],
        count: usize,
        default: T,
    ) -> Result<Self, JournalError> {
        if values.len() > 1 && values.len() != count {
            return Err(JournalError::Column {
                name,
                found: values.len(),
                count,
            });
        }
        Ok(Self { values, default })
    }

    pub(super) fn get(&self, index: usize) -> &T {
        match self.values {
            [] => &self.default,
            [only] => only,
            many => many.get(index).unwrap_or(&self.default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_are_undone() {
        let numbers = [5, 6, 7, u64::MAX, 0, 3];
        assert_eq!(undelta(&deltas(numbers)).collect::<Vec<_>>(), numbers);
        assert_eq!(deltas([10, 11, 12]), [10, 1, 1]);
    }

    #[test]
    fn columns_collapse() {
        assert_eq!(collapse(vec![0, 0, 0], &0), [0; 0]);
        assert_eq!(collapse(vec![4, 4, 4], &0), [4]);
        assert_eq!(collapse(vec![4, 5], &0), [4, 5]);
        assert_eq!(collapse(Vec::<u32>::new(), &0), [0; 0]);
    }

    #[test]
    fn a_column_of_another_length_is_refused() {
        assert!(Collapsed::new("x", &[1, 2], 3, 0).is_err());
        let column = Collapsed::new("x", &[7], 3, 0).unwrap();
        assert_eq!((*column.get(0), *column.get(2)), (7, 7));
    }
}
