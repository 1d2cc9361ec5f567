//! The one rule for a name that becomes a file's or a folder's, and the one for a commit.

use crate::limits;

/// Whether a name is plain: letters, digits, `.`, `-`, `_`, not hidden, so that no path can be made of it. Short enough
/// for an archive's header.
pub fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=limits::NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(allowed)
}

/// Whether a text is a commit of git: 40 lower-case hex digits, never a branch.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names() {
        let longest = "a".repeat(limits::NAME_BYTES_MAX);
        for good in ["a", "tiny-int8-seq512.pte", "A_1..b", &longest] {
            assert!(is_plain(good), "{good}");
        }
        let long = format!("{longest}a");
        for bad in ["", ".", "..", ".a", "a/b", "/a", "a\\b", "a b", "a\n", "ä", "c:x", "a?b", "a\0", &long]
        {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
