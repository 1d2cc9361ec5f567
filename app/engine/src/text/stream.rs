//! The steps of a decoder, taking text piece by piece.
//!
//! A decoder is a row of steps, and each takes a list of texts and gives another ("chunks": the tokens at first). Here a
//! step takes a fragment of a chunk and whether the chunk ends with it, and passes on what can no longer change.
//!
//! **Invariant:** the fragments that a step passes on join to what the step makes of whole chunks.

use model_assets::tokenizer::DecoderStep;

/// A step and its pending output.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    step: Step,
    state: State,
}

#[derive(Debug, Clone)]
enum Step {
    Decoder(DecoderStep),
    /// The library's way with tokenizers that have no decoder.
    Spaces,
    /// `ByteLevel` with its table of stand-ins.
    ByteLevel(Vec<Option<u8>>),
}

#[derive(Debug, Clone, Default)]
struct State {
    /// Chunks that have ended.
    chunks: usize,
    /// Whether the chunk at hand has had a fragment.
    begun: bool,
    /// Bytes of an unfinished character, and whether byte tokens were the last that came.
    bytes: Vec<u8>,
    in_row: bool,
    /// Text that waits: for the end of a pattern or a chunk, or a token that may be the last.
    held: String,
    /// Characters that were taken from the beginning, `None` once another one was seen.
    taken: Option<usize>,
}

impl Stage {
    /// The stages of a decoder's steps.
    pub(crate) fn all(steps: &[DecoderStep]) -> Vec<Self> {
        let stage = |step| Self { step, state: State { taken: Some(0), ..State::default() } };
        if steps.is_empty() {
            return vec![stage(Step::Spaces)];
        }
        let own = |step: &DecoderStep| match step {
            DecoderStep::ByteLevel => Step::ByteLevel(stand_ins()),
            other => Step::Decoder(other.clone()),
        };
        steps.iter().map(|step| stage(own(step))).collect()
    }
}

/// Passes a fragment through all stages; `text` gains what is final.
pub(crate) fn feed(stages: &mut [Stage], fragment: &str, ends: bool, text: &mut String) {
    match stages.split_first_mut() {
        None => text.push_str(fragment),
        Some((stage, rest)) => {
            let Stage { step, state } = stage;
            state.take(step, fragment, ends, &mut |piece, ends| feed(rest, piece, ends, text));
        }
    }
}

/// Ends the stages, from the first to the last.
pub(crate) fn finish(stages: &mut [Stage], text: &mut String) {
    if let Some((stage, rest)) = stages.split_first_mut() {
        let Stage { step, state } = stage;
        state.finish(step, &mut |piece, ends| feed(rest, piece, ends, text));
        finish(rest, text);
    }
}

type Next<'n> = &'n mut dyn FnMut(&str, bool);

impl State {
    fn take(&mut self, step: &Step, fragment: &str, ends: bool, next: Next<'_>) {
        match step {
            Step::Spaces => {
                let gap = if self.chunks > 0 && !self.begun { " " } else { "" };
                next(&format!("{gap}{fragment}"), ends);
            }
            Step::ByteLevel(table) => self.byte_level(table, fragment, next),
            Step::Decoder(DecoderStep::ByteLevel | DecoderStep::Fuse) => next(fragment, false),
            Step::Decoder(DecoderStep::ByteFallback) => self.byte_fallback(fragment, next),
            Step::Decoder(DecoderStep::Strip { content, start, stop }) => {
                self.strip(*content, *start, *stop, fragment, ends, next);
            }
            Step::Decoder(DecoderStep::Replace { pattern, content }) => {
                self.replace(pattern, content, fragment, ends, next);
            }
            Step::Decoder(DecoderStep::Metaspace { replacement, keep_first }) => {
                let space = if self.chunks == 0 && !keep_first { "" } else { " " };
                next(&fragment.replace(*replacement, space), ends);
            }
            Step::Decoder(DecoderStep::WordPiece { prefix, cleanup }) => {
                next(&word(fragment, prefix, *cleanup, self.chunks == 0), ends);
            }
            Step::Decoder(DecoderStep::Suffix { suffix }) => {
                // Only the last token's suffix is no space, so each waits for the next one.
                if self.chunks > 0 {
                    next(&self.held.replace(suffix, " "), true);
                }
                fragment.clone_into(&mut self.held);
            }
        }
        self.begun = !ends;
        if ends {
            self.chunks += 1;
            self.taken = Some(0);
        }
    }

    fn finish(&mut self, step: &Step, next: Next<'_>) {
        match step {
            Step::ByteLevel(_) => next(&String::from_utf8_lossy(&std::mem::take(&mut self.bytes)), true),
            Step::Decoder(DecoderStep::Fuse) => next("", true),
            Step::Decoder(DecoderStep::ByteFallback) => self.end_bytes(next),
            Step::Decoder(DecoderStep::Suffix { suffix }) if self.chunks > 0 => {
                next(&self.held.replace(suffix, ""), true);
            }
            // The others pass everything on with a chunk's end.
            _ => {}
        }
    }

    fn byte_level(&mut self, table: &[Option<u8>], token: &str, next: Next<'_>) {
        let bytes: Option<Vec<u8>> =
            token.chars().map(|c| table.get(c as usize).copied().flatten()).collect();
        self.bytes.extend(bytes.unwrap_or_else(|| token.as_bytes().to_vec()));
        self.pass_characters(next);
    }

    fn pass_characters(&mut self, next: Next<'_>) {
        let mut whole = String::new();
        let unfinished = finished(&self.bytes, &mut whole);
        self.bytes.drain(..self.bytes.len() - unfinished);
        next(&whole, false);
    }

    fn byte_fallback(&mut self, token: &str, next: Next<'_>) {
        if let Some(byte) = fallback_byte(token) {
            self.bytes.push(byte);
            self.in_row = true;
            while let Err(error) = std::str::from_utf8(&self.bytes) {
                if error.error_len().is_none() {
                    // May yet become a character. Bytes before it were passed on when they came.
                    return;
                }
                // One for each broken byte, as the library writes them.
                self.bytes.remove(0);
                next("\u{fffd}", false);
            }
            let whole = String::from_utf8(std::mem::take(&mut self.bytes)).unwrap_or_default();
            next(&whole, false);
        } else {
            self.end_bytes(next);
            next(token, true);
        }
    }

    /// Ends a row of byte tokens, which is one chunk.
    fn end_bytes(&mut self, next: Next<'_>) {
        let broken = "\u{fffd}".repeat(std::mem::take(&mut self.bytes).len());
        if std::mem::take(&mut self.in_row) {
            next(&broken, true);
        }
    }

    fn strip(
        &mut self,
        content: char,
        start: usize,
        stop: usize,
        fragment: &str,
        ends: bool,
        next: Next<'_>,
    ) {
        let mut rest = fragment;
        while let Some(taken) = self.taken.filter(|_| !rest.is_empty()) {
            match rest.strip_prefix(content) {
                Some(less) if taken < start => (rest, self.taken) = (less, Some(taken + 1)),
                _ => self.taken = None,
            }
        }
        // What stands at the end waits, because it may be the chunk's end.
        self.held.push_str(rest);
        let mut sure = self.held.len();
        for _ in 0..stop {
            match self.held.get(..sure).and_then(|text| text.strip_suffix(content)) {
                Some(less) => sure = less.len(),
                None => break,
            }
        }
        next(self.held.get(..sure).unwrap_or_default(), ends);
        if ends { self.held.clear() } else { drop(self.held.drain(..sure)) }
    }

    fn replace(&mut self, pattern: &str, content: &str, fragment: &str, ends: bool, next: Next<'_>) {
        self.held.push_str(fragment);
        let mut written = String::new();
        let mut rest = self.held.as_str();
        while let Some((before, after)) = rest.split_once(pattern) {
            written.push_str(before);
            written.push_str(content);
            rest = after;
        }
        // The longest end that the pattern begins with.
        let may_begin = |at: usize| rest.get(at..).is_some_and(|end| pattern.starts_with(end));
        let sure = (rest.len().saturating_sub(pattern.len())..rest.len()).find(|&at| !ends && may_begin(at));
        let (sure, waits) = rest.split_at(sure.unwrap_or(rest.len()));
        written.push_str(sure);
        self.held = waits.to_owned();
        next(&written, ends);
    }
}

/// The byte of a token like `<0x41>`, read as the library reads it.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

fn word(token: &str, prefix: &str, cleanup: bool, first: bool) -> String {
    let text = match token.strip_prefix(prefix) {
        _ if first => token.to_owned(),
        Some(rest) => rest.to_owned(),
        None => format!(" {token}"),
    };
    if cleanup { tokenizers::decoders::wordpiece::cleanup(&text) } else { text }
}

/// Appends the characters of `bytes`, U+FFFD for what is none, and returns how many bytes at the end may become one.
pub(crate) fn finished(bytes: &[u8], text: &mut String) -> usize {
    let mut left = bytes.len();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid();
        left -= chunk.valid().len() + invalid.len();
        // Only what stands at the end can lack something.
        let unfinished = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if left == 0 && unfinished {
            return invalid.len();
        }
        if !invalid.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    0
}

/// The byte that each character stands for in a byte-level vocabulary: itself where it is printable, and the others from
/// 256 on.
pub(crate) fn stand_ins() -> Vec<Option<u8>> {
    let mut bytes = vec![None; 256];
    for byte in 0..=u8::MAX {
        if matches!(byte, 33..=126 | 161..=172 | 174..=255) {
            bytes[usize::from(byte)] = Some(byte);
        } else {
            bytes.push(Some(byte));
        }
    }
    bytes
}
