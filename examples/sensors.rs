//! Watches a network of sensors: which have fallen silent, and which are too hot.
//!
//!     cargo run -p millstream --example sensors
//!
//! Silence is the absence of rows, so it takes a timer: each reading sets it anew. Heat has two
//! thresholds, so that a sensor on the edge does not flutter. The input is made up from a seed.

use millstream::{io::rng::Rng, prelude::*};

/// Without a reading for this long a sensor is silent.
const SILENT_AFTER: Duration = Duration::from_secs(30);
/// From here on it is hot ...
const HOT: f64 = 80.0;
/// ... until it is below this again.
const COOL: f64 = 70.0;
/// How far out of order readings may come.
const DELAY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reading {
    sensor: String,
    at: Time,
    celsius: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Change {
    sensor: String,
    at: Time,
    now: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    last: Option<Time>,
    hot: bool,
    silent: bool,
}

impl Sensor {
    fn say(&self, at: Time, now: &str, ctx: &mut Context<Self>) {
        let sensor = ctx.key().into_owned();
        ctx.emit(Change { sensor, at, now: now.into() });
    }
}

impl Process for Sensor {
    type In = Reading;
    type Out = Change;

    fn handle(&mut self, r: Reading, ctx: &mut Context<Self>) -> Result<()> {
        if std::mem::take(&mut self.silent) {
            self.say(r.at, "back", ctx);
        }
        let last = self.last.max(Some(r.at)).unwrap_or(r.at);
        self.last = Some(last);
        ctx.set_timer("silent", At::Event(last + SILENT_AFTER)); // replaces the one before
        let hot = if self.hot { r.celsius >= COOL } else { r.celsius >= HOT };
        if hot != std::mem::replace(&mut self.hot, hot) {
            self.say(r.at, if hot { "hot" } else { "cool" }, ctx);
        }
        Ok(())
    }

    fn on_timer(&mut self, _name: &str, ctx: &mut Context<Self>) -> Result<()> {
        self.silent = true;
        self.say(ctx.time(), "silent", ctx); // the time at which the timer was due
        Ok(())
    }
}

/// The topology: from rows to results.
pub fn flow(readings: Generator, changes: &str) -> Flow {
    Flow::new("sensors")
        .source("readings", readings)
        .event_time("at", DELAY)
        .key_by("sensor")
        .process::<Sensor>("sensor", OnError::DeadLetter)
        .sink("changes", JsonLinesFile::create(changes))
}

/// Reading `row` of the made-up input: 40 sensors, a day and a night in about an hour each.
pub fn reading(row: u64, rng: &mut Rng) -> serde_json::Value {
    let sensor = rng.below(40);
    let s = row / 10; // ten readings a second
    let asleep = (s / 60 + sensor).is_multiple_of(20); // each is silent for a minute in twenty
    let sensor = if asleep { 40 } else { sensor };
    let day = (s as f64 / 3_600.0 * std::f64::consts::PI + sensor as f64).sin();
    let celsius = 60.0 + 20.0 * day + 10.0 * rng.unit();
    let at = 1_700_000_000_000 + row * 100 - rng.below(4_000); // up to 4 s late
    serde_json::json!({ "sensor": format!("s{sensor:02}"), "at": at, "celsius": celsius })
}

fn main() -> Result<()> {
    let changes = "out/sensors.jsonl";
    let readings = Generator::from_fn(7, 100_000, 1, reading);
    Node::from_args("millstream-data")?.run(flow(readings, changes))?;
    println!("{} changes in {changes}", std::fs::read_to_string(changes)?.lines().count());
    Ok(())
}
