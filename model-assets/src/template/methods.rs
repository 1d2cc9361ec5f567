//! Methods of Python's strings, lists and dictionaries, with their arguments.

use std::rc::Rc;

use super::call::{Passed, int_or};
use super::fault::{Fault, Result, fail};
use super::filters::{capitalized, split_lines};
use super::lex::is_space;
use super::machine::Machine;
use super::predicates::cased;
use super::value::Value;

const TEXT: [&str; 40] = [
    "strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "upper", "lower", "title",
    "capitalize", "swapcase", "casefold", "replace", "find", "rfind", "index", "rindex", "count", "join", "format",
    "isdigit", "isdecimal", "isnumeric", "isalpha", "isalnum", "isspace", "islower", "isupper", "isascii",
    "removeprefix", "removesuffix", "zfill", "ljust", "rjust", "center", "partition", "rpartition", "expandtabs",
];
const LIST: [&str; 3] = ["index", "count", "copy"];
const DICT: [&str; 5] = ["get", "keys", "values", "items", "copy"];

/// Which characters `strip` and its kind take.
enum Set {
    Space,
    Chars(Vec<char>),
}

impl Set {
    fn has(&self, c: char) -> bool {
        match self {
            Self::Space => is_space(c),
            Self::Chars(chars) => chars.contains(&c),
        }
    }
}

impl Machine<'_> {
    pub(super) fn has_method(&self, value: &Value, name: &str) -> bool {
        match value {
            Value::Text(_) => TEXT.contains(&name),
            Value::List(_) => LIST.contains(&name),
            Value::Tuple(_) => matches!(name, "index" | "count"),
            Value::Dict(_) => DICT.contains(&name),
            Value::Loop(_) => matches!(name, "cycle" | "changed"),
            Value::Cycler(_) => matches!(name, "next" | "reset"),
            _ => false,
        }
    }

    pub(super) fn method(&mut self, value: &Value, name: &str, passed: Passed) -> Result<Value> {
        self.budget.steps(1)?;
        match value {
            Value::Text(text) => self.text_method(text, name, passed),
            Value::List(seq) | Value::Tuple(seq) => {
                let seq = Rc::clone(seq);
                if name == "copy" {
                    return passed.none(name).map(|()| value.clone());
                }
                let [Some(wanted)] = passed.bind(name, ["value"])? else { return fail(format!("got no value for `{name}`")) };
                let mut count = 0;
                for (index, item) in seq.items.iter().enumerate() {
                    if self.same(item, &wanted)? {
                        if name == "index" {
                            return Ok(Value::Int(index as i64));
                        }
                        count += 1;
                    }
                }
                if name == "index" { fail("got a value that is not in the list") } else { Ok(Value::Int(count)) }
            }
            Value::Dict(dict) => {
                let dict = Rc::clone(dict);
                match name {
                    "get" => {
                        let [key, default] = passed.bind(name, ["key", "default"])?;
                        let Some(key) = key else { return fail("got no key for `get`") };
                        Ok(self.get(&dict, &key)?.or(default).unwrap_or(Value::None))
                    }
                    "copy" => passed.none(name).map(|()| value.clone()),
                    _ => {
                        passed.none(name)?;
                        let mut found = Vec::new();
                        for (key, value) in &dict.entries {
                            found.push(match name {
                                "keys" => key.clone(),
                                "values" => value.clone(),
                                _ => self.tuple(vec![key.clone(), value.clone()])?,
                            });
                        }
                        self.list(found)
                    }
                }
            }
            Value::Cycler(place) => {
                passed.none(name)?;
                let Some((items, at)) = self.cyclers.get_mut(*place) else { return Ok(Value::None) };
                if name == "reset" {
                    *at = 0;
                    return Ok(Value::None);
                }
                let found = items.get(*at).cloned().unwrap_or(Value::None);
                *at = (*at + 1) % items.len().max(1);
                Ok(found)
            }
            Value::Loop(place) if name == "changed" => {
                let before = self.loops.get_mut(*place).and_then(|it| it.changed.take());
                let mut changed = true;
                if let Some(before) = before.filter(|before| before.len() == passed.positional.len()) {
                    changed = false;
                    for (a, b) in before.iter().zip(&passed.positional) {
                        changed = changed || !self.same(a, b)?;
                    }
                }
                if let Some(it) = self.loops.get_mut(*place) {
                    it.changed = Some(passed.positional);
                }
                Ok(Value::Bool(changed))
            }
            Value::Loop(place) => {
                let index = self.loops.get(*place).map_or(0, |it| it.index);
                match passed.positional.len() {
                    0 => fail("got no values for `cycle`"),
                    len => Ok(passed.positional.get(index % len).cloned().unwrap_or(Value::None)),
                }
            }
            other => fail(format!("got the method `{name}` of a {}", other.kind())),
        }
    }

    fn text_method(&mut self, text: &Rc<str>, name: &str, passed: Passed) -> Result<Value> {
        self.budget.bytes(text.len() as u64)?;
        let done = |text: String| Ok(Value::Text(text.into()));
        match name {
            "strip" | "lstrip" | "rstrip" => {
                let set = self.char_set(name, passed)?;
                let mut rest: &str = text;
                if name != "rstrip" {
                    rest = rest.trim_start_matches(|c| set.has(c));
                }
                if name != "lstrip" {
                    rest = rest.trim_end_matches(|c| set.has(c));
                }
                Ok(Value::text(rest))
            }
            "split" | "rsplit" => self.split(text, name, passed),
            "splitlines" => {
                let [keep] = passed.bind(name, ["keepends"])?;
                let keep = self.is_true(&keep.unwrap_or(Value::None))?;
                self.texts(split_lines(text, keep))
            }
            "startswith" | "endswith" => self.edge(text, name, passed),
            "replace" => self.replace(text, passed),
            "find" | "rfind" | "index" | "rindex" | "count" => self.find(text, name, passed),
            "join" => {
                let [items] = passed.bind(name, ["iterable"])?;
                let items = self.items(&items.unwrap_or(Value::None))?;
                let mut joined = String::new();
                for (index, item) in items.iter().enumerate() {
                    let Value::Text(item) = item else { return fail(format!("got a {} to join", item.kind())) };
                    self.budget.bytes((item.len() + text.len()) as u64)?;
                    if index > 0 {
                        joined.push_str(text);
                    }
                    joined.push_str(item);
                }
                done(joined)
            }
            "format" => self.format(text, passed),
            "removeprefix" | "removesuffix" => {
                let [part] = passed.bind(name, ["part"])?;
                let Some(Value::Text(part)) = part else { return fail(format!("got no str for `{name}`")) };
                let rest = if name == "removeprefix" { text.strip_prefix(&*part) } else { text.strip_suffix(&*part) };
                Ok(Value::text(rest.unwrap_or(text)))
            }
            "zfill" | "ljust" | "rjust" | "center" => self.padded(text, name, passed),
            "partition" | "rpartition" => {
                let [by] = passed.bind(name, ["sep"])?;
                let Some(Value::Text(by)) = by.filter(|by| by.as_str() != Some("")) else {
                    return fail(format!("got no text for `{name}`"));
                };
                let found = if name == "partition" { text.split_once(&*by) } else { text.rsplit_once(&*by) };
                let parts = match found {
                    Some((before, after)) => [before, &*by, after],
                    None if name == "partition" => [text, "", ""],
                    None => ["", "", text],
                };
                let parts = parts.map(Value::text).to_vec();
                self.tuple(parts)
            }
            "expandtabs" => fail("got `expandtabs`, which chat templates do not have"),
            _ => {
                passed.none(name)?;
                self.budget.bytes(text.len() as u64 * 3)?;
                plain_method(text, name)
            }
        }
    }

    fn texts<'x>(&mut self, texts: impl IntoIterator<Item = &'x str>) -> Result<Value> {
        let mut found = Vec::new();
        for text in texts {
            self.budget.slots(1)?;
            found.push(self.new_text(text)?);
        }
        self.list(found)
    }

    fn char_set(&mut self, name: &str, passed: Passed) -> Result<Set> {
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

    fn split(&mut self, text: &str, name: &str, passed: Passed) -> Result<Value> {
        let [by, most] = passed.bind(name, ["sep", "maxsplit"])?;
        let most = usize::try_from(int_or(most, -1, name)?).unwrap_or(usize::MAX - 1);
        let from_end = name == "rsplit";
        match by {
            None | Some(Value::None) => {
                let mut found = Vec::new();
                let mut rest = if from_end { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
                while !rest.is_empty() {
                    if found.len() >= most {
                        let last = if from_end { rest.trim_start_matches(is_space) } else { rest.trim_end_matches(is_space) };
                        // Python keeps the inner spaces of what is left, and the outer ones on the far side.
                        found.push(if from_end { rest } else { rest }.get(..).filter(|_| !last.is_empty()).unwrap_or(last));
                        break;
                    }
                    let (word, more) = if from_end {
                        let at = rest.rfind(is_space).map_or(0, |at| at + rest.get(at..).and_then(|t| t.chars().next()).map_or(1, char::len_utf8));
                        (rest.get(at..).unwrap_or_default(), rest.get(..at).unwrap_or_default().trim_end_matches(is_space))
                    } else {
                        let at = rest.find(is_space).unwrap_or(rest.len());
                        (rest.get(..at).unwrap_or_default(), rest.get(at..).unwrap_or_default().trim_start_matches(is_space))
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
    fn part<'x>(&mut self, text: &'x str, start: Option<Value>, end: Option<Value>) -> Result<Option<(&'x str, usize)>> {
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

    fn edge(&mut self, text: &str, name: &str, passed: Passed) -> Result<Value> {
        let [wanted, start, end] = passed.bind(name, ["prefix", "start", "end"])?;
        let Some((text, _)) = self.part(text, start, end)? else { return Ok(Value::Bool(false)) };
        let wanted = match wanted {
            Some(Value::Tuple(wanted)) => wanted.items.clone(),
            Some(one) => vec![one],
            None => return fail(format!("got no text for `{name}`")),
        };
        for part in wanted {
            self.budget.steps(1)?;
            let Value::Text(part) = part else { return fail(format!("got a {} for `{name}`, expected a str", part.kind())) };
            if if name == "startswith" { text.starts_with(&*part) } else { text.ends_with(&*part) } {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }

    fn replace(&mut self, text: &str, passed: Passed) -> Result<Value> {
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

    fn find(&mut self, text: &str, name: &str, passed: Passed) -> Result<Value> {
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

    fn padded(&mut self, text: &str, name: &str, passed: Passed) -> Result<Value> {
        let [width, fill] = passed.bind(name, ["width", "fillchar"])?;
        let width = width.ok_or_else(|| Fault::new(format!("got no width for `{name}`")))?;
        let width = usize::try_from(int_or(Some(width), 0, name)?).unwrap_or(0);
        let fill = match fill {
            None if name == "zfill" => '0',
            None => ' ',
            Some(Value::Text(fill)) if fill.chars().count() == 1 && name != "zfill" => fill.chars().next().unwrap_or(' '),
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
}

/// Methods without arguments.
fn plain_method(text: &str, name: &str) -> Result<Value> {
    let all = |holds: fn(char) -> bool| Ok(Value::Bool(!text.is_empty() && text.chars().all(holds)));
    let done = |text: String| Ok(Value::Text(text.into()));
    match name {
        "upper" => done(text.to_uppercase()),
        "lower" | "casefold" => done(if name == "casefold" { text.to_lowercase().replace('ß', "ss") } else { text.to_lowercase() }),
        "capitalize" => done(capitalized(text)),
        "title" => {
            let mut written = String::new();
            let mut inside = false;
            for c in text.chars() {
                if inside { written.extend(c.to_lowercase()) } else { written.extend(c.to_uppercase()) }
                inside = c.is_alphabetic();
            }
            done(written)
        }
        "swapcase" => {
            let mut written = String::new();
            for c in text.chars() {
                if c.is_uppercase() { written.extend(c.to_lowercase()) } else { written.extend(c.to_uppercase()) }
            }
            done(written)
        }
        "isdigit" | "isdecimal" => all(|c| c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric() && !c.is_alphabetic())),
        "isnumeric" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(is_space),
        "isascii" => Ok(Value::Bool(text.is_ascii())),
        "islower" => Ok(Value::Bool(cased(text, false))),
        "isupper" => Ok(Value::Bool(cased(text, true))),
        other => fail(format!("got the method `{other}` of a str")),
    }
}
