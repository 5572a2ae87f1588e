//! Reads the fields of a serialized protobuf message without knowing its type.
//!
//! For keys, which are picked out of a request by field number, and for descriptors, which must keep the options
//! that generated code drops. It decodes nothing else and never allocates.

/// Groups inside groups beyond this depth are refused, as protobuf parsers do.
const GROUP_DEPTH_MAX: u32 = 100;

/// The bytes are no protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf")]
pub(crate) struct Malformed;

/// One field's value as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

/// Iterates over the fields of a message in wire order. Groups are checked and skipped. Ends after the first error.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field, groups skipped.
    fn field(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        while !self.rest.is_empty() {
            let (number, wire_type) = self.tag()?;
            if wire_type == 3 {
                self.skip_group(number)?;
                continue;
            }
            return Ok(Some((number, self.value(wire_type)?)));
        }
        Ok(None)
    }

    /// The next field with its tag, as it stands in the message; groups are skipped.
    pub(crate) fn raw(&mut self) -> Result<Option<(u32, &'a [u8])>, Malformed> {
        let before = self.rest;
        let number = self.field()?.map(|(number, _)| number);
        Ok(number.map(|number| (number, &before[..before.len() - self.rest.len()])))
    }

    fn skip_group(&mut self, number: u32) -> Result<(), Malformed> {
        let mut open = [0u32; GROUP_DEPTH_MAX as usize];
        open[0] = number;
        let mut depth = 1;
        while depth > 0 {
            let (number, wire_type) = self.tag()?;
            match wire_type {
                3 => {
                    *open.get_mut(depth).ok_or(Malformed)? = number;
                    depth += 1;
                }
                4 if open[depth - 1] == number => depth -= 1,
                _ => drop(self.value(wire_type)?),
            }
        }
        Ok(())
    }

    fn tag(&mut self) -> Result<(u32, u8), Malformed> {
        let tag = u32::try_from(self.varint()?).map_err(|_| Malformed)?;
        if tag >> 3 == 0 {
            return Err(Malformed);
        }
        Ok((tag >> 3, (tag & 7) as u8))
    }

    fn value(&mut self, wire_type: u8) -> Result<Value<'a>, Malformed> {
        Ok(match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(*self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(*self.array()?)),
            _ => return Err(Malformed),
        })
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for (place, byte) in self.rest.iter().take(10).enumerate() {
            if place == 9 && *byte > 1 {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[place + 1..];
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let field = self.field().transpose();
        if let Some(Err(_)) = field {
            self.rest = &[];
        }
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Malformed> {
        Fields::new(message).collect()
    }

    #[test]
    fn every_wire_type_is_read() {
        let message = [
            0x08, 0x96, 0x01, // 1: varint 150
            0x11, 1, 0, 0, 0, 0, 0, 0, 0, // 2: fixed64 1
            0x1a, 2, b'h', b'i', // 3: bytes "hi"
            0x25, 2, 0, 0, 0, // 4: fixed32 2
        ];
        let want = vec![
            (1, Value::Varint(150)),
            (2, Value::Fixed64(1)),
            (3, Value::Bytes(b"hi")),
            (4, Value::Fixed32(2)),
        ];
        assert_eq!(read(&message), Ok(want));
    }

    #[test]
    fn groups_are_skipped_with_what_is_in_them() {
        // Group 1 holds group 2 and a varint; field 3 follows.
        let message = [0x0b, 0x13, 0x08, 0x01, 0x14, 0x0c, 0x18, 0x07];
        assert_eq!(read(&message), Ok(vec![(3, Value::Varint(7))]));
    }

    #[test]
    fn groups_that_do_not_match_are_refused() {
        assert_eq!(read(&[0x0b, 0x14]), Err(Malformed));
        assert_eq!(read(&[0x0b]), Err(Malformed));
        assert_eq!(read(&[0x0c]), Err(Malformed));
        assert_eq!(read(&[0x0b; 200]), Err(Malformed));
    }

    #[test]
    fn broken_bytes_are_refused() {
        for message in [
            &[0x08][..],
            &[0x00, 0x01],
            &[0x0f, 0x01],
            &[0x0a, 0x05, 0x00],
            &[0x0d, 0x01],
            &[0x09, 0x01],
            &[0xff; 11],
            &[
                0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02,
            ],
        ] {
            assert_eq!(read(message), Err(Malformed), "{message:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(message in proptest::collection::vec(any::<u8>(), 0..256)) {
            let fields = Fields::new(&message).count();
            prop_assert!(fields <= message.len());
        }

        #[test]
        fn any_varint_is_read_back(number in 1u32..(1 << 29), value in any::<u64>()) {
            let mut message = Vec::new();
            prost::encoding::encode_key(number, prost::encoding::WireType::Varint, &mut message);
            prost::encoding::encode_varint(value, &mut message);
            prop_assert_eq!(read(&message), Ok(vec![(number, Value::Varint(value))]));
        }
    }
}
