//! Which partition a key belongs to.

use crate::key;

/// How keys are spread over partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Partitioner {
    /// Ours, by [`key::Slot`].
    #[default]
    Slots,
    /// Kafka's default, of a key that is one text or its bytes: see [`murmur2_of`].
    Murmur2,
}

impl Partitioner {
    /// The partition, of so many, of these key bytes.
    ///
    /// # Panics
    /// If there are no partitions.
    pub fn of(self, key: &[u8], partitions: u32) -> u32 {
        match self {
            Partitioner::Slots => key::Slot::of(key).partition(partitions),
            Partitioner::Murmur2 => murmur2_of(&key::raw(key), partitions),
        }
    }
}

/// The partition, of so many, in which Kafka's own clients put a record of this key.
///
/// # Panics
/// If there are no partitions.
///
/// *Source:* `Utils.murmur2` and `BuiltInPartitioner` of Kafka's clients.
pub fn murmur2_of(key: &[u8], partitions: u32) -> u32 {
    assert!(partitions > 0, "a topic has a partition");
    (murmur2(key) & 0x7fff_ffff) % partitions
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    /// The vectors of Kafka's own test, `UtilsTest.testMurmur2`.
    #[test]
    fn keys_are_hashed_as_kafka_does() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
        assert_eq!(murmur2_of(b"21", 7), (-973_932_308_i32 as u32 & 0x7fff_ffff) % 7);
    }

    #[test]
    fn a_text_is_where_kafka_puts_its_bytes() {
        for text in ["", "21", "a\0b", "\0", "ünï"] {
            let at = Partitioner::Murmur2.of(Key::text(text).bytes(), 97);
            assert_eq!(at, murmur2_of(text.as_bytes(), 97), "{text:?}");
        }
        let bytes = Key::from_parts(&[key::Part::Bytes(&[0, 255, 0])]);
        assert_eq!(Partitioner::Murmur2.of(bytes.bytes(), 97), murmur2_of(&[0, 255, 0], 97));
    }
}
