//! Appends outside any transaction, by one producer for all.

use std::sync::{Arc, Mutex};

use millstream_core::{Code, Error, Result};
use rdkafka::{
    ClientContext, Message,
    config::RDKafkaLogLevel,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer},
};

use super::{
    Context, Doing, Properties, error, lock, tokens::LoggedIn, unreachable, writer::headers,
};
use crate::client::{Appended, Records};

/// One call's records on their way.
struct Call(Mutex<Rest>);

struct Rest {
    left: usize,
    offset: u64,
    error: Option<Error>,
    done: Option<Appended>,
}

impl Call {
    /// Some of the records have arrived, or have not.
    fn arrived(&self, count: usize, result: Result<u64>) {
        let mut rest = lock(&self.0);
        rest.left -= count;
        match result {
            Ok(offset) => rest.offset = rest.offset.max(offset),
            Err(error) => rest.error = Some(error),
        }
        if rest.left > 0 {
            return;
        }
        let (done, offset, error) = (rest.done.take(), rest.offset, rest.error.take());
        drop(rest);
        if let Some(done) = done {
            done(error.map_or(Ok(offset), Err));
        }
    }
}

/// Hands what was delivered to whoever waits for it.
struct Delivery(Context);

impl ClientContext for Delivery {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.0.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Delivery {
    type DeliveryOpaque = Arc<Call>;

    fn delivery(&self, result: &DeliveryResult<'_>, call: Arc<Call>) {
        match result {
            Ok(message) => {
                self.0.well();
                self.0.heard(Doing::Appending, message.topic(), None);
                let said = u64::try_from(message.offset()).map_err(|_| {
                    // librdkafka concludes that it was written from what was written behind it,
                    // which is not so if the broker had not heard of the topic yet.
                    let (topic, partition) = (message.topic(), message.partition());
                    unreachable(format!("appending to {topic} {partition}: no offset was told"))
                });
                call.arrived(1, said);
            }
            Err((e, message)) => {
                let what = format!("appending to {} {}", message.topic(), message.partition());
                let error = error(&what, e);
                self.0.heard(Doing::Appending, message.topic(), Some(&error));
                call.arrived(1, Err(error));
            }
        }
    }
}

pub(super) struct Appender {
    producer: LoggedIn<ThreadedProducer<Delivery>>,
    /// Keeps the records of one call together.
    order: Mutex<()>,
}

impl Appender {
    pub fn new(properties: &Properties, context: Context) -> KafkaResult<Appender> {
        let config = properties.producer(&[
            ("linger.ms", "0"),
            ("acks", "all"),
            ("message.timeout.ms", "30000"),
            // Once it was denied a topic it writes nothing there before it has asked for it again.
            ("topic.metadata.refresh.interval.ms", "5000"),
        ]);
        let producer = properties.make(&config, Delivery(context))?;
        Ok(Appender { producer, order: Mutex::default() })
    }

    pub fn append(&self, records: &Records, done: Appended) {
        let left = records.len();
        let call = Call(Mutex::new(Rest { left, offset: 0, error: None, done: Some(done) }));
        if left == 0 {
            return call.arrived(0, Ok(0));
        }
        let call = Arc::new(call);
        let _order = lock(&self.order);
        for (n, (at, record)) in records.iter().enumerate() {
            let message = BaseRecord {
                topic: &at.topic,
                partition: Some(at.partition as i32),
                payload: record.value,
                key: record.key,
                timestamp: record.time.map(|t| t.ms()),
                headers: headers(record.headers),
                delivery_opaque: call.clone(),
            };
            if let Err((e, _)) = self.producer.send(message) {
                let error = match e.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::QueueFull) => {
                        Error::new(Code::Unreachable, "kafka: too much waits to be appended")
                    }
                    _ => error(&format!("appending to {at}"), &e),
                };
                // Neither this one nor those behind it: their order would be another.
                return call.arrived(left - n, Err(error));
            }
        }
    }
}
