//! The program flatbuffer as owned Rust values, read in full before anything is judged.

use super::flat::{Flat, Read, Table};

#[derive(Debug, Default)]
pub(super) struct Program<'a> {
    pub(super) version: u32,
    pub(super) plans: Vec<ExecutionPlan<'a>>,
    pub(super) inline_constants: usize,
    /// Offset in the program and length.
    pub(super) inline_delegates: Vec<(usize, usize)>,
    pub(super) segments: Vec<DataSegment>,
    pub(super) constants: Option<Subsegment>,
    pub(super) mutables: Vec<Subsegment>,
    pub(super) named: Vec<Named<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct DataSegment {
    pub(super) offset: u64,
    pub(super) size: u64,
}

#[derive(Debug)]
pub(super) struct Subsegment {
    pub(super) segment: u32,
    pub(super) offsets: Vec<u64>,
}

#[derive(Debug)]
pub(super) struct Named<'a> {
    pub(super) key: Option<&'a str>,
    pub(super) segment: u32,
}

#[derive(Debug, Default)]
pub(super) struct ExecutionPlan<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) values: Vec<Value<'a>>,
    pub(super) inputs: Vec<i32>,
    pub(super) outputs: Vec<i32>,
    pub(super) chains: Vec<Chain>,
    pub(super) operators: Vec<Operator<'a>>,
    pub(super) delegates: Vec<Delegate<'a>>,
    pub(super) planned: Vec<i64>,
    /// Buffer index, device type, device index.
    pub(super) devices: Vec<(i32, i8, i8)>,
    /// Vectors that the runtime dereferences although the schema lets them be absent.
    pub(super) missing: Vec<&'static str>,
}

#[derive(Debug)]
pub(super) enum Value<'a> {
    Unknown(u8),
    /// The union has a kind, but no table or no content.
    Hollow(&'static str),
    Null,
    Int(i64),
    Bool(bool),
    Double(f64),
    Tensor(Box<Tensor<'a>>),
    Text(&'a str),
    IntList(Vec<i64>),
    DoubleList,
    BoolList,
    TensorList(Vec<i32>),
    OptionalTensorList(Vec<i32>),
}

impl Value<'_> {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown",
            Self::Hollow(kind) => kind,
            Self::Null => "null",
            Self::Int(_) => "int",
            Self::Bool(_) => "bool",
            Self::Double(_) => "double",
            Self::Tensor(_) => "tensor",
            Self::Text(_) => "string",
            Self::IntList(_) => "int list",
            Self::DoubleList => "double list",
            Self::BoolList => "bool list",
            Self::TensorList(_) => "tensor list",
            Self::OptionalTensorList(_) => "optional tensor list",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Tensor<'a> {
    pub(super) dtype: i8,
    pub(super) storage_offset: i32,
    pub(super) sizes: Option<Vec<i32>>,
    pub(super) dim_order: Option<Vec<u8>>,
    pub(super) buffer: u32,
    pub(super) allocation: Option<Allocation>,
    pub(super) layout: i8,
    pub(super) dynamism: i8,
    pub(super) extra: Option<Extra<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Allocation {
    pub(super) memory: u32,
    pub(super) offset: u64,
}

#[derive(Debug)]
pub(super) struct Extra<'a> {
    pub(super) mutable_table: u64,
    pub(super) name: Option<&'a str>,
    pub(super) location: i8,
    pub(super) device: i8,
    pub(super) device_index: i8,
}

#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) inputs: Vec<i32>,
    pub(super) outputs: Vec<i32>,
    pub(super) instructions: Option<Vec<Instruction>>,
}

#[derive(Debug)]
pub(super) enum Instruction {
    Unknown(u8),
    Hollow,
    Kernel { operator: i32, args: Option<Vec<i32>> },
    Delegate { delegate: i32, args: Option<Vec<i32>> },
    Move { from: i32, to: i32 },
    JumpFalse { condition: i32, target: i32 },
    Free { value: i32 },
}

#[derive(Debug)]
pub(super) struct Operator<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) overload: Option<&'a str>,
}

/// `namespace::name.overload`, as the runtime looks it up.
pub(super) fn operator_name(operator: &Operator<'_>) -> Option<String> {
    let name = operator.name.filter(|name| !name.is_empty())?;
    Some(match operator.overload.filter(|overload| !overload.is_empty()) {
        Some(overload) => format!("{name}.{overload}"),
        None => name.to_owned(),
    })
}

#[derive(Debug)]
pub(super) struct Delegate<'a> {
    pub(super) id: Option<&'a str>,
    /// Location and index.
    pub(super) data: Option<(i8, u32)>,
    /// Key, and whether a value is there.
    pub(super) specs: Vec<(Option<&'a str>, bool)>,
}

pub(super) fn parse<'a>(flat: &Flat<'a>) -> Read<Program<'a>> {
    let root = flat.root(8)?;
    let mut program = Program { version: root.u32(0)?.unwrap_or(0), ..Program::default() };
    for plan in root.tables(1, 10)?.unwrap_or_default() {
        program.plans.push(parse_plan(plan)?);
    }
    for buffer in root.tables(2, 1)?.unwrap_or_default() {
        buffer.bytes(0)?;
        program.inline_constants = program.inline_constants.saturating_add(1);
    }
    for blob in root.tables(3, 1)?.unwrap_or_default() {
        let (bytes, start) = blob.bytes(0)?.unwrap_or_default();
        program.inline_delegates.push((start, bytes.len()));
    }
    for segment in root.tables(4, 2)?.unwrap_or_default() {
        let (offset, size) = (segment.u64(0)?.unwrap_or(0), segment.u64(1)?.unwrap_or(0));
        program.segments.push(DataSegment { offset, size });
    }
    program.constants = root.table(5, 2)?.map(parse_subsegment).transpose()?;
    for table in root.tables(6, 2)?.unwrap_or_default() {
        program.mutables.push(parse_subsegment(table)?);
    }
    for table in root.tables(7, 2)?.unwrap_or_default() {
        program.named.push(Named { key: table.string(0)?, segment: table.u32(1)?.unwrap_or(0) });
    }
    Ok(program)
}

fn parse_subsegment(table: Table<'_, '_>) -> Read<Subsegment> {
    Ok(Subsegment { segment: table.u32(0)?.unwrap_or(0), offsets: table.u64s(1)?.unwrap_or_default() })
}

fn parse_plan<'a>(table: Table<'_, 'a>) -> Read<ExecutionPlan<'a>> {
    let mut plan = ExecutionPlan { name: table.string(0)?, ..ExecutionPlan::default() };
    if let Some(container) = table.table(1, 2)? {
        container.string(0)?;
        container.string(1)?;
    }
    let mut present = |name: &'static str, there: bool| {
        if !there {
            plan.missing.push(name);
        }
    };
    let values = table.tables(2, 2)?;
    present("values", values.is_some());
    let inputs = table.i32s(3)?;
    present("inputs", inputs.is_some());
    let outputs = table.i32s(4)?;
    present("outputs", outputs.is_some());
    let chains = table.tables(5, 4)?;
    present("chains", chains.is_some());
    let operators = table.tables(6, 2)?;
    present("operators", operators.is_some());
    let delegates = table.tables(7, 3)?;
    present("delegates", delegates.is_some());
    let planned = table.i64s(8)?;
    present("planned sizes", planned.is_some());

    plan.values = values.unwrap_or_default().into_iter().map(parse_value).collect::<Read<_>>()?;
    plan.inputs = inputs.unwrap_or_default();
    plan.outputs = outputs.unwrap_or_default();
    plan.chains = chains.unwrap_or_default().into_iter().map(parse_chain).collect::<Read<_>>()?;
    for operator in operators.unwrap_or_default() {
        plan.operators.push(Operator { name: operator.string(0)?, overload: operator.string(1)? });
    }
    plan.delegates = delegates.unwrap_or_default().into_iter().map(parse_delegate).collect::<Read<_>>()?;
    plan.planned = planned.unwrap_or_default();
    for device in table.tables(9, 3)?.unwrap_or_default() {
        let (index, kind) = (device.i32(0)?.unwrap_or(0), device.i8(1)?.unwrap_or(0));
        plan.devices.push((index, kind, device.i8(2)?.unwrap_or(0)));
    }
    Ok(plan)
}

fn parse_value<'a>(table: Table<'_, 'a>) -> Read<Value<'a>> {
    let kind = table.u8(0)?.unwrap_or(0);
    let fields = match kind {
        1 => 0,
        2..=4 | 6..=11 => 1,
        5 => 10,
        // What an unknown kind refers to stays unread, hence also hidden (P7).
        _ => return Ok(Value::Unknown(kind)),
    };
    let Some(body) = table.table(1, fields)? else {
        return Ok(if kind == 1 { Value::Null } else { Value::Hollow("value without table") });
    };
    Ok(match kind {
        1 => Value::Null,
        2 => Value::Int(body.i64(0)?.unwrap_or(0)),
        3 => Value::Bool(body.bool(0)?.unwrap_or(false)),
        4 => Value::Double(body.f64(0)?.unwrap_or(0.0)),
        5 => Value::Tensor(Box::new(parse_tensor(body)?)),
        6 => body.string(0)?.map_or(Value::Hollow("string without text"), Value::Text),
        7 => body.i64s(0)?.map_or(Value::Hollow("int list without items"), Value::IntList),
        8 => body.f64s(0)?.map_or(Value::Hollow("double list without items"), |_| Value::DoubleList),
        9 => match body.bytes(0)? {
            None => Value::Hollow("bool list without items"),
            Some((items, at)) if items.iter().any(|&item| item > 1) => {
                return Err(super::flat::Fault::Malformed("a boolean is neither 0 nor 1", at));
            }
            Some(_) => Value::BoolList,
        },
        10 => body.i32s(0)?.map_or(Value::Hollow("tensor list without items"), Value::TensorList),
        _ => body
            .i32s(0)?
            .map_or(Value::Hollow("optional tensor list without items"), Value::OptionalTensorList),
    })
}

fn parse_tensor<'a>(table: Table<'_, 'a>) -> Read<Tensor<'a>> {
    let allocation = table.table(6, 3)?.map(|details| -> Read<Allocation> {
        let (low, high) = (details.u32(1)?.unwrap_or(0), details.u32(2)?.unwrap_or(0));
        let offset = (u64::from(high) << 32) | u64::from(low);
        Ok(Allocation { memory: details.u32(0)?.unwrap_or(0), offset })
    });
    let extra = table.table(9, 5)?.map(|extra| -> Read<Extra<'a>> {
        Ok(Extra {
            mutable_table: extra.u64(0)?.unwrap_or(0),
            name: extra.string(1)?,
            location: extra.i8(2)?.unwrap_or(0),
            device: extra.i8(3)?.unwrap_or(0),
            device_index: extra.i8(4)?.unwrap_or(0),
        })
    });
    table.bool(4)?;
    Ok(Tensor {
        dtype: table.i8(0)?.unwrap_or(0),
        storage_offset: table.i32(1)?.unwrap_or(0),
        sizes: table.i32s(2)?,
        dim_order: table.u8s(3)?,
        buffer: table.u32(5)?.unwrap_or(0),
        allocation: allocation.transpose()?,
        layout: table.i8(7)?.unwrap_or(0),
        dynamism: table.i8(8)?.unwrap_or(0),
        extra: extra.transpose()?,
    })
}

fn parse_chain(table: Table<'_, '_>) -> Read<Chain> {
    let inputs = table.i32s(0)?.unwrap_or_default();
    let outputs = table.i32s(1)?.unwrap_or_default();
    let instructions = table.tables(2, 2)?;
    for frames in table.tables(3, 1)?.unwrap_or_default() {
        for frame in frames.tables(0, 4)?.unwrap_or_default() {
            frame.string(0)?;
            frame.i32(1)?;
            frame.string(2)?;
            frame.string(3)?;
        }
    }
    let instructions =
        instructions.map(|list| list.into_iter().map(parse_instruction).collect::<Read<_>>()).transpose()?;
    Ok(Chain { inputs, outputs, instructions })
}

fn parse_instruction(table: Table<'_, '_>) -> Read<Instruction> {
    let kind = table.u8(0)?.unwrap_or(0);
    let fields = match kind {
        1..=4 => 2,
        5 => 1,
        _ => return Ok(Instruction::Unknown(kind)),
    };
    let Some(body) = table.table(1, fields)? else { return Ok(Instruction::Hollow) };
    let int = |field| Ok(body.i32(field)?.unwrap_or(0));
    Ok(match kind {
        1 => Instruction::Kernel { operator: int(0)?, args: body.i32s(1)? },
        2 => Instruction::Delegate { delegate: int(0)?, args: body.i32s(1)? },
        3 => Instruction::Move { from: int(0)?, to: int(1)? },
        4 => Instruction::JumpFalse { condition: int(0)?, target: int(1)? },
        _ => Instruction::Free { value: int(0)? },
    })
}

fn parse_delegate<'a>(table: Table<'_, 'a>) -> Read<Delegate<'a>> {
    let data = table.table(1, 2)?.map(|data| Ok((data.i8(0)?.unwrap_or(0), data.u32(1)?.unwrap_or(0))));
    let mut specs = Vec::new();
    for spec in table.tables(2, 2)?.unwrap_or_default() {
        specs.push((spec.string(0)?, spec.bytes(1)?.is_some()));
    }
    Ok(Delegate { id: table.string(0)?, data: data.transpose()?, specs })
}
