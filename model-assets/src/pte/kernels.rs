//! What the linked runtime can execute, and how each kernel wants to be called.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::program::Value;

const TABLE: &str = include_str!("../kernels/executorch-1.5.1.json");
const SCHEMAS: &str = include_str!("../kernels/operator-schemas.json");

/// What `engine kernels` answers: everything the linked runtime can execute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeTable {
    /// Version of the ExecuTorch runtime.
    pub runtime: String,
    /// Registered backends, sorted.
    pub backends: Vec<String>,
    /// Registered kernels as `namespace::name.overload`, sorted and unique.
    pub kernels: Vec<String>,
}

/// The kernels and backends of the runtime that this version of the project links.
///
/// The engine's own table must be equal; its tests compare them.
#[must_use]
pub fn linked_runtime() -> &'static RuntimeTable {
    static PARSED: OnceLock<RuntimeTable> = OnceLock::new();
    PARSED.get_or_init(|| {
        let empty = || RuntimeTable { runtime: String::new(), backends: Vec::new(), kernels: Vec::new() };
        // The text is part of this crate and a test parses it; an empty table would refuse every operator.
        serde_json::from_str(TABLE).unwrap_or_else(|_| empty())
    })
}

/// How a kernel is called: its arguments, then what follows them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Schema {
    pub(super) args: Vec<Argument>,
    pub(super) returns: Vec<Return>,
}

/// An argument as upstream's schema has it: `int? start=null`.
#[derive(Debug, Deserialize)]
#[serde(from = "String")]
pub(super) struct Argument {
    /// `Tensor`, `int[]`, `Scalar?`, …; `!` follows when the kernel writes it.
    pub(super) kind: String,
    pub(super) name: String,
    /// As JSON. The exporter writes it where the program gives nothing, so that no argument is ever left out.
    pub(super) default: Option<String>,
}

impl From<String> for Argument {
    fn from(text: String) -> Self {
        let (kind, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let (name, default) = rest.split_once('=').map_or((rest, None), |(name, value)| (name, Some(value)));
        Self { kind: kind.to_owned(), name: name.to_owned(), default: default.map(str::to_owned) }
    }
}

impl Argument {
    pub(super) fn is_written(&self) -> bool {
        self.kind.ends_with('!')
    }
}

impl Schema {
    /// The arguments as a person reads them.
    pub(super) fn describe(&self) -> String {
        let one = |argument: &Argument| match &argument.default {
            Some(default) => format!("{} {}={default}", argument.kind, argument.name),
            None => format!("{} {}", argument.kind, argument.name),
        };
        self.args.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// A value that follows the arguments.
#[derive(Debug, Deserialize)]
#[serde(from = "serde_json::Value")]
pub(super) enum Return {
    /// The argument at this position again.
    Alias(usize),
    /// One list of the arguments at these positions.
    List(Vec<usize>),
    /// A fresh value of this kind.
    Fresh(String),
}

impl From<serde_json::Value> for Return {
    fn from(value: serde_json::Value) -> Self {
        let number = |value: &serde_json::Value| value.as_u64().and_then(|value| usize::try_from(value).ok());
        match &value {
            serde_json::Value::Number(_) => Self::Alias(number(&value).unwrap_or(usize::MAX)),
            serde_json::Value::Array(items) => Self::List(items.iter().filter_map(number).collect()),
            _ => Self::Fresh(value.as_str().unwrap_or_default().to_owned()),
        }
    }
}

pub(super) fn schema(operator: &str) -> Option<&'static Schema> {
    static PARSED: OnceLock<HashMap<String, Schema>> = OnceLock::new();
    PARSED.get_or_init(|| serde_json::from_str(SCHEMAS).unwrap_or_default()).get(operator)
}

/// Whether the runtime's unboxing of this kind takes the value without aborting.
///
/// `any_scalar` marks a value that an earlier kernel overwrites with a scalar of a kind known only at run time.
pub(super) fn accepts(kind: &str, value: &Value<'_>, any_scalar: bool) -> bool {
    let kind = kind.trim_end_matches('!');
    let (kind, optional) = kind.strip_suffix('?').map_or((kind, false), |kind| (kind, true));
    if optional && matches!(value, Value::Null) {
        return true;
    }
    match kind {
        "Tensor" => matches!(value, Value::Tensor(_)),
        "Scalar" => any_scalar || matches!(value, Value::Int(_) | Value::Bool(_) | Value::Double(_)),
        "int" => any_scalar || matches!(value, Value::Int(_)),
        "float" => any_scalar || matches!(value, Value::Double(_)),
        "bool" => any_scalar || matches!(value, Value::Bool(_)),
        "ScalarType" | "MemoryFormat" | "Layout" => matches!(value, Value::Int(_)),
        "int[]" => matches!(value, Value::IntList(_)),
        "bool[]" => matches!(value, Value::BoolList),
        "float[]" => matches!(value, Value::DoubleList),
        "str" => matches!(value, Value::Text(_)),
        "Tensor[]" => matches!(value, Value::TensorList(_)),
        "Tensor?[]" => matches!(value, Value::OptionalTensorList(_)),
        _ => false,
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, clippy::panic, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn every_registered_kernel_has_a_schema_of_known_kinds() {
        let table: RuntimeTable = serde_json::from_str(TABLE).expect("the kernel table parses");
        let schemas: HashMap<String, Schema> = serde_json::from_str(SCHEMAS).expect("the schemas parse");
        assert!(table.kernels.is_sorted() && table.kernels.len() > 200);
        for kernel in &table.kernels {
            let schema = schemas.get(kernel).unwrap_or_else(|| panic!("{kernel} has no schema"));
            for Argument { kind, name, default } in &schema.args {
                assert!(!name.is_empty(), "{kernel}: {kind} without a name");
                let known = default.as_ref().map(|text| serde_json::from_str::<serde_json::Value>(text));
                assert!(known.is_none_or(|value| value.is_ok()), "{kernel}: default of {name}");
                let base = kind.trim_end_matches('!');
                let samples = [
                    Value::Null,
                    Value::Int(0),
                    Value::Bool(false),
                    Value::Double(0.0),
                    Value::Tensor(Box::default()),
                    Value::Text(""),
                    Value::IntList(Vec::new()),
                    Value::DoubleList,
                    Value::BoolList,
                    Value::TensorList(Vec::new()),
                    Value::OptionalTensorList(Vec::new()),
                ];
                assert!(samples.iter().any(|sample| accepts(base, sample, false)), "{kernel}: {kind}");
            }
        }
    }
}
