use std::sync::Arc;

use arrow_array::{Float64Array, StringArray};
use arrow_schema::{DataType, Field};

use super::*;

fn sample() -> (SchemaRef, Frame) {
    let schema = Arc::new(Schema::new(vec![
        Field::new("tailnum", DataType::Utf8, false),
        Field::new("dep_delay", DataType::Float64, true),
    ]));
    let rows = RecordBatch::try_new(
        schema.clone(),
        vec![
            Arc::new(StringArray::from(vec!["N730MQ", "N14228"])),
            Arc::new(Float64Array::from(vec![Some(2.0), None])),
        ],
    )
    .unwrap();
    let header = FrameHeader {
        kind: FrameKind::Rows,
        status: Status::Active,
        producer: TaskId(3),
        turn: 9,
        watermark: Time::from_ms(1_700_000_000_000),
        rows: 0,
        schema: fingerprint(&schema),
    };
    (schema, FrameEncoder::default().encode(header, Some(&rows)).unwrap())
}

#[test]
fn a_frame_comes_back_as_it_was_written() {
    let (schema, frame) = sample();
    let back = Frame::decode(frame.bytes().clone()).unwrap();
    assert_eq!(back.header, frame.header);
    assert_eq!(back.header.rows, 2);
    assert_eq!(back.rows(&schema).unwrap(), frame.rows(&schema).unwrap());
}

#[test]
fn golden_header_of_version_1() {
    let (_, frame) = sample();
    let hex: String = frame.bytes()[..40].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        "4d4601010000000003000000020000000900000000000000\
         0068e5cf8b010000dcd2cb060dd235fa"
    );
}

#[test]
fn every_flipped_bit_and_every_cut_is_an_error_and_never_a_panic() {
    let (_, frame) = sample();
    let bytes = frame.bytes().to_vec();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(Frame::decode(Buffer::from_vec(bad)).is_err(), "byte {at} bit {bit}");
        }
        assert!(Frame::decode(Buffer::from_slice_ref(&bytes[..at])).is_err(), "cut at {at}");
    }
}

#[test]
fn damaged_bodies_behind_a_right_checksum_do_not_panic() {
    let (schema, frame) = sample();
    let bytes = frame.bytes().to_vec();
    for at in HEADER_BYTES..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x55;
        let sum = checksum(&bad);
        bad[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(&sum.to_le_bytes());
        let frame = Frame::decode(Buffer::from_vec(bad)).unwrap();
        let _ = frame.rows(&schema); // an error or other rows; a panic fails the test
    }
}

#[test]
fn another_schema_is_refused() {
    let (_, frame) = sample();
    let other = Arc::new(Schema::new(vec![Field::new("tailnum", DataType::Utf8, true)]));
    assert_eq!(frame.rows(&other).unwrap_err().code(), Code::Conflict);
}
