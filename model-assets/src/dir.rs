//! A model's directory on disk, and the rule by which a manifest finds its files.
//!
//! Several files make a model (`.pte`, reference logits, manifest), and no file system renames several files at
//! once. So the rename of `manifest.json` is the one commit point, and the files it names are looked up in two
//! places: first `<file>.<first 16 digits of its digest>`, then `<file>`. A publish puts the new file under the
//! first name, renames the manifest, then moves the file to its plain name. A file that belongs to a manifest without being
//! named in it (signature, log) waits under the digest of the manifest's own bytes.
//!
//! **Invariant:** killed at any instant, the directory holds either the old model or the new one, whole.

use std::{fs, io};

use camino::{Utf8Path, Utf8PathBuf};
use thiserror::Error;

use crate::{
    check::Refusal,
    claim::{Claim, ClaimTexts},
    digest::Digest,
    error::ContractError,
    limits,
    manifest::{MANIFEST_FILE, Manifest, WeightsKind},
    policy::Policy,
    recipe::Recipe,
    reserve::{RESERVE_FILE, ReserveClaim, ReserveManifest},
};

/// File name of the policy, in the models directory.
pub const POLICY_FILE: &str = "policy.toml";
/// File name of a recipe, in a model's directory.
pub const RECIPE_FILE: &str = "recipe.toml";

/// Why a model on disk cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GateError {
    /// A file that must be there is not.
    #[error("{path}: no such file, expected {expected}")]
    Missing {
        /// The path.
        path: Utf8PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// The command that makes it.
        hint: String,
    },
    /// A file that cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// The path.
        path: Utf8PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// A contract file that cannot be used.
    #[error("{dir}: {error}")]
    Contract {
        /// The model's directory.
        dir: Utf8PathBuf,
        /// The reason.
        error: Box<ContractError>,
        /// The command that mends it.
        hint: String,
    },
    /// The model was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl GateError {
    /// The command that mends it.
    pub fn hint(&self) -> &str {
        match self {
            Self::Missing { hint, .. } | Self::Contract { hint, .. } => hint,
            Self::Io { .. } => "make the file readable and run the command again",
            Self::Refused(refusal) => &refusal.hint,
        }
    }
}

/// A model's directory.
#[derive(Debug, Clone)]
pub struct ModelDir {
    models: Utf8PathBuf,
    name: String,
}

impl ModelDir {
    /// The directory of model `name` below `models`; nothing is read yet.
    pub fn new(models: impl Into<Utf8PathBuf>, name: impl Into<String>) -> Self {
        Self { models: models.into(), name: name.into() }
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
        let text = self.read_text(&self.recipe_path(), limits::TOML_BYTES_MAX, "a recipe")?;
        let recipe = Recipe::parse(&text).map_err(|error| self.contract(error, "correct the file"))?;
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
        let text = self.read_text(&self.policy_path(), limits::TOML_BYTES_MAX, "the policy")?;
        Policy::parse(&text).map_err(|error| self.contract(error, "correct the file"))
    }

    /// Reads and parses the manifest, if there is one.
    ///
    /// # Errors
    /// Unreadable or unusable.
    pub fn manifest(&self) -> Result<Option<Manifest>, GateError> {
        let path = self.manifest_path();
        match self.read(&path, limits::MANIFEST_BYTES_MAX, "a manifest") {
            Ok(bytes) => {
                Manifest::parse(&bytes).map(Some).map_err(|error| self.contract(error, &self.export(true)))
            }
            Err(GateError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the whole claim.
    ///
    /// # Errors
    /// A contract file is missing, unreadable or unusable.
    pub fn claim(&self) -> Result<(Claim, ClaimFiles), GateError> {
        let manifest =
            self.read(&self.manifest_path(), limits::MANIFEST_BYTES_MAX, "the proof of a model")?;
        let recipe_text = self.read_text(&self.recipe_path(), limits::TOML_BYTES_MAX, "a recipe")?;
        let policy_text = self.read_text(&self.policy_path(), limits::TOML_BYTES_MAX, "the policy")?;
        let recipe = self.recipe()?;
        let parsed = Manifest::parse(&manifest).ok();
        let real = parsed.as_ref().map(|m| m.weights) != Some(WeightsKind::Random);
        let bound = parsed.and_then(|manifest| manifest.bound.tokenizer);
        let words = real.then(|| self.words(&recipe, bound)).transpose()?;
        let (tokenizer, chat_template) = words.unzip();
        let files =
            ClaimFiles { recipe: recipe_text, policy: policy_text, manifest, tokenizer, chat_template };
        let claim = Claim::parse(files.texts()).map_err(|error| self.contract(error, &self.export(true)))?;
        Ok((claim, files))
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
        let (tokenizer, chat_template) = match manifest.weights {
            WeightsKind::Random => (None, None),
            WeightsKind::Checkpoint => {
                let (tokenizer, template) = self.words(&recipe, manifest.bound.tokenizer)?;
                (Some(tokenizer), Some(template))
            }
        };
        Ok(ReserveClaim { recipe, policy, manifest, tokenizer, chat_template })
    }

    /// Opens the `.gguf` that the claim is about.
    ///
    /// # Errors
    /// Missing or unreadable.
    pub fn open_gguf(&self, manifest: &ReserveManifest) -> Result<(Utf8PathBuf, fs::File), GateError> {
        let path = self.resolve(&manifest.file, manifest.sha256);
        match fs::File::open(&path) {
            Ok(file) => Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(GateError::Missing {
                path,
                expected: "the exported GGUF",
                hint: format!("run: cargo xtask export {} --runtime llamacpp", self.name),
            }),
            Err(error) => Err(GateError::Io { path, error }),
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

    /// Every path whose change can change the verdict.
    pub fn inputs(&self, recipe: Option<&Recipe>, manifest: Option<&Manifest>) -> Vec<Utf8PathBuf> {
        let mut paths = vec![self.policy_path(), self.recipe_path(), self.manifest_path()];
        if let Some(recipe) = recipe {
            paths.push(self.path().join(&recipe.tokens.tokenizer));
            paths.push(self.path().join(&recipe.tokens.chat_template));
            paths.push(self.path().join(recipe.file_name()));
        }
        if let Some(manifest) = manifest {
            let tokenizer = recipe.zip(manifest.bound.tokenizer);
            let tokenizer = tokenizer.map(|(recipe, sha256)| pending_name(&recipe.tokens.tokenizer, sha256));
            let names = [Some(pending_name(&manifest.file, manifest.sha256)), tokenizer];
            let pending = names.into_iter().flatten().map(|name| self.path().join(name));
            paths.extend(pending.filter(|path| path.is_file()));
        }
        paths
    }

    /// Opens the `.pte` that the claim is about.
    ///
    /// # Errors
    /// Missing or unreadable.
    pub fn open_pte(&self, manifest: &Manifest) -> Result<(Utf8PathBuf, fs::File), GateError> {
        let path = self.resolve(&manifest.file, manifest.sha256);
        match fs::File::open(&path) {
            Ok(file) => Ok((path, file)),
            Err(error) => Err(self.io(path, error, "the exported model")),
        }
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

    fn read(&self, path: &Utf8Path, bytes_max: u64, expected: &'static str) -> Result<Vec<u8>, GateError> {
        use io::Read as _;
        let file = fs::File::open(path).map_err(|error| self.io(path.to_owned(), error, expected))?;
        let mut bytes = Vec::new();
        // One byte past the limit, so that a file that is too long is told from one that just fits.
        file.take(bytes_max + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| self.io(path.to_owned(), error, expected))?;
        if bytes.len() as u64 > bytes_max {
            let error = io::Error::other(format!("got more than {bytes_max} bytes, expected {expected}"));
            return Err(GateError::Io { path: path.to_owned(), error });
        }
        Ok(bytes)
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

/// The texts of a claim, owned.
#[derive(Debug, Clone)]
pub struct ClaimFiles {
    /// `recipe.toml`.
    pub recipe: String,
    /// `policy.toml`.
    pub policy: String,
    /// `manifest.json`.
    pub manifest: Vec<u8>,
    /// `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// The chat template.
    pub chat_template: Option<String>,
}

impl ClaimFiles {
    /// The texts, borrowed.
    pub fn texts(&self) -> ClaimTexts<'_> {
        ClaimTexts {
            recipe: &self.recipe,
            policy: &self.policy,
            manifest: &self.manifest,
            tokenizer: self.tokenizer.as_deref(),
            chat_template: self.chat_template.as_deref(),
        }
    }
}

/// The name under which a published file waits for its manifest.
pub fn pending_name(file: &str, sha256: Digest) -> String {
    format!("{file}.{}", sha256.short())
}
