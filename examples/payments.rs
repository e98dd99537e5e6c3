//! Two signs of a stolen card: many payments in a short time, and one far above the usual.
//!
//!     cargo run -p millstream --example payments
//!
//! One process per card. The input is made up from a seed: 1,000 cards pay about every five
//! minutes; now and then somebody empties one of them.

use std::collections::VecDeque;

use millstream::{io::rng::Rng, prelude::*};

/// This many payments ...
const VELOCITY_COUNT: usize = 5;
/// ... within less than this are too many.
const VELOCITY_WITHIN: Duration = Duration::from_mins(2);
/// A payment of so many times the card's mean is a spike ...
const SPIKE_FACTOR: f64 = 8.0;
/// ... once the mean is one of this many payments.
const SPIKE_AFTER: u64 = 10;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Payment {
    card: String,
    at: Time,
    amount: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Alert {
    card: String,
    at: Time,
    reason: String,
    amount: f64,
}

/// What is remembered of one card.
#[derive(Default, Serialize, Deserialize)]
struct Card {
    recent: VecDeque<Time>,
    payments: u64,
    mean: f64,
}

impl Process for Card {
    type In = Payment;
    type Out = Alert;

    fn handle(&mut self, p: Payment, ctx: &mut Context<Self>) -> Result<()> {
        if !p.amount.is_finite() || p.amount <= 0.0 {
            // The row is set aside with this reason; the card is as if it had never come.
            return Err(Failure::new(format!("{} is no amount", p.amount)).column("amount"));
        }
        self.recent.retain(|at| *at + VELOCITY_WITHIN > p.at);
        self.recent.push_back(p.at);
        if self.recent.len() == VELOCITY_COUNT {
            ctx.emit(alert(&p, "velocity"));
        }
        if self.payments >= SPIKE_AFTER && p.amount >= SPIKE_FACTOR * self.mean {
            ctx.emit(alert(&p, "spike"));
            return Ok(()); // and the mean stays what it was
        }
        self.payments += 1;
        self.mean += (p.amount - self.mean) / self.payments as f64;
        Ok(())
    }
}

fn alert(p: &Payment, reason: &str) -> Alert {
    Alert { card: p.card.clone(), at: p.at, reason: reason.into(), amount: p.amount }
}

/// The topology: from rows to results.
pub fn flow(payments: Generator, alerts: &str) -> Flow {
    Flow::new("payments")
        .source("payments", payments)
        .key_by("card")
        .process::<Card>("card", OnError::DeadLetter)
        .sink("alerts", JsonLinesFile::create(alerts))
}

const CARDS: u64 = 1_000;

/// Payment `row` of the made-up input.
pub fn payment(row: u64, rng: &mut Rng) -> serde_json::Value {
    let theft = row % 1_000 >= 990; // ten in a row with the same card
    let card = if theft { row / 1_000 % CARDS } else { rng.below(CARDS) };
    let mut amount = 5.0 + rng.below(4_000) as f64 / 100.0;
    if theft && rng.below(3) == 0 {
        amount *= 40.0;
    }
    if rng.below(5_000) == 0 {
        amount = -amount; // a bug at the other end
    }
    let at = 1_700_000_000_000 + row * 300 + rng.below(300);
    serde_json::json!({ "card": format!("card-{card:03}"), "at": at, "amount": amount })
}

fn main() -> Result<()> {
    let alerts = "out/payments.jsonl";
    let payments = Generator::from_fn(7, 200_000, 1, payment);
    Node::from_args("millstream-data")?.run(flow(payments, alerts))?;
    println!("{} alerts in {alerts}", std::fs::read_to_string(alerts)?.lines().count());
    Ok(())
}
