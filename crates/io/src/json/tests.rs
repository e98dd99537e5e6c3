//! What lines decode to, what is wrong with those that do not, and that neighbours never notice.

use std::sync::Arc;

use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{Float64Type, Int64Type, TimestampMillisecondType},
};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use super::*;
use crate::unit::{Decoded, Place};

mod against_serde;

fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    let field =
        |(name, kind, null): &(&str, DataType, bool)| Field::new(*name, kind.clone(), *null);
    Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
}

fn decode(schema: &SchemaRef, lines: impl AsRef<[u8]>) -> Decoded {
    JsonDecoder::new(schema.clone()).unwrap().decode(lines.as_ref(), Place::default())
}

/// Decodes and encodes again: what was understood, as text.
fn echo(schema: &SchemaRef, lines: impl AsRef<[u8]>) -> String {
    let decoded = decode(schema, lines);
    assert_eq!(decoded.undecodable, []);
    encode(&decoded.rows)
}

fn encode(rows: &RecordBatch) -> String {
    let mut out = Vec::new();
    JsonEncoder::new().encode(rows, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn one(kind: DataType, nullable: bool) -> SchemaRef {
    schema(&[("x", kind, nullable)])
}

/// Why a line is not a row; the good lines around it have to be rows.
fn reason(schema: &SchemaRef, line: impl AsRef<[u8]>) -> String {
    let good = b"{\"x\":null}\n";
    let relaxed = Arc::new(Schema::new(
        schema
            .fields()
            .iter()
            .map(|f| f.as_ref().clone().with_nullable(f.name() == "x"))
            .collect::<Vec<_>>(),
    ));
    let alone = decode(schema, line.as_ref());
    assert_eq!(alone.rows.num_rows(), 0, "{:?}", String::from_utf8_lossy(line.as_ref()));
    let among = decode(&relaxed, [good, line.as_ref(), b"\n", good].concat());
    if let [unit] = among.undecodable.as_slice() {
        assert_eq!(among.places, [1, 3]);
        assert_eq!((unit.place, unit.bytes), (2, (11, 11 + line.as_ref().len() as u64)));
        assert_eq!(unit.raw, line.as_ref());
    }
    alone.undecodable[0].reason()
}

#[test]
fn every_error_in_words() {
    use DataType::*;
    let time = Timestamp(TimeUnit::Millisecond, None);
    let list = List(Arc::new(Field::new("item", Int8, false)));
    let nested = Struct(Fields::from(vec![Field::new("y", Int8, false)]));
    for (kind, line, wanted) in [
        (Float64, r#"{"x":"NA"}"#, "x: 'NA' is not a number"),
        (Float64, r#"{"x":1e999}"#, "x: 1e999 is too large"),
        (Float32, r#"{"x":1e39}"#, "x: 1e39 is too large"),
        (Float64, r#"{"x":true}"#, "x: true is not a number"),
        (Float64, r#"{"x":{"y":[1]}}"#, "x: an object is not a number"),
        (Float64, r#"{"x":null}"#, "x: null, but a value is required"),
        (Float64, "{}", "x: the field is missing"),
        (Float64, r#"{"y":1}"#, "x: the field is missing"),
        (Int64, r#"{"x":1.5}"#, "x: 1.5 is not a whole number"),
        (Int64, r#"{"x":1e3}"#, "x: 1e3 is not a whole number"),
        (
            Int64,
            r#"{"x":9223372036854775808}"#,
            "x: 9223372036854775808 is out of range (-9223372036854775808 to 9223372036854775807)",
        ),
        (Int8, r#"{"x":128}"#, "x: 128 is out of range (-128 to 127)"),
        (UInt16, r#"{"x":-1}"#, "x: -1 is out of range (0 to 65535)"),
        (Utf8, r#"{"x":7}"#, "x: 7 is not text"),
        (Utf8, r#"{"x":["a"]}"#, "x: a list is not text"),
        (Utf8, r#"{"x":"\ud800"}"#, "x: \\ud800 is half of a surrogate pair"),
        (Utf8, r#"{"x":"\ud800\u0041"}"#, "x: \\ud800 is half of a surrogate pair"),
        (Utf8, r#"{"x":"\udc00"}"#, "x: \\udc00 is half of a surrogate pair"),
        (Utf8, r#"{"x":"\q"}"#, "unknown escape sequence at column 7"),
        (Utf8, r#"{"x":"\u12g4"}"#, "unknown escape sequence at column 7"),
        (Utf8, "{\"x\":\"a\tb\"}", "control character 0x09 at column 8"),
        (Utf8, r#"{"x":"abc"#, "the line ends within a text, at column 10"),
        (Boolean, r#"{"x":"yes"}"#, "x: 'yes' is not true or false"),
        (Boolean, r#"{"x":tru}"#, "expected a value at column 6"),
        (time.clone(), r#"{"x":"yesterday"}"#, "x: 'yesterday' is not a time"),
        (time.clone(), r#"{"x":1.5}"#, "x: 1.5 is not a whole number"),
        (time, r#"{"x":[]}"#, "x: a list is not a time"),
        (list.clone(), r#"{"x":7}"#, "x: 7 is not a list"),
        (list.clone(), r#"{"x":[1,200]}"#, "x: 200 is out of range (-128 to 127)"),
        (list.clone(), r#"{"x":[1 2]}"#, "expected ',' or ']' at column 9"),
        (list, r#"{"x":[1,]}"#, "expected a value at column 9"),
        (nested.clone(), r#"{"x":[]}"#, "x: a list is not an object"),
        (nested.clone(), r#"{"x":{"y":"a"}}"#, "x.y: 'a' is not a number"),
        (nested, r#"{"x":{}}"#, "x.y: the field is missing"),
        (Int64, r#"{"x":1 "y":2}"#, "expected ',' or '}' at column 8"),
        (Int64, r#"{"x":1,}"#, "expected a field name in quotes at column 8"),
        (Int64, r#"{x:1}"#, "expected a field name in quotes at column 2"),
        (Int64, r#"{"x" 1}"#, "expected ':' at column 6"),
        (Int64, r#"{"x":01}"#, "expected ',' or '}' at column 7"),
        (Int64, r#"{"x":-}"#, "expected a digit at column 7"),
        (Int64, r#"{"x":1."#, "expected a digit at column 8, but the line ends"),
        (Int64, r#"{"x":+1}"#, "expected a value at column 6"),
        (Int64, r#"{"x":1"#, "expected ',' or '}' at column 7, but the line ends"),
        (Int64, r#"{"x":1} x"#, "expected the end of the line at column 9"),
        (Int64, r#"{"x":1}{"x":2}"#, "expected the end of the line at column 8"),
        (Int64, r#"{"z":[1,{"a":nul}],"x":1}"#, "expected a value at column 14"),
        (Int64, "[1]", "a list is not an object"),
        (Int64, "'NA'", "the line is not a JSON object"),
        (Int64, "\u{feff}{\"x\":1}", "the line is not a JSON object"),
        (Int64, "{\"x\":1}\0", "expected the end of the line at column 8"),
    ] {
        assert_eq!(reason(&one(kind, false), line), wanted, "{line}");
    }
    let long = format!("{{\"x\":\"{}\"}}", "é".repeat(60));
    assert_eq!(
        reason(&one(Int64, false), long),
        format!("x: '{}...' is not a number", "é".repeat(40))
    );
    let bytes = reason(&one(Utf8, false), b"{\"x\":\"0123456789\xff\"}");
    assert_eq!(bytes, "invalid UTF-8 at byte 17");
    let skipped = reason(&one(Utf8, false), b"{\"x\":\"0\",\"y\":\"\xc3\"}");
    assert_eq!(skipped, "invalid UTF-8 at byte 15");
}

#[test]
fn values_of_each_type() {
    use DataType::*;
    let same = |kind: DataType, value: &str| {
        let line = format!("{{\"x\":{value}}}\n");
        assert_eq!(echo(&one(kind, true), &line), line);
    };
    for kind in [Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64] {
        for v in ["0", "7", "127", "null"] {
            same(kind.clone(), v);
        }
    }
    same(Int8, "-128");
    same(Int16, "-32768");
    same(Int32, "-2147483648");
    same(Int64, "-9223372036854775808");
    same(UInt64, "18446744073709551615");
    for v in ["0.0", "-0.0", "21.52", "1e+300", "5e-324", "0.1", "1.7976931348623157e+308"] {
        same(Float64, v);
    }
    for v in ["0.1", "3.4028235e+38", "16777216.0"] {
        same(Float32, v);
    }
    for v in ["true", "false", "null"] {
        same(Boolean, v);
    }
    same(Utf8, r#""\"\\/ é 😀 \b\f\n\r\t\u0001""#);
    same(Timestamp(TimeUnit::Millisecond, Some("UTC".into())), "1700000000000");
    let item = Struct(Fields::from(vec![
        Field::new("a", Utf8, true),
        Field::new("b", List(Arc::new(Field::new("item", Int32, true))), true),
    ]));
    let list = List(Arc::new(Field::new("item", item, true)));
    for value in ["[]", "null", r#"[{"a":"x","b":[1,null]},null,{"a":null,"b":null}]"#] {
        same(list.clone(), value);
    }
    let text = echo(&one(Utf8, false), r#"{"x":"\ud83d\ude00\u00e9\/\u0041"}"#);
    assert_eq!(text, "{\"x\":\"😀é/A\"}\n");
    let times = decode(
        &one(Timestamp(TimeUnit::Millisecond, None), true),
        "{\"x\":\"2013-01-03T18:15:00Z\"}\n{\"x\":\"2013-01-03 18:15\"}\n{\"x\":1357236900000}\n{}",
    );
    let column = times.rows.column(0).as_primitive::<TimestampMillisecondType>();
    let t = Some(1_357_236_900_000);
    assert_eq!(column.iter().collect::<Vec<_>>(), [t, t, t, None]);
    assert_eq!(echo(&one(Float64, false), "{\"x\":7}"), "{\"x\":7.0}\n");
}

#[test]
fn a_nulls_children_may_be_required() {
    let inner = Fields::from(vec![Field::new("y", DataType::Int8, false)]);
    let schema = one(DataType::Struct(inner), true);
    assert_eq!(
        echo(&schema, "{\"x\":{\"y\":1}}\n{}\n{\"x\":null}\n{\"x\":{\"y\":2}}"),
        "{\"x\":{\"y\":1}}\n{\"x\":null}\n{\"x\":null}\n{\"x\":{\"y\":2}}\n"
    );
}

#[test]
fn fields_in_any_order_and_any_writing() {
    let schema = schema(&[("a", DataType::Int64, false), ("bé", DataType::Utf8, true)]);
    let lines = r#"
        {"a":1,"bé":"x"}
        { "bé" : "x" , "a" : 1 }
        {"z":{"a":[9,{"a":9}]},"a":1,"zz":"a\"}","bé":"x","zzz":null}
        {"\u0061":1,"b\u00e9":"x"}
        {"a":9,"bé":"y","a":1,"bé":null,"bé":"x"}
        {"a":1,"bé":"x"}"#;
    let decoded = decode(&schema, lines);
    assert_eq!((decoded.undecodable, decoded.skipped), (vec![], 1));
    assert_eq!(encode(&decoded.rows), "{\"a\":1,\"bé\":\"x\"}\n".repeat(6));
    assert_eq!(decoded.places, [2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_bad_line_leaves_nothing_behind() {
    let item = Field::new("item", DataType::Utf8, true);
    let inner = DataType::Struct(Fields::from(vec![Field::new("c", DataType::Utf8, true)]));
    let schema = schema(&[
        ("a", DataType::Utf8, true),
        ("b", DataType::List(Arc::new(item)), true),
        ("d", inner, true),
        ("e", DataType::Int64, false),
    ]);
    let good = "{\"a\":\"one\",\"b\":[\"x\",null],\"d\":{\"c\":\"y\"},\"e\":1}\n";
    for end in 1..good.len() - 2 {
        let decoded = decode(&schema, format!("{good}{}\n{good}", &good[..end]));
        assert_eq!(encode(&decoded.rows), good.repeat(2), "{end}");
        assert_eq!((decoded.places.as_slice(), decoded.undecodable.len()), (&[1, 3][..], 1));
    }
    let nulls = decode(&schema, "{\"e\":1}\n{\"a\":null,\"e\":\"no\"}\n{\"a\":\"z\",\"e\":2}");
    assert_eq!(
        nulls.rows.column(0).as_string::<i32>().iter().collect::<Vec<_>>(),
        [None, Some("z")]
    );
}

#[test]
fn nesting_and_length_have_limits() {
    let schema = one(DataType::Int64, false);
    let nested =
        |depth: usize| format!("{{\"x\":1,\"y\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(decode(&schema, nested(DEPTH_MAX - 1)).places, [1]);
    assert_eq!(reason(&schema, nested(DEPTH_MAX)), "nested deeper than 128");
    let line = "{\"x\":1   }";
    let mut decoder = JsonDecoder::new(schema).unwrap().line_bytes_max(10);
    assert_eq!(decoder.decode(line.as_bytes(), Place::default()).places, [1]);
    for line in ["{\"x\":1    }", "{\"x\":  false", "{\"x\":1} x y"] {
        let unit = &decoder.decode(line.as_bytes(), Place { line: 3, offset: 70 }).undecodable[0];
        assert_eq!(
            unit.error,
            "11 bytes long; the limit is 10".replace("11", &line.len().to_string())
        );
        assert_eq!((unit.place, unit.bytes), (3, (70, 70 + line.len() as u64)));
    }
}

#[test]
fn what_was_decoded_before_does_not_matter() {
    let schema = schema(&[("a", DataType::Int64, true), ("b", DataType::Float64, true)]);
    let mut used = JsonDecoder::new(schema.clone()).unwrap();
    for lines in [
        "{\"a\":1}\n{\"b\":2}",
        "{\"b\":1.5,\"a\":2}",
        "{\"a\":1,\"b\":[]}",
        "{\"x\":1,\"b\":2}",
        "",
    ] {
        let (one, other) =
            (used.decode(lines.as_bytes(), Place::default()), decode(&schema, lines));
        assert_eq!((one.rows, one.undecodable), (other.rows, other.undecodable));
    }
}

#[test]
fn hidden_columns_and_floats_that_are_no_numbers() {
    let schema = schema(&[("$x", DataType::Int64, false), ("y\"", DataType::Float64, false)]);
    let x = arrow_array::Int64Array::from(vec![1, 2]);
    let y = arrow_array::Float64Array::from(vec![f64::NAN, f64::INFINITY]);
    let rows = RecordBatch::try_new(schema, vec![Arc::new(x), Arc::new(y)]).unwrap();
    assert_eq!(encode(&rows), "{\"y\\\"\":null}\n{\"y\\\"\":null}\n");
    assert_eq!(encode(&rows.project(&[0]).unwrap()), "{}\n{}\n");
}

#[test]
fn types_that_cannot_be() {
    let error = JsonDecoder::new(one(DataType::Date32, false)).err().unwrap();
    assert_eq!(error.message(), "column `x` is of type Date32, which cannot be decoded");
    let error = JsonEncoder::check(&one(DataType::Date32, false)).err().unwrap();
    assert_eq!(error.message(), "column `x` is of type Date32, which cannot be written as JSON");
    assert!(JsonDecoder::new(Arc::new(Schema::empty())).is_ok());
    assert_eq!(decode(&Arc::new(Schema::empty()), "{\"a\":1}\n{}\n").rows.num_rows(), 2);
}

#[test]
fn objects_cut_before_are_decoded_one_by_one() {
    let schema = schema(&[("a", DataType::Utf8, true), ("n", DataType::Int64, false)]);
    let mut decoder = JsonDecoder::new(schema).unwrap();
    let units: [&[u8]; 7] = [
        b"{\"a\":\"x\",\"n\":1}",
        b"{\n  \"a\": \"y\",\n  \"n\": 2\n}\n",
        b"{\"a\":\"two\nlines\",\"n\":3}",
        b"{\"n\":4}{\"n\":5}",
        b" \n",
        b"{\"a\":\"\xff\",\"n\":6}",
        b"{\"n\":7}",
    ];
    let decoded = decoder.decode_each((10..).zip(units));
    assert_eq!(decoded.places, [10, 11, 16]);
    assert_eq!(decoded.skipped, 1);
    let bad: Vec<_> = decoded.undecodable.iter().map(|u| (u.place, u.reason())).collect();
    assert_eq!(bad[0].0, 12);
    assert!(bad[0].1.contains("control character"), "{}", bad[0].1);
    assert_eq!(bad[1], (13, "expected the end of the line at column 8".to_string()));
    assert_eq!(bad[2], (15, "invalid UTF-8 at byte 7".to_string()));
    assert_eq!(decoded.undecodable[0].raw, units[2], "as it was");
}
