//! The settings that a user can change.

use engine::sample;
use serde::{Deserialize, Serialize};

/// Longest system message, bytes: a window holds a few thousand at most.
const SYSTEM_BYTES_MAX: usize = 16 << 10;
/// Most tokens of a reply.
const TOKENS_MAX: u32 = 1 << 17;

/// What decides how the model replies; kept with the conversations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// System message; empty for none.
    pub system: String,
    /// 0 is greedy; 1 is the model's own distribution.
    pub temperature: f32,
    /// Keep the fewest tokens whose probabilities reach this sum.
    pub top_p: f32,
    /// Start of the random sequence; absent, every reply has another.
    pub seed: Option<u64>,
    /// Most tokens of a reply.
    pub tokens_max: u32,
    /// How a graphical front looks.
    pub appearance: Appearance,
}

/// Light or dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Appearance {
    /// As the system has it.
    #[default]
    System,
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

impl Default for Settings {
    fn default() -> Self {
        let (system, appearance) = (String::new(), Appearance::System);
        Self { system, temperature: 0.0, top_p: 1.0, seed: None, tokens_max: 128, appearance }
    }
}

impl Settings {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// The setting, what was got and what was expected.
    pub fn check(&self) -> Result<(), String> {
        if self.system.len() > SYSTEM_BYTES_MAX {
            let got = self.system.len();
            return Err(format!("system message: got {got} bytes, expected at most {SYSTEM_BYTES_MAX}"));
        }
        if !(1..=TOKENS_MAX).contains(&self.tokens_max) {
            return Err(format!("most tokens: got {}, expected 1 to {TOKENS_MAX}", self.tokens_max));
        }
        sample::Sampler::new(self.sampling()).map(|_| ()).map_err(|error| error.to_string())
    }

    /// These settings after a person changed `from` into `to`: what they did not touch stays, such as a flag of one run.
    pub(crate) fn changed(self, from: &Self, to: &Self) -> Self {
        fn pick<T: PartialEq + Clone>(kept: T, from: &T, to: &T) -> T {
            if from == to { kept } else { to.clone() }
        }
        Self {
            system: pick(self.system, &from.system, &to.system),
            temperature: pick(self.temperature, &from.temperature, &to.temperature),
            top_p: pick(self.top_p, &from.top_p, &to.top_p),
            seed: pick(self.seed, &from.seed, &to.seed),
            tokens_max: pick(self.tokens_max, &from.tokens_max, &to.tokens_max),
            appearance: pick(self.appearance, &from.appearance, &to.appearance),
        }
    }

    /// How tokens are chosen.
    pub(crate) fn sampling(&self) -> sample::Settings {
        let seed = self.seed.unwrap_or_else(any_seed);
        sample::Settings { temperature: self.temperature, top_p: self.top_p, top_k: None, seed }
    }

    /// The same for a reply that is wanted instead of another: a greedy choice would only give the old one again.
    pub(crate) fn again(&self, attempt: u64) -> sample::Settings {
        let sampling = self.sampling();
        sample::Settings {
            temperature: sampling.temperature.max(TEMPERATURE_AGAIN),
            seed: sampling.seed.wrapping_add(attempt),
            ..sampling
        }
    }
}

/// Settings for this run alone. They override the stored ones and are not stored.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// System message.
    pub system: Option<String>,
    /// Temperature.
    pub temperature: Option<f32>,
    /// Nucleus.
    pub top_p: Option<f32>,
    /// Start of the random sequence.
    pub seed: Option<u64>,
    /// Most tokens of a reply.
    pub tokens_max: Option<u32>,
}

impl Overrides {
    /// What holds in this run.
    pub(crate) fn over(self, kept: Settings) -> Settings {
        Settings {
            system: self.system.unwrap_or(kept.system),
            temperature: self.temperature.unwrap_or(kept.temperature),
            top_p: self.top_p.unwrap_or(kept.top_p),
            seed: self.seed.or(kept.seed),
            tokens_max: self.tokens_max.unwrap_or(kept.tokens_max),
            appearance: kept.appearance,
        }
    }
}

/// Another number each time, from the system's own source: hash tables are keyed by it.
fn any_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Least temperature of a regenerated reply.
const TEMPERATURE_AGAIN: f32 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_seed_no_two_replies_begin_alike() {
        let seeds = |settings: Settings| [settings.sampling().seed, settings.sampling().seed];
        let [first, second] = seeds(Settings::default());
        assert_ne!(first, second);
        let fixed = Settings { seed: Some(7), ..Settings::default() };
        assert_eq!(fixed.again(2).seed, 9);
        assert_eq!(seeds(fixed), [7, 7]);
    }

    #[test]
    fn what_nobody_touched_is_kept_as_it_was() {
        let kept = Settings { tokens_max: 7, ..Settings::default() };
        let overrides = Overrides { seed: Some(5), system: Some("be brief".into()), ..Overrides::default() };
        let shown = overrides.over(kept.clone());
        let wanted = Settings { temperature: 0.5, seed: None, ..shown.clone() };
        assert_eq!(
            kept.changed(&shown, &wanted),
            Settings { temperature: 0.5, tokens_max: 7, ..Settings::default() }
        );
        // Said in so many words it is kept.
        let spoken = Settings { seed: Some(5), ..wanted.clone() };
        assert_eq!(Settings::default().changed(&wanted, &spoken).seed, Some(5));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let good = Settings::default();
        assert_eq!(good.check(), Ok(()));
        for (bad, name) in [
            (Settings { temperature: -1.0, ..good.clone() }, "temperature"),
            (Settings { temperature: f32::NAN, ..good.clone() }, "temperature"),
            (Settings { top_p: 0.0, ..good.clone() }, "top-p"),
            (Settings { tokens_max: 0, ..good.clone() }, "most tokens"),
            (Settings { system: "x".repeat(SYSTEM_BYTES_MAX + 1), ..good.clone() }, "system message"),
        ] {
            let error = bad.check().unwrap_err();
            assert!(error.contains(name) && error.contains("expected"), "{error}");
        }
    }
}
