//! The top ten, recounted in one map; what is late is in neither.

use std::collections::BTreeMap;

use millstream::{io::Generator, test::Folder};
use serde_json::{Value, json};

use crate::{WEATHER, assert_same, generated, lines, run, simulate};

#[expect(dead_code, reason = "its main is for people")]
#[path = "../../../../examples/social.rs"]
mod example;

/// A plain loop: the lists of all minutes, and the late hashtags.
fn oracle(input: &[Value]) -> (Vec<Value>, Vec<Value>) {
    let mut uses: BTreeMap<i64, BTreeMap<String, u64>> = BTreeMap::new();
    let mut late = Vec::new();
    let mut watermark = i64::MIN;
    for post in input {
        let at = post["at"].as_i64().unwrap();
        let minute = at / 60_000 * 60_000;
        for tag in post["text"].as_str().unwrap().split(' ').filter(|w| w.starts_with('#')) {
            let tag = tag[1..].to_lowercase();
            if minute + 60_000 <= watermark {
                late.push(json!({ "at": at, "tag": tag }));
            } else {
                *uses.entry(minute).or_default().entry(tag).or_default() += 1;
            }
        }
        watermark = watermark.max(at - 5_000);
    }
    let mut top = Vec::new();
    for (minute, uses) in uses {
        let mut list: Vec<(String, u64)> = uses.into_iter().collect();
        list.sort_by_key(|(_, n)| std::cmp::Reverse(*n)); // stable: ties stay in order
        for (place, (tag, n)) in list.into_iter().take(10).enumerate() {
            top.push(json!({ "minute": minute, "place": place + 1, "tag": tag, "uses": n }));
        }
    }
    (top, late)
}

#[test]
fn a_real_node_lists_every_minute() {
    let folder = Folder::new("social");
    let (out, late) = (folder.path().join("top.jsonl"), folder.path().join("late.jsonl"));
    let posts = Generator::from_fn(7, 20_000, 1, example::post);
    let flow = example::flow(posts, out.to_str().unwrap(), late.to_str().unwrap());
    run(&flow, &folder, |node| {
        let counted = node.ledger().operators["social/per_minute/per_minute"];
        assert!(counted.late > 10);
        assert_eq!(counted.read, counted.processed + counted.late);
    });
    let (top, late_rows) = oracle(&generated(20_000, example::post));
    assert_same(&lines(&out), &top, "real");
    assert_same(&lines(&late), &late_rows, "real");
}

#[test]
fn the_same_lists_in_any_weather() {
    let input = generated(3_000, example::post);
    let (top, late) = oracle(&input);
    assert!(top.len() >= 30 && !late.is_empty());
    for weather in WEATHER {
        let posts = Generator::from_fn(0, 0, 1, example::post);
        let t = simulate(example::flow(posts, "-", "-"), "posts", &input, weather);
        assert_same(&t.sink("top_ten"), &top, weather);
        assert_same(&t.sink("late"), &late, weather);
    }
}
