//! Finds files that were rotated away from a path.

use std::{
    fs::{File, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::position::Position;

/// The files rotated away from `path`, oldest change first: its name, followed by `.` or `-` and
/// nothing but digits and separators.
fn rotated(path: &Path) -> Vec<(SystemTime, PathBuf, Metadata)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter(|e| {
            e.file_name().to_str().and_then(|n| n.strip_prefix(name)).is_some_and(is_suffix)
        })
        .filter_map(|e| {
            let about = e.metadata().ok().filter(Metadata::is_file)?;
            Some((about.modified().ok()?, e.path(), about))
        })
        .collect();
    found.sort_by(|a, b| (a.0, &b.1).cmp(&(b.0, &a.1))); // of two at once, `.2` is older than `.1`
    found
}

fn is_suffix(suffix: &str) -> bool {
    suffix.starts_with(['.', '-'])
        && suffix.bytes().any(|b| b.is_ascii_digit())
        && suffix.bytes().all(|b| b.is_ascii_digit() || b".-_:TZ".contains(&b))
}

/// The file that `position` belongs to, at `path` or rotated away from it.
pub(super) fn find(path: &Path, position: &Position) -> std::io::Result<Option<(File, PathBuf)>> {
    let candidates =
        std::iter::once(path.to_path_buf()).chain(rotated(path).into_iter().map(|r| r.1));
    let mut first = None;
    for candidate in candidates {
        let file = match File::open(&candidate) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let about = file.metadata()?;
        if !about.is_file() || !position.matches(&file)? {
            continue;
        }
        if about.ino() == position.inode {
            return Ok(Some((file, candidate)));
        }
        first.get_or_insert((file, candidate));
    }
    Ok(first)
}

/// The file to read after `left`, which is not at `path` any more: the oldest of those rotated
/// after it, else the one at `path`; `None` if that does not exist yet.
pub(super) fn after(path: &Path, left: &Metadata) -> Option<PathBuf> {
    let changed = left.modified().ok()?;
    let rotated = rotated(path)
        .into_iter()
        .find(|(time, _, about)| *time > changed && about.ino() != left.ino())
        .map(|r| r.1);
    rotated.or_else(|| path.exists().then(|| path.to_path_buf()))
}
