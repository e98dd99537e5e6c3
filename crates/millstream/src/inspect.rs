//! A process's state for people: without its Rust type, from its committed bytes alone.
//!
//! *Invariant:* whatever serde wrote can be shown; what JSON lacks (bytes, keys that are no text)
//! becomes text.

use std::fmt;

use millstream_core::{Code, Error};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::process::Timers;

/// A process as it was last committed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessState {
    /// The version of its state's layout.
    pub version: u16,
    /// Its timers, the earliest first.
    pub timers: Vec<TimerState>,
    /// Its state, with the names of its fields.
    pub state: Value,
}

/// A timer of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimerState {
    /// Its name.
    pub name: String,
    /// `event` or `processing`.
    pub clock: String,
    /// When it is due, in ms since 1970.
    pub due_ms: i64,
    /// The same, for people.
    pub due: String,
}

/// Reads the committed bytes of any process kind.
///
/// # Errors
/// [`Code::Corrupt`] if they are none.
pub fn process_state(bytes: &[u8]) -> Result<ProcessState, Error> {
    let corrupt = |e: String| Error::new(Code::Corrupt, format!("the state of a process: {e}"));
    let (version, mut rest) =
        bytes.split_first_chunk::<2>().ok_or_else(|| corrupt("it is empty".into()))?;
    let timers = Timers::decode(&mut rest).map_err(|e| corrupt(e.to_string()))?;
    let timers = timers.all().map(|(due, name, clock)| TimerState {
        name: name.to_string(),
        clock: if clock == 0 { "event" } else { "processing" }.into(),
        due_ms: due.ms(),
        due: due.to_string(),
    });
    let timers = timers.collect();
    let state = value(rest).map_err(|e| corrupt(e.to_string()))?;
    Ok(ProcessState { version: u16::from_le_bytes(*version), timers, state })
}

/// MessagePack as JSON.
///
/// # Errors
/// If the bytes are no MessagePack.
pub fn value(bytes: &[u8]) -> Result<Value, rmp_serde::decode::Error> {
    Shown.deserialize(&mut rmp_serde::Deserializer::from_read_ref(bytes))
}

/// Shows anything.
#[derive(Clone, Copy)]
struct Shown;

impl<'de> DeserializeSeed<'de> for Shown {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shown {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or_else(|| Value::String(v.to_string()), Value::Number))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.into()))
    }
    fn visit_bytes<E>(self, v: &[u8]) -> Result<Value, E> {
        Ok(Value::String(v.iter().map(|b| format!("{b:02x}")).collect()))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Shown)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key_seed(Shown)? {
            let key = match key {
                Value::String(key) => key,
                other => other.to_string(),
            };
            fields.insert(key, map.next_value_seed(Shown)?);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millstream_core::Time;

    use super::*;
    use crate::process::At;

    #[test]
    fn state_is_shown_without_its_type() {
        #[derive(Serialize)]
        struct Any {
            count: u32,
            by_hour: BTreeMap<i32, Option<f64>>,
            #[serde(with = "bytes")]
            raw: Vec<u8>,
        }
        mod bytes {
            pub fn serialize<S: serde::Serializer>(v: &[u8], s: S) -> Result<S::Ok, S::Error> {
                s.serialize_bytes(v)
            }
        }
        let state = Any {
            count: 3,
            by_hour: BTreeMap::from([(-1, None), (7, Some(1.5))]),
            raw: vec![0, 255],
        };
        let mut timers = Timers::default();
        timers.set("silent", At::Processing(Time::from_ms(9)));
        let mut bytes = 2u16.to_le_bytes().to_vec();
        timers.encode(&mut bytes).unwrap();
        bytes.extend(rmp_serde::to_vec_named(&state).unwrap());
        let shown = process_state(&bytes).unwrap();
        assert_eq!((shown.version, shown.timers[0].clock.as_str()), (2, "processing"));
        let expected =
            serde_json::json!({"count": 3, "by_hour": {"-1": null, "7": 1.5}, "raw": "00ff"});
        assert_eq!(shown.state, expected);
        for cut in 0..bytes.len() {
            assert_eq!(process_state(&bytes[..cut]).unwrap_err().code(), Code::Corrupt, "{cut}");
        }
    }
}
