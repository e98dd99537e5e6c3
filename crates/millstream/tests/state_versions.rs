//! State on disk that a binary cannot read is said at the start, not event by event.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use millstream::{prelude::*, runtime::node::FlowState, test::Folder};

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    v: u32,
}

macro_rules! kind {
    ($name:ident, $field:ident, $version:literal, $($migrate:item)?) => {
        #[derive(Default, Serialize, Deserialize)]
        struct $name {
            $field: u32,
        }

        impl Process for $name {
            type In = Row;
            type Out = Row;
            const STATE_VERSION: u16 = $version;

            fn handle(&mut self, row: Row, _: &mut Context<Self>) -> Result<()> {
                self.$field += row.v;
                Ok(())
            }

            $($migrate)?
        }
    };
}

kind!(First, total, 1,);
kind!(Renamed, sum, 1,);
kind!(Second, sum, 2,);
kind!(
    Migrated,
    sum,
    2,
    fn migrate(_: u16, old: serde_json::Value) -> Result<Self> {
        Ok(Migrated { sum: serde_json::from_value(old["total"].clone())? })
    }
);

fn run<P: Process<In = Row, Out = Row>>(folder: &Folder) -> FlowState {
    let input = folder.path().join("in.jsonl");
    std::fs::write(&input, "{\"key\":\"a\",\"v\":3}\n{\"key\":\"b\",\"v\":4}\n").unwrap();
    let flow = Flow::new("versions")
        .source("rows", JsonLinesFile::open(&input))
        .key_by("key")
        .process::<P>("counter", OnError::DeadLetter)
        .sink("out", Discard::new());
    let node = Node::embedded(folder.path().join("data")).start().unwrap();
    node.deploy(&flow).unwrap();
    let state = node.wait("versions");
    assert_eq!(node.ledger().violations(), Vec::<String>::new());
    node.stop();
    state
}

fn error(state: FlowState) -> String {
    match state {
        FlowState::Failed(error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_older_version_without_migrate_is_refused_by_name() {
    let folder = Folder::new("versions");
    assert_eq!(run::<First>(&folder), FlowState::Finished);
    let said = error(run::<Second>(&folder));
    assert!(
        said.starts_with(
            "error[M0021]: process `counter` has state version 1 on disk and version 2 in this binary"
        ),
        "{said}"
    );
    assert!(said.contains("implement `Process::migrate(1, ..)`"), "{said}");
}

#[test]
fn a_changed_state_of_the_same_version_is_refused_by_name() {
    let folder = Folder::new("versions");
    assert_eq!(run::<First>(&folder), FlowState::Finished);
    let said = error(run::<Renamed>(&folder));
    assert!(said.contains("missing field `sum`"), "{said}");
    assert!(said.contains("give a new field `#[serde(default)]`"), "{said}");
}

#[test]
fn a_migrated_state_goes_on() {
    let folder = Folder::new("versions");
    assert_eq!(run::<First>(&folder), FlowState::Finished);
    assert_eq!(run::<Migrated>(&folder), FlowState::Finished);
}
