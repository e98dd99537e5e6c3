//! What things are called in Kafka.
//!
//! An application's topics begin with its name and a full stop, so that one rule of access covers
//! them all. Names of ours have no full stops, hence `/` and `$` become one.

use millstream_core::{Code, Error, Result};

/// The names of one application.
#[derive(Clone, Debug)]
pub struct Names {
    app: String,
}

/// The longest name of a topic that Kafka takes.
const TOPIC_MAX: usize = 249;

impl Names {
    /// The names of application `app`.
    ///
    /// # Errors
    /// [`Code::Plan`] if it is empty, too long, or has other signs than letters, digits, `-`, `_`.
    pub fn new(app: &str) -> Result<Names> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if app.is_empty() || app.len() > 100 || !app.chars().all(plain) {
            return Err(Error::new(Code::Plan, format!("`{app}` cannot name an application"))
                .help("its name is made of letters, digits, `_` and `-`, at most 100 of them"));
        }
        Ok(Names { app: app.into() })
    }

    /// The application.
    pub fn app(&self) -> &str {
        &self.app
    }

    fn topic(&self, kind: &str, name: &str) -> Result<String> {
        let topic = format!("{}.{kind}.{}", self.app, name.replace(['/', '$'], "."));
        if topic.len() > TOPIC_MAX {
            return Err(Error::new(
                Code::Limit,
                format!(
                    "topic {topic} has a name of {} signs; Kafka takes {TOPIC_MAX}",
                    topic.len()
                ),
            )
            .help("give application, flow or step shorter names"));
        }
        Ok(topic)
    }

    /// Where it is written which streams and tasks there are.
    pub fn registry(&self) -> String {
        format!("{}.registry", self.app)
    }

    /// Where nodes say how far their tasks are.
    pub fn progress(&self) -> String {
        format!("{}.progress", self.app)
    }

    /// Where nodes say who they are and what they run.
    pub fn members(&self) -> String {
        format!("{}.members", self.app)
    }

    /// A stream's topic.
    pub fn stream(&self, name: &str) -> Result<String> {
        self.topic("stream", name)
    }

    /// The topic of a stage's state, a partition for each task.
    pub fn state(&self, stage: &str) -> Result<String> {
        self.topic("state", stage)
    }

    /// A task's transactional id.
    pub fn transactional(&self, task: &str) -> String {
        format!("{}/{task}", self.app)
    }
}

/// `flow/stage` and the number of task `flow/stage/number`.
pub fn split(task: &str) -> Result<(&str, u32)> {
    let parts = task.rsplit_once('/').and_then(|(stage, n)| Some((stage, n.parse().ok()?)));
    parts.ok_or_else(|| Error::new(Code::Bug, format!("`{task}` names no task")))
}
