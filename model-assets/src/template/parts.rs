//! Methods that look for parts of a text.

use super::call::{Passed, int_or};
use super::fault::{Fault, Result, fail};
use super::lex::is_space;
use super::machine::Machine;
use super::value::Value;

/// Which characters `strip` and its kind take.
pub(super) enum Set {
    Space,
    Chars(Vec<char>),
}

impl Set {
    pub(super) fn has(&self, c: char) -> bool {
        match self {
            Self::Space => is_space(c),
            Self::Chars(chars) => chars.contains(&c),
        }
    }
}

impl Machine<'_> {
    pub(super) fn split(&mut self, text: &str, name: &str, passed: Passed) -> Result<Value> {
        let [by, most] = passed.bind(name, ["sep", "maxsplit"])?;
        let most = usize::try_from(int_or(most, -1, name)?).unwrap_or(usize::MAX - 1);
        let from_end = name == "rsplit";
        match by {
            None | Some(Value::None) => {
                let mut found = Vec::new();
                let mut rest = if from_end {
                    text.trim_end_matches(is_space)
                } else {
                    text.trim_start_matches(is_space)
                };
                while !rest.is_empty() {
                    if found.len() >= most {
                        // Python keeps the inner spaces of what is left, and the outer ones on the far side.
                        found.push(rest);
                        break;
                    }
                    let (word, more) = if from_end {
                        let at = rest.rfind(is_space).map_or(0, |at| {
                            at + rest.get(at..).and_then(|t| t.chars().next()).map_or(1, char::len_utf8)
                        });
                        (
                            rest.get(at..).unwrap_or_default(),
                            rest.get(..at).unwrap_or_default().trim_end_matches(is_space),
                        )
                    } else {
                        let at = rest.find(is_space).unwrap_or(rest.len());
                        (
                            rest.get(..at).unwrap_or_default(),
                            rest.get(at..).unwrap_or_default().trim_start_matches(is_space),
                        )
                    };
                    found.push(word);
                    rest = more;
                }
                if from_end {
                    found.reverse();
                }
                self.texts(found)
            }
            Some(Value::Text(by)) if !by.is_empty() => {
                if from_end {
                    let mut found: Vec<&str> = text.rsplitn(most.saturating_add(1), &*by).collect();
                    found.reverse();
                    return self.texts(found);
                }
                self.texts(text.splitn(most.saturating_add(1), &*by))
            }
            Some(Value::Text(_)) => fail(format!("got an empty separator for `{name}`")),
            Some(other) => fail(format!("got a {} for `{name}`, expected a str", other.kind())),
        }
    }

    /// The part of a text between two places that may count from the end, and where it begins in characters.
    pub(super) fn part<'x>(
        &mut self,
        text: &'x str,
        start: Option<Value>,
        end: Option<Value>,
    ) -> Result<Option<(&'x str, usize)>> {
        let given = |value: Option<Value>| value.filter(|value| !matches!(value, Value::None));
        let (start, end) = (given(start), given(end));
        if start.is_none() && end.is_none() {
            return Ok(Some((text, 0)));
        }
        self.budget.scan(text.len() * 4)?;
        let len = text.chars().count() as i64;
        let bound = |at: i64| if at < 0 { at.saturating_add(len).max(0) } else { at };
        let (start, end) = (bound(int_or(start, 0, "start")?), bound(int_or(end, len, "end")?).min(len));
        if start > end {
            return Ok(None);
        }
        let byte = |at: i64| text.char_indices().nth(at as usize).map_or(text.len(), |(byte, _)| byte);
        Ok(text.get(byte(start)..byte(end)).map(|part| (part, start as usize)))
    }

    pub(super) fn edge(&mut self, text: &str, name: &str, passed: Passed) -> Result<Value> {
        let [wanted, start, end] = passed.bind(name, ["prefix", "start", "end"])?;
        let Some((text, _)) = self.part(text, start, end)? else { return Ok(Value::Bool(false)) };
        let wanted = match wanted {
            Some(Value::Tuple(wanted)) => wanted.items.clone(),
            Some(one) => vec![one],
            None => return fail(format!("got no text for `{name}`")),
        };
        for part in wanted {
            self.budget.steps(1)?;
            let Value::Text(part) = part else {
                return fail(format!("got a {} for `{name}`, expected a str", part.kind()));
            };
            if if name == "startswith" { text.starts_with(&*part) } else { text.ends_with(&*part) } {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }

    pub(super) fn replace(&mut self, text: &str, passed: Passed) -> Result<Value> {
        let [old, new, count] = passed.bind("replace", ["old", "new", "count"])?;
        let (Some(Value::Text(old)), Some(Value::Text(new))) = (old, new) else {
            return fail("got other arguments for `replace` than two texts");
        };
        let most = usize::try_from(int_or(count, -1, "replace")?).unwrap_or(usize::MAX);
        let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(&*old).count() };
        let found = found.min(most) as u64;
        self.budget.bytes((text.len() as u64).saturating_add(found.saturating_mul(new.len() as u64)))?;
        Ok(Value::Text(text.replacen(&*old, &new, most).into()))
    }

    pub(super) fn find(&mut self, text: &str, name: &str, passed: Passed) -> Result<Value> {
        let [wanted, start, end] = passed.bind(name, ["sub", "start", "end"])?;
        let Some(Value::Text(wanted)) = wanted else { return fail(format!("got no str for `{name}`")) };
        let part = self.part(text, start, end)?;
        if name == "count" {
            let count = part.map_or(0, |(part, _)| {
                if wanted.is_empty() { part.chars().count() + 1 } else { part.matches(&*wanted).count() }
            });
            return Ok(Value::Int(count as i64));
        }
        let found = part.and_then(|(part, start)| {
            let at = if name.starts_with('r') { part.rfind(&*wanted) } else { part.find(&*wanted) }?;
            Some(start + part.get(..at)?.chars().count())
        });
        match found {
            Some(at) => Ok(Value::Int(at as i64)),
            None if name.ends_with("index") => fail("got a text that does not hold what is looked for"),
            None => Ok(Value::Int(-1)),
        }
    }

    pub(super) fn padded(&mut self, text: &str, name: &str, passed: Passed) -> Result<Value> {
        let [width, fill] = passed.bind(name, ["width", "fillchar"])?;
        let width = width.ok_or_else(|| Fault::new(format!("got no width for `{name}`")))?;
        let width = usize::try_from(int_or(Some(width), 0, name)?).unwrap_or(0);
        let fill = match fill {
            None if name == "zfill" => '0',
            None => ' ',
            Some(Value::Text(fill)) if fill.chars().count() == 1 && name != "zfill" => {
                fill.chars().next().unwrap_or(' ')
            }
            Some(_) => return fail(format!("got no single character to fill with for `{name}`")),
        };
        self.budget.bytes(width as u64 * 4)?;
        let len = text.chars().count();
        let missing = width.saturating_sub(len);
        let pad = |count: usize| String::from(fill).repeat(count);
        Ok(Value::Text(
            match name {
                "ljust" => format!("{text}{}", pad(missing)),
                "rjust" => format!("{}{text}", pad(missing)),
                "center" => {
                    // Python's rule for what does not divide.
                    let left = missing / 2 + (missing & width & 1);
                    format!("{}{text}{}", pad(left), pad(missing - left))
                }
                _ => match text.strip_prefix(['-', '+']) {
                    Some(digits) => format!("{}{}{digits}", text.get(..1).unwrap_or_default(), pad(missing)),
                    None => format!("{}{text}", pad(missing)),
                },
            }
            .into(),
        ))
    }

    pub(super) fn char_set(&mut self, name: &str, passed: Passed) -> Result<Set> {
        match passed.bind(name, ["chars"])? {
            [None | Some(Value::None)] => Ok(Set::Space),
            [Some(Value::Text(chars))] => {
                /// Every character of the text is compared with each of these.
                const SET_CHARS_MAX: usize = 256;
                let chars: Vec<char> = chars.chars().take(SET_CHARS_MAX + 1).collect();
                if chars.len() > SET_CHARS_MAX {
                    return fail(format!("got more than {SET_CHARS_MAX} characters for `{name}`"));
                }
                Ok(Set::Chars(chars))
            }
            [Some(other)] => fail(format!("got a {} for `{name}`, expected a str", other.kind())),
        }
    }

    pub(super) fn texts<'x>(&mut self, texts: impl IntoIterator<Item = &'x str>) -> Result<Value> {
        let mut found = Vec::new();
        for text in texts {
            self.budget.slots(1)?;
            found.push(self.new_text(text)?);
        }
        self.list(found)
    }
}
