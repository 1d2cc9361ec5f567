//! `signers.toml`: whose signature a release build demands, and of which models.
//!
//! It stands beside `policy.toml` and is no part of it: measured evidence is bound to the policy, and a new key must not
//! void measurements.
//!
//! **Invariant:** a model that is not named as unsigned needs a signature. A model that is new is closed until somebody
//! decides.
//!
//! **Invariant:** there is no trusted time. A key's dates are held against the clock of the machine that builds, for a
//! signature says nothing about when it was made: after a key's last day all its signatures are void, old ones too.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use toml::value::{Date, Datetime};

use crate::{
    digest::Digest,
    error::ContractError,
    limits,
    name::is_plain,
    signature::{PublicKey, Signature, SignatureError, Statement},
};

/// File name of the list, in the models directory.
pub const SIGNERS_FILE: &str = "signers.toml";
/// The format version this crate reads.
pub const SIGNERS_SCHEMA: u32 = 1;

/// Who may sign which models.
#[derive(Debug, Clone)]
pub struct Signers {
    unsigned: Vec<String>,
    keys: Vec<Key>,
}

/// A key that is known.
#[derive(Debug, Clone)]
pub struct Key {
    name: String,
    public: PublicKey,
    hint: Digest,
    /// Days since 1970-01-01.
    first_day: i64,
    last_day: i64,
    /// The dates as they are written.
    dates: (Date, Date),
    revoked: Option<String>,
    models: Option<Vec<String>>,
}

impl Key {
    /// Its name: a person or a machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of its PEM text.
    pub fn hint(&self) -> Digest {
        self.hint
    }
}

/// Why a signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Name of the rule.
    pub id: &'static str,
    /// What was found.
    pub got: String,
    /// What was expected.
    pub expected: String,
}

impl Rejected {
    fn new(id: &'static str, got: impl ToString, expected: impl ToString) -> Self {
        Self { id, got: got.to_string(), expected: expected.to_string() }
    }

    fn malformed(error: SignatureError) -> Self {
        let format = "a signature of the model-signing format 1.0";
        match error {
            SignatureError::Forged { hint } => {
                let got = format!("a signature that does not fit the content and the key {hint}");
                Self::new("signature-forged", got, "the key's signature of this content")
            }
            SignatureError::Value { what, got, expected } => {
                Self::new("signature-malformed", format!("{what} {got}"), expected)
            }
            SignatureError::TooLarge { got, expected } => {
                Self::new("signature-malformed", format!("{got} bytes"), format!("at most {expected}"))
            }
            other => Self::new("signature-malformed", other, format),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: u32,
    /// Models that are released without a signature.
    #[serde(default)]
    unsigned: Vec<String>,
    #[serde(default)]
    keys: Vec<FileKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKey {
    name: String,
    public_key: String,
    valid_from: Datetime,
    valid_until: Datetime,
    /// Why it must not be trusted any more.
    revoked: Option<String>,
    /// The models it may sign; every one unless given.
    models: Option<Vec<String>>,
}

fn wrong<T>(key: &'static str, got: impl ToString, expected: impl ToString) -> Result<T, ContractError> {
    Err(ContractError::value(SIGNERS_FILE, key, got, expected))
}

impl Signers {
    /// Parses `signers.toml`.
    ///
    /// # Errors
    /// Too large, not TOML, unknown keys, an unknown schema version, or a value that cannot be.
    pub fn parse(text: &str) -> Result<Self, ContractError> {
        ContractError::check_size(SIGNERS_FILE, text.len(), limits::TOML_BYTES_MAX)?;
        let file: File =
            toml::from_str(text).map_err(|error| ContractError::syntax(SIGNERS_FILE, error.to_string()))?;
        ContractError::check_schema(SIGNERS_FILE, file.schema, SIGNERS_SCHEMA)?;
        if file.keys.len() > limits::SIGNERS_MAX {
            let expected = format!("at most {}", limits::SIGNERS_MAX);
            return wrong("keys", format!("{} keys", file.keys.len()), expected);
        }
        file.unsigned.iter().try_for_each(|name| plain("unsigned", name))?;
        let mut keys: Vec<Key> = Vec::new();
        for key in file.keys {
            let key = Key::of(key)?;
            if let Some(other) = keys.iter().find(|other| other.name == key.name || other.hint == key.hint) {
                let got = format!("`{}` and `{}`", other.name, key.name);
                return wrong("keys.name", got, "every key once, by its own name");
            }
            keys.push(key);
        }
        Ok(Self { unsigned: file.unsigned, keys })
    }

    /// Whether a release of this model needs a signature.
    pub fn demands(&self, model: &str) -> bool {
        !self.unsigned.iter().any(|name| name == model)
    }

    /// What was signed and by which key, if that key may sign this model today.
    ///
    /// # Errors
    /// The first rule that the signature breaks.
    pub fn accept(
        &self,
        signature: &[u8],
        model: &str,
        now: SystemTime,
    ) -> Result<(&Key, Statement), Rejected> {
        let signature = Signature::parse(signature).map_err(Rejected::malformed)?;
        let Some(key) = self.keys.iter().find(|key| key.hint == signature.hint()) else {
            return Err(Rejected::new(
                "signature-key",
                format!("key {}", signature.hint()),
                self.expected(model),
            ));
        };
        // First of all: what an unverified text says about a key is worth nothing.
        let statement = signature.verify(&key.public).map_err(Rejected::malformed)?;
        if let Some(why) = &key.revoked {
            let got = format!("key `{}`, revoked: {why}", key.name);
            return Err(Rejected::new("signature-revoked", got, self.expected(model)));
        }
        if key.models.as_ref().is_some_and(|models| models.iter().all(|name| name != model)) {
            let got = format!("key `{}`, which may not sign `{model}`", key.name);
            return Err(Rejected::new("signature-key", got, self.expected(model)));
        }
        let today = day_of(now);
        if today < key.first_day || today > key.last_day {
            let (from, until) = key.dates;
            let got = format!("key `{}`, valid from {from} until {until}", key.name);
            let expected = format!("a key that is valid on {}, by this machine's clock", date(today));
            return Err(Rejected::new("signature-date", got, expected));
        }
        Ok((key, statement))
    }

    /// Whose signature a model needs, in words.
    pub fn expected(&self, model: &str) -> String {
        let may = |key: &&Key| {
            key.revoked.is_none() && key.models.as_ref().is_none_or(|m| m.iter().any(|n| n == model))
        };
        let names: Vec<_> = self.keys.iter().filter(may).map(|key| format!("`{}`", key.name)).collect();
        if names.is_empty() {
            return format!("a key for `{model}` in {SIGNERS_FILE}, which has none, and its signature");
        }
        format!("a signature by {}", names.join(" or "))
    }
}

impl Key {
    fn of(key: FileKey) -> Result<Self, ContractError> {
        let FileKey { name, public_key, valid_from, valid_until, revoked, models } = key;
        let printable = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        if !printable(&name) || name.chars().count() > limits::SIGNER_CHARS_MAX {
            let expected = format!("1 to {} printable characters", limits::SIGNER_CHARS_MAX);
            return wrong("keys.name", format!("`{}`", name.escape_default()), expected);
        }
        if let Some(why) = revoked.as_ref().filter(|why| !printable(why)) {
            return wrong("keys.revoked", format!("`{}`", why.escape_default()), "why, in one line");
        }
        for model in models.iter().flatten() {
            plain("keys.models", model)?;
        }
        let public = PublicKey::parse(&public_key)
            .or_else(|error| wrong("keys.public_key", format!("{error} in `{name}`"), "a key on P-256"))?;
        let (from, until) = (day("keys.valid_from", &valid_from)?, day("keys.valid_until", &valid_until)?);
        if from.0 > until.0 {
            let got = format!("{valid_until} in `{name}`");
            return wrong("keys.valid_until", got, format!("{valid_from} or later"));
        }
        let hint = public.hint();
        let dates = (from.1, until.1);
        Ok(Self { name, public, hint, first_day: from.0, last_day: until.0, dates, revoked, models })
    }
}

/// The entry of a new key, valid from the day `now` for a year.
pub fn entry(name: &str, key: &PublicKey, now: SystemTime) -> String {
    let today = day_of(now);
    // `{:?}` of a text without control characters is a basic string of TOML.
    format!(
        "[[keys]]\nname = {name:?}\nvalid_from = {}\nvalid_until = {}\npublic_key = \"\"\"\n{}\"\"\"\n",
        date(today),
        date(today.saturating_add(365)),
        key.to_pem()
    )
}

fn plain(key: &'static str, name: &str) -> Result<(), ContractError> {
    if !is_plain(name) {
        return wrong(key, format!("`{}`", name.escape_default()), "a model's name");
    }
    Ok(())
}

/// A date without a time, and its day since 1970-01-01.
fn day(key: &'static str, datetime: &Datetime) -> Result<(i64, Date), ContractError> {
    match datetime {
        Datetime { date: Some(date), time: None, offset: None } => Ok((number(*date), *date)),
        _ => wrong(key, datetime, "a date without a time, such as 2027-01-31"),
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, which repeats every 400 years.
fn number(date: Date) -> i64 {
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    // A year that begins in March ends with the day that leap years add.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a day since 1970-01-01: the inverse of [`number`].
fn date(day: i64) -> String {
    let day = day + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, year) = (of_year - (153 * month + 2) / 5 + 1, era * 400 + year + i64::from(month >= 10));
    format!("{year:04}-{:02}-{day:02}", (month + 2) % 12 + 1)
}

/// Days since 1970-01-01; a clock that stands before it has no day on which a key is valid.
fn day_of(now: SystemTime) -> i64 {
    let days = |since: Duration| i64::try_from(since.as_secs() / 86_400).unwrap_or_default();
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(-1, days)
}

#[cfg(test)]
mod tests;
