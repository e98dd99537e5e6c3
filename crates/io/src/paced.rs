//! Lets a source's rows come at a given rate.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arrow_schema::SchemaRef;
use millstream_core::{
    Result,
    connector::{Pull, Source, SourceReader},
};

/// Chunks per second.
const CHUNKS_PER_SECOND: u64 = 20;
/// How much of a delay is made up for by going faster.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A clock that can be waited on; a test hands in its own.
pub trait Pace: Send + Sync {
    /// Time since some moment.
    fn now(&self) -> Duration;
    /// Returns after `time`.
    fn wait(&self, time: Duration);
}

/// The machine's clock.
struct WallPace(Instant);

impl Pace for WallPace {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn wait(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// A source whose units come at a steady rate, in some twenty chunks a second.
///
/// Each partition has the rate for itself, from when it is opened. A delay of up to a second is
/// made up for. Chunks are decoded where they are pulled, since only then their units are known.
pub struct Paced<S> {
    source: S,
    units_per_second: u64,
    pace: Arc<dyn Pace>,
}

impl<S: Source> Paced<S> {
    /// Hands out what `source` has, at most `units_per_second` (at least 1).
    pub fn new(source: S, units_per_second: u64) -> Paced<S> {
        Paced::with_pace(source, units_per_second, Arc::new(WallPace(Instant::now())))
    }

    /// As [`Paced::new`], by another clock.
    pub fn with_pace(source: S, units_per_second: u64, pace: Arc<dyn Pace>) -> Paced<S> {
        Paced { source, units_per_second: units_per_second.max(1), pace }
    }
}

impl<S: Source> Source for Paced<S> {
    fn partitions(&self) -> u32 {
        self.source.partitions()
    }

    fn finite(&self) -> bool {
        self.source.finite()
    }

    fn replays(&self) -> bool {
        self.source.replays()
    }

    fn file(&self) -> Option<String> {
        self.source.file()
    }

    fn fields(&self) -> Result<Option<Vec<String>>> {
        self.source.fields()
    }

    fn fields_vary(&self) -> bool {
        self.source.fields_vary()
    }

    fn open(
        &self,
        partition: u32,
        schema: SchemaRef,
        position: &[u8],
    ) -> Result<Box<dyn SourceReader>> {
        let mut reader = self.source.open(partition, schema, position)?;
        reader.limit(self.units_per_second.div_ceil(CHUNKS_PER_SECOND));
        let pace = self.pace.clone();
        let due = pace.now();
        Ok(Box::new(PacedReader { reader, units_per_second: self.units_per_second, pace, due }))
    }
}

struct PacedReader {
    reader: Box<dyn SourceReader>,
    units_per_second: u64,
    pace: Arc<dyn Pace>,
    /// When the next chunk may come.
    due: Duration,
}

impl SourceReader for PacedReader {
    fn pull(&mut self, wait: Duration) -> Result<Pull> {
        let now = self.pace.now();
        let early = self.due.saturating_sub(now);
        if early > wait {
            self.pace.wait(wait);
            return Ok(Pull::Idle);
        }
        if !early.is_zero() {
            self.pace.wait(early);
        }
        let pulled = self.reader.pull(wait - early)?;
        let Pull::Chunk(decode) = pulled else { return Ok(pulled) };
        let chunk = decode();
        let time = Duration::from_secs_f64(chunk.units as f64 / self.units_per_second as f64);
        self.due = self.due.max(now.saturating_sub(CATCH_UP)) + time;
        Ok(Pull::Chunk(Box::new(move || chunk)))
    }

    /// The smaller of both limits holds.
    fn limit(&mut self, units: u64) {
        self.reader.limit(units.min(self.units_per_second.div_ceil(CHUNKS_PER_SECOND)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Generator;
    use arrow_schema::{DataType, Field, Schema};
    use std::sync::Mutex;

    #[derive(Default)]
    struct Clock(Mutex<Duration>);

    impl Pace for Clock {
        fn now(&self) -> Duration {
            *self.0.lock().unwrap()
        }
        fn wait(&self, time: Duration) {
            *self.0.lock().unwrap() += time;
        }
    }

    #[test]
    fn it_tells_what_its_source_tells() {
        let file = crate::JsonLinesFile::open("readings.jsonl").follow(true);
        let paced = Paced::new(file, 10);
        assert!(paced.fields_vary() && !paced.finite());
        assert_eq!(paced.file().as_deref(), Some("readings.jsonl"));
        assert_eq!(paced.fields().unwrap(), None);
    }

    #[test]
    fn a_thousand_rows_at_250_a_second_take_four_seconds() {
        let clock = Arc::new(Clock::default());
        let rows = Generator::from_fn(1, 1_000, 1, |row, _| serde_json::json!({ "n": row }));
        let source = Paced::with_pace(rows, 250, clock.clone());
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let mut position = Vec::new();
        let (mut chunks, mut units) = (0, 0);
        let mut reader = source.open(0, schema.clone(), &[]).unwrap();
        loop {
            match reader.pull(Duration::from_millis(30)).unwrap() {
                Pull::Chunk(decode) => {
                    let chunk = decode();
                    units += chunk.units;
                    chunks += 1;
                    position = chunk.position;
                    // Opening lets a chunk through at once.
                    let at_once = if chunks > 40 { 26.5 } else { 13.5 };
                    let allowed = clock.now().as_secs_f64() * 250.0 + at_once;
                    assert!(units as f64 <= allowed, "{units} after {:?}", clock.now());
                    if chunks == 40 {
                        reader = source.open(0, schema.clone(), &position).unwrap();
                    }
                }
                Pull::Idle => {}
                Pull::End => break,
            }
        }
        assert_eq!(units, 1_000);
        assert_eq!(chunks, 1_000 / 13 + 1);
        let took = clock.now().as_secs_f64();
        assert!((3.8..4.2).contains(&took), "{took} s");
        assert!(!position.is_empty());
    }
}
