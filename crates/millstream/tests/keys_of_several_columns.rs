//! A process whose key has several columns is found by what is shown of its key.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use millstream::{Target, prelude::*, test::Folder};

#[derive(Serialize, Deserialize)]
struct Reading {
    sensor: String,
    channel: i64,
}

#[derive(Default, Serialize, Deserialize)]
struct Channel {
    readings: u64,
}

impl Process for Channel {
    type In = Reading;
    type Out = Reading;

    fn handle(&mut self, _: Reading, _: &mut Context<Self>) -> Result<()> {
        self.readings += 1;
        Ok(())
    }
}

#[test]
fn a_key_of_two_columns_can_be_inspected_and_killed() {
    let folder = Folder::new("several-columns");
    let (input, data) = (folder.path().join("in.jsonl"), folder.path().join("data"));
    let row = |(sensor, channel)| format!("{{\"sensor\":\"{sensor}\",\"channel\":{channel}}}\n");
    let keys = [("hall", 7), ("hall", 8), ("a,b", 7), ("7", 7)];
    std::fs::write(&input, keys.map(row).concat()).unwrap();
    let flow = Flow::new("climate")
        .source("readings", JsonLinesFile::open(&input).follow(true))
        .key_by_all(&["sensor", "channel"])
        .process::<Channel>("channel", OnError::DeadLetter)
        .sink("out", Discard::new());
    let node = Node::embedded(&data).http(":0").start().unwrap();
    node.deploy(&flow).unwrap();
    let target = Target::find(None, Some(&data)).unwrap();
    while target.status().unwrap().flows[0].rows < 4 {}
    assert!(node.drain(Duration::from_secs(20)));
    let names = ["hall,7", "hall,8", "a,b,7", "7,7"];
    for name in names {
        let killed = target.kill("channel", name).unwrap();
        assert_eq!(killed.key, name);
        assert_eq!(target.process("channel", name).unwrap().process["state"]["readings"], 1);
    }
    assert!(target.process("channel", "hall").is_err());
    node.stop();
    let at_rest = Target::find(None, Some(&data)).unwrap();
    for name in names {
        assert_eq!(at_rest.process("channel", name).unwrap().key, name);
    }
    assert_eq!(at_rest.processes("channel").unwrap().len(), names.len());
    assert!(at_rest.ledger().unwrap().balanced);
}
