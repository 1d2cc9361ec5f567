//! The JSON of the format: a Sigstore bundle, its DSSE envelope, and the in-toto statement in that. Fields of others are
//! passed over, as its specification says: nothing reads them.

use serde::{Deserialize, Serialize};

use super::{Resource, SignatureError, Statement, value};
use crate::digest::Digest;

pub(super) const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bundle {
    pub(super) media_type: String,
    pub(super) verification_material: Material,
    pub(super) dsse_envelope: Envelope,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Material {
    pub(super) public_key: Option<KeyIdentifier>,
    #[serde(default)]
    pub(super) tlog_entries: Vec<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct KeyIdentifier {
    pub(super) hint: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Envelope {
    pub(super) payload: String,
    pub(super) payload_type: String,
    pub(super) signatures: Vec<EnvelopeSignature>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct EnvelopeSignature {
    pub(super) sig: String,
    #[serde(default)]
    pub(super) keyid: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct InToto {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct Subject {
    name: String,
    digest: SubjectDigest,
}

#[derive(Serialize, Deserialize)]
struct SubjectDigest {
    sha256: Digest,
}

#[derive(Serialize, Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
    allow_symlinks: bool,
    #[serde(default)]
    ignore_paths: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Descriptor {
    name: String,
    algorithm: String,
    digest: String,
}

impl InToto {
    pub(super) fn of(statement: &Statement) -> Self {
        let descriptor = |resource: &Resource| Descriptor {
            name: resource.name.clone(),
            algorithm: "sha256".to_owned(),
            digest: resource.sha256.to_string(),
        };
        let predicate = Predicate {
            serialization: Serialization {
                method: "files".to_owned(),
                hash_type: "sha256".to_owned(),
                allow_symlinks: false,
                ignore_paths: statement.ignored.clone(),
            },
            resources: statement.resources.iter().map(descriptor).collect(),
        };
        let digest = SubjectDigest { sha256: statement.root() };
        Self {
            kind: STATEMENT_TYPE.to_owned(),
            subject: vec![Subject { name: statement.model.clone(), digest }],
            predicate_type: PREDICATE_TYPE.to_owned(),
            // As above: plain data.
            predicate: serde_json::to_value(predicate).unwrap_or_default(),
        }
    }

    pub(super) fn read(self) -> Result<Statement, SignatureError> {
        if self.kind != STATEMENT_TYPE {
            return value("_type", format!("`{}`", self.kind), STATEMENT_TYPE);
        }
        // Before the predicate is read: one of another type has another shape.
        if self.predicate_type != PREDICATE_TYPE {
            return value("predicateType", format!("`{}`", self.predicate_type), PREDICATE_TYPE);
        }
        let Predicate { serialization, resources } = serde_json::from_value(self.predicate)
            .map_err(|error| SignatureError::Syntax { what: "predicate", message: error.to_string() })?;
        let Serialization { method, hash_type, allow_symlinks, ignore_paths } = serialization;
        let got = (method.as_str(), hash_type.as_str(), allow_symlinks);
        if got != ("files", "sha256", false) {
            return value("serialization", format!("{got:?}"), "whole files, sha256, no symbolic links");
        }
        let [subject] = <[Subject; 1]>::try_from(self.subject)
            .or_else(|subjects| value("subject", format!("{} of them", subjects.len()), "one"))?;
        let resource = |Descriptor { name, algorithm, digest }| match Digest::parse(&digest) {
            Some(sha256) if algorithm == "sha256" => Ok(Resource { name, sha256 }),
            _ => value("resources", format!("`{name}` by {algorithm} `{digest}`"), "a SHA-256"),
        };
        let resources = resources.into_iter().map(resource).collect::<Result<_, _>>()?;
        let statement = Statement { model: subject.name, resources, ignored: ignore_paths };
        statement.check()?;
        let root = statement.root();
        if subject.digest.sha256 != root {
            return value("subject.digest", subject.digest.sha256, format!("{root}, of the listed files"));
        }
        Ok(statement)
    }
}
