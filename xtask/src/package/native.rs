//! What the head of an ELF or Mach-O file says: for which processor, and which of its bytes a loader maps.
//!
//! **Invariant:** a proof block counts only where a loader maps it: bytes appended to a library are no part of the app.

use std::ops::Range;

use anyhow::{Context as _, anyhow, bail, ensure};
use model_assets::pte::ReadAt;
use object::{
    Endianness, FileKind,
    elf::{self, FileHeader32, FileHeader64},
    macho,
    read::{
        elf::{FileHeader, ProgramHeader as _},
        macho::{FatArch, MachHeader as _, MachOFatFile, Segment as _},
    },
};

/// Load commands and program headers lie at the start; more than this of them is no app's.
const HEAD_BYTES_MAX: u64 = 1 << 20;
/// Slices of a universal binary.
const SLICES_MAX: usize = 8;

/// One processor's part of a native file.
#[derive(Debug)]
pub(crate) struct Slice {
    /// The ABI's name, as Android or Apple gives it.
    pub(crate) abi: &'static str,
    /// Bytes of the file that a loader maps.
    mapped: Vec<Range<u64>>,
    /// The smallest alignment of what it maps: pages larger than this cannot load it.
    pub(crate) page_bytes: u64,
}

impl Slice {
    /// Whether a loader maps all of these bytes together.
    pub(crate) fn maps(&self, bytes: &Range<u64>) -> bool {
        self.mapped.iter().any(|part| part.start <= bytes.start && bytes.end <= part.end)
    }
}

/// Whether a file with this head is an ELF or Mach-O file.
pub(crate) fn is_native(head: &[u8]) -> bool {
    match head {
        [0x7f, b'E', b'L', b'F', ..] | [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] => true,
        // Java's class files begin the same; theirs is a version, 45 at least, where a count of slices would be.
        [0xca, 0xfe, 0xba, 0xbe | 0xbf, 0, 0, 0, count, ..] => *count < 45,
        _ => false,
    }
}

/// The slices of a native file.
///
/// # Errors
/// It cannot be read, or is for no processor of a phone or a desktop.
pub(crate) fn slices(source: &dyn ReadAt) -> anyhow::Result<Vec<Slice>> {
    let len = source.len()?;
    let head = head(source, 0, len)?;
    match FileKind::parse(head.as_slice())? {
        FileKind::Elf32 => Ok(vec![elf_slice::<FileHeader32<Endianness>>(&head, len)?]),
        FileKind::Elf64 => Ok(vec![elf_slice::<FileHeader64<Endianness>>(&head, len)?]),
        FileKind::MachO64 => Ok(vec![macho_slice(&head, 0, len)?]),
        FileKind::MachOFat32 => fat_slices::<macho::FatArch32>(source, &head, len),
        FileKind::MachOFat64 => fat_slices::<macho::FatArch64>(source, &head, len),
        other => bail!("got a {other:?} file, expected ELF or 64-bit Mach-O"),
    }
}

fn head(source: &dyn ReadAt, offset: u64, len: u64) -> anyhow::Result<Vec<u8>> {
    let mut head = vec![0; usize::try_from(len.min(HEAD_BYTES_MAX))?];
    source.read_exact_at(&mut head, offset)?;
    Ok(head)
}

fn elf_slice<H: FileHeader<Endian = Endianness>>(head: &[u8], len: u64) -> anyhow::Result<Slice> {
    let header = H::parse(head)?;
    let endian = header.endian()?;
    let abi = match header.e_machine(endian) {
        elf::EM_AARCH64 => "arm64-v8a",
        elf::EM_ARM => "armeabi-v7a",
        elf::EM_X86_64 => "x86_64",
        elf::EM_386 => "x86",
        elf::EM_RISCV => "riscv64",
        other => bail!("got code for machine {other:?}, expected one that Android has"),
    };
    let loads =
        header.program_headers(endian, head)?.iter().filter(|part| part.p_type(endian) == elf::PT_LOAD);
    let (mut mapped, mut page_bytes) = (Vec::new(), u64::MAX);
    for part in loads {
        mapped.push(range(part.p_offset(endian).into(), part.p_filesz(endian).into(), 0, len)?);
        page_bytes = page_bytes.min(part.p_align(endian).into());
    }
    ensure!(!mapped.is_empty(), "got nothing to load, expected a program or library");
    Ok(Slice { abi, mapped, page_bytes })
}

fn macho_slice(head: &[u8], base: u64, len: u64) -> anyhow::Result<Slice> {
    // Apple's pages of arm64 are 16 KiB, and its linker aligns to them.
    const PAGE_BYTES: u64 = 1 << 14;
    let header = macho::MachHeader64::<Endianness>::parse(head, 0)?;
    let endian = header.endian()?;
    let abi = match header.cputype(endian) {
        macho::CPU_TYPE_ARM64 => "arm64",
        macho::CPU_TYPE_X86_64 => "x86_64-apple",
        other => bail!("got code for processor {other:?}, expected arm64 or x86_64"),
    };
    let mut mapped = Vec::new();
    let mut commands = header.load_commands(endian, head, 0)?;
    while let Some(command) = commands.next()? {
        if let Some((segment, _)) = command.segment_64()?
            && segment.name() != b"__LINKEDIT"
        {
            mapped.push(range(segment.fileoff(endian), segment.filesize(endian), base, len)?);
        }
    }
    Ok(Slice { abi, mapped, page_bytes: PAGE_BYTES })
}

fn fat_slices<A: FatArch>(source: &dyn ReadAt, head: &[u8], len: u64) -> anyhow::Result<Vec<Slice>> {
    let fat = MachOFatFile::<A>::parse(head)?;
    ensure!(
        fat.arches().len() <= SLICES_MAX,
        "got {} slices, expected at most {SLICES_MAX}",
        fat.arches().len()
    );
    let slice = |arch: &A| {
        let (offset, size) = arch.file_range();
        range(offset, size, 0, len)?;
        macho_slice(&self::head(source, offset, size)?, offset, size)
    };
    fat.arches().iter().map(slice).collect()
}

/// A part of a file of `len` bytes at `base`.
fn range(offset: u64, bytes: u64, base: u64, len: u64) -> anyhow::Result<Range<u64>> {
    let end = offset.checked_add(bytes).filter(|end| *end <= len);
    let end = end.with_context(|| format!("got {bytes} bytes at {offset}, expected them inside {len}"))?;
    let outside = || anyhow!("got a slice past the end of all files");
    Ok(base.checked_add(offset).ok_or_else(outside)?..base.checked_add(end).ok_or_else(outside)?)
}
