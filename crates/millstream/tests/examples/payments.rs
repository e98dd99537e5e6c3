//! Velocity and spikes, counted again by looking at each card's whole history.

use std::collections::BTreeMap;

use millstream::{io::Generator, test::Folder};
use serde_json::{Value, json};

use crate::{WEATHER, assert_same, generated, lines, run, simulate};

#[expect(dead_code, reason = "its main is for people")]
#[path = "../../../../examples/payments.rs"]
mod example;

/// A plain loop: the alerts, and the rows that are no payment.
fn oracle(input: &[Value]) -> (Vec<Value>, usize) {
    let mut alerts = Vec::new();
    let mut cards: BTreeMap<&str, Vec<(i64, f64, bool)>> = BTreeMap::new();
    let mut dead = 0;
    for row in input {
        let (at, amount) = (row["at"].as_i64().unwrap(), row["amount"].as_f64().unwrap());
        if amount <= 0.0 {
            dead += 1;
            continue;
        }
        let card = row["card"].as_str().unwrap();
        let mut alert = |reason: &str| {
            alerts.push(json!({ "card": card, "at": at, "reason": reason, "amount": amount }));
        };
        let history = cards.entry(card).or_default();
        if history.iter().filter(|(t, ..)| t + 120_000 > at).count() == 4 {
            alert("velocity");
        }
        let usual: Vec<f64> = history.iter().filter(|p| !p.2).map(|p| p.1).collect();
        let mean = usual.iter().enumerate().fold(0.0, |m, (n, x)| m + (x - m) / (n + 1) as f64);
        let spike = usual.len() >= 10 && amount >= 8.0 * mean;
        if spike {
            alert("spike");
        }
        history.push((at, amount, spike));
    }
    (alerts, dead)
}

#[test]
fn a_real_node_finds_what_the_whole_history_shows() {
    let folder = Folder::new("payments");
    let out = folder.path().join("alerts.jsonl");
    let payments = Generator::from_fn(7, 30_000, 1, example::payment);
    run(&example::flow(payments, out.to_str().unwrap()), &folder, |_| {});
    let (alerts, _) = oracle(&generated(30_000, example::payment));
    for reason in ["velocity", "spike"] {
        assert!(alerts.iter().filter(|a| a["reason"] == reason).count() > 10, "{reason}");
    }
    assert_same(&lines(&out), &alerts, "real");
}

#[test]
fn the_same_alerts_in_any_weather() {
    let mut input = generated(3_000, example::payment);
    input.iter_mut().for_each(|row| {
        // A tenth of the cards, so that they have a history to compare with.
        let card = row["card"].as_str().unwrap().rsplit('-').next().unwrap();
        row["card"] = json!(format!("card-{}", card.parse::<u64>().unwrap() / 10));
    });
    let (alerts, dead) = oracle(&input);
    assert!(alerts.len() > 20);
    for weather in WEATHER {
        let payments = Generator::from_fn(0, 0, 1, example::payment);
        let mut t = simulate(example::flow(payments, "-"), "payments", &input, weather);
        assert_same(&t.sink("alerts"), &alerts, weather);
        let letters = t.dead_letters();
        assert_eq!(letters.len(), dead, "{weather:?}");
        assert!(letters.iter().all(|l| l.column() == "amount"), "{weather:?}");
    }
}
