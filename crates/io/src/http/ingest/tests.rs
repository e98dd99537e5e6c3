//! What waits, what is told, and what a retry is known by.

use std::{sync::Arc, time::Duration};

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use axum::http::StatusCode;
use bytes::Bytes;
use millstream_core::connector::{Chunk, Pull, Source, SourceReader};
use std::io::Write;

use super::{
    body::{Encoding, Parsed, Shape, parse},
    intake::{Intake, Offer, Offered, Wait},
    producers::{Known, PRODUCERS_MAX, Producers, Sequence},
    *,
};

const NOW: Duration = Duration::ZERO;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

fn opened() -> (HttpSource, Box<dyn SourceReader>) {
    let source = HttpSource::new("numbers");
    let reader = source.open(0, schema(), &[]).unwrap();
    (source, reader)
}

fn lines(intake: &Intake, text: &str) -> Parsed {
    let body = Bytes::copy_from_slice(text.as_bytes());
    parse(body, Encoding::Plain, Shape::Lines, intake).ok().unwrap()
}

fn offer(source: &HttpSource, text: &str, sequence: Option<Sequence>) -> (Offered, Wait) {
    let (offer, wait) = Offer::new(lines(&source.intake(), text), sequence);
    (source.intake().offer(offer), wait)
}

fn chunk(reader: &mut Box<dyn SourceReader>) -> Chunk {
    match reader.pull(NOW).unwrap() {
        Pull::Chunk(decode) => decode(),
        _ => panic!("nothing came"),
    }
}

fn nothing(reader: &mut Box<dyn SourceReader>) -> bool {
    matches!(reader.pull(NOW).unwrap(), Pull::Idle)
}

#[test]
fn many_requests_are_one_chunk_and_each_is_told() {
    let (source, mut reader) = opened();
    let (_, first) = offer(&source, "{\"n\":1}\n\n{\"n\":2}", None);
    let (_, second) = offer(&source, "{\"n\":3}\n{\"n\":\"x\"}\n", None);
    let mut chunk = chunk(&mut reader);
    assert_eq!((chunk.rows.num_rows(), chunk.units, chunk.skipped), (3, 5, 1));
    assert_eq!(chunk.places, [1, 3, 4]);
    assert_eq!(chunk.undecodable[0].place, 5);
    assert!(!*first.borrow() && !*second.borrow());
    chunk.durable.take().unwrap()();
    assert!(*first.borrow() && *second.borrow());
    assert!(nothing(&mut reader));
    // Places go on after a restart.
    let mut reader = source.open(0, schema(), &chunk.position).unwrap();
    drop(offer(&source, "{\"n\":4}\n", None));
    assert_eq!(super::tests::chunk(&mut reader).places, [6]);
}

#[test]
fn a_turn_that_comes_to_nothing_says_so() {
    let (source, mut reader) = opened();
    let (_, wait) = offer(&source, "{\"n\":1}", None);
    drop(chunk(&mut reader));
    assert!(wait.has_changed().is_err() && !*wait.borrow());
}

#[test]
fn what_waits_when_the_source_is_opened_again_is_given_up() {
    let (source, mut old) = opened();
    let (_, wait) = offer(&source, "{\"n\":1}", Some(Sequence::new("a", 0)));
    let mut new = source.open(0, schema(), &[]).unwrap();
    assert!(wait.has_changed().is_err());
    // The retry is no duplicate: the first try was lost. And the old reader gets nothing of it.
    let (offered, _) = offer(&source, "{\"n\":1}", Some(Sequence::new("a", 0)));
    assert!(matches!(offered, Offered::Taken));
    assert!(nothing(&mut old));
    assert_eq!(chunk(&mut new).rows.num_rows(), 1);
}

#[test]
fn a_retry_is_told_when_the_first_try_is_durable() {
    let (source, mut reader) = opened();
    drop(offer(&source, "{\"n\":1}", Some(Sequence::new("a", 7))));
    let (retry, _) = offer(&source, "{\"n\":1}", Some(Sequence::new("a", 7)));
    let Offered::Duplicate(wait) = retry else { panic!("taken twice") };
    let mut chunk = chunk(&mut reader);
    assert_eq!(chunk.rows.num_rows(), 1);
    assert!(!*wait.borrow());
    chunk.durable.take().unwrap()();
    assert!(*wait.borrow());
    // Known from the position alone, after a crash.
    drop(source.open(0, schema(), &chunk.position).unwrap());
    let (retry, _) = offer(&source, "{\"n\":1}", Some(Sequence::new("a", 7)));
    assert!(matches!(retry, Offered::Duplicate(wait) if *wait.borrow()));
    let (early, _) = offer(&source, "{\"n\":1}", Some(Sequence::new("a", 9)));
    assert!(matches!(early, Offered::Gap { expected: 8 }));
    let (before, _) = offer(&source, "{\"n\":1}", Some(Sequence::new("a", 6)));
    assert!(matches!(before, Offered::Gap { expected: 8 }), "6 was never taken");
}

#[test]
fn too_much_is_refused() {
    let (source, _reader) = opened();
    let many = "{\"n\":1}\n".repeat(70_000);
    assert!(matches!(offer(&source, &many, None).0, Offered::Taken));
    assert!(matches!(offer(&source, "{\"n\":1}", None).0, Offered::Full));
    let closed = HttpSource::new("closed");
    assert!(closed.intake().decoder().is_none());
}

#[test]
fn the_producer_that_was_silent_longest_is_forgotten() {
    let mut producers = Producers::default();
    let sequence = |n: usize| Sequence::new(&n.to_string(), n as u64);
    (0..PRODUCERS_MAX).for_each(|n| producers.take(&sequence(n), None));
    producers.take(&Sequence::new("0", 1), None);
    producers.take(&sequence(PRODUCERS_MAX), None);
    let mut bytes = Vec::new();
    producers.encode(&mut bytes);
    assert!(bytes.len() < 22 * PRODUCERS_MAX, "{} bytes", bytes.len());
    let back = Producers::decode(&bytes).unwrap();
    let taken = |p: &Producers, s: &Sequence| matches!(p.look(s), Known::Taken(None));
    assert!(taken(&back, &Sequence::new("0", 0)) && taken(&back, &Sequence::new("0", 1)));
    assert!(!taken(&back, &sequence(1)) && taken(&back, &sequence(2)));
    let mut again = Vec::new();
    back.encode(&mut again);
    assert_eq!(bytes, again, "the order of use is kept");
    for cut in 0..30 {
        assert!(Producers::decode(&bytes[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn an_array_says_on_which_line_its_elements_are() {
    let (source, _reader) = opened();
    let intake = source.intake();
    let json = |text: &'static str| {
        parse(Bytes::from_static(text.as_bytes()), Encoding::Plain, Shape::Json, &intake)
    };
    let parsed = json("[{\"n\":1},\n\n {\n\"n\":2}, {\"n\":null}]").ok().unwrap();
    assert_eq!(parsed.lines.as_deref(), Some([1, 3, 4].as_slice()));
    assert_eq!((parsed.rows.num_rows(), parsed.units), (2, 3));
    assert_eq!((parsed.undecodable[0].place, parsed.line_of(3)), (3, 4));
    assert_eq!(json("{\"n\":\n5}").ok().unwrap().rows.num_rows(), 1);
    assert_eq!(json(" ").ok().unwrap().units, 0);
    let Err(Refused(status, body)) = json("[{\"n\":1},\n{]") else { panic!("taken") };
    assert_eq!((status, body.line), (StatusCode::UNPROCESSABLE_ENTITY, Some(2)));
}

#[test]
fn a_gzip_bomb_is_stopped_at_the_limit() {
    let (source, _reader) = opened();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    (0..40).for_each(|_| gzip.write_all(&[b'\n'; 1 << 20]).unwrap());
    let body = Bytes::from(gzip.finish().unwrap());
    assert!(body.len() < 1 << 20);
    let refused = parse(body, Encoding::Gzip, Shape::Lines, &source.intake());
    let Err(Refused(status, body)) = refused else { panic!("taken") };
    assert_eq!((status, body.code.as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "M0006"));
    let Refused(status, body) = behind("too much waits");
    assert_eq!((status, body.code.as_str()), (StatusCode::TOO_MANY_REQUESTS, "M0006"));
}

#[test]
fn a_refusal_says_what_to_do() {
    for Refused(status, body) in [too_large(), too_slow(), behind("w"), again("w"), gap(None, 1)] {
        assert!(Code::from_id(&body.code).is_some(), "{status}: {body:?}");
        assert!(!body.help.is_empty(), "{status}: {body:?}");
    }
}
