//! What a reviewer should not have to look for: each rule reads the sources and names file and
//! line.
//!
//! A rule that has to be broken is broken by a comment that says why, on the line or up to three
//! lines above it: `// Bounded by ...` for a channel, `// Clock: ...` for a clock.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Longest line of Rust, in characters; text in quotes and rows of tables are not broken for it.
const COLUMNS_MAX: usize = 100;
/// Most lines of a file before its tests.
const PRODUCTION_LINES_MAX: usize = 800;
/// Where the machine's clock may be read: threads, the binary, measurements, connectors that wait
/// for the outside world, real brokers, which keep to it too, and a test that dates files.
const CLOCK_AT: [&str; 11] = [
    "runtime/src/threads.rs",
    "crates/cli/",
    "crates/bench/",
    "crates/brokers/",
    "kafka/src/client/rd",
    "crates/io/examples/",
    "io/src/file/reader.rs",
    "io/src/paced.rs",
    "io/src/http",
    "/measure.rs",
    "io/src/file/tests/follow.rs",
];

struct Source {
    /// Relative to the repository's root.
    path: String,
    text: String,
}

impl Source {
    fn is(&self, extension: &str) -> bool {
        self.path.ends_with(extension)
    }

    /// Whether all of it is test code.
    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// Lines with their number, and whether they are test code.
    fn lines(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        let tests_from = match self.is_test() {
            true => 0,
            false => self.production_lines(),
        };
        self.text.lines().enumerate().map(move |(n, line)| (n + 1, line, n >= tests_from))
    }

    fn production_lines(&self) -> usize {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| {
            pair[0].trim() == "#[cfg(test)]"
                && pair[1].starts_with("mod ")
                && pair[1].ends_with('{')
        });
        tests.unwrap_or(lines.len())
    }

    /// Whether a comment on line `n` (from 1), or up to three above it, has the word.
    fn explains(&self, n: usize, word: &str) -> bool {
        let lines = self.text.lines().skip(n.saturating_sub(4)).take(4);
        lines.filter_map(|l| l.split_once("//")).any(|(_, comment)| comment.contains(word))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every text file of the project that people write.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root(), &mut found);
    assert!(found.len() > 100, "the walk found {} files", found.len());
    found
}

fn walk(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let skipped = name.starts_with('.') && name != ".ci";
            let made = ["target", "out", "millstream-data", "millstream-demo"];
            if !skipped && !made.contains(&name.as_str()) {
                walk(&path, found);
            }
            continue;
        }
        let text = [".rs", ".md", ".toml", ".sql", ".sh", "run"].iter().any(|e| name.ends_with(e));
        if text && let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push(Source { path, text });
        }
    }
}

/// Collects complaints about lines of Rust, but not about this file, which names what it bans.
fn rust_lines(
    mut wrong: impl FnMut(&Source, usize, &str, bool) -> Option<&'static str>,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|s| s.is(".rs") && !s.path.ends_with("tests/tidy.rs")) {
        for (n, line, test) in source.lines() {
            if let Some(why) = wrong(source, n, line, test) {
                complaints.push(format!("{}:{n}: {why}: {}", source.path, line.trim()));
            }
        }
    }
    complaints
}

fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn tests_do_not_sleep() {
    none(&rust_lines(|_, _, line, test| {
        (test && line.contains("sleep(")).then_some("wait for what is to happen, or own the clock")
    }));
}

#[test]
fn nothing_is_left_to_do() {
    let words = ["FIXME", "TODO", "todo!(", "unimplemented!(", "dbg!("];
    none(&rust_lines(|_, _, line, _| {
        words.iter().any(|w| line.contains(w)).then_some("do it, or write an issue")
    }));
}

#[test]
fn only_threads_read_the_clock() {
    none(&rust_lines(|source, n, line, _| {
        let reads = ["SystemTime::now", "Instant::now"].iter().any(|c| line.contains(c));
        let may =
            CLOCK_AT.iter().any(|at| source.path.contains(at)) || source.explains(n, "Clock:");
        (reads && !may).then_some("take the turn's clock, or say why after `// Clock:`")
    }));
}

#[test]
fn channels_are_bounded() {
    none(&rust_lines(|source, n, line, test| {
        let unbounded = ["mpsc::channel(", "mpsc::channel::<", "unbounded_channel", "unbounded("];
        let found =
            unbounded.iter().any(|c| line.contains(c)) && !test && !source.explains(n, "Bounded");
        found.then_some("use sync_channel, or say what bounds it after `// Bounded by`")
    }));
}

#[test]
fn a_match_is_not_thrown_away() {
    none(&rust_lines(|_, _, line, _| {
        let line = line.trim();
        (line.starts_with("matches!(") && line.ends_with(");")).then_some("assert it")
    }));
}

#[test]
fn lines_fit_the_page() {
    none(&rust_lines(|_, _, line, _| {
        let may = line.contains('"') || line.trim_start().starts_with("//! |");
        (line.chars().count() > COLUMNS_MAX && !may).then_some("too long")
    }));
}

#[test]
fn files_can_be_read_in_one_go() {
    let long =
        |s: &Source| s.is(".rs") && !s.is_test() && s.production_lines() > PRODUCTION_LINES_MAX;
    let all = sources();
    let long = all.iter().filter(|s| long(s));
    let say = |s: &Source| format!("{}: {} lines, split it", s.path, s.production_lines());
    none(&long.map(say).collect::<Vec<_>>());
}

#[test]
fn every_crate_and_example_says_what_it_is() {
    let root_file = |path: &str| {
        path.ends_with("/src/lib.rs")
            || path.ends_with("/src/main.rs")
            || path.starts_with("examples/")
    };
    let all = sources();
    let bare = all.iter().filter(|s| s.is(".rs") && root_file(&s.path));
    let bare = bare.filter(|s| !s.text.trim_start().starts_with("//!"));
    none(&bare.map(|s| format!("{}: begin with //!", s.path)).collect::<Vec<_>>());
}

#[test]
fn no_path_of_somebodys_machine_is_left() {
    let places = ["/home/", "/Users/", "/root/", "/work/", "C:\\Users"];
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|s| !s.path.ends_with("tests/tidy.rs")) {
        for (n, line, _) in source.lines() {
            if places.iter().any(|p| line.contains(p)) {
                complaints.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    none(&complaints);
}

#[test]
fn the_changelog_has_the_manifests_version() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let version = manifest.lines().find_map(|l| l.strip_prefix("version = ")).unwrap();
    let heading = format!("## [{}]", version.trim_matches('"'));
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(changelog.lines().any(|l| l.starts_with(&heading)), "CHANGELOG.md lacks `{heading}`");
}

/// The targets of a Markdown text's links, with their lines; code blocks have none.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut code = false;
    for (n, line) in text.lines().enumerate() {
        code ^= line.trim_start().starts_with("```");
        let targets = line.split("](").skip(1).filter(|_| !code);
        found.extend(targets.filter_map(|t| Some((n + 1, t.split_once(')')?.0.to_string()))));
    }
    found
}

/// The names by which a Markdown text's headings can be linked to.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|l| l.starts_with('#'));
    let plain = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    let anchor = |h: &str| {
        let kept: String = h.trim_start_matches('#').trim().to_lowercase();
        kept.chars().filter(plain).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|s| s.is(".md")) {
        for (n, target) in links(&source.text).iter().filter(|(_, t)| !t.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let here = root().join(&source.path);
            let path =
                if file.is_empty() { here.clone() } else { here.with_file_name("").join(file) };
            let known = || anchors(&fs::read_to_string(&path).unwrap_or_default());
            if !path.exists() || (!anchor.is_empty() && !known().contains(anchor)) {
                complaints.push(format!("{}:{n}: no such place: {target}", source.path));
            }
        }
    }
    none(&complaints);
}

#[test]
fn every_guarantee_names_a_test_that_exists() {
    // [`test_name`](file): how docs/semantics.md and others name a proof.
    let mut complaints = Vec::new();
    let mut proofs = 0;
    for source in sources().iter().filter(|s| s.is(".md")) {
        for (n, line, _) in source.lines() {
            for (before, target) in line.split("](").zip(line.split("](").skip(1)) {
                let Some(name) = before.rsplit("[`").next().and_then(|b| b.strip_suffix('`'))
                else {
                    continue;
                };
                let target = target.split(')').next().unwrap_or_default();
                if !target.ends_with(".rs") || name.contains(['/', '.', ' ', ':']) {
                    continue;
                }
                let path = root().join(&source.path).with_file_name("").join(target);
                let text = fs::read_to_string(path).unwrap_or_default();
                proofs += 1;
                if !text.contains(&format!("fn {name}(")) && !text.contains(&format!(" {name} ")) {
                    complaints.push(format!("{}:{n}: {target} has no `{name}`", source.path));
                }
            }
        }
    }
    none(&complaints);
    assert!(proofs > 10, "docs/semantics.md names {proofs} proofs");
}

#[test]
fn every_error_code_has_a_page() {
    let codes = fs::read_to_string(root().join("crates/core/src/error.rs")).unwrap();
    let page = fs::read_to_string(root().join("docs/errors.md")).unwrap();
    let codes = codes.lines().filter_map(|l| l.split_once("=> \"M")?.1.split('"').next());
    let missing = codes.map(|n| format!("## M{n}")).filter(|h| !page.contains(h.as_str()));
    none(&missing.map(|h| format!("docs/errors.md lacks `{h}`")).collect::<Vec<_>>());
}

#[test]
fn every_dependency_is_used_and_in_the_table() {
    let manifests: Vec<_> =
        sources().into_iter().filter(|s| s.path.ends_with("Cargo.toml")).collect();
    let workspace = manifests.iter().find(|s| s.path == "Cargo.toml").unwrap();
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = page.split_once("\n## Dependencies\n").unwrap().1;
    let section = workspace.text.split_once("[workspace.dependencies]\n").unwrap().1;
    let mut complaints = Vec::new();
    for line in section.lines().take_while(|line| !line.starts_with('[')) {
        let Some((name, _)) = line.split_once(" = ") else { continue };
        let used = |s: &Source| {
            s.text.contains(&format!("\n{name}.workspace"))
                || s.text.contains(&format!("\n{name} = {{ workspace"))
        };
        if !manifests.iter().any(used) {
            complaints.push(format!("Cargo.toml: no crate uses `{name}`"));
        }
        // Of one family the first is named in full: `arrow-array`, `-buffer`.
        let short = format!("`-{}`", name.trim_start_matches("arrow-"));
        let named = table.contains(&format!("`{name}`")) || table.contains(&short);
        if !named && !name.starts_with("millstream") {
            complaints.push(format!("ARCHITECTURE.md: the table of dependencies lacks `{name}`"));
        }
    }
    none(&complaints);
}

#[test]
fn commands_in_the_documents_exist() {
    let args = fs::read_to_string(root().join("crates/cli/src/args.rs")).unwrap();
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|s| s.is(".md")) {
        for (n, line, _) in source.lines().filter(|(_, l, _)| l.contains("cargo ")) {
            let words: Vec<&str> = line.split_whitespace().map(|w| w.trim_matches('`')).collect();
            for pair in words.windows(2) {
                let name = pair[1].trim_end_matches(['.', ',', ';', ':', ')', '`']);
                let variant = || name[..1].to_uppercase() + &name[1..];
                if pair[0] == "--" && line.contains("run --release --") {
                    if !args.contains(&format!("\n    {}", variant())) {
                        complaints.push(format!("{}:{n}: no command `{name}`", source.path));
                    }
                    continue;
                }
                let file = match pair[0] {
                    "--example" => vec![format!("examples/{name}.rs")],
                    "--test" => vec![
                        format!("crates/millstream/tests/{name}.rs"),
                        format!("crates/millstream/tests/{name}/main.rs"),
                        format!("crates/runtime/tests/{name}.rs"),
                        format!("crates/kafka/tests/{name}.rs"),
                    ],
                    "-p" => vec![format!("crates/{}", name.trim_start_matches("millstream-"))],
                    _ => continue,
                };
                let placeholder = name.chars().all(|c| c.is_ascii_uppercase());
                if !placeholder && !file.iter().any(|f| root().join(f).exists()) {
                    complaints.push(format!("{}:{n}: {} {name}", source.path, pair[0]));
                }
            }
        }
    }
    none(&complaints);
}
