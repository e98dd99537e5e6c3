//! "Did you mean": the known name that is nearest to an unknown one.

/// Letters that may differ.
const DISTANCE_MAX: usize = 3;

/// The name that differs from `name` by the fewest letters, if at most three differ.
///
/// ```
/// assert_eq!(millstream_core::nearest("tailnumber", ["origin", "tailnum"]), Some("tailnum"));
/// assert_eq!(millstream_core::nearest("colour", ["origin", "tailnum"]), None);
/// ```
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|known| (distance(known, name), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= DISTANCE_MAX && *distance < known.chars().count())
        .map(|(_, known)| known)
}

/// Insertions, deletions and exchanges that make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let change = diagonal + usize::from(x != y);
            let cheapest = change.min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cheapest);
        }
    }
    row.last().copied().unwrap_or_default()
}
