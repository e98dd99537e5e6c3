//! The streams of an engine, and what is in them.

use std::ops::ControlFlow;

use millstream_core::{
    Code, Error, Result,
    engine::{Engine, StreamInfo},
    nearest,
};
use serde::{Deserialize, Serialize};

use super::{LIMIT_MAX, TailRow, rows::json_rows, walk};

/// What is to be known of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamView {
    /// `flow/stream`.
    pub name: String,
    /// How many partitions.
    pub partitions: u32,
    /// Rows appended since it exists.
    pub appended_rows: u64,
    /// Rows its slowest reader has not read.
    pub backlog_rows: u64,
    /// Bytes of them.
    pub backlog_bytes: u64,
    /// Frames that can be read.
    pub frames: u64,
    /// Its columns, as `name type`.
    pub columns: Vec<String>,
}

/// All streams, by name.
pub fn streams(engine: &dyn Engine) -> Vec<StreamView> {
    let view = |info: StreamInfo| StreamView {
        partitions: info.spec.partitions,
        appended_rows: info.appended_rows,
        backlog_rows: info.backlog.rows,
        backlog_bytes: info.backlog.bytes,
        frames: info.frames.iter().map(|range| range.end - range.start).sum(),
        columns: (info.spec.schema.fields().iter())
            .map(|f| format!("{} {}", f.name(), f.data_type()))
            .collect(),
        name: info.spec.name,
    };
    let mut views: Vec<_> = engine.streams().into_iter().map(view).collect();
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}

/// The stream called `name`: `flow/stream`, or `stream` where only one flow has it.
///
/// # Errors
/// [`Code::Unknown`] with "did you mean" if there is none, or several.
pub fn resolve(engine: &dyn Engine, name: &str) -> Result<StreamInfo> {
    let all = engine.streams();
    let short = |info: &StreamInfo| info.spec.name.rsplit_once('/').is_some_and(|(_, s)| s == name);
    if let Some(found) = all.iter().find(|info| info.spec.name == name) {
        return Ok(found.clone());
    }
    let found: Vec<&StreamInfo> = all.iter().filter(|info| short(info)).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let names = all.iter().flat_map(|info| {
                let full = info.spec.name.as_str();
                [Some(full), full.rsplit_once('/').map(|(_, short)| short)].into_iter().flatten()
            });
            let error = Error::new(Code::Unknown, format!("there is no stream `{name}`"));
            Err(match nearest(name, names) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help("see all: `millstream streams list`"),
            })
        }
        several => {
            let names: Vec<&str> = several.iter().map(|i| i.spec.name.as_str()).collect();
            Err(Error::new(Code::Unknown, format!("several streams are called `{name}`"))
                .help(format!("name the flow too: {}", names.join(", "))))
        }
    }
}

/// Durable rows of a stream: of one partition or of all, from a frame number, at most `limit`.
/// Without `from` the last ones, in the order of partition and frame.
///
/// # Errors
/// If the stream is unknown or cannot be read.
pub fn tail(
    engine: &dyn Engine,
    name: &str,
    partition: Option<u32>,
    from: Option<u64>,
    limit: usize,
) -> Result<Vec<TailRow>> {
    let info = resolve(engine, name)?;
    let limit = limit.min(LIMIT_MAX);
    let partitions = match partition {
        Some(p) if p < info.spec.partitions => p..p + 1,
        Some(p) => {
            let n = info.spec.partitions;
            return Err(Error::new(Code::Limit, format!("`{name}` has no partition {p}"))
                .help(format!("it has {n}, numbered from 0")));
        }
        None => 0..info.spec.partitions,
    };
    let mut all = Vec::new();
    for partition in partitions {
        let mut rows = std::collections::VecDeque::new();
        walk::frames(engine, &info, partition, from.unwrap_or(0), |frame_number, frame| {
            for (row, value) in json_rows(&info.spec.schema, frame)?.into_iter().enumerate() {
                if rows.len() == limit {
                    if from.is_some() {
                        return Ok(ControlFlow::Break(()));
                    }
                    rows.pop_front();
                }
                rows.push_back(TailRow { partition, frame: frame_number, row: row as u32, value });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        all.extend(rows);
    }
    let surplus = all.len().saturating_sub(limit);
    if from.is_some() {
        all.truncate(limit)
    } else {
        drop(all.drain(..surplus))
    }
    Ok(all)
}
