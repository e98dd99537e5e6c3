//! Walks over the durable frames of a partition, counting rows from the first ever appended.

use std::ops::ControlFlow;

use millstream_core::{
    Frame, Result,
    engine::{Engine, StreamInfo},
};

/// Bytes of frames read at once.
const READ_BYTES: usize = 4 << 20;

/// Hands every durable frame of a partition from frame number `from` to `see`, until it breaks.
pub fn frames(
    engine: &dyn Engine,
    info: &StreamInfo,
    partition: u32,
    from: u64,
    mut see: impl FnMut(u64, &Frame) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let first = info.frames.get(partition as usize).map_or(0, |range| range.start);
    let mut at = from.max(first);
    loop {
        let read = engine.read(info.id, partition, at, READ_BYTES)?;
        for (number, frame) in &read {
            if see(*number, frame)?.is_break() {
                return Ok(());
            }
        }
        match read.last() {
            Some((last, _)) => at = last + 1,
            None => return Ok(()),
        }
    }
}

/// Hands the frames of a stream of one partition that hold rows `from..` to `see`, with the number
/// of their first row, counted from 1.
///
/// *Cost:* reads the stream from its beginning; what is kept for people is bounded.
pub fn numbered(
    engine: &dyn Engine,
    info: &StreamInfo,
    from: u64,
    mut see: impl FnMut(u64, &Frame) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut next = 1 + expired(engine, info)?;
    frames(engine, info, 0, 0, |_, frame| {
        let first = next;
        next += u64::from(frame.header.rows);
        if next <= from || frame.header.rows == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        see(first, frame)
    })
}

/// Rows that are no longer kept.
fn expired(engine: &dyn Engine, info: &StreamInfo) -> Result<u64> {
    if info.frames.first().is_none_or(|range| range.start == 0) {
        return Ok(0);
    }
    let mut kept = 0;
    let end = info.frames.first().map_or(0, |range| range.end);
    frames(engine, info, 0, 0, |number, frame| {
        kept += if number < end { u64::from(frame.header.rows) } else { 0 };
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(info.appended_rows.saturating_sub(kept))
}

/// The first of the last `limit` rows of a stream, or `from` if it is given.
pub fn start(info: &StreamInfo, from: Option<u64>, limit: usize) -> u64 {
    from.unwrap_or_else(|| (info.appended_rows + 1).saturating_sub(limit as u64)).max(1)
}
