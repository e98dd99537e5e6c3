//! A source or a sink that panics, wherever its code is called, is an error its supervisor sees:
//! the task is opened again, and nothing is lost or written twice.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use arrow_schema::SchemaRef;
use millstream::{prelude::*, runtime::node::FlowState, test::Folder};
use millstream_core::{
    Batch, Error,
    connector::{Guarantee, Prepared, Pull, Sink, SinkWriter, Source, SourceReader},
};

/// Panics once at each of its places, in this order.
#[derive(Clone, Default)]
struct Trap(Arc<AtomicU32>);

impl Trap {
    fn at(&self, place: u32) {
        if self.0.compare_exchange(place, place + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            panic!("trap {place}");
        }
    }
}

/// A connector with traps.
struct Clumsy<T>(T, Trap);

#[derive(Serialize, Deserialize)]
struct Row {
    n: i64,
}

impl<S: Source> Source for Clumsy<S> {
    fn finite(&self) -> bool {
        self.0.finite()
    }

    fn fields(&self) -> Result<Option<Vec<String>>, Error> {
        self.0.fields()
    }

    fn open(
        &self,
        partition: u32,
        schema: SchemaRef,
        position: &[u8],
    ) -> Result<Box<dyn SourceReader>, Error> {
        self.1.at(0);
        Ok(Box::new(Clumsy(self.0.open(partition, schema, position)?, self.1.clone())))
    }
}

impl SourceReader for Clumsy<Box<dyn SourceReader>> {
    fn pull(&mut self, wait: Duration) -> Result<Pull, Error> {
        self.1.at(1);
        let trap = self.1.clone();
        Ok(match self.0.pull(wait)? {
            Pull::Chunk(decode) => Pull::Chunk(Box::new(move || {
                trap.at(2);
                decode()
            })),
            other => other,
        })
    }
}

impl<S: Sink> Sink for Clumsy<S> {
    fn guarantee(&self) -> Guarantee {
        self.0.guarantee()
    }

    fn open(
        &self,
        partition: u32,
        schema: SchemaRef,
        note: &[u8],
    ) -> Result<Box<dyn SinkWriter>, Error> {
        self.1.at(0);
        Ok(Box::new(Clumsy(self.0.open(partition, schema, note)?, self.1.clone())))
    }
}

impl SinkWriter for Clumsy<Box<dyn SinkWriter>> {
    fn prepare(&mut self, rows: &[Batch]) -> Result<Prepared, Error> {
        self.1.at(1);
        self.0.prepare(rows)
    }

    fn write(&mut self, prepared: &Prepared) -> Result<(), Error> {
        self.1.at(2);
        self.0.write(prepared)
    }
}

#[test]
fn a_connector_that_panics_is_opened_again() {
    let folder = Folder::new("clumsy");
    let [rows, out] = ["in.jsonl", "out.jsonl"].map(|name| folder.path().join(name));
    std::fs::write(&rows, "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n").unwrap();
    let (source, sink) = (Trap::default(), Trap::default());
    let flow = Flow::new("clumsy")
        .source("rows", Clumsy(JsonLinesFile::open(&rows), source.clone()))
        .rows::<Row>()
        .sink("out", Clumsy(JsonLinesFile::create(&out), sink.clone()));
    let node = Node::embedded(folder.path().join("data")).start().unwrap();
    node.deploy(&flow).unwrap();
    assert_eq!(node.wait("clumsy"), FlowState::Finished);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
    assert!(node.ledger().violations().is_empty());
    for trap in [source, sink] {
        assert_eq!(trap.0.load(Ordering::SeqCst), 3, "each place was met");
    }
    node.stop();
}
