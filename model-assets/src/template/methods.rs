//! Methods of Python's strings, lists and dictionaries, with their arguments.

use std::rc::Rc;

use super::call::Passed;
use super::fault::{Result, fail};
use super::filters::{capitalized, split_lines};
use super::lex::is_space;
use super::machine::Machine;
use super::predicates::cased;
use super::value::Value;

const TEXT: [&str; 40] = [
    "strip",
    "lstrip",
    "rstrip",
    "split",
    "rsplit",
    "splitlines",
    "startswith",
    "endswith",
    "upper",
    "lower",
    "title",
    "capitalize",
    "swapcase",
    "casefold",
    "replace",
    "find",
    "rfind",
    "index",
    "rindex",
    "count",
    "join",
    "format",
    "isdigit",
    "isdecimal",
    "isnumeric",
    "isalpha",
    "isalnum",
    "isspace",
    "islower",
    "isupper",
    "isascii",
    "removeprefix",
    "removesuffix",
    "zfill",
    "ljust",
    "rjust",
    "center",
    "partition",
    "rpartition",
    "expandtabs",
];
const LIST: [&str; 3] = ["index", "count", "copy"];
const DICT: [&str; 5] = ["get", "keys", "values", "items", "copy"];

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
                let [Some(wanted)] = passed.bind(name, ["value"])? else {
                    return fail(format!("got no value for `{name}`"));
                };
                let mut count = 0;
                for (index, item) in seq.items.iter().enumerate() {
                    if self.same(item, &wanted)? {
                        if name == "index" {
                            return Ok(Value::Int(index as i64));
                        }
                        count += 1;
                    }
                }
                if name == "index" {
                    fail("got a value that is not in the list")
                } else {
                    Ok(Value::Int(count))
                }
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
                    let Value::Text(item) = item else {
                        return fail(format!("got a {} to join", item.kind()));
                    };
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
                let rest = if name == "removeprefix" {
                    text.strip_prefix(&*part)
                } else {
                    text.strip_suffix(&*part)
                };
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
}

/// Methods without arguments.
fn plain_method(text: &str, name: &str) -> Result<Value> {
    let all = |holds: fn(char) -> bool| Ok(Value::Bool(!text.is_empty() && text.chars().all(holds)));
    let done = |text: String| Ok(Value::Text(text.into()));
    match name {
        "upper" => done(text.to_uppercase()),
        "lower" | "casefold" => done(if name == "casefold" {
            text.to_lowercase().replace('ß', "ss")
        } else {
            text.to_lowercase()
        }),
        "capitalize" => done(capitalized(text)),
        "title" => {
            let mut written = String::new();
            let mut inside = false;
            for c in text.chars() {
                if inside {
                    written.extend(c.to_lowercase())
                } else {
                    written.extend(c.to_uppercase())
                }
                inside = c.is_alphabetic();
            }
            done(written)
        }
        "swapcase" => {
            let mut written = String::new();
            for c in text.chars() {
                if c.is_uppercase() {
                    written.extend(c.to_lowercase())
                } else {
                    written.extend(c.to_uppercase())
                }
            }
            done(written)
        }
        "isdigit" | "isdecimal" => {
            all(|c| c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric() && !c.is_alphabetic()))
        }
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
