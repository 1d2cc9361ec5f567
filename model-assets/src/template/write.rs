//! Values as texts: Python's `str` and `repr`, and its JSON.
//!
//! **Invariant:** writing pays for every byte before it is written, so a small value that names itself many times over
//! (`[x, x]`, doubled again and again) ends in an error and not in its text.

use std::rc::Rc;

use super::call::Passed;
use super::fault::{Result, fail};
use super::machine::Machine;
use super::value::Value;

impl Machine<'_> {
    /// Python's `str`.
    pub(super) fn text_of(&mut self, value: &Value) -> Result<Rc<str>> {
        match value {
            Value::Text(text) => Ok(Rc::clone(text)),
            Value::Undefined(_) => Ok("".into()),
            other => {
                let mut text = String::new();
                self.repr(other, &mut text)?;
                Ok(text.into())
            }
        }
    }

    fn put(&mut self, text: &mut String, more: &str) -> Result<()> {
        self.budget.bytes(more.len() as u64)?;
        text.push_str(more);
        Ok(())
    }

    /// Python's `repr`.
    pub(super) fn repr(&mut self, value: &Value, text: &mut String) -> Result<()> {
        self.budget.enter()?;
        match value {
            Value::Undefined(_) => self.put(text, "Undefined")?,
            Value::None => self.put(text, "None")?,
            Value::Bool(value) => self.put(text, if *value { "True" } else { "False" })?,
            Value::Int(value) => self.put(text, &value.to_string())?,
            Value::Float(value) => self.put(text, &float(*value))?,
            Value::Text(value) => {
                self.budget.bytes(value.len() as u64)?;
                let quoted = quoted(value);
                self.put(text, &quoted)?;
            }
            Value::List(seq) => self.repr_row("[", &seq.items, "]", text)?,
            Value::Tuple(seq) => {
                let end = if seq.items.len() == 1 { ",)" } else { ")" };
                self.repr_row("(", &seq.items, end, text)?;
            }
            Value::Dict(dict) => {
                self.put(text, "{")?;
                for (index, (key, value)) in dict.entries.iter().enumerate() {
                    if index > 0 {
                        self.put(text, ", ")?;
                    }
                    self.repr(key, text)?;
                    self.put(text, ": ")?;
                    self.repr(value, text)?;
                }
                self.put(text, "}")?;
            }
            Value::Range(range) => {
                let stop = range.start.saturating_add(range.step.saturating_mul(range.len as i64));
                let written = match range.step {
                    1 => format!("range({}, {stop})", range.start),
                    step => format!("range({}, {stop}, {step})", range.start),
                };
                self.put(text, &written)?;
            }
            // Python writes an address in memory.
            other => return fail(format!("got a {} to write, expected a value", other.kind())),
        }
        self.budget.leave();
        Ok(())
    }

    fn repr_row(&mut self, open: &str, items: &[Value], close: &str, text: &mut String) -> Result<()> {
        self.put(text, open)?;
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.put(text, ", ")?;
            }
            self.repr(item, text)?;
        }
        self.put(text, close)
    }

    /// `tojson` as `transformers` has it: Python's `json.dumps` with characters as they are.
    pub(super) fn json_of(&mut self, value: &Value, passed: Passed) -> Result<Value> {
        let [ascii, indent, separators, sort_keys] =
            passed.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
        let ascii = match ascii {
            Some(ascii) => self.is_true(&ascii)?,
            None => false,
        };
        let sort_keys = match sort_keys {
            Some(sort_keys) => self.is_true(&sort_keys)?,
            None => false,
        };
        /// Deepest indentation that makes sense; each level of each line pays for it.
        const INDENT_MAX: i64 = 64;
        let indent = match indent {
            None | Some(Value::None) => None,
            Some(Value::Text(text)) => Some(text.to_string()),
            Some(value) => match value.as_int() {
                Some(count) if count <= INDENT_MAX => Some(" ".repeat(usize::try_from(count).unwrap_or(0))),
                _ => return fail(format!("got the indent {value:?}, expected at most {INDENT_MAX}")),
            },
        };
        let (item, key) = match separators {
            None | Some(Value::None) => ((if indent.is_some() { "," } else { ", " }).into(), ": ".into()),
            Some(pair) => match self.items(&pair)?.as_slice() {
                [Value::Text(item), Value::Text(key)] => (Rc::clone(item), Rc::clone(key)),
                _ => return fail("got other separators than two texts"),
            },
        };
        let mut text = String::new();
        self.json(value, &Json { ascii, indent, item, key, sort_keys }, 0, &mut text)?;
        Ok(Value::Text(text.into()))
    }

    fn json(&mut self, value: &Value, how: &Json, depth: usize, text: &mut String) -> Result<()> {
        self.budget.enter()?;
        match value {
            Value::None => self.put(text, "null")?,
            Value::Bool(value) => self.put(text, if *value { "true" } else { "false" })?,
            Value::Int(value) => self.put(text, &value.to_string())?,
            Value::Float(value) => self.put(text, &json_float(*value))?,
            Value::Text(value) => self.json_text(value, how.ascii, text)?,
            Value::List(seq) | Value::Tuple(seq) if seq.items.is_empty() => self.put(text, "[]")?,
            Value::List(seq) | Value::Tuple(seq) => {
                self.put(text, "[")?;
                for (index, item) in seq.items.iter().enumerate() {
                    self.json_gap(how, index, depth + 1, text)?;
                    self.json(item, how, depth + 1, text)?;
                }
                self.json_end(how, depth, "]", text)?;
            }
            Value::Dict(dict) if dict.entries.is_empty() => self.put(text, "{}")?,
            Value::Dict(dict) => {
                let mut entries: Vec<(Rc<str>, &Value)> = Vec::new();
                self.budget.slots(dict.entries.len())?;
                for (key, value) in &dict.entries {
                    entries.push((json_key(key)?, value));
                }
                if how.sort_keys {
                    self.budget.steps(entries.len() as u64 * 16)?;
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.put(text, "{")?;
                for (index, (key, value)) in entries.into_iter().enumerate() {
                    self.json_gap(how, index, depth + 1, text)?;
                    self.json_text(&key, how.ascii, text)?;
                    self.put(text, &how.key)?;
                    self.json(value, how, depth + 1, text)?;
                }
                self.json_end(how, depth, "}", text)?;
            }
            other => return fail(format!("got a {} to write as JSON", other.kind())),
        }
        self.budget.leave();
        Ok(())
    }

    fn json_gap(&mut self, how: &Json, index: usize, depth: usize, text: &mut String) -> Result<()> {
        if index > 0 {
            self.put(text, &how.item)?;
        }
        self.json_line(how, depth, text)
    }

    fn json_line(&mut self, how: &Json, depth: usize, text: &mut String) -> Result<()> {
        if let Some(indent) = &how.indent {
            self.put(text, "\n")?;
            for _ in 0..depth {
                self.put(text, indent)?;
            }
        }
        Ok(())
    }

    fn json_end(&mut self, how: &Json, depth: usize, close: &str, text: &mut String) -> Result<()> {
        self.json_line(how, depth, text)?;
        self.put(text, close)
    }

    fn json_text(&mut self, value: &str, ascii: bool, text: &mut String) -> Result<()> {
        self.budget.bytes(value.len() as u64 * if ascii { 6 } else { 2 })?;
        text.push('"');
        for c in value.chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                c if c < ' ' || (ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        text.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                // Python's `ensure_ascii` leaves this one as it is.
                c => text.push(c),
            }
        }
        text.push('"');
        Ok(())
    }
}

/// How JSON is written.
struct Json {
    ascii: bool,
    indent: Option<String>,
    item: Rc<str>,
    key: Rc<str>,
    sort_keys: bool,
}

fn json_key(key: &Value) -> Result<Rc<str>> {
    Ok(match key {
        Value::Text(text) => Rc::clone(text),
        Value::None => "null".into(),
        Value::Bool(value) => (if *value { "true" } else { "false" }).into(),
        Value::Int(value) => value.to_string().into(),
        Value::Float(value) => json_float(*value).into(),
        other => return fail(format!("got a {} for a key of JSON", other.kind())),
    })
}

fn json_float(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        value if value.is_infinite() => if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        value => float(value),
    }
}

/// Python's `repr` of a float: the shortest digits that read back the same.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = power.parse().unwrap_or_default();
    if value != 0.0 && !(-4..16).contains(&power) {
        let sign = if power < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", power.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// Python's `repr` of a text.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut written = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => written.push_str("\\\\"),
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            '\t' => written.push_str("\\t"),
            c if c == quote => {
                written.push('\\');
                written.push(c);
            }
            c if is_printable(c) => written.push(c),
            c => written.push_str(&match u32::from(c) {
                code @ ..0x100 => format!("\\x{code:02x}"),
                code @ ..0x1_0000 => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    written.push(quote);
    written
}

/// Python's `isprintable`, as the standard library knows it: it escapes what is not when it writes a text for debugging.
pub(super) fn is_printable(c: char) -> bool {
    // A mark that combines is escaped only at a text's beginning.
    matches!(c, '"' | '\'' | '\\') || !format!("{:?}", String::from_iter(['a', c])).contains('\\')
}
