//! "Did you mean …?"

/// The text that names the candidate nearest to `word`, where one is near enough to be what was meant.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // Long words are not misspelt candidates, and comparing them would cost.
    if word.len() > 64 {
        return None;
    }
    let near = |candidate: &str| (candidate.chars().count().max(3) / 3).min(2);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance > 0 && *distance <= near(candidate))
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours, each 1.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut two_above = above.clone();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(two_above[j - 2] + 1);
            }
        }
        two_above = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far() {
        let keys = ["allow", "from", "to", "at", "tcp-outlet", "tcp-inlet", "via"];
        for (word, meant) in
            [("alow", "allow"), ("form", "from"), ("tcp-oulet", "tcp-outlet"), ("tcp-inlets", "tcp-inlet"), ("too", "to")]
        {
            assert_eq!(did_you_mean(word, keys), Some(format!("did you mean `{meant}`?")));
        }
        for word in ["kubernetes", "x", "", "allow"] {
            assert_eq!(did_you_mean(word, keys), None, "{word}");
        }
    }
}
