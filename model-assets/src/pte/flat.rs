//! A flatbuffers reader that trusts nothing and remembers what it read.
//!
//! **Invariant:** a value is only handed out after its vtable, range and alignment were checked, the number of
//! tables and of visited bytes is bounded, and [`Flat::hidden_byte`] finds any non-zero byte that nothing read.

use std::cell::{Cell, RefCell};

use super::limits;

/// Why a flatbuffer cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A rule of the encoding is broken at this offset.
    Malformed(&'static str, usize),
    /// The table at this offset has a field that the schema does not know.
    UnknownField(usize),
}

pub(super) type Read<T> = Result<T, Fault>;

fn malformed<T>(what: &'static str, at: usize) -> Read<T> {
    Err(Fault::Malformed(what, at))
}

/// One flatbuffer.
pub(super) struct Flat<'a> {
    bytes: &'a [u8],
    covered: RefCell<Vec<u64>>,
    tables_left: Cell<u32>,
    visits_left: Cell<u64>,
}

impl<'a> Flat<'a> {
    /// Wraps a buffer whose first `head` bytes (root offset, identifier, header) were checked by the caller.
    pub(super) fn new(bytes: &'a [u8], head: usize) -> Self {
        let visits = (bytes.len() as u64).saturating_mul(limits::VISITS_PER_BYTE_MAX).saturating_add(1 << 16);
        let flat = Self {
            bytes,
            covered: RefCell::new(vec![0; bytes.len().div_ceil(64)]),
            tables_left: Cell::new(limits::TABLES_MAX),
            visits_left: Cell::new(visits),
        };
        flat.mark(0, head.min(bytes.len()));
        flat
    }

    /// The root table, whose offset stands in the first four bytes.
    pub(super) fn root(&self, fields: u16) -> Read<Table<'_, 'a>> {
        let at = usize::try_from(self.u32(0)?).or_else(|_| malformed("root offset out of range", 0))?;
        Table::new(self, at, fields)
    }

    /// The first non-zero byte that belongs to nothing that was read.
    pub(super) fn hidden_byte(&self) -> Option<usize> {
        let covered = self.covered.borrow();
        let chunks = self.bytes.chunks(64).zip(covered.iter());
        for (chunk_index, (chunk, &mask)) in chunks.enumerate() {
            if mask == u64::MAX {
                continue;
            }
            let hidden =
                chunk.iter().enumerate().find(|&(bit, &byte)| byte != 0 && mask & (1_u64 << bit) == 0);
            if let Some((bit, _)) = hidden {
                return chunk_index.checked_mul(64)?.checked_add(bit);
            }
        }
        None
    }

    fn mark(&self, start: usize, length: usize) {
        let mut covered = self.covered.borrow_mut();
        let end = start.saturating_add(length);
        let mut at = start;
        while at < end {
            let bit = at % 64;
            let take = (64_usize.saturating_sub(bit)).min(end.saturating_sub(at));
            let ones = if take == 64 { u64::MAX } else { (1_u64 << take).wrapping_sub(1) };
            if let Some(word) = covered.get_mut(at / 64) {
                *word |= ones << bit;
            }
            at = at.saturating_add(take);
        }
    }

    /// Checks a range and its alignment, charges it and marks it as read.
    fn take(&self, at: usize, length: usize, align: usize) -> Read<&'a [u8]> {
        let end = at.checked_add(length).ok_or(Fault::Malformed("range overflows", at))?;
        let bytes = self.bytes.get(at..end).ok_or(Fault::Malformed("range behind the end", at))?;
        if align > 1 && at.checked_rem(align) != Some(0) {
            return malformed("not aligned", at);
        }
        match self.visits_left.get().checked_sub(length as u64) {
            Some(left) => self.visits_left.set(left),
            None => return malformed("the same bytes are referred to too often", at),
        }
        self.mark(at, length);
        Ok(bytes)
    }

    fn array<const N: usize>(&self, at: usize) -> Read<[u8; N]> {
        let bytes = self.take(at, N, N)?;
        bytes.first_chunk().copied().ok_or(Fault::Malformed("range behind the end", at))
    }

    fn u16(&self, at: usize) -> Read<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Read<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// Follows the offset that stands at `at`.
    fn follow(&self, at: usize) -> Read<usize> {
        let offset = self.u32(at)?;
        if offset == 0 {
            return malformed("null offset", at);
        }
        let offset = usize::try_from(offset).or_else(|_| malformed("offset out of range", at))?;
        at.checked_add(offset).ok_or(Fault::Malformed("offset overflows", at))
    }

    /// Length and payload offset of the vector at `at`.
    fn vector(&self, at: usize, width: usize) -> Read<(&'a [u8], usize)> {
        let count = usize::try_from(self.u32(at)?).or_else(|_| malformed("vector too long", at))?;
        let length = count.checked_mul(width).ok_or(Fault::Malformed("vector too long", at))?;
        let start = at.checked_add(4).ok_or(Fault::Malformed("offset overflows", at))?;
        if count == 0 {
            return Ok((&[], start));
        }
        Ok((self.take(start, length, width)?, start))
    }

    fn string(&self, at: usize) -> Read<&'a str> {
        let (bytes, start) = self.vector(at, 1)?;
        let end = start.checked_add(bytes.len()).ok_or(Fault::Malformed("offset overflows", at))?;
        if self.take(end, 1, 1)? != [0] {
            return malformed("string is not terminated", at);
        }
        if bytes.contains(&0) {
            return malformed("string has a zero byte inside", at);
        }
        std::str::from_utf8(bytes).or_else(|_| malformed("string is not UTF-8", at))
    }
}

/// One table, its vtable already checked.
#[derive(Clone, Copy)]
pub(super) struct Table<'f, 'a> {
    flat: &'f Flat<'a>,
    at: usize,
    vtable: usize,
    entries: u16,
    table_bytes: u16,
}

macro_rules! scalars {
    ($($name:ident $many:ident $ty:ty,)+) => {$(
        pub(super) fn $name(&self, field: u16) -> Read<Option<$ty>> {
            let Some(at) = self.field(field, size_of::<$ty>())? else { return Ok(None) };
            Ok(Some(<$ty>::from_le_bytes(self.flat.array(at)?)))
        }

        pub(super) fn $many(&self, field: u16) -> Read<Option<Vec<$ty>>> {
            let Some(at) = self.offset(field)? else { return Ok(None) };
            let (bytes, _) = self.flat.vector(at, size_of::<$ty>())?;
            let (items, _) = bytes.as_chunks();
            Ok(Some(items.iter().map(|&item| <$ty>::from_le_bytes(item)).collect()))
        }
    )+};
}

#[expect(dead_code, reason = "the macro makes the same pair of readers for every scalar")]
impl<'f, 'a> Table<'f, 'a> {
    scalars! { u8 u8s u8, i8 i8s i8, i16 i16s i16, i32 i32s i32, u32 u32s u32, i64 i64s i64, u64 u64s u64,
    f32 f32s f32, f64 f64s f64, }
}

impl<'f, 'a> Table<'f, 'a> {
    fn new(flat: &'f Flat<'a>, at: usize, fields: u16) -> Read<Self> {
        match flat.tables_left.get().checked_sub(1) {
            Some(left) => flat.tables_left.set(left),
            None => return malformed("too many tables", at),
        }
        let back = flat.array(at).map(i32::from_le_bytes)?;
        let vtable = i64::try_from(at)
            .ok()
            .and_then(|at| at.checked_sub(i64::from(back)))
            .and_then(|vtable| usize::try_from(vtable).ok())
            .ok_or(Fault::Malformed("vtable out of range", at))?;
        let vtable_bytes = flat.u16(vtable)?;
        let table_bytes = flat.u16(vtable.saturating_add(2))?;
        if vtable_bytes < 4 || vtable_bytes % 2 != 0 || table_bytes < 4 {
            return malformed("impossible vtable", vtable);
        }
        flat.take(vtable, usize::from(vtable_bytes), 2)?;
        let end = at.checked_add(usize::from(table_bytes));
        if end.is_none_or(|end| end > flat.bytes.len()) {
            return malformed("table behind the end", at);
        }
        let entries = (vtable_bytes / 2).saturating_sub(2);
        let table = Self { flat, at, vtable, entries, table_bytes };
        for unknown in fields..entries {
            if table.entry(unknown)? != 0 {
                return Err(Fault::UnknownField(at));
            }
        }
        Ok(table)
    }

    fn entry(&self, field: u16) -> Read<u16> {
        if field >= self.entries {
            return Ok(0);
        }
        let at = usize::from(field).saturating_mul(2).saturating_add(4).saturating_add(self.vtable);
        let entry = self.flat.bytes.get(at..).and_then(|rest| rest.first_chunk().copied());
        entry.map(u16::from_le_bytes).ok_or(Fault::Malformed("vtable out of range", at))
    }

    /// Offset of a field's bytes, when it is present.
    fn field(&self, field: u16, width: usize) -> Read<Option<usize>> {
        let entry = usize::from(self.entry(field)?);
        if entry == 0 {
            return Ok(None);
        }
        if entry < 4 || entry.saturating_add(width) > usize::from(self.table_bytes) {
            return malformed("field outside its table", self.at);
        }
        Ok(self.at.checked_add(entry))
    }

    fn offset(&self, field: u16) -> Read<Option<usize>> {
        self.field(field, 4)?.map(|at| self.flat.follow(at)).transpose()
    }

    /// Offset of the table.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// A boolean, which must be 0 or 1.
    pub(super) fn bool(&self, field: u16) -> Read<Option<bool>> {
        match self.u8(field)? {
            None => Ok(None),
            Some(0) => Ok(Some(false)),
            Some(1) => Ok(Some(true)),
            Some(_) => malformed("a boolean is neither 0 nor 1", self.at),
        }
    }

    pub(super) fn string(&self, field: u16) -> Read<Option<&'a str>> {
        self.offset(field)?.map(|at| self.flat.string(at)).transpose()
    }

    /// Raw bytes and where they begin.
    pub(super) fn bytes(&self, field: u16) -> Read<Option<(&'a [u8], usize)>> {
        self.offset(field)?.map(|at| self.flat.vector(at, 1)).transpose()
    }

    pub(super) fn table(&self, field: u16, fields: u16) -> Read<Option<Table<'f, 'a>>> {
        self.offset(field)?.map(|at| Table::new(self.flat, at, fields)).transpose()
    }

    pub(super) fn tables(&self, field: u16, fields: u16) -> Read<Option<Vec<Table<'f, 'a>>>> {
        self.each(field, |flat, at| Table::new(flat, at, fields))
    }

    fn each<T>(&self, field: u16, read: impl Fn(&'f Flat<'a>, usize) -> Read<T>) -> Read<Option<Vec<T>>> {
        let Some(at) = self.offset(field)? else { return Ok(None) };
        let (bytes, start) = self.flat.vector(at, 4)?;
        let mut items = Vec::new();
        for index in 0..bytes.len() / 4 {
            let slot = start.saturating_add(index.saturating_mul(4));
            items.push(read(self.flat, self.flat.follow(slot)?)?);
        }
        Ok(Some(items))
    }
}
