//! Streams as they are stored and compared.

use super::{InputSpec, StreamSpec, TaskSpec};
use crate::{Code, Error, Result};

/// How many partitions a stream can have.
const PARTITIONS_MAX: u32 = 1024;

impl StreamSpec {
    /// Whether there can be such a stream.
    ///
    /// # Errors
    /// [`Code::Limit`] if it has no partition or too many.
    pub fn check(&self) -> Result<()> {
        if (1..=PARTITIONS_MAX).contains(&self.partitions) {
            return Ok(());
        }
        let (name, n) = (&self.name, self.partitions);
        let message =
            format!("stream {name} with {n} partitions; 1 to {PARTITIONS_MAX} are possible");
        Err(Error::new(Code::Limit, message))
    }

    /// The error of this stream being asked for as something that it is not.
    pub fn conflict(&self, asked: &StreamSpec) -> Error {
        let differs = |spec: &StreamSpec| match () {
            () if self.partitions != asked.partitions => format!("{} partitions", spec.partitions),
            () if self.schema != asked.schema => format!("columns ({})", columns(spec)),
            () => format!("{} bytes retained", spec.retain_bytes),
        };
        let (name, is_so, asked_so) = (&self.name, differs(self), differs(asked));
        Error::new(
            Code::Conflict,
            format!("stream {name} exists with {is_so}; this flow asks for {asked_so}"),
        )
        .help("a step that has run keeps what it reads: give it another name, or begin in another directory")
    }
}

impl TaskSpec {
    /// The error of this task existing with other inputs.
    pub fn conflict(&self, exists: &[InputSpec]) -> Error {
        let (name, asked) = (&self.name, &self.inputs);
        Error::new(
            Code::Conflict,
            format!("task {name} exists with inputs {exists:?}; asked for with {asked:?}"),
        )
        .help(
            "a task keeps its inputs in their order and may get more: give the stage another name",
        )
    }
}

/// The columns of a stream as a person reads them in an error.
fn columns(spec: &StreamSpec) -> String {
    let fields = spec.schema.fields().iter();
    let column = |f: &arrow_schema::FieldRef| {
        let optional = if f.is_nullable() { "?" } else { "" };
        format!("{} {}{optional}", f.name(), f.data_type())
    };
    fields.map(column).collect::<Vec<_>>().join(", ")
}

pub(super) mod schema {
    //! Stores a schema as Arrow's own encoding of it.
    use std::sync::Arc;

    use arrow_ipc::convert::{IpcSchemaEncoder, fb_to_schema};
    use arrow_schema::SchemaRef;
    use serde::{Deserializer, Serializer, de::Error};

    use crate::wire::bytes;

    pub fn serialize<S: Serializer>(schema: &SchemaRef, s: S) -> Result<S::Ok, S::Error> {
        let mut encoder = IpcSchemaEncoder::new();
        s.serialize_bytes(encoder.schema_to_fb(schema).finished_data())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SchemaRef, D::Error> {
        let bytes: Vec<u8> = bytes::deserialize(d)?;
        let schema = arrow_ipc::root_as_schema(&bytes).map_err(D::Error::custom)?;
        Ok(Arc::new(fb_to_schema(schema)))
    }
}
