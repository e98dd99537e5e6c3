//! The books: every law's terms, each from where it was counted.

use millstream_core::{
    engine::{AtRest, Backlog, PartitionAtRest, StreamAtRest, StreamInfo, TaskAtRest},
    ledger::{EdgeLine, Ledger, Sent, StreamLine},
    turn::{InputProgress, Position, Progress, StreamId},
};

use super::{
    state::{State, Task},
    stream::Partition,
};

fn progress(task: &Task, input: usize) -> InputProgress {
    task.progress.inputs.get(input).cloned().unwrap_or_default()
}

pub(super) fn ledger(state: &State) -> Ledger {
    let mut ledger = Ledger::default();
    let mut sent = Sent::new();
    for task in &state.tasks {
        ledger.count(&task.name, &task.progress.counters, &mut sent);
        for (at, input) in task.inputs.iter().enumerate() {
            let Some(stream) = state.streams.get(input.stream.0 as usize) else { continue };
            let Some(part) = stream.partitions.get(input.partition as usize) else { continue };
            let attached = task.attached.get(at).copied().unwrap_or_default();
            ledger.streams.push(StreamLine {
                stream: format!("{}/{}", stream.spec.name, input.partition),
                consumer: task.name.clone(),
                // What was gone before the consumer came was never its to read.
                appended: part.appended_rows - attached.row,
                read: progress(task, at).rows,
                backlog: part.behind(task.stand(at).0).rows,
                expired: 0,
            });
        }
    }
    ledger.edges = edges(state, &sent);
    ledger
}

fn edges(state: &State, sent: &Sent) -> Vec<EdgeLine> {
    let line = |(id, sent): (&StreamId, &u64)| {
        let stream = state.streams.get(id.0 as usize)?;
        let sum = |rows: fn(&Partition) -> u64| stream.partitions.iter().map(rows).sum();
        Some(EdgeLine {
            stream: stream.spec.name.clone(),
            sent: *sent,
            outside: sum(|p| p.outside_rows),
            appended: sum(|p| p.appended_rows),
        })
    };
    sent.iter().filter_map(line).collect()
}

pub(super) fn streams(state: &State) -> Vec<StreamInfo> {
    let info = |(id, stream): (usize, &super::stream::Stream)| StreamInfo {
        id: StreamId(id as u32),
        spec: stream.spec.clone(),
        appended_rows: stream.partitions.iter().map(|p| p.appended_rows).sum(),
        frames: stream.partitions.iter().map(|p| p.first..p.next()).collect(),
        backlog: backlog(state, StreamId(id as u32)),
    };
    state.streams.iter().enumerate().map(info).collect()
}

/// What the slowest consumer of each partition has not read; nothing if nobody reads.
pub(super) fn backlog(state: &State, stream: StreamId) -> Backlog {
    let mut sum = Backlog::default();
    let Some(stream) = state.streams.get(stream.0 as usize) else { return sum };
    for part in &stream.partitions {
        let stand = |(task, input): &(u32, usize)| {
            state.tasks.get(*task as usize - 1).map_or(Position::default(), |t| t.stand(*input).0)
        };
        if let Some(slowest) = part.consumers.iter().map(stand).min() {
            let behind = part.behind(slowest);
            sum.rows += behind.rows;
            sum.bytes += behind.bytes;
        }
    }
    sum
}

pub(super) fn at_rest(state: &State) -> AtRest {
    let partition = |p: &Partition| PartitionAtRest {
        frames: p.first..p.next(),
        rows_before: p.base_row,
        bytes_before: p.base_byte,
        appended_rows: p.appended_rows,
        outside_rows: p.outside_rows,
    };
    let stream = |s: &super::stream::Stream| StreamAtRest {
        spec: s.spec.clone(),
        partitions: s.partitions.iter().map(partition).collect(),
    };
    let task = |t: &Task| {
        let mut progress = Progress::clone(&t.progress);
        for (n, input) in progress.inputs.iter_mut().enumerate() {
            (input.position, input.keep_from) = t.stand(n);
        }
        let rows_before = t.attached.iter().map(|a| a.row).collect();
        let (name, inputs) = (t.name.clone(), t.inputs.clone());
        TaskAtRest { name, inputs, rows_before, opens: t.opens, progress }
    };
    AtRest {
        streams: state.streams.iter().map(stream).collect(),
        tasks: state.tasks.iter().map(task).collect(),
    }
}
