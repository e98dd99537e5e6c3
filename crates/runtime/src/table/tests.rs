use std::collections::BTreeMap;

use millstream_core::{key::hash, turn::changes};

use super::*;

#[derive(Clone, Debug, PartialEq)]
struct Text(String);

impl Value for Text {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), Failure> {
        if self.0 == "unserialisable" {
            return Err(Failure::new("no"));
        }
        out.extend_from_slice(self.0.as_bytes());
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        Ok(Text(String::from_utf8(bytes.to_vec())?))
    }
}

fn set(t: &mut Table<Text>, key: &[u8], value: Option<&str>) {
    let entry = t.entry(hash(key), key);
    *t.value_mut(entry).unwrap() = value.map(|v| Text(v.into()));
}

fn get(t: &mut Table<Text>, key: &[u8]) -> Option<String> {
    let entry = t.find(hash(key), key)?;
    t.value(entry).unwrap().clone().map(|v| v.0)
}

fn seal(t: &mut Table<Text>) -> Delta {
    let mut delta = Delta::default();
    t.seal(&mut delta).unwrap();
    delta
}

#[test]
fn undo_goes_back_to_the_last_seal() {
    let mut t = Table::new("t");
    set(&mut t, b"a", Some("1"));
    seal(&mut t);
    set(&mut t, b"a", Some("2"));
    set(&mut t, b"b", Some("3"));
    t.undo();
    assert_eq!(get(&mut t, b"a").as_deref(), Some("1"));
    assert_eq!((get(&mut t, b"b"), t.len()), (None, 1));
    set(&mut t, b"a", None);
    t.undo();
    assert_eq!(get(&mut t, b"a").as_deref(), Some("1"));
}

#[test]
fn only_changes_are_written() {
    let mut t = Table::new("t");
    set(&mut t, b"a", Some("1"));
    set(&mut t, b"never", None);
    assert_eq!(seal(&mut t).len(), 1);
    assert_eq!(t.len(), 1);
    set(&mut t, b"a", Some("1"));
    assert!(seal(&mut t).is_empty());
    set(&mut t, b"a", None);
    let delta = seal(&mut t);
    let gone: Vec<_> = changes(delta.bytes()).map(Result::unwrap).collect();
    assert_eq!(gone, [Change { table: t.id, key: b"a", value: None }]);
    assert!(t.is_empty());
}

#[test]
fn a_value_that_cannot_be_serialised_seals_nothing() {
    let mut t = Table::new("t");
    set(&mut t, b"a", Some("1"));
    set(&mut t, b"b", Some("unserialisable"));
    let mut delta = Delta::default();
    assert!(t.seal(&mut delta).is_err());
    assert!(delta.is_empty());
    t.undo();
    assert!(t.is_empty());
}

#[test]
fn a_unit_can_be_put_back_alone() {
    let mut t = Table::new("t");
    set(&mut t, b"a", Some("1"));
    let entry = t.entry(hash(b"a"), b"a");
    let saved = t.save(entry).unwrap();
    set(&mut t, b"a", Some("2"));
    t.put_back(entry, &saved).unwrap();
    assert_eq!(get(&mut t, b"a").as_deref(), Some("1"));
}

#[test]
fn random_turns_equal_a_model_and_survive_restore() {
    for seed in 0..50u64 {
        let mut rng = seed;
        let mut next = move || {
            rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (rng >> 33) as usize
        };
        let mut t = Table::new("t");
        let mut model: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        let mut log = Vec::new();
        for _ in 0..60 {
            let mut draft = model.clone();
            for _ in 0..next() % 20 {
                let key = vec![(next() % 12) as u8; next() % 3 + 1];
                let value = (next() % 4 > 0).then(|| "v".repeat(next() % 40));
                let entry = t.entry(hash(&key), &key);
                let saved = t.save(entry).unwrap();
                set(&mut t, &key, value.as_deref());
                if next() % 3 == 0 {
                    t.put_back(entry, &saved).unwrap();
                    continue; // a failed unit
                }
                match value {
                    Some(v) => draft.insert(key, v),
                    None => draft.remove(&key),
                };
            }
            if next() % 4 == 0 {
                t.undo();
            } else {
                log.extend_from_slice(seal(&mut t).bytes());
                model = draft;
            }
            assert_eq!(t.len(), model.len(), "seed {seed}");
        }
        let mut restored = Table::new("t");
        changes(&log).for_each(|c| restored.restore(c.unwrap()).unwrap());
        for table in [&mut t, &mut restored] {
            assert_eq!(table.len(), model.len(), "seed {seed}");
            for (key, value) in &model {
                assert_eq!(get(table, key).as_ref(), Some(value), "seed {seed}");
                assert_eq!(table.sealed(key), Some(value.as_bytes()), "seed {seed}");
            }
        }
    }
}
