//! What a program that runs a flow may be told on its command line.

use millstream_core::{Code, Error, Result};

use crate::{Node, place::Place};

/// What is printed for `--help`.
const HELP: &str = "\
  --data DIR          keep everything in this directory
  --engine ADDRESS    kafka://HOST:PORT,...: keep everything in Kafka, as one of many nodes
  --app NAME          with Kafka: the application whose work the nodes share
  --name NAME         with Kafka: this node's name, unique in the application [this machine's]
  --http ADDRESS      take records in and answer questions here, such as 127.0.0.1:7070
";

impl Node {
    /// The node that this program's command line asks for: an embedded one in `dir`, or what
    /// `--engine kafka://broker:9092 --app NAME` says. `--help` lists all there is. The same flow
    /// runs on one machine and, started on each with the same words, on many.
    ///
    /// # Errors
    /// If there is anything else on the command line, or it asks for Kafka in a program that was
    /// built without it.
    pub fn from_args(dir: &str) -> Result<Node> {
        let given: Vec<String> = std::env::args().skip(1).collect();
        if given.iter().any(|a| a == "--help" || a == "-h") {
            print!("{HELP}");
            std::process::exit(0);
        }
        from(dir, &given)
    }
}

fn from(dir: &str, given: &[String]) -> Result<Node> {
    let wrong =
        |message: String| Err(Error::new(Code::Plan, message).help("what there is: --help"));
    let (mut data, mut engine, mut app, mut name, mut http) = (None, None, None, None, None);
    let mut given = given.iter();
    while let Some(arg) = given.next() {
        let (key, value) = match arg.split_once('=') {
            Some((key, value)) => (key, Some(value.to_string())),
            None => (arg.as_str(), None),
        };
        let place = match key {
            "--data" => &mut data,
            "--engine" => &mut engine,
            "--app" => &mut app,
            "--name" => &mut name,
            "--http" => &mut http,
            _ => return wrong(format!("`{arg}` on the command line means nothing here")),
        };
        let Some(value) = value.or_else(|| given.next().cloned()) else {
            return wrong(format!("`{key}` lacks its value"));
        };
        *place = Some(value);
    }
    if let (Some(data), Some(engine)) = (&data, &engine) {
        return wrong(format!("--data {data} and --engine {engine} are two places; one is needed"));
    }
    let alone = [("--app", &app), ("--name", &name)].into_iter().find(|(_, v)| v.is_some());
    if let (Some((key, _)), None) = (alone, &engine) {
        return wrong(format!("{key} says something only with --engine kafka://..."));
    }
    let address = engine.or(data).unwrap_or_else(|| dir.into());
    let node = Node::at(Place::named(&address, app.as_deref(), name.as_deref())?);
    Ok(match http {
        Some(http) => node.http(http),
        None => node,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> String {
        let given: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        match from("here", &given) {
            Ok(node) => format!("{node:?}"),
            Err(e) => e.message().to_string(),
        }
    }

    #[test]
    fn a_command_line_names_a_place() {
        assert!(said("").contains("\"here\""));
        assert!(said("--data there --http :0").contains("\"there\""));
        assert!(said("--data=there").contains("\"there\""));
        assert_eq!(said("--data"), "`--data` lacks its value");
        assert_eq!(said("--dato x"), "`--dato` on the command line means nothing here");
        assert!(said("--data a --engine b").contains("two places"));
        assert!(said("--app fraud").contains("only with --engine"));
    }

    #[test]
    fn kafka_needs_a_name_for_the_application_or_another_build() {
        let said = said("--engine kafka://a:1");
        let expected = if cfg!(feature = "kafka") { "no application" } else { "built without" };
        assert!(said.contains(expected), "{said}");
        let e = from("here", &["--engine=kafka://a:1".to_string()]).unwrap_err();
        assert!(!e.advice().is_empty());
    }
}
