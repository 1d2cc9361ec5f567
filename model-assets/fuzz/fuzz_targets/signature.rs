//! `model.sig` as it may come from anywhere, and a statement as a key that is trusted may sign it: what is accepted is
//! signed again to the same statement.
#![no_main]

use std::sync::LazyLock;

use base64ct::{Base64, Encoding as _};
use libfuzzer_sys::fuzz_target;
use model_assets::signature::{PrivateKey, Signature};
use p256::{
    ecdsa::{DerSignature, SigningKey, signature::Signer as _},
    pkcs8::{EncodePrivateKey as _, LineEnding},
};
use serde_json::json;

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Two views of one key, which is the same in every run.
static KEY: LazyLock<(SigningKey, PrivateKey)> = LazyLock::new(|| {
    let key = SigningKey::from_slice(&[7; 32]).expect("a number below the order of the curve");
    let pem = key.to_pkcs8_pem(LineEnding::LF).expect("an encoding");
    (key, PrivateKey::parse(&pem).expect("what was just written"))
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signature) = Signature::parse(bytes) {
        assert!(signature.verify(&KEY.1.public()).is_err(), "nobody has signed with this key");
        return;
    }
    // Signing is slow: only what may be a statement is worth it.
    if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_err() {
        return;
    }
    let public = KEY.1.public();
    let signature = Signature::parse(&signed(bytes)).expect("a bundle of this format");
    let Ok(statement) = signature.verify(&public) else { return };
    let again = KEY.1.sign(&statement).expect("what was read can be signed");
    assert_eq!(Signature::parse(&again).expect("ours").verify(&public).expect("ours"), statement);
});

/// A bundle whose payload is anything.
fn signed(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    let signature: DerSignature = KEY.0.sign(&[head.as_bytes(), payload].concat());
    let bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": { "publicKey": { "hint": KEY.1.public().hint().to_string() } },
        "dsseEnvelope": {
            "payload": Base64::encode_string(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{ "sig": Base64::encode_string(signature.as_bytes()) }],
        },
    });
    bundle.to_string().into_bytes()
}
