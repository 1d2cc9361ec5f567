use proptest::prelude::*;
use serde_json::{Value, json};

use super::{format::STATEMENT_TYPE, *};

/// What `model_signing` 1.1.1 wrote with `sign key` over two small files.
const PUBLIC_TOOL: &[u8] = include_bytes!("../../tests/data/model_signing-1.1.1.sig");
const PUBLIC_TOOL_KEY: &str = include_str!("../../tests/data/model_signing-1.1.1.pub");

fn statement() -> Statement {
    let resource = |name: &str| Resource { name: name.to_owned(), sha256: Digest::of(name.as_bytes()) };
    Statement {
        model: "tiny".to_owned(),
        resources: ["manifest.json", "tiny.pte", "folder/more.json"].map(resource).into(),
        ignored: vec![".git".to_owned(), "model.sig".to_owned()],
    }
}

fn key() -> PrivateKey {
    PrivateKey::generate().unwrap()
}

/// A bundle whose payload is anything: signed by a real key all the same.
fn bundle(key: &PrivateKey, payload: &Value, pae: impl Fn(&[u8]) -> Vec<u8>) -> Value {
    let mut bundle: Value = serde_json::from_slice(&key.sign(&statement()).unwrap()).unwrap();
    let payload = serde_json::to_vec(payload).unwrap();
    let signature: p256::ecdsa::DerSignature = key.0.sign(&pae(&payload));
    bundle["dsseEnvelope"]["payload"] = Base64::encode_string(&payload).into();
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = Base64::encode_string(signature.as_bytes()).into();
    bundle
}

fn payload() -> Value {
    serde_json::to_value(InToto::of(&statement())).unwrap()
}

fn read(bundle: &Value, key: &PrivateKey) -> Result<Statement, SignatureError> {
    Signature::parse(&serde_json::to_vec(bundle).unwrap())?.verify(&key.public())
}

#[test]
fn what_is_signed_is_what_is_read_and_the_bytes_are_the_same_twice() {
    let key = key();
    let bytes = key.sign(&statement()).unwrap();
    assert_eq!(bytes, key.sign(&statement()).unwrap());
    let signature = Signature::parse(&bytes).unwrap();
    assert_eq!(signature.hint(), key.public().hint());
    assert_eq!(signature.verify(&key.public()).unwrap(), statement());
}

#[test]
fn a_signature_of_the_public_tool_is_read() {
    let key = PublicKey::parse(PUBLIC_TOOL_KEY).unwrap();
    let statement = Signature::parse(PUBLIC_TOOL).unwrap().verify(&key).unwrap();
    assert_eq!(statement.model, "small");
    assert_eq!(statement.sha256("manifest.json"), Some(Digest::of(b"{}\n")));
    assert_eq!(statement.sha256("small.pte"), Some(Digest::of(b"weights")));
    assert!(statement.ignores("model.sig") && statement.ignores(".git/config"));
    assert!(!statement.ignores(".github.txt") && !statement.ignores("small.pte"));
}

#[test]
fn keys_come_in_two_texts_and_no_other() {
    let key = key();
    let pem = key.to_pem().unwrap();
    assert_eq!(PrivateKey::parse(&pem).unwrap().public(), key.public());
    let sec1 = p256::SecretKey::from(&key.0).to_sec1_pem(LineEnding::LF).unwrap();
    let openssl =
        format!("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{}", *sec1);
    for text in [&*sec1, &openssl] {
        assert_eq!(PrivateKey::parse(text).unwrap().public(), key.public());
    }
    let public = key.public().to_pem();
    assert_eq!(PublicKey::parse(&public.replace('\n', "\r\n")).unwrap(), key.public());
    for text in [
        "",
        "nonsense",
        &public,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIH0\n-----END ENCRYPTED PRIVATE KEY-----\n",
    ] {
        assert!(matches!(PrivateKey::parse(text), Err(SignatureError::Key(_))), "{text}");
    }
    // The error of a spoiled key does not show the key.
    let secret = pem.lines().nth(1).unwrap().to_owned();
    let error = PrivateKey::parse(&pem.replace("-----END", "----END")).unwrap_err().to_string();
    assert!(!error.contains(&secret) && !format!("{key:?}").contains(&secret), "{error}");
    // P-384, Ed25519 and RSA keys are keys, but none of ours.
    let ed25519 = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    for text in [ed25519, "", &*pem] {
        assert!(matches!(PublicKey::parse(text), Err(SignatureError::Key(_))), "{text}");
    }
}

#[test]
fn another_key_or_another_content_is_refused() {
    let (key, other) = (key(), key());
    let bytes = key.sign(&statement()).unwrap();
    let signature = Signature::parse(&bytes).unwrap();
    assert!(matches!(
        signature.verify(&other.public()),
        Err(SignatureError::Value { what: "publicKey.hint", .. })
    ));
    // The other key's name over this key's signature.
    let mut bundle: Value = serde_json::from_slice(&bytes).unwrap();
    bundle["verificationMaterial"]["publicKey"]["hint"] = other.public().hint().to_string().into();
    assert!(matches!(read(&bundle, &other), Err(SignatureError::Forged { .. })));
    // Another payload under the same signature.
    let mut bundle: Value = serde_json::from_slice(&bytes).unwrap();
    let mut forged = statement();
    forged.resources[1].sha256 = Digest::of(b"forged");
    bundle["dsseEnvelope"]["payload"] = Base64::encode_string(&json(&InToto::of(&forged))).into();
    assert!(matches!(read(&bundle, &key), Err(SignatureError::Forged { .. })));
}

#[test]
fn bundles_of_another_form_are_refused() {
    let key = key();
    let good: Value = serde_json::from_slice(&key.sign(&statement()).unwrap()).unwrap();
    let envelope = "/dsseEnvelope";
    let sig = good["dsseEnvelope"]["signatures"][0].clone();
    for (place, new, what) in [
        ("/mediaType".to_owned(), json!("application/json"), "mediaType"),
        (format!("{envelope}/payloadType"), json!("text/plain"), "payloadType"),
        (format!("{envelope}/payload"), json!("not base64"), "payload"),
        (format!("{envelope}/payload"), json!("YQ"), "payload"),
        (format!("{envelope}/signatures"), json!([]), "signatures"),
        (format!("{envelope}/signatures"), json!([sig, sig]), "signatures"),
        (format!("{envelope}/signatures/0/sig"), json!("AAAA"), "sig"),
        (format!("{envelope}/signatures/0/sig"), json!(""), "sig"),
        ("/verificationMaterial/publicKey".to_owned(), json!(null), "publicKey.hint"),
        ("/verificationMaterial/publicKey/hint".to_owned(), json!(null), "publicKey.hint"),
        ("/verificationMaterial/publicKey/hint".to_owned(), json!("AB"), "publicKey.hint"),
    ] {
        let mut bundle = good.clone();
        *bundle.pointer_mut(&place).unwrap() = new;
        match read(&bundle, &key) {
            Err(SignatureError::Value { what: got, .. }) => assert_eq!(got, what),
            other => panic!("{place}: {other:?}"),
        }
    }
    for text in ["", "{", "[]", "{}", "null", "{\"mediaType\": 1}"] {
        assert!(matches!(Signature::parse(text.as_bytes()), Err(SignatureError::Syntax { .. })), "{text}");
    }
    let large = vec![b' '; usize::try_from(limits::SIGNATURE_BYTES_MAX).unwrap() + 1];
    assert!(matches!(Signature::parse(&large), Err(SignatureError::TooLarge { .. })));
}

#[test]
fn statements_of_another_form_are_refused_though_the_key_signed_them() {
    let key = key();
    assert_eq!(read(&bundle(&key, &payload(), pae), &key).unwrap(), statement());
    let resources = payload()["predicate"]["resources"].clone();
    let twice = json!([resources[0], resources[0]]);
    let subject = payload()["subject"][0].clone();
    for (place, new, what) in [
        ("/_type", json!("https://in-toto.io/Statement/v0.1"), "_type"),
        ("/predicateType", json!("https://model_signing/Digests/v0.1"), "predicateType"),
        ("/predicateType", json!("https://model_signing/signature/v2.0"), "predicateType"),
        ("/subject", json!([]), "subject"),
        ("/subject", json!([subject, subject]), "subject"),
        ("/subject/0/digest/sha256", json!("0".repeat(64)), "subject.digest"),
        ("/predicate/serialization/method", json!("shards"), "serialization"),
        ("/predicate/serialization/hash_type", json!("blake3"), "serialization"),
        ("/predicate/serialization/allow_symlinks", json!(true), "serialization"),
        ("/predicate/serialization/ignore_paths", json!(["tiny.pte"]), "ignore_paths"),
        ("/predicate/serialization/ignore_paths", json!(["folder/"]), "ignore_paths"),
        ("/predicate/serialization/ignore_paths", json!(["."]), "ignore_paths"),
        ("/predicate/serialization/ignore_paths", json!(["./manifest.json"]), "ignore_paths"),
        ("/predicate/serialization/ignore_paths", json!([""]), "ignore_paths"),
        ("/predicate/resources", json!([]), "resources"),
        ("/predicate/resources", twice, "resources"),
        ("/predicate/resources/0/name", json!("../manifest.json"), "resources"),
        ("/predicate/resources/0/name", json!("/manifest.json"), "resources"),
        ("/predicate/resources/0/name", json!(""), "resources"),
        ("/predicate/resources/0/algorithm", json!("sha1"), "resources"),
        ("/predicate/resources/0/digest", json!("ABC"), "resources"),
        // Two files in another order have another root.
        ("/predicate/resources", json!([resources[1], resources[0], resources[2]]), "subject.digest"),
    ] {
        let mut payload = payload();
        *payload.pointer_mut(place).unwrap() = new;
        match read(&bundle(&key, &payload, pae), &key) {
            Err(SignatureError::Value { what: got, .. }) => assert_eq!(got, what, "{place}"),
            other => panic!("{place}: {other:?}"),
        }
    }
    let mut many = payload();
    many["predicate"]["serialization"]["ignore_paths"] =
        (0..=limits::SIGNATURE_FILES_MAX).map(|index| index.to_string()).collect();
    assert!(matches!(read(&bundle(&key, &many, pae), &key), Err(SignatureError::Value { .. })));
    for shape in [json!([]), json!({"_type": STATEMENT_TYPE}), json!("text")] {
        assert!(matches!(read(&bundle(&key, &shape, pae), &key), Err(SignatureError::Syntax { .. })));
    }
}

/// The public tool still reads what its releases before 1.0 wrote: a text in which Python had escaped the payload.
#[test]
fn the_encoding_before_1_0_is_refused() {
    let key = key();
    let old = |payload: &[u8]| {
        let (kind, text) = (PAYLOAD_TYPE, String::from_utf8_lossy(payload).into_owned());
        format!("DSSEV1 {} {kind} {} b'{text}'", kind.len(), payload.len()).into_bytes()
    };
    assert!(matches!(read(&bundle(&key, &payload(), old), &key), Err(SignatureError::Forged { .. })));
}

#[test]
fn only_what_can_be_verified_is_signed() {
    let key = key();
    let changes: [fn(&mut Statement); 4] = [
        |statement| statement.resources.clear(),
        |statement| statement.resources[0].name = "../x".to_owned(),
        |statement| statement.resources[0].name = statement.resources[1].name.clone(),
        |statement| statement.ignored.push("tiny.pte".to_owned()),
    ];
    for change in changes {
        let mut statement = statement();
        change(&mut statement);
        assert!(matches!(key.sign(&statement), Err(SignatureError::Value { .. })), "{statement:?}");
    }
}

proptest! {
    /// Whatever byte of a signature changes: refused, or the very same statement.
    #[test]
    fn no_changed_byte_makes_another_statement(index in 0_usize..4096, byte: u8) {
        let key = PublicKey::parse(PUBLIC_TOOL_KEY).unwrap();
        let honest = Signature::parse(PUBLIC_TOOL).unwrap().verify(&key).unwrap();
        let mut bytes = PUBLIC_TOOL.to_vec();
        let index = index % bytes.len();
        bytes[index] = byte;
        if let Ok(read) = Signature::parse(&bytes).and_then(|signature| signature.verify(&key)) {
            prop_assert_eq!(read, honest);
        }
    }

    #[test]
    fn noise_is_refused(bytes: Vec<u8>) {
        prop_assert!(Signature::parse(&bytes).is_err());
    }
}
