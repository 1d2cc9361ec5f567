//! How things look in the window: the core's data as the texts and rows of the screens.

use std::time::{Duration, UNIX_EPOCH};

use slint::{ModelRc, VecModel};

use super::ui::{Bubble, Core, Entry, Fact};
use crate::{
    Card, Summary,
    message::{Memory, Reply},
};

pub(super) const MEGABYTE: f64 = 1e6;

pub(super) fn bubble(mine: bool, text: &str) -> Bubble {
    Bubble { mine, text: text.into(), rtl: is_rtl(text) }
}

/// Whether the first letter with a direction belongs to a script that runs from right to left.
fn is_rtl(text: &str) -> bool {
    let rtl = |c: char| {
        matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}'
            | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
    };
    text.chars().find(|c| c.is_alphabetic()).is_some_and(rtl)
}

/// Whether a key writes something: not so keys such as Tab, and those that Slint names by private characters.
pub(super) fn is_text(key: &str) -> bool {
    let writes = |c: char| !c.is_control() && !matches!(c, '\u{f700}'..='\u{f8ff}');
    !key.is_empty() && key.chars().all(writes)
}

pub(super) fn entry(summary: &Summary) -> Option<Entry> {
    let created = UNIX_EPOCH + Duration::from_secs(summary.created.unsigned_abs());
    let when = humantime::format_rfc3339_seconds(created).to_string();
    let when = when.get(..10).unwrap_or(&when);
    Some(Entry {
        // An interface that counts in 32 bits; two thousand million conversations are out of its reach.
        id: i32::try_from(summary.id).ok()?,
        title: summary.title.as_str().into(),
        detail: format!("{when}, {} messages", summary.messages).into(),
    })
}

pub(super) fn figures(reply: &Reply) -> String {
    let of = &reply.statistics;
    let memory = of.memory.as_ref().map(memory_text).map(|text| format!("\n{text}")).unwrap_or_default();
    format!(
        "{} tokens, {:.1} tok/s; first after {:.0} ms; prompt {} tokens ({} cached), {:.0} tok/s; \
         window {} of {}{memory}",
        of.reply_tokens,
        of.decode_tokens_per_second,
        of.ttft_ms,
        of.prompt_tokens,
        of.reused_tokens,
        of.prefill_tokens_per_second,
        of.held_tokens,
        of.window_tokens
    )
}

pub(super) fn memory_text(memory: &Memory) -> String {
    let megabytes = |bytes: u64| bytes as f64 / MEGABYTE;
    format!(
        "memory {:.1} MB + {:.1} MB of files, peak {:.1} MB",
        megabytes(memory.anonymous_bytes),
        megabytes(memory.file_bytes),
        megabytes(memory.peak_bytes)
    )
}

pub(super) fn show_card(core: &Core<'_>, card: &Card) {
    let fact = |name: &str, value: &str| Fact { name: name.into(), value: value.into() };
    let facts = vec![
        fact("Place", card.place),
        fact("Size", &format!("{:.2} MB", card.file_bytes as f64 / MEGABYTE)),
        fact("Parameters", &format!("{:.2} million", card.parameters as f64 / 1e6)),
        fact("Weights", &card.quantization),
        fact("Window", &format!("{} tokens", card.window_tokens)),
        fact("SHA-256", &card.sha256),
        fact("Exported", &card.published),
        fact("By", &card.made_by),
        fact("Proved for", card.proved_for),
        fact("Signature", card.signature),
        fact("Licence", &card.licence),
    ];
    let proofs: Vec<_> = card.proofs.iter().map(|proof| fact(proof.name, &proof.result)).collect();
    core.set_model_name(card.model.as_str().into());
    core.set_model_about(card.description.as_str().into());
    core.set_attribution(card.attribution.clone().unwrap_or_default().into());
    let texts: Vec<_> =
        card.licence_texts.iter().map(|licence| fact(licence.name, licence.text.trim_end())).collect();
    core.set_licence_texts(ModelRc::new(VecModel::from(texts)));
    core.set_facts(ModelRc::new(VecModel::from(facts)));
    core.set_proofs(ModelRc::new(VecModel::from(proofs)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_letter_decides_the_direction() {
        for (text, rtl) in
            [("hello", false), ("שלום", true), ("🙂 مرحبا", true), ("12 hello", false), ("", false)]
        {
            assert_eq!(is_rtl(text), rtl, "{text}");
        }
    }
}
