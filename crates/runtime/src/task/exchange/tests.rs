use std::sync::Arc;

use arrow_array::StringArray;
use arrow_schema::{DataType, Field, Schema};
use millstream_core::{
    Frame, ledger::Sent, mail::MailKind, partitioner::Partitioner, turn::StreamId,
};

use super::*;
use crate::stage::{Front, Limits};

const STAMP: Stamp =
    Stamp { producer: TaskId(7), turn: 1, watermark: Time::from_ms(100), status: Status::Ended };

fn edge(at: usize, route: Route, partitions: u32) -> Edge {
    let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, false)]));
    Edge { from: (at, 0), stream: StreamId(1), schema, partitions, route, timed: true }
}

fn exchange(edges: Vec<Edge>) -> Exchange {
    let stage = Stage {
        flow: "f".into(),
        name: "s".into(),
        partitions: 1,
        front: Front { source: None, streams: Vec::new() },
        chain: Arc::new(|_| Vec::new()),
        edges,
        carried: Vec::new(),
        mailboxes: vec![Mailbox {
            stream: StreamId(2),
            partitions: 1,
            partitioner: Partitioner::Slots,
        }],
        sink: None,
        dead: StreamId(3),
        limits: Limits::default(),
    };
    Exchange::open(&stage, 0).unwrap()
}

fn texts(edge: &Edge, texts: Vec<String>) -> Batch {
    let rows = RecordBatch::try_new(edge.schema.clone(), vec![Arc::new(StringArray::from(texts))]);
    Batch::derived(rows.unwrap())
}

/// The texts in a frame.
fn read(edge: &Edge, frame: &Frame) -> Vec<String> {
    let rows = frame.rows(&Batch::wire_schema(&edge.schema)).unwrap();
    let column = rows.column(0).as_any().downcast_ref::<StringArray>().unwrap().clone();
    column.iter().map(|t| t.unwrap().to_string()).collect()
}

#[test]
fn a_turn_larger_than_a_frame_becomes_several_and_the_last_moves_time() {
    for route in [Route::Same, Route::Key(vec![0])] {
        let edge = edge(0, route, 2);
        // 270 MiB, which no frame may have; one row alone is larger than the bound.
        let all: Vec<String> = (0..26)
            .map(|n| format!("{n:02}").repeat(if n == 0 { 10 << 20 } else { 5 << 20 }))
            .collect();
        let batch = texts(&edge, all.clone());
        let rows = vec![((0, 0), batch.slice(0, 3)), ((0, 0), batch.slice(3, 23))];
        let mut turn = Turn::default();
        exchange(vec![edge.clone()]).rows(rows, STAMP, &mut turn).unwrap();
        let mut found = Vec::new();
        for partition in 0..2 {
            let frames: Vec<_> = turn.outputs.iter().filter(|o| o.partition == partition).collect();
            for (n, output) in frames.iter().enumerate() {
                let header = &output.frame.header;
                assert!(output.frame.bytes().len() < FRAME_BYTES + 4096 || header.rows == 1);
                let wanted = match n + 1 == frames.len() {
                    true => (Time::from_ms(100), Status::Ended),
                    false => (Time::MIN, Status::Active),
                };
                assert_eq!((header.watermark, header.status), wanted);
                found.push(read(&edge, &output.frame));
            }
        }
        let found: Vec<String> = found.into_iter().flatten().collect();
        if edge.route == Route::Same {
            assert!(found == all, "order is kept");
        }
        let set = |v: Vec<String>| v.into_iter().collect::<BTreeSet<_>>();
        assert!(set(found) == set(all), "each row once");
    }
}

#[test]
fn two_edges_into_one_stream_move_time_once() {
    let (first, second) = (edge(0, Route::Same, 1), edge(1, Route::Same, 1));
    let rows = [&first, &second].map(|e| (e.from, texts(e, vec!["a".into()])));
    let mut turn = Turn::default();
    exchange(vec![first.clone(), second]).rows(rows.into(), STAMP, &mut turn).unwrap();
    let watermarks: Vec<_> = turn.outputs.iter().map(|o| o.frame.header.watermark).collect();
    assert_eq!(watermarks, [Time::MIN, Time::from_ms(100)]);
}

#[test]
fn mail_and_letters_larger_than_a_frame_become_several() {
    let payload = vec![7; 3 << 20];
    let mail = |n: u64| Mail {
        kind: MailKind::Sent,
        key: vec![n as u8],
        version: 1,
        payload: payload.clone(),
        sender: String::new(),
        id: 0,
        hops: 0,
        origin: millstream_core::Origin::NONE,
        event_time: Time::MIN,
    };
    let mut turn = Turn::default();
    let mut exchange = exchange(Vec::new());
    exchange.mail((0..7).map(|n| (0, mail(n))).collect(), STAMP, &mut turn).unwrap();
    let letter = |_| Letter { payload: payload.clone(), ..Letter::default() };
    exchange.letters((0..7).map(letter).collect(), STAMP, &mut turn).unwrap();
    assert_eq!(turn.progress.counters.sent, Sent::from([(StreamId(2), 7), (StreamId(3), 7)]));
    let rows: Vec<u32> = turn.outputs.iter().map(|o| o.frame.header.rows).collect();
    assert_eq!(rows, [2, 2, 2, 1, 2, 2, 2, 1]);
    let frames = turn.outputs.iter().take(4).map(|o| o.frame.rows(&mail::SCHEMA).unwrap());
    let ids: Vec<u64> =
        frames.flat_map(|rows| mail::from_rows(&rows).unwrap()).map(|m| m.id & 0xff).collect();
    assert_eq!(ids, (0..7).collect::<Vec<_>>());
}
