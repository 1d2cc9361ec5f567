//! A model's directory on disk, and the rule by which a manifest finds its files.
//!
//! Several files make a model (`.pte`, reference logits, manifest), and no file system renames several files at
//! once. So the rename of `manifest.json` is the one commit point, and the files it names are looked up in two
//! places: first `<file>.<first 16 digits of its digest>`, then `<file>`. A publish puts the new file under the
//! first name, renames the manifest, then moves the file to its plain name. A file that belongs to a manifest without being
//! named in it (signature, log) waits under the digest of the manifest's own bytes.
//!
//! **Invariant:** killed at any instant, the directory holds either the old model or the new one, whole.
//!
//! **Invariant:** [`ModelDir::open`] reads and parses each text once, and every path is reported to the watcher before
//! it is read: a build script that registers what it is told wakes up for a file that is missing now.

mod error;

use std::{fs, io};

use camino::{Utf8Path, Utf8PathBuf};

pub use self::error::GateError;
use crate::{
    claim::Claim,
    digest::Digest,
    error::ContractError,
    limits,
    manifest::{MANIFEST_FILE, Manifest, WeightsKind},
    name::is_plain,
    policy::Policy,
    recipe::Recipe,
    regular,
    reserve::{RESERVE_FILE, ReserveClaim, ReserveManifest},
};

/// File name of the policy, in the models directory.
pub const POLICY_FILE: &str = "policy.toml";
/// File name of a recipe, in a model's directory.
pub const RECIPE_FILE: &str = "recipe.toml";

/// A model's directory.
///
/// **Invariant:** no file is opened of a model whose name is not plain: a name cannot lead out of `models`, nor end a line
/// that it is printed in.
#[derive(Debug, Clone)]
pub struct ModelDir {
    models: Utf8PathBuf,
    name: String,
    watch: Option<fn(&Utf8Path)>,
}

impl ModelDir {
    /// The directory of model `name` below `models`; nothing is read yet.
    pub fn new(models: impl Into<Utf8PathBuf>, name: impl Into<String>) -> Self {
        Self { models: models.into(), name: name.into(), watch: None }
    }

    /// The same directory, with every path passed to `watch` before it is read.
    #[must_use]
    pub fn watched_by(mut self, watch: fn(&Utf8Path)) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Whether a model can have this name.
    ///
    /// # Errors
    /// [`GateError::Name`].
    pub fn check_name(&self) -> Result<(), GateError> {
        if is_plain(&self.name) { Ok(()) } else { Err(GateError::Name { got: self.name.clone() }) }
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory.
    pub fn path(&self) -> Utf8PathBuf {
        self.models.join(&self.name)
    }

    /// `manifest.json`.
    pub fn manifest_path(&self) -> Utf8PathBuf {
        self.path().join(MANIFEST_FILE)
    }

    /// `recipe.toml`.
    pub fn recipe_path(&self) -> Utf8PathBuf {
        self.path().join(RECIPE_FILE)
    }

    /// `policy.toml`.
    pub fn policy_path(&self) -> Utf8PathBuf {
        self.models.join(POLICY_FILE)
    }

    /// Reads and parses the recipe.
    ///
    /// # Errors
    /// Missing, unreadable or unusable.
    pub fn recipe(&self) -> Result<Recipe, GateError> {
        self.parse_recipe(&self.read_text(&self.recipe_path(), limits::TOML_BYTES_MAX, "a recipe")?)
    }

    fn parse_recipe(&self, text: &str) -> Result<Recipe, GateError> {
        let recipe = Recipe::parse(text).map_err(|error| self.contract(error, "correct the file"))?;
        if recipe.name != self.name {
            let error = ContractError::value(
                RECIPE_FILE,
                "name",
                &recipe.name,
                format!("`{}`, as its directory", self.name),
            );
            return Err(self.contract(error, "correct the file"));
        }
        Ok(recipe)
    }

    /// Reads and parses the policy.
    ///
    /// # Errors
    /// Missing, unreadable or unusable.
    pub fn policy(&self) -> Result<Policy, GateError> {
        self.parse_policy(&self.read_text(&self.policy_path(), limits::TOML_BYTES_MAX, "the policy")?)
    }

    fn parse_policy(&self, text: &str) -> Result<Policy, GateError> {
        Policy::parse(text).map_err(|error| self.contract(error, "correct the file"))
    }

    /// Reads and parses the manifest, if there is one.
    ///
    /// # Errors
    /// Unreadable or unusable.
    pub fn manifest(&self) -> Result<Option<Manifest>, GateError> {
        let path = self.manifest_path();
        match self.read(&path, limits::MANIFEST_BYTES_MAX, "a manifest") {
            Ok(bytes) => self.parse_manifest(&bytes).map(Some),
            Err(GateError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse_manifest(&self, bytes: &[u8]) -> Result<Manifest, GateError> {
        Manifest::parse(bytes).map_err(|error| self.contract(error, &self.export(true)))
    }

    /// Reads and parses all that is claimed about the model.
    ///
    /// # Errors
    /// A contract file is missing, unreadable or unusable.
    pub fn open(&self) -> Result<(Claim, ClaimFiles), GateError> {
        self.check_name()?;
        // A file that replaces another one may bring an old time stamp; its folder gets a new one.
        if self.path().is_dir() {
            self.watch(&self.path());
        }
        let manifest_bytes =
            self.read(&self.manifest_path(), limits::MANIFEST_BYTES_MAX, "the proof of a model")?;
        let recipe_text = self.read_text(&self.recipe_path(), limits::TOML_BYTES_MAX, "a recipe")?;
        let policy_text = self.read_text(&self.policy_path(), limits::TOML_BYTES_MAX, "the policy")?;
        let (recipe, policy) = (self.parse_recipe(&recipe_text)?, self.parse_policy(&policy_text)?);
        let manifest = self.parse_manifest(&manifest_bytes)?;
        let (tokenizer, chat_template) =
            self.texts_of(&recipe, manifest.weights, manifest.bound.tokenizer)?;
        let files = ClaimFiles { recipe: recipe_text, policy: policy_text, manifest: manifest_bytes };
        Ok((Claim { recipe, policy, manifest, tokenizer, chat_template }, files))
    }

    /// Tokenizer and chat template; random weights have none.
    fn texts_of(
        &self,
        recipe: &Recipe,
        weights: WeightsKind,
        tokenizer: Option<Digest>,
    ) -> Result<(Option<Vec<u8>>, Option<String>), GateError> {
        let real = weights == WeightsKind::Checkpoint;
        Ok(real.then(|| self.words(recipe, tokenizer)).transpose()?.unzip())
    }

    /// Reads the text of an agreement or notice.
    ///
    /// # Errors
    /// Missing or unreadable.
    pub fn licence_text(&self, name: &str) -> Result<String, GateError> {
        self.read_text(&self.path().join(name), limits::LICENCE_BYTES_MAX, "a text of the model's licence")
    }

    /// `reserve.json`.
    pub fn reserve_path(&self) -> Utf8PathBuf {
        self.path().join(RESERVE_FILE)
    }

    /// Reads the whole claim about the model's GGUF.
    ///
    /// # Errors
    /// A contract file is missing, unreadable or unusable.
    pub fn reserve_claim(&self) -> Result<ReserveClaim, GateError> {
        let hint = format!("run: cargo xtask export {} --runtime llamacpp", self.name);
        let expected = "the record of a GGUF";
        let bytes = match self.read(&self.reserve_path(), limits::MANIFEST_BYTES_MAX, expected) {
            Err(GateError::Missing { path, .. }) => return Err(GateError::Missing { path, expected, hint }),
            other => other?,
        };
        let manifest = ReserveManifest::parse(&bytes)
            .map_err(|error| self.contract(error, &format!("{hint} --force")))?;
        let (recipe, policy) = (self.recipe()?, self.policy()?);
        let (tokenizer, chat_template) =
            self.texts_of(&recipe, manifest.weights, manifest.bound.tokenizer)?;
        Ok(ReserveClaim { recipe, policy, manifest, tokenizer, chat_template })
    }

    /// Opens the `.gguf` that the claim is about.
    ///
    /// # Errors
    /// Missing or unreadable.
    pub fn open_gguf(&self, manifest: &ReserveManifest) -> Result<(Utf8PathBuf, fs::File), GateError> {
        let expected = "the exported GGUF";
        let path = self.resolve(&manifest.file, manifest.sha256);
        match self.open_file(&path, expected) {
            Ok(file) => Ok((path, file)),
            Err(GateError::Missing { path, .. }) => {
                let hint = format!("run: cargo xtask export {} --runtime llamacpp", self.name);
                Err(GateError::Missing { path, expected, hint })
            }
            Err(error) => Err(error),
        }
    }

    /// Where the tokenizer with this digest is now; one that no manifest names has its plain name.
    pub fn tokenizer_path(&self, recipe: &Recipe, sha256: Option<Digest>) -> Utf8PathBuf {
        let name = &recipe.tokens.tokenizer;
        sha256.map_or_else(|| self.path().join(name), |sha256| self.resolve(name, sha256))
    }

    /// Tokenizer and chat template of a model whose manifest is bound to the tokenizer with this digest.
    ///
    /// # Errors
    /// Missing or unreadable.
    pub fn words(&self, recipe: &Recipe, tokenizer: Option<Digest>) -> Result<(Vec<u8>, String), GateError> {
        let path = self.tokenizer_path(recipe, tokenizer);
        let tokenizer = self.read(&path, limits::TOKENIZER_BYTES_MAX, "the tokenizer")?;
        let name = self.path().join(&recipe.tokens.chat_template);
        let template = self.read_text(&name, limits::TEMPLATE_BYTES_MAX, "the chat template")?;
        Ok((tokenizer, template))
    }

    /// Where the file that a manifest names is now. See the module's documentation.
    pub fn resolve(&self, file: &str, sha256: Digest) -> Utf8PathBuf {
        let pending = self.path().join(pending_name(file, sha256));
        if pending.is_file() { pending } else { self.path().join(file) }
    }

    /// `signers.toml`.
    #[cfg(feature = "signature")]
    pub fn signers_path(&self) -> Utf8PathBuf {
        self.models.join(crate::signers::SIGNERS_FILE)
    }

    /// `model.sig`.
    #[cfg(feature = "signature")]
    pub fn signature_path(&self) -> Utf8PathBuf {
        self.path().join(crate::signature::SIGNATURE_FILE)
    }

    /// Where the signature that goes with these bytes of a manifest is now.
    #[cfg(feature = "signature")]
    pub fn signature_of(&self, manifest: &[u8]) -> Utf8PathBuf {
        self.resolve(crate::signature::SIGNATURE_FILE, Digest::of(manifest))
    }

    /// Reads and parses the list of signers. A list that is missing demands nothing of nobody: an error.
    ///
    /// # Errors
    /// Missing, unreadable or unusable.
    #[cfg(feature = "signature")]
    pub fn signers(&self) -> Result<crate::signers::Signers, GateError> {
        let text = self.read_text(&self.signers_path(), limits::TOML_BYTES_MAX, "the list of signers");
        let text = text.map_err(|error| match error {
            GateError::Missing { path, expected, .. } => {
                let hint = "write it: see docs/signing.md".to_owned();
                GateError::Missing { path, expected, hint }
            }
            other => other,
        })?;
        crate::signers::Signers::parse(&text).map_err(|error| self.contract(error, "correct the file"))
    }

    /// Reads the signature that goes with these bytes of a manifest, if there is one.
    ///
    /// # Errors
    /// Unreadable.
    #[cfg(feature = "signature")]
    pub fn signature(&self, manifest: &[u8]) -> Result<Option<Vec<u8>>, GateError> {
        match self.read(&self.signature_of(manifest), limits::SIGNATURE_BYTES_MAX, "a signature") {
            Ok(bytes) => Ok(Some(bytes)),
            Err(GateError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the `.pte` that the claim is about.
    ///
    /// # Errors
    /// Missing or unreadable.
    pub fn open_pte(&self, manifest: &Manifest) -> Result<(Utf8PathBuf, fs::File), GateError> {
        let path = self.resolve(&manifest.file, manifest.sha256);
        let file = self.open_file(&path, "the exported model")?;
        Ok((path, file))
    }

    fn export(&self, force: bool) -> String {
        format!("run: cargo xtask export {}{}", self.name, if force { " --force" } else { "" })
    }

    fn contract(&self, error: ContractError, hint: &str) -> GateError {
        GateError::Contract { dir: self.path(), error: Box::new(error), hint: hint.to_owned() }
    }

    fn io(&self, path: Utf8PathBuf, error: io::Error, expected: &'static str) -> GateError {
        if error.kind() == io::ErrorKind::NotFound {
            GateError::Missing { path, expected, hint: self.export(false) }
        } else {
            GateError::Io { path, error }
        }
    }

    fn watch(&self, path: &Utf8Path) {
        if let Some(watch) = self.watch {
            watch(path);
        }
    }

    fn open_file(&self, path: &Utf8Path, expected: &'static str) -> Result<fs::File, GateError> {
        self.check_name()?;
        self.watch(path);
        regular::open(path).map_err(|error| self.io(path.to_owned(), error, expected))
    }

    fn read(&self, path: &Utf8Path, bytes_max: u64, expected: &'static str) -> Result<Vec<u8>, GateError> {
        self.check_name()?;
        self.watch(path);
        regular::read(path, bytes_max).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => {
                let error = io::Error::other(format!("{error}, expected {expected}"));
                GateError::Io { path: path.to_owned(), error }
            }
            _ => self.io(path.to_owned(), error, expected),
        })
    }

    fn read_text(
        &self,
        path: &Utf8Path,
        bytes_max: u64,
        expected: &'static str,
    ) -> Result<String, GateError> {
        String::from_utf8(self.read(path, bytes_max, expected)?).map_err(|error| GateError::Io {
            path: path.to_owned(),
            error: io::Error::other(format!(
                "got bytes that are not UTF-8 at {}",
                error.utf8_error().valid_up_to()
            )),
        })
    }
}

/// The contract files of a claim as they were read; tokenizer and template are in the [`Claim`] itself.
#[derive(Debug, Clone)]
pub struct ClaimFiles {
    /// `recipe.toml`.
    pub recipe: String,
    /// `policy.toml`.
    pub policy: String,
    /// `manifest.json`.
    pub manifest: Vec<u8>,
}

/// The name under which a published file waits for its manifest.
pub fn pending_name(file: &str, sha256: Digest) -> String {
    format!("{file}.{}", sha256.short())
}

#[cfg(test)]
mod tests;
