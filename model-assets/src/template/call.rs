//! Arguments and calls.

use std::rc::Rc;

use super::ast::Arguments;
use super::fault::{Fault, Result, fail};
use super::machine::{Looping, Machine, underscore};
use super::value::{Function, Value};

/// Arguments, evaluated.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Rc<str>, Value)>,
}

impl Passed {
    pub(super) fn of(positional: Vec<Value>) -> Self {
        Self { positional, named: Vec::new() }
    }

    /// Puts arguments in the places of their names.
    pub(super) fn bind<const N: usize>(self, of: &str, names: [&str; N]) -> Result<[Option<Value>; N]> {
        let got = self.positional.len();
        if got > N {
            return fail(format!("got {got} arguments for `{of}`, expected at most {N}"));
        }
        let mut found = [const { None }; N];
        for (place, value) in found.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let place = names.iter().position(|known| **known == *name).and_then(|at| found.get_mut(at));
            match place {
                Some(place @ None) => *place = Some(value),
                Some(_) => return fail(format!("got two values for `{name}` of `{of}`")),
                None => {
                    return fail(format!(
                        "got the argument `{name}` for `{of}`, which has none of that name"
                    ));
                }
            }
        }
        Ok(found)
    }

    pub(super) fn none(self, of: &str) -> Result<()> {
        self.bind::<0>(of, []).map(|_| ())
    }
}

/// A whole number, or the default where there is none.
pub(super) fn int_or(value: Option<Value>, default: i64, of: &str) -> Result<i64> {
    match value {
        None => Ok(default),
        Some(value) => value
            .as_int()
            .ok_or_else(|| Fault::new(format!("got a {} for `{of}`, expected an int", value.kind()))),
    }
}

impl<'t> Machine<'t> {
    pub(super) fn pass(&mut self, arguments: &'t Arguments) -> Result<Passed> {
        let mut passed = Passed::default();
        for argument in &arguments.positional {
            passed.positional.push(self.eval(argument)?);
        }
        for (name, value) in &arguments.named {
            let value = self.eval(value)?;
            if passed.named.iter().any(|(known, _)| **known == **name) {
                return fail(format!("got two values for `{name}`"));
            }
            passed.named.push((name.as_str().into(), value));
        }
        if let Some(more) = &arguments.more {
            let more = self.eval(more)?;
            passed.positional.extend(self.items(&more)?);
        }
        if let Some(more) = &arguments.more_named {
            let Value::Dict(dict) = self.eval(more)? else { return fail("got `**` of no dict") };
            for (key, value) in &dict.entries {
                let Value::Text(name) = key else { return fail("got `**` of keys that are no texts") };
                if passed.named.iter().any(|(known, _)| known == name) {
                    return fail(format!("got two values for `{name}`"));
                }
                passed.named.push((Rc::clone(name), value.clone()));
            }
            self.budget.slots(dict.entries.len() * 2)?;
        }
        Ok(passed)
    }

    pub(super) fn call(&mut self, value: &Value, passed: Passed) -> Result<Value> {
        self.budget.steps(1)?;
        match value {
            Value::Macro(place) => self.call_macro(*place, passed),
            Value::Method(method) => {
                let (value, name) = &**method;
                self.method(value, name, passed)
            }
            Value::Function(function) => self.function(*function, passed),
            Value::Loop(place) => self.recurse(*place, passed),
            Value::Joiner(place) => {
                passed.none("joiner")?;
                let (text, used) =
                    self.joiners.get_mut(*place).map_or_else(Default::default, |(text, used)| {
                        (Rc::clone(text), std::mem::replace(used, true))
                    });
                if used { Ok(Value::Text(text)) } else { Ok(Value::text("")) }
            }
            Value::Undefined(name) => fail(format!("{name} is undefined, so it cannot be called")),
            other => fail(format!("got a call of a {}", other.kind())),
        }
    }

    fn function(&mut self, function: Function, passed: Passed) -> Result<Value> {
        match function {
            Function::RaiseException => {
                let [message] = passed.bind("raise_exception", ["message"])?;
                let message = self.text_of(&message.unwrap_or(Value::None))?;
                Self::raised(&message)
            }
            Function::StrftimeNow => {
                let [format] = passed.bind("strftime_now", ["format"])?;
                match format {
                    Some(Value::Text(format)) => {
                        // The longest word of a date has nine letters, for two of its format.
                        self.budget.bytes(format.len() as u64 * 16)?;
                        Ok(Value::Text(self.clock.strftime(&format).map_err(Fault::new)?.into()))
                    }
                    _ => fail("got no format for `strftime_now`, expected a str"),
                }
            }
            Function::Range => {
                let count = passed.positional.len();
                let [a, b, c] = passed.bind("range", ["", "", ""])?;
                let (a, b, c) = (int_or(a, 0, "range")?, int_or(b, 0, "range")?, int_or(c, 1, "range")?);
                match count {
                    0 => fail("got no arguments for `range`"),
                    1 => self.range(0, a, 1),
                    _ => self.range(a, b, c),
                }
            }
            Function::Dict => self.dict_of(passed, "dict").and_then(|entries| self.dict(entries)),
            Function::Namespace => {
                let entries = self.dict_of(passed, "namespace")?;
                self.budget.slots(entries.len() * 2 + 1)?;
                let mut fields = Vec::new();
                for (key, value) in entries {
                    match key {
                        Value::Text(name) if name.starts_with('_') => return underscore(&name),
                        Value::Text(name) => fields.push((name, value)),
                        other => return fail(format!("got a {} for a namespace's name", other.kind())),
                    }
                }
                self.namespaces.push(fields);
                Ok(Value::Namespace(self.namespaces.len() - 1))
            }
            Function::Cycler => {
                if passed.positional.is_empty() || !passed.named.is_empty() {
                    return fail("got no values for `cycler`");
                }
                self.budget.slots(passed.positional.len() + 1)?;
                self.cyclers.push((passed.positional, 0));
                Ok(Value::Cycler(self.cyclers.len() - 1))
            }
            Function::Joiner => {
                let [text] = passed.bind("joiner", ["sep"])?;
                let text = match text {
                    Some(text) => self.text_of(&text)?,
                    None => ", ".into(),
                };
                self.budget.slots(1)?;
                self.joiners.push((text, false));
                Ok(Value::Joiner(self.joiners.len() - 1))
            }
        }
    }

    fn dict_of(&mut self, passed: Passed, of: &str) -> Result<Vec<(Value, Value)>> {
        let mut entries = Vec::new();
        if passed.positional.len() > 1 {
            return fail(format!("got {} arguments for `{of}`, expected one", passed.positional.len()));
        }
        match passed.positional.first() {
            None => {}
            Some(Value::Dict(dict)) => {
                self.budget.slots(dict.entries.len() * 2)?;
                entries.clone_from(&dict.entries);
            }
            Some(pairs) => {
                for pair in self.items(pairs)? {
                    let pair = self.items(&pair)?;
                    let [key, value] = pair.as_slice() else {
                        return fail(format!("got no pairs for `{of}`"));
                    };
                    self.insert(&mut entries, key.clone(), value.clone())?;
                }
            }
        }
        for (name, value) in passed.named {
            self.insert(&mut entries, Value::Text(name), value)?;
        }
        Ok(entries)
    }

    fn recurse(&mut self, place: usize, passed: Passed) -> Result<Value> {
        let [iter] = passed.bind("loop", ["iterable"])?;
        match self.loops.get(place) {
            Some(Looping { it, scope, depth, .. }) if it.recursive => {
                let (it, scope, depth) = (*it, *scope, depth + 1);
                let iter = iter.unwrap_or(Value::None);
                self.captured(|machine| machine.run_loop(it, scope, &iter, depth).map(|_| ()))
            }
            _ => fail("got a call of a loop that is not `recursive`"),
        }
    }

    pub(super) fn loop_attribute(&mut self, place: usize, name: &str) -> Result<Value> {
        let Some(Looping { items, index, depth, .. }) = self.loops.get(place) else {
            return Ok(Value::Undefined(name.into()));
        };
        let (len, index, depth) = (items.len() as i64, *index, *depth as i64);
        let at = index as i64;
        Ok(match name {
            "index" => Value::Int(at + 1),
            "index0" => Value::Int(at),
            "revindex" => Value::Int(len - at),
            "revindex0" => Value::Int(len - at - 1),
            "first" => Value::Bool(index == 0),
            "last" => Value::Bool(at + 1 == len),
            "length" => Value::Int(len),
            "depth" => Value::Int(depth + 1),
            "depth0" => Value::Int(depth),
            "previtem" => {
                let item = index.checked_sub(1).and_then(|before| items.get(before));
                item.cloned().unwrap_or_else(|| Value::Undefined("the item before the first".into()))
            }
            "nextitem" => items
                .get(index + 1)
                .cloned()
                .unwrap_or_else(|| Value::Undefined("the item after the last".into())),
            "cycle" | "changed" => Value::Method(Rc::new((Value::Loop(place), name.to_owned()))),
            other => Value::Undefined(other.into()),
        })
    }
}
