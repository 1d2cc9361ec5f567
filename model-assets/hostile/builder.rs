//! A builder of small `.pte` files, good ones and bad ones.
//!
//! The good file is a toy language model with everything that the checks look at: a quantized embedding outside, a
//! quantized linear inside an XNNPACK delegate, a constant segment, named data under their digests, metadata
//! methods. A test takes it, breaks one thing and builds it. No binary is kept: the abuse is readable.

use sha2::{Digest, Sha256};

/// A field of a flatbuffers table.
#[derive(Debug, Clone)]
pub(crate) enum Val {
    /// A scalar, little-endian; its length is its alignment.
    Raw(Vec<u8>),
    Str(String),
    /// A vector: bytes per element, and the elements.
    Vec(usize, Vec<u8>),
    Table(T),
    Tables(Vec<T>),
    /// An offset as it stands, to point anywhere.
    Offset(u32),
}

/// A flatbuffers table: field id to value.
#[derive(Debug, Clone, Default)]
pub(crate) struct T(pub(crate) Vec<(u16, Val)>);

pub(crate) fn u8(value: u8) -> Val {
    Val::Raw(vec![value])
}
pub(crate) fn i8(value: i8) -> Val {
    Val::Raw(value.to_le_bytes().to_vec())
}
pub(crate) fn i16(value: i16) -> Val {
    Val::Raw(value.to_le_bytes().to_vec())
}
pub(crate) fn i32(value: i32) -> Val {
    Val::Raw(value.to_le_bytes().to_vec())
}
pub(crate) fn u32(value: u32) -> Val {
    Val::Raw(value.to_le_bytes().to_vec())
}
pub(crate) fn i64(value: i64) -> Val {
    Val::Raw(value.to_le_bytes().to_vec())
}
pub(crate) fn u64(value: u64) -> Val {
    Val::Raw(value.to_le_bytes().to_vec())
}
pub(crate) fn f32(value: f32) -> Val {
    Val::Raw(value.to_le_bytes().to_vec())
}
pub(crate) fn i32s(values: &[i32]) -> Val {
    Val::Vec(4, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}
pub(crate) fn u32s(values: &[u32]) -> Val {
    Val::Vec(4, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}
pub(crate) fn i64s(values: &[i64]) -> Val {
    Val::Vec(8, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}
pub(crate) fn u64s(values: &[u64]) -> Val {
    Val::Vec(8, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}
pub(crate) fn f32s(values: &[f32]) -> Val {
    Val::Vec(4, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}
pub(crate) fn bytes(values: &[u8]) -> Val {
    Val::Vec(1, values.to_vec())
}
pub(crate) fn str(value: &str) -> Val {
    Val::Str(value.to_owned())
}

impl T {
    pub(crate) fn new(fields: impl IntoIterator<Item = (u16, Val)>) -> Self {
        Self(fields.into_iter().collect())
    }

    pub(crate) fn set(&mut self, field: u16, value: Val) -> &mut Self {
        self.unset(field);
        self.0.push((field, value));
        self
    }

    pub(crate) fn unset(&mut self, field: u16) -> &mut Self {
        self.0.retain(|(id, _)| *id != field);
        self
    }

    pub(crate) fn sub(&mut self, field: u16) -> &mut Self {
        match self.0.iter_mut().find(|(id, _)| *id == field) {
            Some((_, Val::Table(table))) => table,
            other => panic!("field {field} is no table: {other:?}"),
        }
    }

    pub(crate) fn list(&mut self, field: u16) -> &mut Vec<Self> {
        match self.0.iter_mut().find(|(id, _)| *id == field) {
            Some((_, Val::Tables(tables))) => tables,
            other => panic!("field {field} is no list of tables: {other:?}"),
        }
    }

    pub(crate) fn item(&mut self, field: u16, index: usize) -> &mut Self {
        &mut self.list(field)[index]
    }
}

fn align(buffer: &mut Vec<u8>, to: usize) {
    while !buffer.len().is_multiple_of(to) {
        buffer.push(0);
    }
}

fn point(buffer: &mut [u8], slot: usize, target: usize) {
    let offset = u32::try_from(target - slot).expect("small");
    buffer[slot..slot + 4].copy_from_slice(&offset.to_le_bytes());
}

/// Writes a flatbuffer behind `head`, whose first four bytes become the root offset.
pub(crate) fn flatbuffer(root: &T, head: &[u8]) -> Vec<u8> {
    let mut buffer = head.to_vec();
    let at = write_table(&mut buffer, root);
    point(&mut buffer, 0, at);
    buffer
}

fn write_table(buffer: &mut Vec<u8>, table: &T) -> usize {
    let fields = table.0.iter().map(|(id, _)| usize::from(*id) + 1).max().unwrap_or(0);
    align(buffer, 8);
    let vtable = buffer.len();
    buffer.resize(vtable + 4 + 2 * fields, 0);
    align(buffer, 8);
    let at = buffer.len();
    buffer.extend(i32::try_from(at - vtable).expect("small").to_le_bytes());
    let mut slots = Vec::new();
    for (id, value) in &table.0 {
        let raw = match value {
            Val::Raw(raw) => raw.clone(),
            Val::Offset(offset) => offset.to_le_bytes().to_vec(),
            _ => vec![0; 4],
        };
        align(buffer, raw.len());
        let slot = buffer.len();
        slots.push(slot);
        let entry = u16::try_from(slot - at).expect("small").to_le_bytes();
        let place = vtable + 4 + 2 * usize::from(*id);
        buffer[place..place + 2].copy_from_slice(&entry);
        buffer.extend(raw);
    }
    let sizes =
        [u16::try_from(4 + 2 * fields), u16::try_from(buffer.len() - at)].map(|size| size.expect("small"));
    buffer[vtable..vtable + 2].copy_from_slice(&sizes[0].to_le_bytes());
    buffer[vtable + 2..vtable + 4].copy_from_slice(&sizes[1].to_le_bytes());
    for ((_, value), slot) in table.0.iter().zip(slots) {
        write_child(buffer, value, slot);
    }
    at
}

fn write_child(buffer: &mut Vec<u8>, value: &Val, slot: usize) {
    let at = match value {
        Val::Raw(_) | Val::Offset(_) => return,
        Val::Table(table) => write_table(buffer, table),
        Val::Str(text) => {
            align(buffer, 4);
            let at = buffer.len();
            buffer.extend(u32::try_from(text.len()).expect("small").to_le_bytes());
            buffer.extend(text.as_bytes());
            buffer.push(0);
            at
        }
        Val::Vec(width, elements) => {
            align(buffer, 4);
            while !(buffer.len() + 4).is_multiple_of((*width).max(4)) {
                buffer.push(0);
            }
            let at = buffer.len();
            buffer.extend(u32::try_from(elements.len() / width).expect("small").to_le_bytes());
            buffer.extend(elements);
            at
        }
        Val::Tables(tables) => {
            align(buffer, 4);
            let at = buffer.len();
            buffer.extend(u32::try_from(tables.len()).expect("small").to_le_bytes());
            let first = buffer.len();
            buffer.resize(first + 4 * tables.len(), 0);
            for (index, table) in tables.iter().enumerate() {
                let target = write_table(buffer, table);
                point(buffer, first + 4 * index, target);
            }
            at
        }
    };
    point(buffer, slot, at);
}

// ---- the good file -------------------------------------------------------------------------------------------------

pub(crate) const VOCAB: i32 = 8;
pub(crate) const DIM: i32 = 32;
pub(crate) const LENGTH: i32 = 4;

/// A file before it is laid out. Every knob is public, so that a test can turn one.
#[derive(Debug, Clone)]
pub(crate) struct Pte {
    pub(crate) program: T,
    pub(crate) segments: Vec<Vec<u8>>,
    /// The graph of the only delegate, written into segment 1.
    pub(crate) graph: T,
    /// Changes the blob after it was laid out.
    pub(crate) blob: fn(&mut Vec<u8>),
    /// Changes offset and size of each segment entry after the layout.
    pub(crate) entry: fn(usize, &mut u64, &mut u64),
    pub(crate) header_length: u32,
    /// Changes the whole file at the end.
    pub(crate) file: fn(&mut Vec<u8>),
}

pub(crate) fn tensor(dtype: i8, sizes: &[i32]) -> T {
    let order: Vec<u8> = (0..sizes.len()).map(|dim| dim as u8).collect();
    T::new([(0, i8(dtype)), (2, i32s(sizes)), (3, bytes(&order))])
}

pub(crate) fn value(kind: u8, body: T) -> T {
    T::new([(0, u8(kind)), (1, Val::Table(body))])
}

pub(crate) fn planned(mut tensor: T, offset: u32) -> T {
    tensor.set(6, Val::Table(T::new([(0, u32(1)), (1, u32(offset))])));
    tensor
}

pub(crate) fn constant(mut tensor: T, index: u32) -> T {
    tensor.set(5, u32(index));
    tensor
}

pub(crate) fn int(number: i64) -> T {
    value(2, T::new([(0, i64(number))]))
}

pub(crate) fn kernel(operator: i32, args: &[i32]) -> T {
    T::new([(0, u8(1)), (1, Val::Table(T::new([(0, i32(operator)), (1, i32s(args))])))])
}

pub(crate) fn call(delegate: i32, args: &[i32]) -> T {
    T::new([(0, u8(2)), (1, Val::Table(T::new([(0, i32(delegate)), (1, i32s(args))])))])
}

pub(crate) fn plan(name: &str, values: Vec<T>, inputs: &[i32], outputs: &[i32]) -> T {
    let chain = T::new([(0, i32s(&[])), (1, i32s(&[])), (2, Val::Tables(vec![]))]);
    T::new([
        (0, str(name)),
        (2, Val::Tables(values)),
        (3, i32s(inputs)),
        (4, i32s(outputs)),
        (5, Val::Tables(vec![chain])),
        (6, Val::Tables(vec![])),
        (7, Val::Tables(vec![])),
        (8, i64s(&[0])),
    ])
}

pub(crate) fn hex(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that are not all the same.
pub(crate) fn weights(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index * 7 + index / 32) as u8).collect()
}

pub(crate) fn scales(count: usize) -> Vec<u8> {
    (0..count).flat_map(|index| (0.01 + index as f32 / 100.0).to_le_bytes()).collect()
}

fn forward() -> T {
    let values = vec![
        value(5, {
            let mut tokens = tensor(4, &[1, LENGTH]);
            tokens.set(8, i8(1));
            tokens
        }),
        value(5, constant(tensor(1, &[VOCAB, DIM]), 1)),
        value(5, constant(tensor(6, &[VOCAB]), 2)),
        T::new([(0, u8(1))]),
        int(-128),
        int(127),
        int(6),
        value(5, {
            let mut rows = planned(tensor(6, &[1, LENGTH, DIM]), 0);
            rows.set(8, i8(1));
            rows
        }),
        value(5, planned(tensor(6, &[1, LENGTH, VOCAB]), 512)),
        value(7, T::new([(0, i64s(&[4, 5]))])),
        value(10, T::new([(0, i32s(&[7]))])),
        value(11, T::new([(0, i32s(&[-1, 7]))])),
        value(3, T::new([(0, u8(1))])),
        value(6, T::new([(0, str("text"))])),
    ];
    let mut plan = plan("forward", values, &[0], &[8]);
    let operator = T::new([(0, str("quantized_decomposed::embedding_byte")), (1, str("dtype_out"))]);
    plan.set(6, Val::Tables(vec![operator]));
    let data = T::new([(0, i8(1)), (1, u32(1))]);
    let spec = T::new([(0, str("key")), (1, bytes(b"value"))]);
    let delegate = [(0, str("XnnpackBackend")), (1, Val::Table(data)), (2, Val::Tables(vec![spec]))];
    plan.set(7, Val::Tables(vec![T::new(delegate)]));
    plan.set(8, i64s(&[0, 640]));
    let run = vec![kernel(0, &[1, 2, 3, 4, 5, 0, 6, 7, 7]), call(0, &[7, 8])];
    plan.item(5, 0).set(2, Val::Tables(run));
    plan
}

pub(crate) const NO_ID: u32 = u32::MAX;

/// A value of an XNNPACK graph without quantization.
pub(crate) fn xvalue(dtype: i16, dims: &[u32], constant: u32, external: u32, flags: u32, id: u32) -> T {
    T::new([(0, u8(1)), (1, Val::Table(xtensor(dtype, dims, constant, external, flags, id)))])
}

pub(crate) fn xtensor(dtype: i16, dims: &[u32], constant: u32, external: u32, flags: u32, id: u32) -> T {
    T::new([
        (0, i16(dtype)),
        (1, u32(dims.len() as u32)),
        (2, u32s(dims)),
        (3, u32(constant)),
        (4, u32(external)),
        (5, u32(flags)),
        (6, u32(id)),
    ])
}

/// A quantized value: kind of the scheme and its table.
pub(crate) fn xquant(tensor: T, kind: u8, scheme: T) -> T {
    let body = T::new([(0, Val::Table(tensor)), (1, u8(kind)), (2, Val::Table(scheme))]);
    T::new([(0, u8(2)), (1, Val::Table(body))])
}

pub(crate) fn xnode(kind: u8, fields: &[u32]) -> T {
    let fields = fields.iter().enumerate().map(|(id, &field)| (id as u16, u32(field)));
    T::new([(0, u8(kind)), (1, Val::Table(T::new(fields))), (2, u32(7))])
}

fn graph(filter: &[u8], scale: &[u8]) -> T {
    let (length, dim, vocab) = (LENGTH as u32, DIM as u32, VOCAB as u32);
    let quantized = T::new([(1, i32(0)), (2, u32(2)), (3, u32(vocab))]);
    let values = vec![
        xvalue(1, &[1, length, dim], 0, 0, 1, 0),
        xquant(xtensor(6, &[vocab, dim], 1, NO_ID, 0, 1), 1, quantized),
        xquant(xtensor(9, &[1, length, dim], 0, NO_ID, 0, 2), 3, T::new([(0, i32(1))])),
        xvalue(1, &[1, length, vocab], 0, 1, 2, 3),
    ];
    let mut linear = xnode(2, &[2, 1, NO_ID, 3, 0]);
    linear.set(3, Val::Table(T::new([(0, f32(f32::NEG_INFINITY)), (1, f32(f32::INFINITY))])));
    let nodes = vec![xnode(18, &[0, 2, 0]), linear];
    let named =
        |key: String, size: usize| T::new([(0, u64(u64::MAX)), (1, u64(size as u64)), (2, str(&key))]);
    let constants = vec![
        T::new([]),
        named(hex(filter), filter.len()),
        named(format!("scale_{}", hex(scale)), scale.len()),
    ];
    T::new([
        (0, str("0")),
        (1, Val::Tables(nodes)),
        (2, Val::Tables(values)),
        (3, u32(2)),
        (4, u32s(&[0])),
        (5, u32s(&[3])),
        (8, Val::Tables(constants)),
    ])
}

impl Default for Pte {
    fn default() -> Self {
        let (filter, scale) = (weights(256), scales(8));
        let named = vec![
            T::new([(0, str(&hex(&filter))), (1, u32(2))]),
            T::new([(0, str(&format!("scale_{}", hex(&scale)))), (1, u32(3))]),
        ];
        let metadata = [("get_vocab_size", 8), ("get_max_seq_len", 4), ("get_bos_id", 1), ("get_eos_ids", 2)];
        let mut plans = vec![forward()];
        plans.extend(metadata.map(|(name, number)| plan(name, vec![int(number)], &[], &[0])));
        let program = T::new([
            (0, u32(0)),
            (1, Val::Tables(plans)),
            (5, Val::Table(T::new([(0, u32(0)), (1, u64s(&[0, 0, 256]))]))),
            (7, Val::Tables(named)),
        ]);
        let mut constants = weights(256);
        constants.extend(scales(8));
        Self {
            program,
            graph: graph(&filter, &scale),
            segments: vec![constants, Vec::new(), filter, scale],
            blob: |_| {},
            entry: |_, _, _| {},
            header_length: 32,
            file: |_| {},
        }
    }
}

impl Pte {
    pub(crate) fn plan(&mut self) -> &mut T {
        self.program.item(1, 0)
    }

    /// The body of a value of `forward`.
    pub(crate) fn value(&mut self, index: usize) -> &mut T {
        self.plan().item(2, index).sub(1)
    }

    /// The body of an instruction of `forward`.
    pub(crate) fn instruction(&mut self, index: usize) -> &mut T {
        self.plan().item(5, 0).item(2, index).sub(1)
    }

    pub(crate) fn delegate(&mut self) -> &mut T {
        self.plan().item(7, 0)
    }

    /// The tensor table of a plain value of the graph.
    pub(crate) fn xvalue(&mut self, index: usize) -> &mut T {
        self.graph.item(2, index).sub(1)
    }

    /// The blob as it stands in segment 1.
    pub(crate) fn xnn_blob(&self) -> Vec<u8> {
        let graph = flatbuffer(&self.graph, b"\0\0\0\0XN01");
        let mut blob = b"\0\0\0\0XH00".to_vec();
        blob.extend(30_u16.to_le_bytes());
        blob.extend(32_u32.to_le_bytes());
        blob.extend(u32::try_from(graph.len()).expect("small").to_le_bytes());
        let end = (32 + graph.len()).next_multiple_of(16);
        blob.extend(u32::try_from(end).expect("small").to_le_bytes());
        blob.extend(0_u64.to_le_bytes());
        blob.resize(32, 0);
        blob.extend(graph);
        blob.resize(end, 0);
        (self.blob)(&mut blob);
        blob
    }

    /// Lays the file out.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut segments = self.segments.clone();
        if let Some(slot) = segments.get_mut(1).filter(|slot| slot.is_empty()) {
            *slot = self.xnn_blob();
        }
        let (mut offset, mut entries, mut offsets, mut end) = (0_u64, Vec::new(), Vec::new(), 0);
        for (index, segment) in segments.iter().enumerate() {
            let (mut start, mut size) = (offset, segment.len() as u64);
            end = start + size;
            offsets.push(offset);
            offset = end.next_multiple_of(128);
            (self.entry)(index, &mut start, &mut size);
            entries.push(T::new([(0, u64(start)), (1, u64(size))]));
        }
        let mut program = self.program.clone();
        program.set(4, Val::Tables(entries));
        let mut head = b"\0\0\0\0ET12eh00".to_vec();
        head.extend(self.header_length.to_le_bytes());
        head.resize(8 + self.header_length.max(24) as usize, 0);
        let mut file = flatbuffer(&program, &head);
        let program_bytes = file.len() as u64;
        let base = program_bytes.next_multiple_of(128);
        file[16..24].copy_from_slice(&program_bytes.to_le_bytes());
        file[24..32].copy_from_slice(&base.to_le_bytes());
        if self.header_length >= 32 {
            file[32..40].copy_from_slice(&end.to_le_bytes());
        }
        for (segment, offset) in segments.iter().zip(offsets) {
            file.resize(usize::try_from(base + offset).expect("small"), 0);
            file.extend(segment);
        }
        (self.file)(&mut file);
        file
    }
}
