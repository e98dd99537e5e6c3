//! Records, their faults, and that a cut in any place gives the same units.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_core::connector::Undecodable;

use super::*;
use crate::{
    JsonEncoder,
    lines::{Cutter, Format, PieceKind},
    pool::Pool,
    rng::Rng,
    unit::{Decoded, Place},
};

fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    let field =
        |(name, kind, null): &(&str, DataType, bool)| Field::new(*name, kind.clone(), *null);
    Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
}

fn decode(schema: &SchemaRef, header: &str, records: &[u8]) -> Decoded {
    let header = super::header(header.as_bytes(), b',').unwrap();
    CsvDecoder::new(schema.clone(), &header).unwrap().decode(records, Place::default())
}

fn rows(decoded: &Decoded) -> String {
    let mut out = Vec::new();
    JsonEncoder::new().encode(&decoded.rows, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn texts() -> SchemaRef {
    schema(&[("a", DataType::Utf8, false), ("b", DataType::Utf8, true)])
}

#[test]
fn quotes_separators_and_line_ends() {
    let records = "x,y\r\n\"q\"\"q, \",\"two\nlines\"\n\n a b ,c\"d\"\n,\n\"\",\"\"\nx,y";
    let decoded = decode(&texts(), "a,b", records.as_bytes());
    assert_eq!(decoded.undecodable, []);
    assert_eq!(
        rows(&decoded),
        concat!(
            "{\"a\":\"x\",\"b\":\"y\"}\n",
            "{\"a\":\"q\\\"q, \",\"b\":\"two\\nlines\"}\n",
            "{\"a\":\" a b \",\"b\":\"c\\\"d\\\"\"}\n",
            "{\"a\":\"\",\"b\":null}\n",
            "{\"a\":\"\",\"b\":\"\"}\n",
            "{\"a\":\"x\",\"b\":\"y\"}\n",
        )
    );
    assert_eq!((decoded.places, decoded.skipped), (vec![1, 2, 5, 6, 7, 8], 1));
}

#[test]
fn every_error_in_words() {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    for (kind, record, wanted) in [
        (DataType::Float64, "NA,1", "x: 'NA' is not a number"),
        (DataType::Float64, "NaN,1", "x: 'NaN' is not a number"),
        (DataType::Float64, "inf,1", "x: 'inf' is not a number"),
        (DataType::Float64, "1e999,1", "x: 1e999 is too large"),
        (DataType::Float64, ",1", "x: empty, but a number is required"),
        (DataType::Float64, "\"\",1", "x: empty, but a number is required"),
        (DataType::Int64, "1.5,1", "x: 1.5 is not a whole number"),
        (DataType::Int8, "200,1", "x: 200 is out of range (-128 to 127)"),
        (DataType::UInt8, "-1,1", "x: -1 is out of range (0 to 255)"),
        (DataType::Boolean, "yes,1", "x: 'yes' is not true or false"),
        (time.clone(), "yesterday,1", "x: 'yesterday' is not a time"),
        (time, ",1", "x: empty, but a time is required"),
        (DataType::Utf8, "1", "1 field, but the header has 2"),
        (DataType::Utf8, "1,2,3", "3 fields, but the header has 2"),
        (DataType::Utf8, "\"a\"b,2", "expected ',' after the closing quote, at column 4"),
        (DataType::Utf8, "1,\"a", "the quote at column 3 is never closed"),
    ] {
        let schema = schema(&[("x", kind.clone(), false)]);
        let decoded = decode(&schema, "x,y", format!("{record}\n").as_bytes());
        assert_eq!(decoded.undecodable[0].reason(), wanted, "{record}");
        assert_eq!(decoded.undecodable[0].raw, record.as_bytes());
    }
    let decoded = decode(&texts(), "a,b", b"x,\xff\nx,y\n");
    assert_eq!(decoded.undecodable[0].reason(), "invalid UTF-8 at byte 3");
    assert_eq!(decoded.places, [2]);
    let new = |schema: &SchemaRef, header: &[&str]| {
        let header: Vec<_> = header.iter().map(|n| n.to_string()).collect();
        CsvDecoder::new(schema.clone(), &header).err().unwrap().message().to_string()
    };
    assert_eq!(new(&texts(), &["a"]), "the header names no column `b`");
    assert_eq!(new(&texts(), &["a", "b", "a"]), "the header names column `a` twice");
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int8, true)));
    assert_eq!(
        new(&schema(&[("l", list, true)]), &["l"]),
        "column `l` is of type List(Int8), which CSV cannot hold"
    );
}

#[test]
fn numbers_and_truth_as_people_write_them() {
    let schema = schema(&[
        ("i", DataType::Int64, true),
        ("f", DataType::Float64, true),
        ("t", DataType::Boolean, true),
    ]);
    let decoded =
        decode(&schema, "i,f,t", b" 7 ,.5,TRUE\n+7,5.,0\n007,\"1e3\",False\n-0,-0,1\n,,\n");
    assert_eq!(decoded.undecodable, []);
    assert_eq!(
        rows(&decoded).replace("\"", ""),
        "{i:7,f:0.5,t:true}\n{i:7,f:5.0,t:false}\n{i:7,f:1000.0,t:false}\n{i:0,f:-0.0,t:true}\n{i:null,f:null,t:null}\n"
    );
}

#[test]
fn a_broken_quote_costs_one_line() {
    let records = b"1,a\n\"2,b\n3,c\n4,d\n\"5\"x,e\n6,f\n";
    let decoded = decode(&texts(), "a,b", records);
    assert_eq!(decoded.places, [1, 3, 4, 6]);
    let bad: Vec<_> = decoded.undecodable.iter().map(|u| (u.place, u.reason())).collect();
    assert_eq!(
        bad,
        [
            (2, "the quote at column 1 is never closed".to_string()),
            (5, "expected ',' after the closing quote, at column 4".to_string())
        ]
    );
}

/// What a file's units are: where rows start, and what is wrong with the rest.
#[derive(Debug, Default, PartialEq)]
struct Units {
    places: Vec<u64>,
    rows: String,
    bad: Vec<Undecodable>,
    units: u64,
}

/// Reads `content` in steps of `step` bytes, handing out at most `limit` units at once.
fn read(content: &[u8], step: usize, limit: u64, max: usize) -> Units {
    let mut cutter =
        Cutter::new(Format::Csv { separator: b',' }, max, Place::default(), Pool::new());
    cutter.limit(limit);
    let mut decoder = None;
    let mut units = Units::default();
    let mut steps = content.chunks(step);
    let mut ended = false;
    let mut at = Place::default();
    while !ended {
        match steps.next() {
            Some(bytes) => cutter.room().extend_from_slice(bytes),
            None => ended = true,
        }
        while let Some(piece) = cutter.next(ended) {
            assert_eq!(piece.start, at, "pieces join up");
            at = piece.end;
            units.units += piece.units;
            match piece.kind {
                PieceKind::Header => {
                    let names = super::header(piece.bytes.trim_ascii_end(), b',').unwrap();
                    let new = CsvDecoder::new(texts(), &names).unwrap();
                    decoder = Some(new.record_bytes_max(max));
                }
                PieceKind::Oversize { len } => {
                    units.bad.push(crate::unit::oversize(piece.start, len, &piece.bytes, max));
                }
                PieceKind::Data => {
                    let decoded = decoder.as_mut().unwrap().decode(&piece.bytes, piece.start);
                    let all = decoded.places.len() + decoded.undecodable.len();
                    assert_eq!(piece.units, all as u64 + decoded.skipped, "the source law");
                    units.rows += &rows(&decoded);
                    units.places.extend(decoded.places);
                    units.bad.extend(decoded.undecodable);
                }
            }
        }
    }
    assert_eq!(at.offset, content.len() as u64);
    units
}

#[test]
fn the_same_units_however_the_bytes_come() {
    let parts =
        ["\"", "\"\"", ",", "\n", "\r\n", "a", "bc", "\"x\ny\"", ",1\n", "12345678901234567890"];
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut content = "a,b\n".to_string();
        for _ in 0..rng.below(60) {
            content.push_str(parts[rng.below(parts.len() as u64) as usize]);
        }
        let whole = read(content.as_bytes(), 1 << 20, u64::MAX, 40);
        for step in [1, 2, 3, 7, 50] {
            for limit in [1, 2, u64::MAX] {
                let pieces = read(content.as_bytes(), step, limit, 40);
                assert_eq!(pieces, whole, "seed {seed}, step {step}, limit {limit}: {content:?}");
            }
        }
    }
}

#[test]
fn a_header_that_is_too_long_is_none() {
    for step in [1, 100] {
        let mut cutter =
            Cutter::new(Format::Csv { separator: b',' }, 8, Place::default(), Pool::new());
        let mut kinds = Vec::new();
        for bytes in b"a,b,ccccccccc\n1,2\n".chunks(step) {
            cutter.room().extend_from_slice(bytes);
            kinds.extend(std::iter::from_fn(|| cutter.next(false)).map(|piece| piece.kind));
        }
        assert_eq!(kinds, [PieceKind::Oversize { len: 13 }, PieceKind::Data]);
    }
}

#[test]
fn records_cut_before_are_decoded_one_by_one() {
    let schema = schema(&[("a", DataType::Utf8, true), ("n", DataType::Int64, false)]);
    let header = ["a".to_string(), "n".to_string()];
    let mut decoder = CsvDecoder::new(schema, &header).unwrap();
    let units: [&[u8]; 10] = [
        b"x,1",
        b"\"two\nlines\",2\r\n",
        b"\"never closed,3",
        b"y,4",
        b"z,5\nz,6",
        b"",
        b"\xff,7",
        b",8",
        b"\"open,9",
        b"close\",10",
    ];
    let decoded = decoder.decode_each((10..).zip(units));
    assert_eq!(decoded.places, [10, 11, 13, 17, 19]);
    assert_eq!(decoded.skipped, 1);
    let reasons: Vec<_> = decoded.undecodable.iter().map(|u| (u.place, u.reason())).collect();
    assert_eq!(reasons[0], (12, "the quote at column 1 is never closed".to_string()));
    assert_eq!(reasons[1], (14, "more than one record".to_string()));
    assert_eq!(reasons[2], (16, "invalid UTF-8 at byte 1".to_string()));
    assert_eq!(decoded.undecodable[1].raw, units[4]);
}

#[test]
fn what_is_encoded_is_read_back() {
    let schema = schema(&[
        ("text", DataType::Utf8, true),
        ("n", DataType::Int64, true),
        ("x", DataType::Float64, true),
        ("yes", DataType::Boolean, true),
    ]);
    let header = ["text", "n", "x", "yes"].map(str::to_string);
    let units: [&[u8]; 6] = [
        b"plain,1,0.5,true",
        b"\"\",-7,1e300,false",
        b",,,",
        b"\"a,b\",0,0.0,true",
        b"\"say \"\"no\"\"\",9,2.0,false",
        b"\"two\nlines\r\",9,-2.0,false",
    ];
    let mut decoder = CsvDecoder::new(schema.clone(), &header).unwrap();
    let decoded = decoder.decode_each((1..).zip(units));
    assert_eq!(decoded.places.len(), 6, "{:?}", decoded.undecodable);
    let (mut out, mut ends) = (Vec::new(), Vec::new());
    super::CsvEncoder::new(b',').encode(&decoded.rows, &mut out, &mut ends).unwrap();
    assert_eq!(&out[..ends[0]], units[0]);
    let starts = [0].into_iter().chain(ends.iter().copied());
    let records: Vec<&[u8]> = starts.zip(&ends).map(|(a, b)| &out[a..*b]).collect();
    assert_eq!(decoder.decode_each((1..).zip(records)).rows, decoded.rows);
}
