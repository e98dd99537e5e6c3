//! What must come out, computed in one pass over the rows. Shares no operator code with the
//! engine, and knows no turns, tasks or crashes.

use std::collections::{BTreeMap, HashMap};

use super::flows::{
    Account, GROWTH, HANG, Latecomer, MADE, Order, Out, Plan, Row, Shape, Tally, Total,
};

/// A result of a window: key, start, end, n, sum, min, max, picky, and the mean, as text.
pub type Pane = (String, i64, i64, i64, i64, i64, i64, i64, String);

/// The orders, as a person reads them; from 16 to 27 they are all alike.
const ORDERS: [(i64, Option<&str>, Option<f64>); 12] = [
    (1, Some("wheel"), Some(1.5)),
    (2, Some("nut, small"), None),
    (3, Some("say \"go\""), Some(-0.25)),
    (4, Some("two\nlines"), Some(3.0)),
    (5, None, Some(0.0)),
    (6, Some(""), Some(1000.0)),
    (7, Some("ärmel"), Some(2.0)),
    (10, Some("\""), Some(7.0)),
    (11, Some("a \"quote\" within"), None),
    (13, Some("\n\n"), Some(0.125)),
    (15, Some(" x "), Some(-7.0)),
    (28, Some("the last has no end"), Some(1.0)),
];
/// The lines on which those begin that are none.
const NO_ORDERS: [u64; 7] = [7, 11, 13, 14, 17, 21, 22];

/// The orders of the file, in their order.
pub fn orders() -> Vec<Order> {
    let read = ORDERS.map(|(n, name, price)| Order { n, name: name.map(str::to_string), price });
    let name = |n| Some(format!("wheel {n}"));
    let alike = (16..28).map(|n| Order { n, name: name(n), price: Some(n as f64 + 0.5) });
    let mut orders: Vec<Order> = read.into_iter().chain(alike).collect();
    orders.sort_by_key(|order| order.n);
    orders
}

#[derive(Debug, Default)]
pub struct Expected {
    /// Per key, in order.
    pub outs: BTreeMap<String, Vec<Out>>,
    pub sides: Vec<i64>,
    pub accounts: HashMap<String, Account>,
    pub totals: HashMap<String, Total>,
    pub latecomers: HashMap<String, Latecomer>,
    pub tallies: HashMap<String, Tally>,
    /// Rows of the generator that reached the sink.
    pub dropped: u64,
    /// Rows before the watermark that preceded them, as accounts see them.
    pub before_time: u64,
    pub panes: Vec<Pane>,
    pub late: Vec<(String, i64, i64)>,
    pub filtered: u64,
    /// Failures for the size of a state.
    pub too_large: u64,
    /// What was set aside: operator, trigger, line of the source (0 if none), key.
    pub letters: Vec<(String, String, u64, String)>,
}

struct Cell {
    state: Account,
    /// So often can it grow.
    grows: usize,
    timer: Option<i64>,
    rings: bool,
}

impl Cell {
    /// A timer adds to the number, and every third such number makes the state grow; `false` if it
    /// cannot.
    fn adds(&mut self, n: i64) -> bool {
        let grows = (self.state.n + n) % 3 == 0;
        if grows && self.grows == 0 {
            return false;
        }
        self.state.n += n;
        if grows {
            self.grow();
        }
        true
    }

    fn grow(&mut self) {
        self.grows -= 1;
        self.state.ballast.push_str(&"x".repeat(GROWTH));
    }
}

impl Expected {
    /// Of `rows`, and of `more` where the flow has a second source.
    pub fn of(plan: &Plan, rows: &[Row], more: &[Row]) -> Expected {
        let mut e = Expected::default();
        let mut cells: HashMap<String, Cell> = HashMap::new();
        let mut windows = Windows { plan, open: HashMap::new() };
        for ((row, stamp), line) in stamped(rows, plan.delay_ms).zip(1..) {
            if row.v % plan.modulus == 0 {
                e.filtered += 1;
                continue;
            }
            e.account(plan, &mut cells, row, line, stamp);
            let again = (row.v % 3 == 0).then(|| Row { v: -row.v, ..row.clone() });
            for row in std::iter::once(row.clone()).chain(again) {
                windows.add(&mut e, &row, line, stamp);
            }
        }
        for ((row, stamp), line) in stamped(more, plan.delay_ms / 2).zip(1..) {
            windows.add(&mut e, row, line, stamp);
        }
        for key in cells.keys().cloned().collect::<Vec<_>>() {
            e.fire(&mut cells, &key, i64::MAX);
            // The clock goes on when all else is done.
            e.ring(&mut cells, &key);
        }
        e.accounts.extend(cells.into_iter().map(|(k, c)| (k, c.state)));
        if plan.expires {
            for (key, state) in std::mem::take(&mut e.accounts) {
                e.out(&key, "end", (state.n, state.sum, state.late));
            }
        }
        windows.end(&mut e);
        for line in NO_ORDERS.into_iter().filter(|_| plan.copies) {
            e.dead("orders", "undecodable", line, "");
        }
        plan.makes.into_iter().for_each(|partitions| e.tally(partitions.into()));
        e.panes.sort();
        e.sides.sort();
        e.late.sort();
        e.letters.sort();
        e
    }

    /// Row n is in partition n % partitions, and there the next one.
    fn tally(&mut self, partitions: u64) {
        for n in 0..MADE * partitions {
            let (key, line) = (format!("g{}", n % 5), n / partitions + 1);
            if n % 13 == 5 {
                self.dead("tally", "record", line, &key);
                continue;
            }
            self.dropped += 1;
            let tally = self.tallies.entry(key).or_default();
            tally.n += 1;
            tally.sum += n as i64;
        }
    }

    fn dead(&mut self, operator: &str, trigger: &str, line: u64, key: &str) {
        self.letters.push((operator.into(), trigger.into(), line, key.into()));
    }

    fn account(
        &mut self,
        plan: &Plan,
        cells: &mut HashMap<String, Cell>,
        row: &Row,
        line: u64,
        stamp: i64,
    ) {
        self.fire(cells, &row.key, stamp);
        let v = row.v;
        let cursed = row.key == "cursed" && !cells.contains_key(&row.key);
        let fails = cursed || matches!(v % 97, 1 | 2);
        if fails || v % HANG == 7 {
            self.dead("account", if fails { "record" } else { "suspect" }, line, &row.key);
            return;
        }
        let grows = v % 21 == 4;
        if grows && cells.get(&row.key).is_some_and(|cell| cell.grows == 0) {
            self.dead("account", "record", line, &row.key);
            self.too_large += 1;
            return;
        }
        let cell = cells.entry(row.key.clone()).or_insert(Cell {
            state: Account::default(),
            grows: plan.grows_max.unwrap_or(usize::MAX),
            timer: None,
            rings: false,
        });
        if grows {
            cell.grow();
        }
        if row.ts < stamp {
            cell.state.late += 1;
            self.before_time += 1;
        }
        cell.state.n += 1;
        cell.state.sum += v;
        if v % 11 == 0 {
            cell.timer = Some(row.ts + 500);
        }
        if v % 13 == 0 {
            cell.timer = None;
        }
        cell.rings |= v % 29 == 0;
        let (n, sum, late) = (cell.state.n, cell.state.sum, cell.state.late);
        if v % 17 == 0 {
            self.transfer(v % 5, v, v % 4);
        }
        if v % 7 == 0 {
            self.out(&row.key, "row", (n, sum, late));
        }
        if v % 23 == 0 {
            self.sides.push(v);
        }
        if v % 19 == 0 && cell.state.ballast.is_empty() {
            cells.remove(&row.key);
            self.out(&row.key, "end", (n, sum, late));
        }
    }

    fn out(&mut self, key: &str, what: &str, (n, sum, late): (i64, i64, i64)) {
        let out = Out { key: key.into(), what: what.into(), n, sum, late };
        self.outs.entry(key.into()).or_default().push(out);
    }

    fn fire(&mut self, cells: &mut HashMap<String, Cell>, key: &str, watermark: i64) {
        let Some(cell) = cells.get_mut(key) else { return };
        let Some(_) = cell.timer.filter(|due| *due <= watermark) else { return };
        cell.timer = None;
        if cell.state.sum % 5 == 3 {
            self.dead("account", "timer", 0, key);
            return;
        }
        if !cell.adds(1000) {
            self.dead("account", "timer", 0, key);
            self.too_large += 1;
            return;
        }
        let (n, sum, late) = (cell.state.n, cell.state.sum, cell.state.late);
        self.out(key, "t", (n, sum, late));
    }

    fn ring(&mut self, cells: &mut HashMap<String, Cell>, key: &str) {
        let Some(cell) = cells.get_mut(key).filter(|c| c.rings) else { return };
        if cell.state.sum % 5 == 3 {
            self.dead("account", "timer", 0, key);
            return;
        }
        if !cell.adds(1_000_000) {
            self.dead("account", "timer", 0, key);
            self.too_large += 1;
            return;
        }
        let (n, sum, late) = (cell.state.n, cell.state.sum, cell.state.late);
        self.out(key, "clock", (n, sum, late));
    }

    fn transfer(&mut self, mut to: i64, amount: i64, hops: i64) {
        for _ in 0..=hops {
            let total = self.totals.entry(format!("total-{to}")).or_default();
            total.amount += amount;
            total.messages += 1;
            to = (to + 1) % 5;
        }
        let account = self.accounts.entry(format!("mail-{}", (to + 4) % 5)).or_default();
        account.n += 1;
        account.sum += 6;
    }
}

/// Each row with the watermark that preceded it at its source.
fn stamped(rows: &[Row], delay_ms: i64) -> impl Iterator<Item = (&Row, i64)> {
    let mut seen: Option<i64> = None;
    rows.iter().map(move |row| {
        let stamp = seen.map_or(i64::MIN, |s| s - delay_ms);
        seen = Some(seen.map_or(row.ts, |s| s.max(row.ts)));
        (row, stamp)
    })
}

#[derive(Clone)]
struct Pot {
    first: i64,
    last: i64,
    values: Vec<i64>,
    /// What the mean is of.
    there: Vec<i64>,
}

struct Windows<'a> {
    plan: &'a Plan,
    open: HashMap<(String, i64), Pot>,
}

/// The key that windows have, as it is shown.
pub fn window_key(plan: &Plan, key: &str, zone: Option<i64>) -> String {
    match zone {
        _ if !plan.zoned => key.to_string(),
        Some(zone) => format!("{key},{zone}"),
        None => format!("{key},null"),
    }
}

impl Windows<'_> {
    fn key(&self, row: &Row) -> String {
        window_key(self.plan, &row.key, row.zone)
    }

    fn add(&mut self, e: &mut Expected, row: &Row, line: u64, stamp: i64) {
        if row.v % 101 == 5 {
            // The aggregate fails unless the row is late for everything.
            if self.is_late(row, stamp) {
                self.late(e, row, line);
            } else {
                e.dead("windows", "record", line, &self.key(row));
            }
            return;
        }
        if self.is_late(row, stamp) {
            self.late(e, row, line);
            return;
        }
        match self.plan.shape {
            Shape::Session => self.session(e, row, stamp),
            _ => {
                for start in self.starts(row.ts) {
                    if start + self.plan.size_ms > stamp {
                        let pot = self.open.entry((self.key(row), start)).or_insert(Pot {
                            first: start,
                            last: start + self.plan.size_ms,
                            values: Vec::new(),
                            there: Vec::new(),
                        });
                        pot.values.push(row.v);
                        pot.there.extend(row.maybe);
                    }
                }
            }
        }
    }

    fn late(&self, e: &mut Expected, row: &Row, line: u64) {
        e.late.push((row.key.clone(), row.ts, row.v));
        if !self.plan.reads_late {
            return;
        }
        if row.v % 29 == 3 {
            e.dead("latecomer", "record", line, &self.key(row));
            return;
        }
        let latecomer = e.latecomers.entry(self.key(row)).or_default();
        latecomer.n += 1;
        latecomer.sum += row.v;
        // What is too late for a window is before the watermark, too.
        latecomer.late += 1;
        latecomer.echoes += i64::from(row.v % 4 == 1);
    }

    fn slide(&self) -> i64 {
        if self.plan.shape == Shape::Hop { self.plan.slide_ms } else { self.plan.size_ms }
    }

    fn starts(&self, ts: i64) -> Vec<i64> {
        let slide = self.slide();
        let last = ts.div_euclid(slide) * slide;
        (0..).map(|n| last - n * slide).take_while(|s| s + self.plan.size_ms > ts).collect()
    }

    fn is_late(&self, row: &Row, stamp: i64) -> bool {
        match self.plan.shape {
            Shape::Session => row.ts + self.plan.size_ms <= stamp,
            // The latest window is the last to close.
            _ => self.starts(row.ts).iter().all(|s| s + self.plan.size_ms <= stamp),
        }
    }

    fn session(&mut self, e: &mut Expected, row: &Row, stamp: i64) {
        let gap = self.plan.size_ms;
        let own = self.key(row);
        let mine = |k: &(String, i64)| k.0 == own;
        let closed: Vec<_> = self
            .open
            .iter()
            .filter(|(k, p)| mine(k) && p.last + gap <= stamp)
            .map(|(k, _)| k.clone())
            .collect();
        for key in closed {
            let pot = self.open.remove(&key).unwrap();
            self.close(e, &key.0, pot.last + gap, &pot);
        }
        let mut pot = Pot {
            first: row.ts,
            last: row.ts,
            values: vec![row.v],
            there: Vec::from_iter(row.maybe),
        };
        let near: Vec<_> = self
            .open
            .iter()
            .filter(|(k, p)| mine(k) && p.first <= row.ts + gap && row.ts <= p.last + gap)
            .map(|(k, _)| k.clone())
            .collect();
        for key in near {
            let other = self.open.remove(&key).unwrap();
            pot.first = pot.first.min(other.first);
            pot.last = pot.last.max(other.last);
            pot.values.extend(other.values);
            pot.there.extend(other.there);
        }
        self.open.insert((own, pot.first), pot);
    }

    fn end(&mut self, e: &mut Expected) {
        let session = self.plan.shape == Shape::Session;
        for ((key, _), pot) in std::mem::take(&mut self.open) {
            let end = if session { pot.last + self.plan.size_ms } else { pot.last };
            self.close(e, &key, end, &pot);
        }
    }

    fn close(&self, e: &mut Expected, key: &str, end: i64, pot: &Pot) {
        let Pot { first, values, there, .. } = pot;
        let n = values.len() as i64;
        if n % 31 == 30 {
            e.dead("windows", "firing", 0, key);
            return;
        }
        let (min, max) = (values.iter().min().unwrap(), values.iter().max().unwrap());
        let mean = there.iter().sum::<i64>() as f64 / there.len() as f64;
        let mean = format!("{:?}", (!there.is_empty()).then_some(mean));
        e.panes.push((key.into(), *first, end, n, values.iter().sum(), *min, *max, n, mean));
    }
}
