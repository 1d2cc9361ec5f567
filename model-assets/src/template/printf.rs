//! Python's two ways to format: `%` and `str.format`, as far as texts and numbers go.
//!
//! **Invariant:** a width or precision is at most [`WIDTH_MAX`], so one conversion makes little.

use std::rc::Rc;

use super::call::Passed;
use super::fault::{Fault, Result, fail};
use super::machine::Machine;
use super::value::Value;

/// Largest width and precision.
const WIDTH_MAX: usize = 1000;

/// How one value is written.
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    zeros: bool,
    alternate: bool,
    commas: bool,
    width: usize,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Machine<'_> {
    /// `text % arguments`.
    pub(super) fn printf(&mut self, pattern: &str, arguments: &Value) -> Result<Value> {
        let items: Vec<Value> = match arguments {
            Value::Tuple(seq) => seq.items.clone(),
            other => vec![other.clone()],
        };
        let mut items = items.into_iter();
        let (mut text, mut rest, mut by_name) = (String::new(), pattern, false);
        while let Some((before, after)) = rest.split_once('%') {
            self.budget.bytes(before.len() as u64)?;
            text.push_str(before);
            let mut value = None;
            let mut spec_text = after;
            if let Some(named) = after.strip_prefix('(') {
                let (name, more) =
                    named.split_once(')').ok_or_else(|| Fault::new("got a `%(` without its end"))?;
                let Value::Dict(dict) = arguments else {
                    return fail("got a name in a format without a dict");
                };
                value = self.get(&Rc::clone(dict), &Value::text(name))?;
                if value.is_none() {
                    return fail(format!("got no `{name}` for a format"));
                }
                (spec_text, by_name) = (more, true);
            }
            let (spec, more) = printf_spec(spec_text)?;
            rest = more;
            let Some(kind) = spec.kind else { return fail("got a lone `%` in a format") };
            if kind == '%' {
                text.push('%');
                continue;
            }
            let value = match value.or_else(|| items.next()) {
                Some(value) => value,
                None => return fail("got too few values for a format"),
            };
            let written = self.formatted(&value, &spec, true)?;
            text.push_str(&written);
        }
        if !by_name && items.next().is_some() && !matches!(arguments, Value::Dict(_) | Value::List(_)) {
            return fail("got too many values for a format");
        }
        self.budget.bytes(rest.len() as u64)?;
        text.push_str(rest);
        Ok(Value::Text(text.into()))
    }

    /// `text.format(..)`.
    pub(super) fn format(&mut self, pattern: &str, passed: Passed) -> Result<Value> {
        let (mut text, mut rest, mut next) = (String::new(), pattern, 0);
        while let Some(at) = rest.find(['{', '}']) {
            let (before, tail) = rest.split_at(at);
            self.budget.bytes(before.len() as u64 + 1)?;
            text.push_str(before);
            if let Some(more) = tail.strip_prefix("{{").or(tail.strip_prefix("}}")) {
                text.push_str(tail.get(..1).unwrap_or_default());
                rest = more;
                continue;
            }
            let field = tail.strip_prefix('{').and_then(|tail| tail.split_once('}'));
            let (field, more) =
                field.ok_or_else(|| Fault::new("got a bracket without its other in a format"))?;
            rest = more;
            let (field, spec) = field.split_once(':').unwrap_or((field, ""));
            let (field, conversion) = field.split_once('!').unwrap_or((field, ""));
            let mut value = self.field(field, &mut next, &passed)?;
            match conversion {
                "" => {}
                "s" => value = Value::Text(self.text_of(&value)?),
                "r" => {
                    let mut written = String::new();
                    self.repr(&value, &mut written)?;
                    value = Value::Text(written.into());
                }
                other => return fail(format!("got the conversion `!{other}`, expected `!s` or `!r`")),
            }
            let written = self.formatted(&value, &format_spec(spec)?, false)?;
            text.push_str(&written);
        }
        self.budget.bytes(rest.len() as u64)?;
        text.push_str(rest);
        Ok(Value::Text(text.into()))
    }

    fn field(&mut self, field: &str, next: &mut usize, passed: &Passed) -> Result<Value> {
        let end = field.find(['.', '[']).unwrap_or(field.len());
        let (first, mut path) = field.split_at(end);
        let by_place = |at: usize| passed.positional.get(at).cloned();
        let found = if first.is_empty() {
            *next += 1;
            by_place(*next - 1)
        } else if let Ok(place) = first.parse() {
            by_place(place)
        } else {
            passed.named.iter().find(|(name, _)| **name == *first).map(|(_, value)| value.clone())
        };
        let mut value = found.ok_or_else(|| Fault::new(format!("got no value for `{{{field}}}`")))?;
        while !path.is_empty() {
            let item = path.strip_prefix('[').and_then(|path| path.split_once(']'));
            if let Some((item, more)) = item {
                let item = item.parse().map_or_else(|_| Value::text(item), Value::Int);
                (value, path) = (self.item(&value, &item)?, more);
            } else {
                let name =
                    path.strip_prefix('.').ok_or_else(|| Fault::new("got a broken field in a format"))?;
                let end = name.find(['.', '[']).unwrap_or(name.len());
                let (name, more) = name.split_at(end);
                (value, path) = (self.attribute(&value, name)?, more);
            }
        }
        Ok(value)
    }

    fn formatted(&mut self, value: &Value, spec: &Spec, printf: bool) -> Result<String> {
        let number =
            value.as_float().filter(|_| !matches!(value, Value::Bool(_)) || printf || spec.kind.is_some());
        let kind = match spec.kind {
            Some(kind) => kind,
            None if number.is_some() && matches!(value, Value::Float(_)) => 'g',
            None if number.is_some() => 'd',
            None => 's',
        };
        let plain_float = spec.kind.is_none() && spec.precision.is_none();
        let digits = match kind {
            's' if printf || value.as_float().is_none() || matches!(value, Value::Bool(_)) => {
                let text = self.text_of(value)?;
                let text: String = text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
                return self.aligned(text, spec, '<', printf);
            }
            'r' | 'a' if printf => {
                let mut text = String::new();
                self.repr(value, &mut text)?;
                return self.aligned(text, spec, '<', printf);
            }
            'c' if printf => {
                let text = match value {
                    Value::Text(text) if text.chars().count() == 1 => text.to_string(),
                    other => match other
                        .as_int()
                        .and_then(|code| u32::try_from(code).ok())
                        .and_then(char::from_u32)
                    {
                        Some(c) => c.to_string(),
                        None => return fail("got no character for `%c`"),
                    },
                };
                return self.aligned(text, spec, '<', printf);
            }
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' | 'b' => {
                let whole = match value {
                    Value::Float(value) if printf && value.is_finite() && value.abs() < 9.0e18 => {
                        Some(value.trunc() as i64)
                    }
                    value => value.as_int(),
                };
                let Some(whole) = whole else {
                    return fail(format!("got a {} for `{kind}` of a format", value.kind()));
                };
                let size = whole.unsigned_abs();
                let sign = if whole < 0 { "-" } else { "" };
                let prefix = if spec.alternate {
                    match kind {
                        'x' => "0x",
                        'X' => "0X",
                        'o' => "0o",
                        'b' => "0b",
                        _ => "",
                    }
                } else {
                    ""
                };
                let digits = match kind {
                    'x' => format!("{size:x}"),
                    'X' => format!("{size:X}"),
                    'o' => format!("{size:o}"),
                    'b' => format!("{size:b}"),
                    _ => size.to_string(),
                };
                format!("{sign}{prefix}{}", if spec.commas { grouped(&digits) } else { digits })
            }
            'f' | 'F' | 'e' | 'E' | 'g' | 'G' | '%' => {
                let Some(number) = number else {
                    return fail(format!("got a {} for `{kind}` of a format", value.kind()));
                };
                let precision = spec.precision.unwrap_or(6);
                match kind {
                    _ if plain_float => super::write::float(number),
                    'f' | 'F' => with_groups(format!("{number:.precision$}"), spec.commas),
                    '%' => format!("{:.precision$}%", number * 100.0),
                    'e' => exponent(&format!("{number:.precision$e}")),
                    'E' => exponent(&format!("{number:.precision$e}")).to_uppercase(),
                    _ => general(number, precision.max(1), spec.kind.is_none()),
                }
            }
            other => {
                return fail(format!(
                    "got `{}` in a format, expected a kind that Python knows",
                    other.escape_debug()
                ));
            }
        };
        let digits = match spec.sign {
            Some(sign @ ('+' | ' ')) if !digits.starts_with('-') => format!("{sign}{digits}"),
            _ => digits,
        };
        self.aligned(digits, spec, '>', printf)
    }

    fn aligned(&mut self, text: String, spec: &Spec, usual: char, printf: bool) -> Result<String> {
        let missing = spec.width.saturating_sub(text.chars().count());
        self.budget.bytes((text.len() + missing * 4) as u64)?;
        let zeros = spec.zeros && usual == '>' && spec.align.is_none();
        let align = spec.align.unwrap_or(if zeros {
            '='
        } else if printf {
            '>'
        } else {
            usual
        });
        let pad =
            |count: usize| String::from(spec.fill.unwrap_or(if zeros { '0' } else { ' ' })).repeat(count);
        Ok(match align {
            '<' => text + &pad(missing),
            '^' => format!("{}{text}{}", pad(missing / 2), pad(missing - missing / 2)),
            '=' => {
                let sign = usize::from(text.starts_with(['-', '+', ' ']));
                let (sign, digits) = text.split_at(sign);
                format!("{sign}{}{digits}", pad(missing))
            }
            _ => pad(missing) + &text,
        })
    }
}

fn limited(digits: &str) -> Result<usize> {
    match digits.parse::<usize>() {
        Ok(width) if width <= WIDTH_MAX => Ok(width),
        _ => fail(format!("got the width {digits} in a format, expected at most {WIDTH_MAX}")),
    }
}

fn take_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Flags, width, precision and kind after a `%`.
fn printf_spec(text: &str) -> Result<(Spec, &str)> {
    let mut spec = Spec::default();
    let mut rest = text;
    while let Some(flag) = rest.chars().next().filter(|c| matches!(c, '-' | '+' | ' ' | '0' | '#')) {
        match flag {
            '-' => spec.align = Some('<'),
            '0' => spec.zeros = true,
            '#' => spec.alternate = true,
            sign => spec.sign = Some(sign),
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    let (width, more) = take_digits(rest);
    rest = more;
    if !width.is_empty() {
        spec.width = limited(width)?;
    }
    if let Some(more) = rest.strip_prefix('.') {
        let (precision, more) = take_digits(more);
        spec.precision = Some(if precision.is_empty() { 0 } else { limited(precision)? });
        rest = more;
    }
    rest = rest.trim_start_matches(['l', 'h', 'L']);
    spec.kind = rest.chars().next();
    let len = spec.kind.map_or(0, char::len_utf8);
    Ok((spec, rest.get(len..).unwrap_or_default()))
}

/// `[[fill]align][sign][#][0][width][,][.precision][kind]`
fn format_spec(text: &str) -> Result<Spec> {
    let mut spec = Spec::default();
    let mut rest = text;
    let is_align = |c: &char| matches!(c, '<' | '>' | '^' | '=');
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(fill), Some(align)) if is_align(&align) => {
            (spec.fill, spec.align) = (Some(fill), Some(align));
            rest = chars.as_str();
        }
        (Some(align), _) if is_align(&align) => {
            spec.align = Some(align);
            rest = rest.get(1..).unwrap_or_default();
        }
        _ => {}
    }
    let flag = |rest: &mut &str, flag: char| match rest.strip_prefix(flag) {
        Some(more) => {
            *rest = more;
            true
        }
        None => false,
    };
    for sign in ['+', '-', ' '] {
        if flag(&mut rest, sign) {
            spec.sign = Some(sign);
        }
    }
    spec.alternate = flag(&mut rest, '#');
    spec.zeros = flag(&mut rest, '0');
    let (width, more) = take_digits(rest);
    rest = more;
    if !width.is_empty() {
        spec.width = limited(width)?;
    }
    spec.commas = flag(&mut rest, ',');
    if flag(&mut rest, '.') {
        let (precision, more) = take_digits(rest);
        spec.precision = Some(limited(precision)?);
        rest = more;
    }
    let mut kinds = rest.chars();
    spec.kind = kinds.next();
    if kinds.next().is_some() {
        return fail(format!("got the format `{}`, expected one that Python knows", text.escape_debug()));
    }
    Ok(spec)
}

fn grouped(digits: &str) -> String {
    let mut written = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            written.push(',');
        }
        written.push(digit);
    }
    written
}

fn with_groups(number: String, commas: bool) -> String {
    if !commas {
        return number;
    }
    let (sign, number) = number.split_at(usize::from(number.starts_with('-')));
    let (whole, fraction) = number.split_at(number.find('.').unwrap_or(number.len()));
    format!("{sign}{}{fraction}", grouped(whole))
}

/// Rust's `1e5` as Python's `1e+05`.
fn exponent(text: &str) -> String {
    let (digits, power) = text.split_once('e').unwrap_or((text, "0"));
    let power: i32 = power.parse().unwrap_or_default();
    format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

/// `%g`: as many digits as asked for, without zeros at the end.
fn general(number: f64, precision: usize, keep_point: bool) -> String {
    let scientific = format!("{number:.*e}", precision - 1);
    let power: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or_default();
    let trim = |digits: &str| match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    if power < -4 || power >= precision as i32 {
        let (digits, _) = scientific.split_once('e').unwrap_or((&scientific, ""));
        return exponent(&format!("{}e{power}", trim(digits)));
    }
    let decimals = (precision as i32 - 1 - power).max(0) as usize;
    let plain = trim(&format!("{number:.decimals$}"));
    if keep_point && !plain.contains('.') { plain + ".0" } else { plain }
}
