//! `model.sig`: a signature over a model's files in the OpenSSF model-signing format, version 1.0, as the public
//! `model_signing` tool writes with `sign key` and reads with `verify key`.
//!
//! Layout: a Sigstore bundle (JSON) with a DSSE envelope; its payload is an in-toto statement that lists files with their
//! SHA-256; the key is known by the SHA-256 of its PEM text.
//!
//! **Invariant:** nothing of a statement can be read before its signature was verified: [`Signature::verify`] is the only
//! way from one to the other.
//!
//! **Invariant:** one algorithm, ECDSA on P-256 with SHA-256, and one encoding of what is signed (DSSE v1). The public tool
//! knows EC keys only, no Ed25519.
//!
//! Deliberately absent: the predicate `Digests/v0.1` and the envelope encoding of releases before 1.0, which the public
//! tool still reads: the first lets files be left out unseen, the second signs an ambiguous text.

mod format;

use std::collections::BTreeSet;

use base64ct::{Base64, Encoding as _};
use p256::{
    ecdsa::{
        SigningKey, VerifyingKey,
        signature::{Signer as _, Verifier as _},
    },
    elliptic_curve::{Generate as _, zeroize::Zeroizing},
    pkcs8::{DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding},
};
use serde::Serialize;
use thiserror::Error;

use self::format::{Bundle, Envelope, EnvelopeSignature, InToto, KeyIdentifier, Material};
use crate::{digest::Digest, limits};

/// File name of a model's signature.
pub const SIGNATURE_FILE: &str = "model.sig";

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Why a signature or a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Larger than any honest one.
    #[error("got {got} bytes, expected at most {expected}")]
    TooLarge {
        /// Its size.
        got: u64,
        /// The limit.
        expected: u64,
    },
    /// Not the JSON of a bundle or statement.
    #[error("{what}: {message}")]
    Syntax {
        /// Bundle or statement.
        what: &'static str,
        /// The parser's message.
        message: String,
    },
    /// A value that a signature of this format does not have.
    #[error("{what}: got {got}, expected {expected}")]
    Value {
        /// Dotted name.
        what: &'static str,
        /// The value.
        got: String,
        /// What it must be.
        expected: String,
    },
    /// The signature is not one by this key over this content.
    #[error("got a signature that does not fit the content and the key {hint}")]
    Forged {
        /// The key that it was held against.
        hint: Digest,
    },
    /// A key that cannot be read.
    #[error("key: {0}")]
    Key(String),
}

fn value<T>(what: &'static str, got: impl ToString, expected: impl ToString) -> Result<T, SignatureError> {
    Err(SignatureError::Value { what, got: got.to_string(), expected: expected.to_string() })
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(p256::PublicKey);

impl PublicKey {
    /// Reads `-----BEGIN PUBLIC KEY-----`.
    ///
    /// # Errors
    /// Not the PEM text of a key on P-256.
    pub fn parse(pem: &str) -> Result<Self, SignatureError> {
        let expected =
            "got no such text, expected the PEM text of a public key on P-256 (`-----BEGIN PUBLIC KEY-----`)";
        let key = p256::PublicKey::from_public_key_pem(pem.trim());
        key.map(Self).map_err(|error| SignatureError::Key(format!("{expected}: {error}")))
    }

    /// Its PEM text, with the line breaks that every tool writes.
    pub fn to_pem(&self) -> String {
        // A valid key always has an encoding; were there none, its empty text is no key's.
        self.0.to_public_key_pem(LineEnding::LF).unwrap_or_default()
    }

    /// How a signature names it: SHA-256 of the PEM text.
    pub fn hint(&self) -> Digest {
        Digest::of(self.to_pem().as_bytes())
    }
}

/// A private key; wiped from memory when it is dropped.
pub struct PrivateKey(SigningKey);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "private key of {}", self.public().hint())
    }
}

impl PrivateKey {
    /// A new key from the system's random numbers.
    ///
    /// # Errors
    /// The system has none.
    pub fn generate() -> Result<Self, SignatureError> {
        SigningKey::try_generate().map(Self).map_err(|error| SignatureError::Key(error.to_string()))
    }

    /// Reads PKCS #8 (`PRIVATE KEY`) or SEC 1 (`EC PRIVATE KEY`), unencrypted. The text never appears in an error.
    ///
    /// # Errors
    /// Not the PEM text of a private key on P-256.
    pub fn parse(pem: &str) -> Result<Self, SignatureError> {
        if pem.contains("ENCRYPTED") {
            let message = "got an encrypted key, expected an unencrypted one (openssl pkcs8 -in KEY.pem -out PLAIN.pem)";
            return Err(SignatureError::Key(message.to_owned()));
        }
        // `openssl ecparam -genkey` writes the curve's name before the key.
        let text = pem.find("-----BEGIN EC PRIVATE KEY").and_then(|start| pem.get(start..)).unwrap_or(pem);
        let key = p256::SecretKey::from_pem(text.trim());
        let expected =
            "got no such text, expected the PEM text of a private key on P-256 (cargo xtask sign --new-key)";
        key.map(|key| Self(key.into())).map_err(|_| SignatureError::Key(expected.to_owned()))
    }

    /// PKCS #8 in PEM; wiped from memory when it is dropped.
    ///
    /// # Errors
    /// The key has no encoding.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, SignatureError> {
        self.0.to_pkcs8_pem(LineEnding::LF).map_err(|error| SignatureError::Key(error.to_string()))
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(p256::PublicKey::from(self.0.verifying_key()))
    }

    /// Signs a statement: the bytes of `model.sig`. The same statement and key give the same bytes (RFC 6979).
    ///
    /// # Errors
    /// A statement that cannot be: no file, a name that is none, a file twice.
    pub fn sign(&self, statement: &Statement) -> Result<Vec<u8>, SignatureError> {
        statement.check()?;
        let payload = json(&InToto::of(statement));
        let signature: p256::ecdsa::DerSignature = self.0.sign(&pae(&payload));
        Ok(json(&Bundle {
            media_type: MEDIA_TYPE.to_owned(),
            verification_material: Material {
                public_key: Some(KeyIdentifier { hint: Some(self.public().hint().to_string()) }),
                tlog_entries: Vec::new(),
            },
            dsse_envelope: Envelope {
                payload: Base64::encode_string(&payload),
                payload_type: PAYLOAD_TYPE.to_owned(),
                signatures: vec![EnvelopeSignature {
                    sig: Base64::encode_string(signature.as_bytes()),
                    keyid: String::new(),
                }],
            },
        }))
    }
}

/// A signed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Path below the model's directory, `/` between its parts.
    pub name: String,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
}

/// What is signed: files with their digests, and what was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The model's name.
    pub model: String,
    /// The signed files, none twice.
    pub resources: Vec<Resource>,
    /// Paths below the model's directory that a verifier passes over, with all that is below them.
    pub ignored: Vec<String>,
}

impl Statement {
    /// The signed digest of a file.
    pub fn sha256(&self, name: &str) -> Option<Digest> {
        self.resources.iter().find(|resource| resource.name == name).map(|resource| resource.sha256)
    }

    /// Whether a verifier passes over this path.
    pub fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|path| {
            let path = path.trim_start_matches("./").trim_end_matches('/');
            let rest = name.strip_prefix(path);
            path.is_empty()
                || path == "."
                || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// SHA-256 over the raw digests, in the order of the list.
    fn root(&self) -> Digest {
        let digests = self.resources.iter().flat_map(|resource| resource.sha256.to_bytes());
        Digest::of(&digests.collect::<Vec<u8>>())
    }

    fn check(&self) -> Result<(), SignatureError> {
        let most = limits::SIGNATURE_FILES_MAX;
        for (what, got) in [("resources", self.resources.len()), ("ignore_paths", self.ignored.len())] {
            if got > most {
                return value(what, format!("{got} entries"), format!("at most {most}"));
            }
        }
        if self.resources.is_empty() {
            return value("resources", "no file", "at least one");
        }
        let mut seen = BTreeSet::new();
        for Resource { name, .. } in &self.resources {
            let part = |part: &str| !part.is_empty() && part != "." && part != "..";
            if !name.split('/').all(part) || name.contains(['\\', '\0']) {
                return value(
                    "resources",
                    format!("`{}`", name.escape_default()),
                    "a path below the model's directory",
                );
            }
            if !seen.insert(name) {
                return value("resources", format!("`{name}` twice"), "every file once");
            }
            // A file that is signed and passed over would be whichever its reader prefers.
            if self.ignores(name) {
                return value(
                    "ignore_paths",
                    format!("`{name}`, which is signed"),
                    "only what is not signed",
                );
            }
        }
        Ok(())
    }
}

/// A parsed `model.sig`, not yet verified.
#[derive(Debug, Clone)]
pub struct Signature {
    hint: Digest,
    payload: Vec<u8>,
    signature: p256::ecdsa::Signature,
}

impl Signature {
    /// Reads a bundle.
    ///
    /// # Errors
    /// Not a bundle of this format: another media type, payload, key or signature than a P-256 key makes.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        let (got, expected) = (bytes.len() as u64, limits::SIGNATURE_BYTES_MAX);
        if got > expected {
            return Err(SignatureError::TooLarge { got, expected });
        }
        let bundle: Bundle = serde_json::from_slice(bytes)
            .map_err(|error| SignatureError::Syntax { what: "bundle", message: error.to_string() })?;
        let Bundle { media_type, verification_material, dsse_envelope } = bundle;
        if media_type != MEDIA_TYPE {
            return value("mediaType", format!("`{media_type}`"), MEDIA_TYPE);
        }
        if dsse_envelope.payload_type != PAYLOAD_TYPE {
            return value("payloadType", format!("`{}`", dsse_envelope.payload_type), PAYLOAD_TYPE);
        }
        let [signature] = dsse_envelope.signatures.as_slice() else {
            return value("signatures", format!("{} of them", dsse_envelope.signatures.len()), "one");
        };
        let Some(hint) = verification_material.public_key.and_then(|key| key.hint) else {
            let expected = "the key's digest: signed with a key, not with a certificate";
            return value("publicKey.hint", "none", expected);
        };
        let Some(hint) = Digest::parse(&hint) else {
            return value("publicKey.hint", format!("`{hint}`"), "64 lower-case hex digits");
        };
        let raw = base64("sig", &signature.sig)?;
        let Ok(signature) = p256::ecdsa::Signature::from_der(&raw) else {
            return value(
                "sig",
                format!("{} bytes that are none", raw.len()),
                "an ECDSA signature on P-256, DER",
            );
        };
        Ok(Self { hint, payload: base64("payload", &dsse_envelope.payload)?, signature })
    }

    /// SHA-256 of the PEM text of the key that it says it is by.
    pub fn hint(&self) -> Digest {
        self.hint
    }

    /// What was signed, if this key signed it.
    ///
    /// # Errors
    /// Another key, another content, or a statement of another format.
    pub fn verify(&self, key: &PublicKey) -> Result<Statement, SignatureError> {
        let hint = key.hint();
        if hint != self.hint {
            return value("publicKey.hint", self.hint, hint);
        }
        VerifyingKey::from(&key.0)
            .verify(&pae(&self.payload), &self.signature)
            .map_err(|_| SignatureError::Forged { hint })?;
        let statement: InToto = serde_json::from_slice(&self.payload)
            .map_err(|error| SignatureError::Syntax { what: "statement", message: error.to_string() })?;
        statement.read()
    }
}

/// DSSE's pre-authentication encoding, version 1.
fn pae(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

fn base64(what: &'static str, text: &str) -> Result<Vec<u8>, SignatureError> {
    Base64::decode_vec(text)
        .or_else(|_| value(what, format!("{} characters that are none", text.len()), "padded base64"))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Serialising plain data into memory cannot fail: no map has a non-string key.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
