//! Regular expressions whose work can be bounded.
//!
//! The library matches with backtracking where an expression looks ahead. What public tokenizers need is a row of
//! alternatives with one repetition each; a repetition of a repetition is what makes the work exponential.
//!
//! **Invariant:** an accepted expression has no back-reference, and no group that holds an unbounded repetition is
//! repeated itself.

/// Longest expression; the longest of a public model has about 500 bytes.
const BYTES_MAX: usize = 2048;
/// How deep groups may stand in each other.
const DEPTH_MAX: usize = 8;
/// Largest counted repetition, which compiles to as many copies.
const COUNT_MAX: u32 = 64;

/// Judges an expression.
pub(super) fn judge(expression: &str) -> Result<(), String> {
    if expression.len() > BYTES_MAX {
        return Err(format!(
            "got a regular expression of {} bytes, expected at most {BYTES_MAX}",
            expression.len()
        ));
    }
    Reader { chars: expression.chars().collect(), at: 0 }.read()
}

struct Reader {
    chars: Vec<char>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let found = self.peek();
        self.at += 1;
        found
    }

    fn read(&mut self) -> Result<(), String> {
        // For every open group: whether something in it is repeated.
        let mut open = vec![false];
        // Whether the part that a repetition would now apply to is a group with a repetition in it.
        let mut repeated_within = false;
        while let Some(c) = self.next() {
            let mut closed = false;
            match c {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => {
                    if open.len() > DEPTH_MAX {
                        return Err(format!("got groups deeper than {DEPTH_MAX} in a regular expression"));
                    }
                    open.push(false);
                    self.group_head();
                }
                ')' => {
                    closed = true;
                    repeated_within = open.pop().unwrap_or_default();
                    match open.last_mut() {
                        Some(outer) => *outer |= repeated_within,
                        None => return Err("got a `)` too many in a regular expression".to_owned()),
                    }
                }
                '*' | '+' | '{' => {
                    let many = c != '{' || self.counted()?;
                    if many && repeated_within {
                        return Err(
                            "got a repeated group with a repetition in it, expected a regular expression of bounded work"
                                .to_owned(),
                        );
                    }
                    if many && let Some(group) = open.last_mut() {
                        *group = true;
                    }
                    // A mark of laziness or possession follows at most.
                    if matches!(self.peek(), Some('?' | '+')) {
                        self.at += 1;
                    }
                }
                _ => {}
            }
            if !closed {
                repeated_within = false;
            }
        }
        if open.len() == 1 { Ok(()) } else { Err("got an open group in a regular expression".to_owned()) }
    }

    /// What follows `(?` up to the colon, so that its `?` is no repetition.
    fn group_head(&mut self) {
        if self.peek() == Some('?') {
            self.at += 1;
        }
    }

    fn escape(&mut self) -> Result<(), String> {
        match self.next() {
            None => Err("got a lone backslash in a regular expression".to_owned()),
            Some('0'..='9' | 'k' | 'g') => {
                Err("got a back-reference, expected a regular expression of bounded work".to_owned())
            }
            Some('p' | 'P' | 'x' | 'u' | 'U') if self.peek() == Some('{') => {
                while self.next().is_some_and(|c| c != '}') {}
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    fn class(&mut self) -> Result<(), String> {
        let mut depth = 1_usize;
        if self.peek() == Some('^') {
            self.at += 1;
        }
        // A bracket right at the beginning stands for itself.
        if self.peek() == Some(']') {
            self.at += 1;
        }
        while depth > 0 {
            match self.next() {
                None => return Err("got an open class in a regular expression".to_owned()),
                Some('\\') => self.escape()?,
                Some('[') if depth < DEPTH_MAX => depth += 1,
                Some('[') => {
                    return Err(format!("got classes deeper than {DEPTH_MAX} in a regular expression"));
                }
                Some(']') => depth -= 1,
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Reads a counted repetition after its brace; whether it can repeat more than once.
    fn counted(&mut self) -> Result<bool, String> {
        let start = self.at;
        while self.next().is_some_and(|c| c != '}') {}
        let end = self.at.saturating_sub(1).min(self.chars.len());
        let inside: String = self.chars.get(start..end).unwrap_or_default().iter().collect();
        let closed = self.chars.get(end) == Some(&'}');
        let mut most = 0;
        for number in inside.split(',') {
            let number = number.trim();
            match number.parse::<u32>() {
                Ok(count) if closed && count <= COUNT_MAX => most = most.max(count),
                // `{2,}` has no end, and `{,3}` no beginning.
                Err(_) if closed && number.is_empty() && inside.len() > 1 => most = most.max(2),
                _ => {
                    return Err(format!(
                        "got a repetition `{{{inside}}}` in a regular expression, expected at most {COUNT_MAX}"
                    ));
                }
            }
        }
        Ok(most > 1)
    }
}
