//! The first record of every segment: all metadata, so that older segments hold only data.
//!
//! *Invariant:* a snapshot says everything that the records before it have said and nothing that a
//! record behind it says. A segment started because a sync failed *continues* its predecessor
//! instead: at that moment the state in memory is already ahead of the log.

use millstream_core::{
    Code, Error, Result,
    engine::{InputSpec, StreamSpec},
    turn::{Progress, TaskId},
};
use serde::{Deserialize, Serialize};

use super::record::{RunMeta, StreamMeta};

/// The metadata of a segment's first record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Start {
    /// The segments that are needed beside this one; each ends where it says, whatever follows.
    pub segments: Vec<Extent>,
    /// `None`: continues the last of `segments`.
    pub snapshot: Option<Snapshot>,
}

/// Where a segment lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    /// Position of its first byte.
    pub base: u64,
    /// Position one past its last.
    pub end: u64,
}

/// All metadata at one point of the log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub streams: Vec<StreamSnap>,
    pub tasks: Vec<TaskSnap>,
}

/// A stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StreamSnap {
    pub stream: StreamMeta,
    pub partitions: Vec<PartitionSnap>,
}

/// A partition: which frames it has, and what was counted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct PartitionSnap {
    pub first: u64,
    pub next: u64,
    pub base_row: u64,
    pub base_byte: u64,
    pub appended_rows: u64,
    #[serde(default)]
    pub outside_rows: u64,
    pub expired_rows: u64,
}

/// A task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TaskSnap {
    pub task: TaskId,
    pub name: String,
    pub inputs: Vec<InputSpec>,
    pub attached: Vec<Attached>,
    pub opens: u32,
    pub progress: Progress,
    pub through: u64,
    pub runs: Vec<RunMeta>,
    /// How many deltas lie in older segments, to notice a missing one.
    pub deltas: u64,
}

/// Where a consumer began to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attached {
    pub frame: u64,
    pub row: u64,
}

impl StreamMeta {
    pub fn of(spec: &StreamSpec) -> StreamMeta {
        let mut encoder = arrow_ipc::convert::IpcSchemaEncoder::new();
        StreamMeta {
            name: spec.name.clone(),
            schema: encoder.schema_to_fb(&spec.schema).finished_data().to_vec(),
            partitions: spec.partitions,
            retain_bytes: spec.retain_bytes,
        }
    }

    pub fn spec(&self) -> Result<StreamSpec> {
        let schema = arrow_ipc::root_as_schema(&self.schema)
            .map_err(|e| Error::corrupt(format!("schema of stream {}: {e}", self.name)))?;
        Ok(StreamSpec {
            name: self.name.clone(),
            schema: std::sync::Arc::new(arrow_ipc::convert::fb_to_schema(schema)),
            partitions: self.partitions,
            retain_bytes: self.retain_bytes,
        })
    }
}

/// The columns of a stream as a person reads them in an error.
fn columns(spec: &StreamSpec) -> String {
    let columns: Vec<String> = spec
        .schema
        .fields()
        .iter()
        .map(|f| {
            format!("{} {}{}", f.name(), f.data_type(), if f.is_nullable() { "?" } else { "" })
        })
        .collect();
    columns.join(", ")
}

/// The error of a stream asked for as something it is not.
pub(super) fn conflict(is: &StreamSpec, asked: &StreamSpec) -> Error {
    let differs = |spec: &StreamSpec| match () {
        () if is.partitions != asked.partitions => format!("{} partitions", spec.partitions),
        () if is.schema != asked.schema => format!("columns ({})", columns(spec)),
        () => format!("{} bytes retained", spec.retain_bytes),
    };
    let (name, is_so, asked_so) = (&is.name, differs(is), differs(asked));
    Error::new(
        Code::Conflict,
        format!("stream {name} exists with {is_so}; this flow asks for {asked_so}"),
    )
    .help("a step that has run keeps what it reads: give it another name, or begin in another directory")
}

/// Serialises bytes as bytes, not as a sequence of numbers.
pub(super) mod bytes {
    use serde::{Deserializer, Serializer, de::Visitor};

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, v: &[u8]) -> Result<Vec<u8>, E> {
                Ok(v.to_vec())
            }
        }
        d.deserialize_bytes(Bytes)
    }
}
