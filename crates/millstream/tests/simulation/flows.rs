//! The flows that are drawn: every operator, timer, policy, cyclic send and sink.

use millstream::{
    connector::{self, SchemaRef, Source, SourceReader},
    prelude::*,
    runtime::stage::Limits,
};
use serde_json::json;

/// One value in so many makes a handler hang.
pub const HANG: i64 = 1511;
/// Processing time until a timer rings, and until an idle process ends. A run takes minutes.
pub const RINGS_AFTER: Duration = Duration::from_secs(20 * 3600);
pub const EXPIRES_AFTER: Duration = Duration::from_secs(60 * 3600);
/// What a state grows by at once, in bytes; all else in a state is less than half of it.
pub const GROWTH: usize = 400;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub key: String,
    /// Beside the key a second one, which may be missing.
    pub zone: Option<i64>,
    pub ts: i64,
    pub v: i64,
    /// What is not always there, for a mean.
    pub maybe: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Out {
    pub key: String,
    pub what: String,
    pub n: i64,
    pub sum: i64,
    pub late: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub n: i64,
    pub sum: i64,
    pub late: i64,
    pub ballast: String,
}

impl Process for Account {
    type In = Row;
    type Out = Out;

    fn init(&mut self, ctx: &mut Context<Self>) -> Result<()> {
        assert!(ctx.key() != "cursed", "injected in init");
        Ok(())
    }

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        let v = row.v;
        self.n += 1;
        self.sum += v;
        self.late += i64::from(ctx.is_late());
        if v % 11 == 0 {
            ctx.set_timer("t", At::Event(Time::from_ms(row.ts + 500)));
        }
        if v % 13 == 0 {
            ctx.cancel_timer("t");
        }
        if v % 29 == 0 {
            ctx.set_timer("clock", At::Processing(ctx.now() + RINGS_AFTER));
        }
        if v % 17 == 0 {
            let message = Transfer { to: v % 5, amount: v, hops: v % 4 };
            ctx.send::<Total>(&Key::text(&format!("total-{}", v % 5)), &message)?;
        }
        if v % 7 == 0 {
            ctx.emit(self.out(ctx, "row"));
        }
        if v % 23 == 0 {
            ctx.side_output("side", Side { v })?;
        }
        if v % 21 == 4 {
            self.grow();
        }
        // A state is measured where a turn ends: one that is too large has to live until then.
        if v % 19 == 0 && self.ballast.is_empty() {
            ctx.stop();
        }
        // Poison strikes last, when everything is half done.
        match v % 97 {
            1 => panic!("injected in handle"),
            2 => Err(Failure::new("injected error")),
            _ if v % HANG == 7 => millstream::test::hang(),
            _ => Ok(()),
        }
    }

    fn on_timer(&mut self, name: &str, ctx: &mut Context<Self>) -> Result<()> {
        self.n += if name == "clock" { 1_000_000 } else { 1000 };
        if self.n % 3 == 0 {
            self.grow();
        }
        ctx.emit(self.out(ctx, name));
        assert!(self.sum % 5 != 3, "injected in on_timer");
        Ok(())
    }

    fn terminate(&mut self, ctx: &mut Context<Self>) -> Result<()> {
        ctx.emit(self.out(ctx, "end"));
        Ok(())
    }
}

impl Account {
    fn grow(&mut self) {
        self.ballast.push_str(&"x".repeat(GROWTH));
    }

    fn out(&self, ctx: &Context<Self>, what: &str) -> Out {
        let Account { n, sum, late, .. } = *self;
        Out { key: ctx.key().into_owned(), what: what.into(), n, sum, late }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Side {
    pub v: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transfer {
    pub to: i64,
    pub amount: i64,
    pub hops: i64,
}

/// Passes messages on, to itself and back to accounts; what it keeps does not depend on order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Total {
    pub amount: i64,
    pub messages: i64,
}

impl Process for Total {
    type In = Transfer;
    type Out = Transfer;

    fn handle(&mut self, t: Transfer, ctx: &mut Context<Self>) -> Result<()> {
        self.amount += t.amount;
        self.messages += 1;
        if t.hops > 0 {
            let to = (t.to + 1) % 5;
            let on = Transfer { to, amount: t.amount, hops: t.hops - 1 };
            ctx.send::<Total>(&Key::text(&format!("total-{to}")), &on)?;
        } else {
            let key = format!("mail-{}", t.to);
            let row = Row { key: key.clone(), zone: None, ts: 0, v: 6, maybe: None };
            ctx.send::<Account>(&Key::text(&key), &row)?;
        }
        Ok(())
    }
}

/// In a message of a latecomer to itself.
const ECHO: i64 = i64::MIN;

/// Reads what came too late for the windows; what it keeps does not depend on order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latecomer {
    pub n: i64,
    pub sum: i64,
    pub late: i64,
    pub echoes: i64,
}

impl Process for Latecomer {
    type In = Row;
    type Out = Side;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        if row.v == ECHO {
            self.echoes += 1;
            return Ok(());
        }
        self.n += 1;
        self.sum += row.v;
        self.late += i64::from(ctx.is_late());
        if row.v % 4 == 1 {
            ctx.send::<Latecomer>(ctx.own_key(), &Row { v: ECHO, ..row.clone() })?;
        }
        match row.v % 29 {
            3 => Err(Failure::new("injected in a latecomer")),
            _ => Ok(()),
        }
    }
}

/// A record of a CSV file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub n: i64,
    pub name: Option<String>,
    pub price: Option<f64>,
}

/// What a generator makes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Made {
    pub key: String,
    pub n: i64,
}

/// Rows that each partition of the generator makes.
pub const MADE: u64 = 60;

/// Counts what was made; what it keeps does not depend on order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub n: i64,
    pub sum: i64,
}

impl Process for Tally {
    type In = Made;
    type Out = Made;

    fn handle(&mut self, made: Made, ctx: &mut Context<Self>) -> Result<()> {
        self.n += 1;
        self.sum += made.n;
        assert!(made.n % 13 != 5, "injected in a tally");
        ctx.emit(made);
        Ok(())
    }
}

/// A source that is read in small pieces, so that it is also opened between them.
struct Piecemeal<S>(S);

impl<S: Source> Source for Piecemeal<S> {
    fn partitions(&self) -> u32 {
        self.0.partitions()
    }

    fn finite(&self) -> bool {
        self.0.finite()
    }

    fn file(&self) -> Option<String> {
        self.0.file()
    }

    fn fields(&self) -> connector::Result<Option<Vec<String>>> {
        self.0.fields()
    }

    fn open(
        &self,
        partition: u32,
        schema: SchemaRef,
        position: &[u8],
    ) -> connector::Result<Box<dyn SourceReader>> {
        let mut reader = self.0.open(partition, schema, position)?;
        reader.limit(5);
        Ok(reader)
    }
}

/// Sources and sinks that run as they are.
pub const OWN: [&str; 3] = ["makes", "dropped", "orders"];

/// What a seed draws.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub partitions: u32,
    pub delay_ms: i64,
    pub modulus: i64,
    pub shape: Shape,
    pub size_ms: i64,
    pub slide_ms: i64,
    /// Processes end when they are idle.
    pub expires: bool,
    /// So often can the state of an account grow; once more is too much.
    pub grows_max: Option<usize>,
    /// Windows, and what reads their late rows, have a key of two columns.
    pub zoned: bool,
    /// What is late for the windows is read.
    pub reads_late: bool,
    /// A second source meets the first before the windows.
    pub connects: bool,
    /// A CSV file is copied.
    pub copies: bool,
    /// Partitions of a generator, beside all else; its rows are dropped in the end.
    pub makes: Option<u32>,
    /// The first failure of an account stops the flow.
    pub stops: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    Tumble,
    Hop,
    Session,
}

/// A counter that fails on some values: an aggregate written by a user.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Picky {
    n: f64,
}

impl Accumulator for Picky {
    fn add(&mut self, value: f64) {
        assert!(value as i64 % 101 != 5, "injected in an aggregate");
        self.n += 1.0;
    }
    fn merge(&mut self, other: &Self) {
        self.n += other.n;
    }
    fn value(&self) -> f64 {
        assert!(self.n as i64 % 31 != 30, "injected in a firing");
        self.n
    }
}

impl Plan {
    pub fn flow(&self) -> Flow {
        let (modulus, ms) = (self.modulus, |n: i64| Duration::from_millis(n as u64));
        let window = match self.shape {
            Shape::Tumble => Window::tumble("ts", ms(self.size_ms)),
            Shape::Hop => Window::hop("ts", ms(self.size_ms), ms(self.slide_ms)),
            Shape::Session => Window::session("ts", ms(self.size_ms)),
        };
        // This world ends so often that three attempts would blame the innocent.
        let limits = Limits { attempts_max: 1000, ..Limits::default() };
        let accounts = ProcessOptions {
            on_error: if self.stops { OnError::Stop } else { OnError::DeadLetter },
            idle_expiry: self.expires.then_some(EXPIRES_AFTER),
            state_bytes_max: self.grows_max.map_or(1 << 20, |n| n * GROWTH + GROWTH / 2),
        };
        let flow = Flow::new("sim")
            .limits(limits)
            .partitions(self.partitions)
            .source("rows", JsonLinesFile::open("in.jsonl"))
            .event_time("ts", ms(self.delay_ms))
            .idle_after(EXPIRES_AFTER)
            .filter("wanted", move |r: &Row| r.v % modulus != 0)
            .key_by("key")
            .process::<Account>("account", accounts)
            .side_output::<Side>("side")
            .sink("out", JsonLinesFile::create("out.jsonl"))
            .from_side("account", "side")
            .sink("sides", JsonLinesFile::create("sides.jsonl"))
            .from("wanted")
            .flat_map("twice", |r: Row| {
                let again = (r.v % 3 == 0).then(|| Row { v: -r.v, ..r.clone() });
                std::iter::once(r).chain(again)
            });
        let flow = match self.connects {
            true => flow
                .source("more", JsonLinesFile::open("more.jsonl"))
                .event_time("ts", ms(self.delay_ms / 2))
                // A source that no longer holds back time would let windows close before its rows.
                .idle_after(EXPIRES_AFTER)
                .map("as_they_are", |r: Row| r)
                .from("twice")
                .connect("as_they_are"),
            false => flow,
        };
        let keys = if self.zoned { &["key", "zone"][..] } else { &["key"] };
        let flow = flow
            .key_by_all(keys)
            .window(
                "windows",
                window,
                [
                    Aggregate::count("n"),
                    Aggregate::sum("v", "sum"),
                    Aggregate::min("v", "min"),
                    Aggregate::max("v", "max"),
                    Aggregate::mean("maybe", "mean"),
                    Aggregate::custom::<Picky>("v", "picky"),
                ],
            )
            .sink("windowed", JsonLinesFile::create("windowed.jsonl"));
        let flow = match self.reads_late {
            true => flow
                .from_side("windows", "$late")
                .sink("late", JsonLinesFile::create("late.jsonl"))
                .key_by_all(keys)
                .process::<Latecomer>("latecomer", OnError::DeadLetter),
            false => flow,
        };
        let flow = match self.makes {
            Some(partitions) => flow
                .source(
                    "makes",
                    Piecemeal(Generator::from_fn(
                        7,
                        MADE,
                        partitions,
                        |n, _| json!({ "key": format!("g{}", n % 5), "n": n }),
                    )),
                )
                .key_by("key")
                .process::<Tally>("tally", OnError::DeadLetter)
                .sink("dropped", Discard::new()),
            None => flow,
        };
        let flow = match self.copies {
            true => flow
                .source("orders", Piecemeal(CsvFile::open("tests/simulation/orders.csv")))
                .rows::<Order>()
                .sink("ordered", JsonLinesFile::create("ordered.jsonl")),
            false => flow,
        };
        flow.from("account")
            .map("as_transfer", |o: Out| Transfer { to: 0, amount: o.sum, hops: -1 })
            .filter("none", |_: &Transfer| false)
            .key_by("to")
            .process::<Total>("total", OnError::DeadLetter)
    }
}
