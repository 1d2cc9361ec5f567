//! What verifying costs: `cargo bench -p model-assets --bench pte [-- <file.pte>]`.
//!
//! Without a file it makes a sparse one of the size and the shape of a one-billion-parameter model: 160 delegates
//! and 1.5 GB of weights. It prints the time of the structure check, and of our hash beside `openssl dgst -sha256`
//! over the same file, each as the best of several runs.

#[path = "../hostile/builder.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod builder;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use builder::{Pte, T, Val};
use model_assets::pte::{self, Expect, Level};

const DELEGATES: usize = 160;
const WEIGHT_BYTES: u64 = 1_500_000_000 / DELEGATES as u64 / 128 * 128;
const RUNS: usize = 5;

fn main() -> std::io::Result<()> {
    let scratch = tempfile::tempdir()?;
    let given = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map(PathBuf::from);
    let path = match given {
        Some(path) => path,
        None => synthetic(scratch.path())?,
    };
    let file = File::open(&path)?;
    let bytes = file.metadata()?.len();
    let expect = Expect { kernels: Some(pte::linked_runtime().clone()), ..Expect::default() };

    let before = peak_kib();
    let (structure, report) = best(|| pte::verify(&file, Level::Structure, &expect));
    let summary = report.summary.unwrap_or_default();
    println!(
        "file        {bytes} bytes, {} segments, {} delegates",
        summary.segments.len(),
        summary.partitions
    );
    println!("findings    {}", report.findings.len());
    println!("structure   {:.2} ms, peak memory {} KiB above the start", ms(structure), peak_kib() - before);

    // With the digest known, as at every build and install.
    let sha256 = pte::verify(&file, Level::Hash, &expect).sha256;
    let known = Expect { sha256, ..expect.clone() };
    let ours = || assert!(pte::verify(&file, Level::Hash, &known).is_accepted());
    let (hash, hash_user) = best_and_user(ours);
    println!("hash        {:.0} ms, {hash_user:.2} s user, {:.2} GB/s", ms(hash), gb_per_s(bytes, hash));
    let (with_named, _) = best(|| pte::verify(&file, Level::Hash, &expect));
    println!("  + named   {:.0} ms (every datum against its own digest too)", ms(with_named));
    let openssl = || Command::new("openssl").args(["dgst", "-sha256"]).arg(&path).output();
    match openssl() {
        Ok(_) => {
            let (time, user) = best_and_user(openssl);
            println!("openssl     {:.0} ms, {user:.2} s user, {:.2} GB/s", ms(time), gb_per_s(bytes, time));
            println!(
                "ratio       {:.2} of user time, {:.2} of wall time",
                hash_user / user,
                ratio(hash, time)
            );
        }
        Err(error) => println!("openssl     not run: {error}"),
    }
    Ok(())
}

fn gb_per_s(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / 1e9
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

/// The best wall time of several runs, and the user time of all of them over their number.
fn best_and_user<T>(run: impl FnMut() -> T) -> (Duration, f64) {
    let before = user_seconds();
    let (time, _) = best(run);
    (time, (user_seconds() - before) / RUNS as f64)
}

/// User time of this process and of its ended children, seconds; see proc(5).
fn user_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(13)) / TICKS_PER_SECOND
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn best<T>(mut run: impl FnMut() -> T) -> (Duration, T) {
    let mut timed = || {
        let start = Instant::now();
        let result = run();
        (start.elapsed(), result)
    };
    let mut shortest = timed();
    for _ in 1..RUNS {
        let next = timed();
        if next.0 < shortest.0 {
            shortest = next;
        }
    }
    shortest
}

/// Peak resident memory of this process, KiB; 0 where the system does not tell.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// The toy model with its delegate repeated, and a long sparse weight behind each repetition.
fn synthetic(scratch: &Path) -> std::io::Result<PathBuf> {
    let mut pte = Pte::default();
    let rows = u32::try_from(WEIGHT_BYTES / 32).expect("a small number");
    pte.segments.truncate(2);
    pte.xvalue(1).sub(0).set(2, builder::u32s(&[rows, 32]));
    pte.xvalue(1).sub(2).set(3, builder::u32(rows));
    pte.xvalue(3).set(2, builder::u32s(&[1, 4, rows]));
    pte.graph.item(8, 1).set(1, builder::u64(WEIGHT_BYTES)).set(2, builder::str("weight"));
    let scale_bytes = u64::from(rows) * 4;
    pte.graph.item(8, 2).set(1, builder::u64(scale_bytes)).set(2, builder::str("scale"));
    pte.program.list(1).truncate(1);
    pte.plan().item(2, 8).sub(1).set(2, builder::i32s(&[1, 4, rows.cast_signed()]));
    pte.plan().set(8, builder::i64s(&[0, 512 + 16 * i64::from(rows)]));
    let delegate = pte.delegate().clone();
    let call = pte.plan().item(5, 0).item(2, 1).clone();
    let mut sizes = vec![pte.segments[0].len() as u64];
    let mut blobs = Vec::new();
    let (mut delegates, mut calls, mut named) =
        (Vec::new(), vec![pte.plan().item(5, 0).item(2, 0).clone()], Vec::new());
    for number in 0..DELEGATES {
        let mut one = pte.clone();
        let keys = [format!("weight {number}"), format!("scale {number}")];
        for (slot, key) in keys.iter().enumerate() {
            one.graph.item(8, slot + 1).set(2, builder::str(key));
        }
        let blob = one.xnn_blob();
        let first = u32::try_from(sizes.len()).expect("a small number");
        sizes.extend([blob.len() as u64, WEIGHT_BYTES, scale_bytes]);
        blobs.push(blob);
        let mut entry = delegate.clone();
        entry.sub(1).set(1, builder::u32(first));
        delegates.push(entry);
        let mut step = call.clone();
        step.sub(1).set(0, builder::i32(i32::try_from(number).expect("a small number")));
        calls.push(step);
        for (slot, key) in (1..).zip(&keys) {
            named.push(T::new([(0, builder::str(key)), (1, builder::u32(first + slot))]));
        }
    }
    pte.plan().set(7, Val::Tables(delegates));
    pte.plan().item(5, 0).set(2, Val::Tables(calls));
    pte.program.set(7, Val::Tables(named));
    write_sparse(&scratch.join("synthetic.pte"), &pte, &sizes, &blobs)
}

/// Lays the file out by hand, because its weights must not be in memory.
fn write_sparse(path: &Path, pte: &Pte, sizes: &[u64], blobs: &[Vec<u8>]) -> std::io::Result<PathBuf> {
    let (mut offset, mut end, mut entries, mut starts) = (0_u64, 0, Vec::new(), Vec::new());
    for &size in sizes {
        entries.push(T::new([(0, builder::u64(offset)), (1, builder::u64(size))]));
        starts.push(offset);
        end = offset + size;
        offset = end.next_multiple_of(128);
    }
    let mut program = pte.program.clone();
    program.set(4, Val::Tables(entries));
    let mut head = b"\0\0\0\0ET12eh00".to_vec();
    head.extend(32_u32.to_le_bytes());
    head.resize(40, 0);
    let mut bytes = builder::flatbuffer(&program, &head);
    let program_bytes = bytes.len() as u64;
    let base = program_bytes.next_multiple_of(128);
    bytes[16..24].copy_from_slice(&program_bytes.to_le_bytes());
    bytes[24..32].copy_from_slice(&base.to_le_bytes());
    bytes[32..40].copy_from_slice(&end.to_le_bytes());
    let file = File::create(path)?;
    file.set_len(base + end)?;
    let write = |bytes: &[u8], at: u64| {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = &file;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    };
    write(&bytes, 0)?;
    write(&pte.segments[0], base)?;
    for (number, blob) in blobs.iter().enumerate() {
        write(blob, base + starts[1 + 3 * number])?;
        // As in a real file, the look for uniform weights ends at once and every scale is positive.
        write(&[1, 2], base + starts[2 + 3 * number])?;
        let scales = sizes[3 + 3 * number] / 4;
        write(
            &1.0_f32.to_le_bytes().repeat(usize::try_from(scales).expect("it fits")),
            base + starts[3 + 3 * number],
        )?;
    }
    Ok(path.to_owned())
}
