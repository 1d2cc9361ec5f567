//! Jinja's filters. Those that go through lists are in [`super::rows`].

use std::rc::Rc;

use super::call::{Passed, int_or};
use super::fault::{Fault, Result, fail};
use super::lex::is_space;
use super::machine::Machine;
use super::value::Value;

/// Those that a template may name. Filters for HTML, and one that draws by chance, are not here.
pub(super) const FILTERS: [&str; 44] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
];

impl Machine<'_> {
    pub(super) fn filter(&mut self, name: &str, value: Value, passed: Passed) -> Result<Value> {
        self.budget.steps(1)?;
        match name {
            "tojson" => self.json_of(&value, passed),
            "default" | "d" => self.default(value, passed),
            "string" | "safe" => {
                passed.none(name)?;
                Ok(Value::Text(self.text_of(&value)?))
            }
            "length" | "count" => {
                passed.none(name)?;
                self.length(&value)
            }
            "abs" => {
                passed.none(name)?;
                match value {
                    Value::Float(value) => Ok(Value::Float(value.abs())),
                    value => match value.as_int().and_then(i64::checked_abs) {
                        Some(value) => Ok(Value::Int(value)),
                        None => fail(format!("got `abs` of a {}", value.kind())),
                    },
                }
            }
            "int" => self.int(value, passed),
            "float" => self.float(value, passed),
            "round" => self.round(&value, passed),
            "attr" => {
                let [name] = passed.bind("attr", ["name"])?;
                match name {
                    Some(Value::Text(name))
                        if !matches!(value, Value::Dict(_)) || self.has_method(&value, &name) =>
                    {
                        self.attribute(&value, &name)
                    }
                    Some(Value::Text(name)) => Ok(Value::Undefined(name)),
                    _ => fail("got no name for `attr`"),
                }
            }
            "upper" | "lower" | "capitalize" | "title" | "trim" | "center" | "indent" | "truncate"
            | "wordcount" | "urlencode" | "replace" | "format" => self.text_filter(name, &value, passed),
            _ => self.row_filter(name, value, passed),
        }
    }

    fn default(&mut self, value: Value, passed: Passed) -> Result<Value> {
        let [default, boolean] = passed.bind("default", ["default_value", "boolean"])?;
        let boolean = match boolean {
            Some(boolean) => self.is_true(&boolean)?,
            None => false,
        };
        let missing = value.is_undefined() || (boolean && !self.is_true(&value)?);
        Ok(if missing { default.unwrap_or_else(|| Value::text("")) } else { value })
    }

    pub(super) fn length(&mut self, value: &Value) -> Result<Value> {
        let len = match value {
            Value::Undefined(_) => 0,
            Value::Text(text) => {
                self.budget.scan(text.len())?;
                text.chars().count()
            }
            Value::List(seq) | Value::Tuple(seq) => seq.items.len(),
            Value::Dict(dict) => dict.entries.len(),
            Value::Range(range) => range.len,
            Value::Loop(place) => self.loops.get(*place).map_or(0, |it| it.items.len()),
            other => return fail(format!("got the length of a {}", other.kind())),
        };
        Ok(Value::Int(len as i64))
    }

    fn int(&mut self, value: Value, passed: Passed) -> Result<Value> {
        let [default, base] = passed.bind("int", ["default", "base"])?;
        let default = default.unwrap_or(Value::Int(0));
        let base = u32::try_from(int_or(base, 10, "int")?).ok().filter(|base| (2..=36).contains(base));
        let base = base.ok_or_else(|| Fault::new("got a base for `int` other than 2 to 36"))?;
        Ok(match &value {
            Value::Undefined(name) => return fail(format!("{name} is undefined")),
            Value::Text(text) => {
                self.budget.scan(text.len())?;
                let digits = text.trim_matches(is_space).replace('_', "");
                let sign = if digits.starts_with('-') { "-" } else { "" };
                let bare = digits.trim_start_matches(['-', '+']);
                let bare = match (base, bare.get(..2)) {
                    (16, Some("0x" | "0X")) | (8, Some("0o" | "0O")) | (2, Some("0b" | "0B")) => {
                        bare.get(2..).unwrap_or_default()
                    }
                    _ => bare,
                };
                match i64::from_str_radix(&format!("{sign}{bare}"), base) {
                    Ok(value) => Value::Int(value),
                    Err(_) => match digits.parse::<f64>() {
                        Ok(value) => whole(value)?,
                        Err(_) => default,
                    },
                }
            }
            Value::Float(value) if !value.is_finite() => default,
            Value::Float(value) => whole(*value)?,
            other => other.as_int().map_or(default, Value::Int),
        })
    }

    fn float(&mut self, value: Value, passed: Passed) -> Result<Value> {
        let [default] = passed.bind("float", ["default"])?;
        let default = default.unwrap_or(Value::Float(0.0));
        Ok(match &value {
            Value::Undefined(name) => return fail(format!("{name} is undefined")),
            Value::Text(text) => {
                self.budget.scan(text.len())?;
                text.trim_matches(is_space).replace('_', "").parse().map_or(default, Value::Float)
            }
            other => other.as_float().map_or(default, Value::Float),
        })
    }

    fn round(&mut self, value: &Value, passed: Passed) -> Result<Value> {
        let [precision, method] = passed.bind("round", ["precision", "method"])?;
        let precision = int_or(precision, 0, "round")?;
        let number =
            value.as_float().ok_or_else(|| Fault::new(format!("got `round` of a {}", value.kind())))?;
        let method = method.as_ref().map_or(Some("common"), Value::as_str);
        if !(0..=15).contains(&precision) {
            return fail(format!("got the precision {precision} for `round`, expected 0 to 15"));
        }
        let scale = 10_f64.powi(precision as i32);
        let rounded = match method {
            // Halves go to the even neighbour, by the digits that the number really has.
            Some("common") => format!("{number:.*}", precision as usize).parse().unwrap_or(number),
            Some("ceil") => (number * scale).ceil() / scale,
            Some("floor") => (number * scale).floor() / scale,
            _ => return fail("got a method for `round` other than common, ceil or floor"),
        };
        match value.as_int() {
            // Python's `round` of an int with a precision stays an int.
            Some(value) if method == Some("common") => Ok(Value::Int(value)),
            _ => Ok(Value::Float(rounded)),
        }
    }

    fn text_filter(&mut self, name: &str, value: &Value, passed: Passed) -> Result<Value> {
        let text = self.text_of(value)?;
        // Case, indentation and width change a text's length at most by what is paid for here and below.
        self.budget.bytes(text.len() as u64 * 3)?;
        let done = |text: String| Ok(Value::Text(text.into()));
        match name {
            "upper" => passed.none(name).and_then(|()| done(text.to_uppercase())),
            "lower" => passed.none(name).and_then(|()| done(text.to_lowercase())),
            "capitalize" => passed.none(name).and_then(|()| done(capitalized(&text))),
            "title" => passed.none(name).and_then(|()| done(titled(&text))),
            "wordcount" => {
                passed.none(name)?;
                let words =
                    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
                Ok(Value::Int(words.count() as i64))
            }
            "trim" => {
                let [chars] = passed.bind(name, ["chars"])?;
                let passed = Passed::of(chars.into_iter().collect());
                self.method(&Value::Text(text), "strip", passed)
            }
            "center" => {
                let [width] = passed.bind(name, ["width"])?;
                let width = Value::Int(int_or(width, 80, name)?);
                self.method(&Value::Text(text), "center", Passed::of(vec![width]))
            }
            "replace" => {
                let [old, new, count] = passed.bind(name, ["old", "new", "count"])?;
                let (Some(old), Some(new)) = (old, new) else {
                    return fail("got too few arguments for `replace`");
                };
                let (old, new) = (Value::Text(self.text_of(&old)?), Value::Text(self.text_of(&new)?));
                let count = count.filter(|count| !matches!(count, Value::None));
                let passed = Passed::of([Some(old), Some(new), count].into_iter().flatten().collect());
                self.method(&Value::Text(text), "replace", passed)
            }
            "format" => {
                if passed.named.is_empty() {
                    let arguments = self.tuple(passed.positional)?;
                    return self.printf(&text, &arguments);
                }
                if !passed.positional.is_empty() {
                    return fail("got positional and named arguments for `format`, expected one kind");
                }
                let entries =
                    passed.named.into_iter().map(|(name, value)| (Value::Text(name), value)).collect();
                let arguments = self.dict(entries)?;
                self.printf(&text, &arguments)
            }
            "indent" => self.indent(&text, passed),
            "truncate" => self.truncate(&text, passed),
            _ => {
                passed.none(name)?;
                let mut written = String::new();
                for byte in text.bytes() {
                    match byte {
                        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' | b'/' => {
                            written.push(char::from(byte));
                        }
                        other => written.push_str(&format!("%{other:02X}")),
                    }
                }
                done(written)
            }
        }
    }

    fn indent(&mut self, text: &str, passed: Passed) -> Result<Value> {
        let [width, first, blank] = passed.bind("indent", ["width", "first", "blank"])?;
        let (first, blank) =
            (self.is_true(&first.unwrap_or(Value::None))?, self.is_true(&blank.unwrap_or(Value::None))?);
        let indent: Rc<str> = match width {
            Some(Value::Text(text)) => text,
            width => {
                let width = usize::try_from(int_or(width, 4, "indent")?.max(0)).unwrap_or(usize::MAX);
                self.budget.bytes(width as u64)?;
                " ".repeat(width).into()
            }
        };
        let lines = 2 + text.matches('\n').count() as u64;
        self.budget.bytes(text.len() as u64 + lines * (indent.len() as u64 + 1))?;
        // As Jinja: a line's end at the very end counts as a line of its own.
        let ended = format!("{text}\n");
        let mut lines: Vec<&str> = split_lines(&ended, false);
        let mut written = String::new();
        if blank {
            written = lines.join(&format!("\n{indent}"));
        } else if !lines.is_empty() {
            written.push_str(lines.remove(0));
            for line in lines {
                written.push('\n');
                if !line.is_empty() {
                    written.push_str(&indent);
                    written.push_str(line);
                }
            }
        }
        if first {
            written.insert_str(0, &indent);
        }
        Ok(Value::Text(written.into()))
    }

    fn truncate(&mut self, text: &str, passed: Passed) -> Result<Value> {
        let [length, kill, end, leeway] =
            passed.bind("truncate", ["length", "killwords", "end", "leeway"])?;
        let length = usize::try_from(int_or(length, 255, "truncate")?).unwrap_or_default();
        let leeway = usize::try_from(int_or(leeway, 5, "truncate")?).unwrap_or_default();
        let kill = self.is_true(&kill.unwrap_or(Value::None))?;
        let end = match end {
            Some(end) => self.text_of(&end)?,
            None => "...".into(),
        };
        if text.chars().count() <= length.saturating_add(leeway) {
            return Ok(Value::text(text));
        }
        let Some(kept) = length.checked_sub(end.chars().count()) else {
            return fail("got an `end` longer than the length for `truncate`");
        };
        let mut cut: String = text.chars().take(kept).collect();
        if !kill && let Some(space) = cut.rfind(' ') {
            cut.truncate(space);
        }
        self.budget.bytes(end.len() as u64)?;
        Ok(Value::Text(format!("{cut}{end}").into()))
    }
}

fn whole(value: f64) -> Result<Value> {
    let value = value.trunc();
    if value.abs() < 9.0e18 {
        Ok(Value::Int(value as i64))
    } else {
        fail("got a number beyond 64 bits for `int`")
    }
}

/// Python's `capitalize`.
pub(super) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// Jinja's `title`: words end at spaces, hyphens and opening brackets.
fn titled(text: &str) -> String {
    let mut written = String::new();
    let mut begins = true;
    for c in text.chars() {
        if begins {
            written.extend(c.to_uppercase())
        } else {
            written.extend(c.to_lowercase())
        }
        begins = is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    }
    written
}

/// Python's `splitlines`.
pub(super) fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let tail = rest.get(at..).unwrap_or_default();
        let len = if tail.starts_with("\r\n") { 2 } else { tail.chars().next().map_or(1, char::len_utf8) };
        lines.push(rest.get(..if keep_ends { at + len } else { at }).unwrap_or_default());
        rest = rest.get(at + len..).unwrap_or_default();
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}
