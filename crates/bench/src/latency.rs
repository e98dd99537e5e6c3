//! `latency`: 1,000 requests a second of 100 rows each over 16 connections. How long is it from the
//! moment a request was meant to be sent until each of its rows lies in the fsynced sink file?
//!
//! *What is strict about it:* requests have a timetable and do not wait for slow answers to be due;
//! the reader syncs the file itself after it has seen a row and before it looks at the clock, so a
//! row that is only in the page cache does not count. Client and node are different processes; both
//! times come from the client's clock.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use millstream::{io::HttpSource, prelude::*};
use serde::{Deserialize, Serialize};

use crate::{
    cli::Latency,
    machine::{self, Scratch},
    node,
    report::{self, Report, Totals, quantile},
};

const ROWS: u64 = 100;
const CONNECTIONS: u64 = 16;
const SENSORS: u64 = 100_000;
/// How long the last rows may take after the last request.
const PATIENCE: Duration = Duration::from_secs(20);

/// The node, in a process of its own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    pub data: PathBuf,
    pub output: PathBuf,
}

/// What the node says at its end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Served {
    pub totals: Totals,
    pub violations: Vec<String>,
}

/// Runs the bench.
pub fn run(args: &Latency) -> report::Result<ExitCode> {
    let mut report = Report::new("latency", args.common.seed, args.common.rounds);
    node::print_configuration();
    let (mut figures, mut acks): ([Vec<f64>; 4], Vec<f64>) = Default::default();
    for round in 1..=args.common.rounds {
        let scratch = Scratch::new(args.common.dir.as_deref())?;
        let part = Part { data: scratch.join("data"), output: scratch.join("out.jsonl") };
        let mut node = machine::start("latency", &part)?;
        let mut said = BufReader::new(node.stdout.take().ok_or("the node has no stdout")?);
        let mut address = String::new();
        said.read_line(&mut address)?;
        let requests = args.requests_per_s * args.seconds;
        let (late, acked) = measure(address.trim(), &part.output, args.requests_per_s, requests)?;
        drop(node.stdin.take());
        let mut last = String::new();
        said.read_to_string(&mut last)?;
        node.wait()?;
        let served: Served = serde_json::from_str(last.lines().last().unwrap_or_default())?;
        let missing = late.iter().filter(|ms| ms.is_nan()).count();
        report.check(missing == 0, || format!("{missing} rows never came out"));
        report.check(served.violations.is_empty(), || served.violations.join("; "));
        report.check(served.totals.rows_out == requests * ROWS, || {
            format!("{} rows out", served.totals.rows_out)
        });
        for (all, part) in figures.iter_mut().zip([0.5, 0.99, 0.999, 1.0]) {
            all.push(quantile(&late, part));
        }
        acks.push(quantile(&acked, 0.99));
        let of = |n: usize| figures[n].last().copied().unwrap_or_default();
        println!(
            "round {round}  p50 {:.2} ms, p99 {:.2}, p99.9 {:.2}, max {:.2}; answers p99 {:.2}",
            of(0),
            of(1),
            of(2),
            of(3),
            quantile(&acked, 0.99)
        );
        report.totals(served.totals);
    }
    report.spread(["p50_ms", "p50_ms_min", "p50_ms_max"], &figures[0]);
    report.spread(["p99_ms", "p99_ms_min", "p99_ms_max"], &figures[1]);
    report.spread(["p999_ms", "p999_ms_min", "p999_ms_max"], &figures[2]);
    report.spread(["max_ms", "max_ms_min", "max_ms_max"], &figures[3]);
    report.spread(["answer_p99_ms", "answer_p99_ms_min", "answer_p99_ms_max"], &acks);
    Ok(report.finish())
}

/// A row, by its number.
#[derive(Serialize, Deserialize)]
struct Row {
    n: u64,
}

/// Counts a sensor's rows and passes them on.
#[derive(Default, Serialize, Deserialize)]
struct Sensor {
    rows: u64,
}

impl Process for Sensor {
    type In = Row;
    type Out = Row;

    fn handle(&mut self, row: Row, ctx: &mut Context<Self>) -> Result<()> {
        self.rows += 1;
        ctx.emit(row);
        Ok(())
    }
}

/// Serves until its stdin ends.
pub fn part(part: &Part) -> report::Result<Served> {
    let flow = Flow::new("latency")
        .source("readings", HttpSource::new("readings"))
        .key_by("sensor")
        .process::<Sensor>("sensor", OnError::DeadLetter)
        .sink("out", JsonLinesFile::create(&part.output));
    let running = node::start(Node::embedded(&part.data).http(":0"), &flow)?;
    println!("{}", running.http().ok_or("the node does not listen")?);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let (totals, violations) = node::totals(&running);
    running.stop();
    Ok(Served { totals, violations })
}

/// Sends all requests on time. Returns how late each row was, ms, NaN if it never came; and how
/// late each request was answered.
fn measure(
    address: &str,
    output: &Path,
    per_s: u64,
    requests: u64,
) -> report::Result<(Vec<f64>, Vec<f64>)> {
    let connections: Vec<Connection> = (0..CONNECTIONS.min(requests))
        .map(|_| Connection::open(address))
        .collect::<report::Result<_>>()?;
    let due = |request: u64| Duration::from_nanos(request * 1_000_000_000 / per_s);
    // A moment for all threads to be there.
    let begun = Instant::now() + Duration::from_millis(200);
    std::thread::scope(|scope| {
        let senders: Vec<_> = connections
            .into_iter()
            .enumerate()
            .map(|(first, mut connection)| {
                scope.spawn(move || -> report::Result<Vec<f64>> {
                    let mut acked = Vec::new();
                    for request in (first as u64..requests).step_by(CONNECTIONS as usize) {
                        std::thread::sleep(
                            (begun + due(request)).saturating_duration_since(Instant::now()),
                        );
                        connection.post(request)?;
                        acked.push((begun + due(request)).elapsed().as_secs_f64() * 1e3);
                    }
                    Ok(acked)
                })
            })
            .collect();
        let until = begun + due(requests) + PATIENCE;
        let late = read(output, requests * ROWS, until, |row| begun + due(row / ROWS))?;
        let mut acked = Vec::new();
        for sender in senders {
            acked.extend(sender.join().map_err(|_| "a sender panicked")??);
        }
        Ok((late, acked))
    })
}

/// Reads rows as they come and notes how late each was.
fn read(
    output: &Path,
    rows: u64,
    until: Instant,
    due: impl Fn(u64) -> Instant,
) -> report::Result<Vec<f64>> {
    let mut late = vec![f64::NAN; rows as usize];
    let (mut file, mut rest, mut seen) = (None, Vec::new(), 0);
    while seen < rows && Instant::now() < until {
        std::thread::sleep(Duration::from_micros(500));
        if file.is_none() {
            file = File::open(output).ok();
        }
        let Some(file) = &mut file else { continue };
        if file.read_to_end(&mut rest)? == 0 {
            continue;
        }
        file.sync_data()?;
        let now = Instant::now();
        let whole = rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        for line in rest[..whole].split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let row: Row = serde_json::from_slice(line)?;
            let slot = late.get_mut(row.n as usize).ok_or("a row that was never sent")?;
            if !slot.is_nan() {
                return Err(format!("row {} came twice", row.n).into());
            }
            *slot = now.saturating_duration_since(due(row.n)).as_secs_f64() * 1e3;
            seen += 1;
        }
        rest.drain(..whole);
    }
    Ok(late)
}

/// One connection, which is kept.
struct Connection {
    stream: BufReader<TcpStream>,
    address: String,
    body: Vec<u8>,
}

impl Connection {
    fn open(address: &str) -> report::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let stream = BufReader::new(stream);
        Ok(Connection { stream, address: address.to_string(), body: Vec::new() })
    }

    /// Sends a request's rows and waits until they are accepted.
    fn post(&mut self, request: u64) -> report::Result<()> {
        self.body.clear();
        for n in request * ROWS..(request + 1) * ROWS {
            let sensor = crate::processes::mix(n) % SENSORS;
            writeln!(self.body, "{{\"sensor\":\"sensor-{sensor:06}\",\"n\":{n}}}")?;
        }
        let head = format!(
            "POST /v1/streams/readings/records HTTP/1.1\r\nHost: {}\r\n\
             Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
            self.address,
            self.body.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(&[head.as_bytes(), &self.body].concat())?;
        let (mut status, mut length) = (String::new(), 0);
        self.stream.read_line(&mut status)?;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            match line.trim().to_ascii_lowercase().split_once(':') {
                Some(("content-length", n)) => length = n.trim().parse()?,
                Some(_) => {}
                None => break,
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        match status.split_whitespace().nth(1) {
            Some("200") => Ok(()),
            _ => Err(format!("{}: {}", status.trim(), String::from_utf8_lossy(&answer)).into()),
        }
    }
}
