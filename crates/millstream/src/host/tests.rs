use arrow_array::{Int64Array, StringArray};
use arrow_schema::{Field, Schema};
use serde::Serialize;

use super::*;
use crate::{
    drive::{turn, undone_turn},
    process::At,
};

/// Entries that a heap may hold after a turn that leaves one timer.
const ENTRIES_MAX: usize = 1_100;

/// An alarm to be set, or with `None` that the process is to end.
#[derive(Serialize, Deserialize)]
struct Order {
    key: String,
    at: Option<i64>,
}

#[derive(Default, Serialize, Deserialize)]
struct Alarm;

impl Process for Alarm {
    type In = Order;
    type Out = Order;

    fn handle(&mut self, order: Order, ctx: &mut Context<Self>) -> Result<()> {
        match order.at {
            Some(at) => ctx.set_timer("ring", At::Event(Time::from_ms(at))),
            None => ctx.stop(),
        }
        Ok(())
    }
}

fn host() -> ProcessHost<Alarm> {
    let fields =
        vec![Field::new("key", DataType::Utf8, false), Field::new("at", DataType::Int64, true)];
    ProcessHost::new(Arc::new(HostSpec {
        kind: "alarm".into(),
        keys: vec![0],
        event_time: None,
        output: Arc::new(Schema::new(fields)),
        sides: Vec::new(),
        kinds: Kinds::default(),
        options: ProcessOptions::default(),
    }))
}

fn orders(host: &ProcessHost<Alarm>, orders: &[Option<i64>]) -> Batch {
    let keys = StringArray::from(vec!["k"; orders.len()]);
    let times = Int64Array::from(orders.to_vec());
    let schema = host.spec.output.clone();
    let rows = RecordBatch::try_new(schema, vec![Arc::new(keys), Arc::new(times)]).unwrap();
    Batch::derived(rows)
}

/// How many timers fire up to a watermark.
fn fired(host: &mut ProcessHost<Alarm>, watermark: i64) -> u64 {
    turn(host, None, Time::from_ms(watermark), usize::MAX).0.counters.fired
}

#[test]
fn a_timer_that_moves_while_its_process_is_read_back_leaves_few_entries_and_fires_once() {
    let mut host = host();
    let key = Keys::of(&[&StringArray::from(vec!["k"])], 1).unwrap().get(0).to_vec();
    let (late, early) = (orders(&host, &[Some(1_000)]), orders(&host, &[Some(500)]));
    for _ in 0..100_000 {
        turn(&mut host, Some(&late), Time::MIN, 64);
        let entry = host.table.find(hash(&key), &key).unwrap();
        host.table.forget(entry);
        turn(&mut host, Some(&early), Time::MIN, 64);
        assert!(host.heaps[0].len() <= ENTRIES_MAX, "{} entries", host.heaps[0].len());
    }
    assert_eq!([499, 500, 2_000].map(|watermark| fired(&mut host, watermark)), [0, 1, 0]);
}

#[test]
fn processes_that_end_before_their_timers_leave_few_entries() {
    let mut host = host();
    let cycles = orders(&host, &[Some(1_000), None].repeat(1_000));
    for _ in 0..100 {
        turn(&mut host, Some(&cycles), Time::MIN, 64);
        assert!(host.heaps[0].len() <= ENTRIES_MAX, "{} entries", host.heaps[0].len());
    }
    let last = orders(&host, &[Some(1_000), None, Some(1_000)]);
    turn(&mut host, Some(&last), Time::MIN, 64);
    assert_eq!([999, 1_000, 2_000].map(|watermark| fired(&mut host, watermark)), [0, 1, 0]);
}

#[test]
fn an_undone_end_of_a_process_keeps_its_timer() {
    let mut host = host();
    let set = orders(&host, &[Some(1_000)]);
    turn(&mut host, Some(&set), Time::MIN, 64);
    // Ends first of all.
    let cycles = orders(&host, &[None, Some(1_000)].repeat(1_000));
    for _ in 0..4 {
        undone_turn(&mut host, Some(&cycles), Time::MIN);
    }
    turn(&mut host, None, Time::MIN, 64);
    assert!(host.heaps[0].len() <= ENTRIES_MAX, "{} entries", host.heaps[0].len());
    assert_eq!([999, 1_000, 2_000].map(|watermark| fired(&mut host, watermark)), [0, 1, 0]);
}
