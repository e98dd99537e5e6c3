//! One input of a task: a partition read ahead, and counted.
//!
//! *Invariant:* what [`Input::poll`] hands out is what Kafka holds from the asked position on, in
//! order; what is counted is counted once, however often it is read.

use std::{collections::VecDeque, sync::Arc};

use millstream_core::{
    Frame, Result,
    engine::Waker,
    turn::{InputProgress, Position, TaskId},
};

use super::codec::{Arrived, foreign, read_frame_key};
use crate::client::{Client, Lane, Reader, Start, TopicPartition};

/// What is read ahead of one input, in bytes.
const AHEAD_BYTES: usize = 4 << 20;

pub(super) struct Input {
    client: Arc<dyn Client>,
    at: TopicPartition,
    waker: Waker,
    reader: Box<dyn Reader>,
    frames: VecDeque<(u64, Frame)>,
    bytes: usize,
    /// All that Kafka holds from here on up to the last of `frames` is in `frames`.
    from: u64,
    /// Frames before this one were counted.
    counted: u64,
    marks: VecDeque<Mark>,
    arrived: Arrived,
}

/// A frame that was counted.
struct Mark {
    number: u64,
    producer: TaskId,
    said: u64,
    rows: u64,
    bytes: u64,
}

impl Input {
    /// Reads what a task may read again, and what follows.
    pub fn open(
        client: &Arc<dyn Client>,
        at: TopicPartition,
        progress: Option<&InputProgress>,
        arrived: Arrived,
        waker: Waker,
    ) -> Result<Input> {
        let start = progress.map_or(Start::Earliest, |p| Start::Offset(p.keep_from));
        let reader = client.reader(&at, start, Lane::Inputs, AHEAD_BYTES, waker.clone())?;
        Ok(Input {
            client: client.clone(),
            at,
            waker,
            reader,
            frames: VecDeque::new(),
            bytes: 0,
            from: progress.map_or(0, |p| p.keep_from),
            counted: progress.map_or(0, |p| p.position.frame),
            marks: VecDeque::new(),
            arrived,
        })
    }

    /// Whether everything before `position` is here: that much a task may read without waiting.
    pub fn reaches(&mut self, position: Position) -> Result<bool> {
        let last = match position.row {
            0 => position.frame.checked_sub(1).filter(|last| *last >= self.from),
            _ => Some(position.frame),
        };
        let Some(last) = last else { return Ok(true) };
        while self.frames.back().is_none_or(|(number, _)| *number < last) {
            if !self.fill()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn poll(&mut self, from: Position, bytes_max: usize) -> Result<Vec<(u64, Frame)>> {
        if from.frame < self.from {
            let (start, waker) = (Start::Offset(from.frame), self.waker.clone());
            self.reader = self.client.reader(&self.at, start, Lane::Inputs, AHEAD_BYTES, waker)?;
            (self.frames, self.bytes) = (VecDeque::new(), 0);
        }
        self.from = from.frame;
        while let Some((_, frame)) = self.frames.pop_front_if(|(number, _)| *number < from.frame) {
            self.bytes -= frame.bytes().len();
        }
        while self.bytes < bytes_max.min(AHEAD_BYTES) && self.fill()? {}
        let (mut out, mut bytes) = (Vec::new(), 0);
        for (number, frame) in &self.frames {
            if *number < from.frame {
                continue; // has just come, and is not asked for
            }
            if bytes > 0 && bytes + frame.bytes().len() > bytes_max {
                break;
            }
            bytes += frame.bytes().len();
            out.push((*number, frame.clone()));
        }
        Ok(out)
    }

    /// Takes what has come. Whether anything has.
    fn fill(&mut self) -> Result<bool> {
        let Some(fetched) = self.reader.poll()? else { return Ok(false) };
        for (at, (number, record)) in fetched.iter().enumerate() {
            let key = record.key.and_then(read_frame_key);
            let (Some((producer, said)), Some(value)) = (key, fetched.value(at)) else {
                return Err(foreign(&self.at, number));
            };
            let frame =
                Frame::decode(value).map_err(|e| e.at(format!("{}, offset {number}", self.at)))?;
            let bytes = frame.bytes().len();
            if number >= self.counted {
                self.counted = number + 1;
                let (rows, bytes) = (u64::from(frame.header.rows), bytes as u64);
                self.marks.push_back(Mark { number, producer, said, rows, bytes });
            }
            self.bytes += bytes;
            self.frames.push_back((number, frame));
        }
        Ok(true)
    }

    /// What has reached the task before `position`.
    pub fn arrived(&mut self, position: Position) -> Arrived {
        while let Some(mark) = self.marks.pop_front_if(|m| m.number < position.frame) {
            let said = self.arrived.said.insert(mark.producer, mark.said);
            if said.is_none() {
                self.arrived.before += mark.said.saturating_sub(mark.rows);
            }
            self.arrived.bytes += mark.bytes;
        }
        self.arrived.clone()
    }
}
