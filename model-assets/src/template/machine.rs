//! The machine that renders: scopes, statements, macros and loops.
//!
//! **Invariant:** a rendering reads the template, what it is given and the clock that it is given, and nothing else.

use std::collections::VecDeque;
use std::rc::Rc;

use super::ast::{For, Macro, Stmt, Target};
use super::budget::{Budget, VALUE_DEPTH_MAX};
use super::clock::Clock;
use super::fault::{Fault, Result, fail};
use super::value::{Data, Dict, Function, Range, Seq, Value};
use crate::limits::PROMPT_BYTES_MAX;

pub(super) struct Machine<'t> {
    pub(super) budget: Budget,
    pub(super) clock: Clock,
    /// What is being written: the prompt, or what a block captures.
    pub(super) out: String,
    pub(super) scopes: Vec<Scope<'t>>,
    /// Scopes below this place may be looked at by a macro and stay.
    pub(super) kept: usize,
    /// The scope at hand.
    pub(super) scope: usize,
    pub(super) namespaces: Vec<Vec<(Rc<str>, Value)>>,
    pub(super) macros: Vec<Defined<'t>>,
    pub(super) loops: Vec<Looping<'t>>,
    pub(super) iters: Vec<VecDeque<Value>>,
    pub(super) cyclers: Vec<(Vec<Value>, usize)>,
    pub(super) joiners: Vec<(Rc<str>, bool)>,
}

pub(super) struct Scope<'t> {
    names: Vec<(&'t str, Value)>,
    parent: Option<usize>,
}

/// A macro and the scope that it was made in.
#[derive(Clone, Copy)]
pub(super) struct Defined<'t> {
    pub(super) it: &'t Macro,
    pub(super) scope: usize,
}

/// A loop that runs.
pub(super) struct Looping<'t> {
    pub(super) it: &'t For,
    pub(super) scope: usize,
    pub(super) items: Rc<Vec<Value>>,
    pub(super) index: usize,
    pub(super) depth: usize,
    pub(super) changed: Option<Vec<Value>>,
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

impl<'t> Machine<'t> {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            budget: Budget::new(),
            clock,
            out: String::new(),
            scopes: vec![Scope { names: Vec::new(), parent: None }],
            kept: 0,
            scope: 0,
            namespaces: Vec::new(),
            macros: Vec::new(),
            loops: Vec::new(),
            iters: Vec::new(),
            cyclers: Vec::new(),
            joiners: Vec::new(),
        }
    }

    /// Renders a template with names that it is given.
    pub(super) fn render(&mut self, body: &'t [Stmt], given: &[(&'t str, &Data)]) -> Result<String> {
        for (name, data) in given {
            let value = self.given(data)?;
            self.assign(name, value);
        }
        // What the template sets stands before what it is given.
        self.open_scope(0);
        self.body(body)?;
        Ok(std::mem::take(&mut self.out))
    }

    fn given(&mut self, data: &Data) -> Result<Value> {
        Ok(match data {
            Data::Null => Value::None,
            Data::Bool(value) => Value::Bool(*value),
            Data::Int(value) => Value::Int(*value),
            Data::Float(value) => Value::Float(*value),
            Data::Text(text) => self.new_text(text)?,
            Data::List(items) => {
                let items = items.iter().map(|item| self.given(item)).collect::<Result<_>>()?;
                self.list(items)?
            }
            Data::Map(fields) => {
                let mut entries = Vec::with_capacity(fields.len());
                for (name, value) in fields {
                    entries.push((self.new_text(name)?, self.given(value)?));
                }
                self.dict(entries)?
            }
        })
    }

    pub(super) fn new_text(&mut self, text: &str) -> Result<Value> {
        self.budget.bytes(text.len() as u64)?;
        Ok(Value::text(text))
    }

    fn deep(&mut self, inner: impl Iterator<Item = u16>) -> Result<u16> {
        match inner.max().unwrap_or_default().saturating_add(1) {
            depth if depth > VALUE_DEPTH_MAX => {
                fail(format!("got lists deeper than {VALUE_DEPTH_MAX} in each other"))
            }
            depth => Ok(depth),
        }
    }

    pub(super) fn seq(&mut self, items: Vec<Value>) -> Result<Rc<Seq>> {
        self.budget.slots(items.len())?;
        let depth = self.deep(items.iter().map(Value::depth))?;
        Ok(Rc::new(Seq { items, depth }))
    }

    pub(super) fn list(&mut self, items: Vec<Value>) -> Result<Value> {
        self.seq(items).map(Value::List)
    }

    pub(super) fn tuple(&mut self, items: Vec<Value>) -> Result<Value> {
        self.seq(items).map(Value::Tuple)
    }

    /// A dictionary of entries whose keys differ.
    pub(super) fn dict(&mut self, entries: Vec<(Value, Value)>) -> Result<Value> {
        self.budget.slots(entries.len().saturating_mul(2))?;
        let depth = self.deep(entries.iter().map(|(key, value)| key.depth().max(value.depth())))?;
        Ok(Value::Dict(Rc::new(Dict { entries, depth })))
    }

    pub(super) fn iter(&mut self, items: impl IntoIterator<Item = Value>) -> Result<Value> {
        let items: VecDeque<Value> = items.into_iter().collect();
        self.budget.slots(items.len() + 1)?;
        self.iters.push(items);
        Ok(Value::Iter(self.iters.len() - 1))
    }

    /// The items of anything that can be gone through.
    pub(super) fn items(&mut self, value: &Value) -> Result<Vec<Value>> {
        let found: Vec<Value> = match value {
            Value::Undefined(_) => Vec::new(),
            Value::List(seq) | Value::Tuple(seq) => {
                self.budget.slots(seq.items.len())?;
                seq.items.clone()
            }
            Value::Dict(dict) => {
                self.budget.slots(dict.entries.len())?;
                dict.entries.iter().map(|(key, _)| key.clone()).collect()
            }
            Value::Range(range) => {
                self.budget.slots(range.len)?;
                range.iter().collect()
            }
            Value::Text(text) => {
                // Each character is a text of its own.
                self.budget.slots(text.len().saturating_mul(2))?;
                text.chars().map(|c| Value::text(c.encode_utf8(&mut [0; 4]))).collect()
            }
            Value::Iter(place) => self.iters.get_mut(*place).map(std::mem::take).unwrap_or_default().into(),
            other => return fail(format!("got a {}, expected something to go through", other.kind())),
        };
        self.budget.steps(found.len() as u64)?;
        Ok(found)
    }

    pub(super) fn range(&mut self, start: i64, stop: i64, step: i64) -> Result<Value> {
        /// What the sandbox of Jinja allows.
        const RANGE_ITEMS_MAX: u64 = 100_000;
        let span = if step > 0 {
            i128::from(stop) - i128::from(start)
        } else {
            i128::from(start) - i128::from(stop)
        };
        let len = match (span, i128::from(step).abs()) {
            (_, 0) => return fail("got a range with step 0"),
            (span, _) if span <= 0 => 0,
            (span, step) => (span + step - 1) / step,
        };
        match u64::try_from(len) {
            Ok(len) if len <= RANGE_ITEMS_MAX => {
                Ok(Value::Range(Rc::new(Range { start, step, len: len as usize })))
            }
            _ => fail(format!("got a range of {len} items, expected at most {RANGE_ITEMS_MAX}")),
        }
    }

    pub(super) fn open_scope(&mut self, parent: usize) {
        self.scopes.push(Scope { names: Vec::new(), parent: Some(parent) });
        self.scope = self.scopes.len() - 1;
    }

    /// Leaves a scope for the one that was at hand before; its memory is used again unless a macro looks at it.
    pub(super) fn close_scope(&mut self, before: usize) {
        let opened = self.scope;
        self.scope = before;
        if opened >= self.kept {
            self.scopes.truncate(opened);
        }
    }

    pub(super) fn assign(&mut self, name: &'t str, value: Value) {
        let Some(scope) = self.scopes.get_mut(self.scope) else { return };
        match scope.names.iter_mut().find(|(known, _)| *known == name) {
            Some((_, place)) => *place = value,
            None => scope.names.push((name, value)),
        }
    }

    pub(super) fn lookup(&mut self, name: &str) -> Result<Value> {
        let mut place = Some(self.scope);
        while let Some(scope) = place.and_then(|place| self.scopes.get(place)) {
            self.budget.steps(1 + scope.names.len() as u64 / 8)?;
            if let Some((_, value)) = scope.names.iter().find(|(known, _)| *known == name) {
                return Ok(value.clone());
            }
            place = scope.parent;
        }
        let function = Function::ALL.iter().find(|(known, _)| *known == name);
        Ok(match function {
            Some((_, function)) => Value::Function(*function),
            None => Value::Undefined(name.into()),
        })
    }

    pub(super) fn write(&mut self, text: &str) -> Result<()> {
        self.budget.bytes(text.len() as u64)?;
        if self.out.len().saturating_add(text.len()) > PROMPT_BYTES_MAX {
            return fail(format!("got a prompt of more than {PROMPT_BYTES_MAX} bytes"));
        }
        self.out.push_str(text);
        Ok(())
    }

    /// What a piece of work writes, as a text of its own.
    pub(super) fn captured(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<Value> {
        let before = std::mem::take(&mut self.out);
        let done = work(self);
        let text = std::mem::replace(&mut self.out, before);
        done?;
        self.new_text(&text)
    }

    pub(super) fn set(&mut self, target: &'t Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => self.assign(name, value),
            Target::Attribute(_, attribute) if attribute.starts_with('_') => return underscore(attribute),
            Target::Attribute(name, attribute) => match self.lookup(name)? {
                Value::Namespace(place) => {
                    let Some(fields) = self.namespaces.get_mut(place) else { return Ok(()) };
                    self.budget.steps(1 + fields.len() as u64 / 8)?;
                    match fields.iter_mut().find(|(known, _)| **known == **attribute) {
                        Some((_, place)) => *place = value,
                        None => {
                            self.budget.slots(2)?;
                            fields.push((attribute.as_str().into(), value));
                        }
                    }
                }
                other => return fail(format!("got a {} for `{name}`, expected a namespace", other.kind())),
            },
            Target::Tuple(targets) => {
                let items = self.items(&value)?;
                if items.len() != targets.len() {
                    return fail(format!("got {} values to unpack, expected {}", items.len(), targets.len()));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.set(target, item)?;
                }
            }
        }
        Ok(())
    }

    /// A template's own refusal.
    pub(super) fn raised<T>(message: &str) -> Result<T> {
        Err(Box::new(Fault { line: 0, message: message.to_owned(), raised: true }))
    }
}

/// `transformers` refuses such names, which could lead into Python itself.
pub(super) fn underscore<T>(name: &str) -> Result<T> {
    fail(format!("got `{name}` for a namespace, expected a name that begins with a letter"))
}
