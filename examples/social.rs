//! The ten most used hashtags of each minute.
//!
//!     cargo run -p millstream --example social
//!
//! Posts become hashtags, hashtags are counted per minute, and a process per minute sorts what it
//! got once the minute is over everywhere. Posts that come after that are late: they are in no
//! count, and they are not lost either. The input is made up from a seed.

use millstream::{io::rng::Rng, prelude::*};

/// How far out of order posts may come.
const DELAY: Duration = Duration::from_secs(5);
/// How many hashtags a minute's list has.
const TOP: usize = 10;

#[derive(Serialize, Deserialize)]
struct Post {
    at: Time,
    text: String,
}

#[derive(Serialize, Deserialize)]
struct Tag {
    at: Time,
    tag: String,
}

/// A row of the window: how often a hashtag was used in a minute.
#[derive(Serialize, Deserialize)]
struct Count {
    tag: String,
    window_start: Time,
    window_end: Time,
    uses: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Place {
    minute: Time,
    place: u64,
    tag: String,
    uses: u64,
}

/// A minute that is about to be over.
#[derive(Default, Serialize, Deserialize)]
struct Minute {
    start: Time,
    counts: Vec<(u64, String)>,
}

impl Process for Minute {
    type In = Count;
    type Out = Place;

    fn handle(&mut self, c: Count, ctx: &mut Context<Self>) -> Result<()> {
        self.start = c.window_start;
        self.counts.push((c.uses, c.tag));
        ctx.set_timer("over", At::Event(c.window_end));
        Ok(())
    }

    fn on_timer(&mut self, _name: &str, ctx: &mut Context<Self>) -> Result<()> {
        self.counts.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        for (at, (uses, tag)) in self.counts.drain(..).take(TOP).enumerate() {
            ctx.emit(Place { minute: self.start, place: at as u64 + 1, tag, uses });
        }
        ctx.stop(); // a minute comes once
        Ok(())
    }
}

/// The topology: from rows to results.
pub fn flow(posts: Generator, top: &str, late: &str) -> Flow {
    let minute = Window::tumble("at", Duration::from_mins(1));
    Flow::new("social")
        .source("posts", posts)
        .event_time("at", DELAY)
        .flat_map("hashtags", |post: Post| {
            let tags = post.text.split_whitespace().filter_map(|w| w.strip_prefix('#'));
            let tags = tags.map(|tag| Tag { at: post.at, tag: tag.to_lowercase() });
            tags.collect::<Vec<_>>()
        })
        .key_by("tag")
        .window("per_minute", minute, [Aggregate::count("uses")])
        .key_by("window_start")
        .process::<Minute>("top", OnError::DeadLetter)
        .sink("top_ten", JsonLinesFile::create(top))
        .from_side("per_minute", "$late")
        .sink("late", JsonLinesFile::create(late))
}

/// Post `row` of the made-up input: 20 a second, of which one in 500 comes far too late.
pub fn post(row: u64, rng: &mut Rng) -> serde_json::Value {
    let late = if rng.below(500) == 0 { 60_000 + rng.below(120_000) } else { rng.below(4_000) };
    let at = 1_700_000_000_000 + row * 50 - late;
    let mut text = format!("post {row}");
    for _ in 0..rng.below(4) {
        let rank = (rng.unit() * rng.unit() * 60.0) as u64; // few are used much
        text += &format!(" #Topic{}", (rank + row / 4_000) % 60);
    }
    serde_json::json!({ "at": at, "text": text })
}

fn main() -> Result<()> {
    let (top, late) = ("out/top-ten.jsonl", "out/top-ten-late.jsonl");
    let posts = Generator::from_fn(7, 100_000, 1, post);
    Node::from_args("millstream-data")?.run(flow(posts, top, late))?;
    for path in [top, late] {
        println!("{} rows in {path}", std::fs::read_to_string(path)?.lines().count());
    }
    Ok(())
}
