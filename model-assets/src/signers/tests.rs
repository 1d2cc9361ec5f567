use super::*;
use crate::signature::{PrivateKey, Resource};

const REPOSITORY: &str = include_str!("../../models/signers.toml");

fn on(day: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(day).unwrap() * 86_400 + 3)
}

/// 2027-06-15.
fn now() -> SystemTime {
    on(number(Date { year: 2027, month: 6, day: 15 }))
}

fn key_entry(name: &str, key: &PrivateKey, more: &str) -> String {
    format!(
        "[[keys]]\nname = \"{name}\"\nvalid_from = 2027-01-01\nvalid_until = 2027-12-31\n{more}\npublic_key = \"\"\"\n{}\"\"\"\n",
        key.public().to_pem()
    )
}

fn signers(entries: &[String]) -> Signers {
    Signers::parse(&format!("schema = 1\nunsigned = [\"demo\"]\n{}", entries.concat())).unwrap()
}

fn signature(key: &PrivateKey) -> Vec<u8> {
    let resource = Resource { name: "manifest.json".to_owned(), sha256: Digest::of(b"{}") };
    let statement = Statement { model: "m".to_owned(), resources: vec![resource], ignored: Vec::new() };
    key.sign(&statement).unwrap()
}

#[test]
fn the_repository_demands_a_signature_of_every_model_but_the_demo() {
    let signers = Signers::parse(REPOSITORY).unwrap();
    assert!(!signers.demands("tiny"));
    assert!(signers.demands("llama3.2-1b") && signers.demands("new"));
    let expected = signers.expected("llama3.2-1b");
    assert_eq!(expected, "a key for `llama3.2-1b` in signers.toml, which has none, and its signature");
}

#[test]
fn any_of_several_keys_will_do_each_in_its_time() {
    let (old, new) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let signers = signers(&[key_entry("old", &old, ""), key_entry("new", &new, "")]);
    for (key, name) in [(&old, "old"), (&new, "new")] {
        let bytes = signature(key);
        let (found, statement) = signers.accept(&bytes, "m", now()).unwrap();
        assert_eq!((found.name(), statement.resources.len()), (name, 1));
        let (first, last) =
            (number(Date { year: 2027, month: 1, day: 1 }), number(Date { year: 2027, month: 12, day: 31 }));
        for day in [first, last] {
            assert!(signers.accept(&bytes, "m", on(day)).is_ok(), "{}", date(day));
        }
        for day in [first - 1, last + 1, 0] {
            let rejected = signers.accept(&bytes, "m", on(day)).unwrap_err();
            assert_eq!(rejected.id, "signature-date");
            assert!(rejected.got.contains("valid from 2027-01-01 until 2027-12-31"), "{}", rejected.got);
            assert!(rejected.expected.contains(&date(day)), "{}", rejected.expected);
        }
        let before_time = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(signers.accept(&bytes, "m", before_time).unwrap_err().id, "signature-date");
    }
}

#[test]
fn revoked_unknown_foreign_and_forged_are_told_apart() {
    let [good, revoked, other, unknown] = [(); 4].map(|()| PrivateKey::generate().unwrap());
    let signers = signers(&[
        key_entry("good", &good, ""),
        key_entry("gone", &revoked, "revoked = \"laptop lost\""),
        key_entry("other", &other, "models = [\"x\"]"),
    ]);
    let id = |key| signers.accept(&signature(key), "m", now()).map(|_| ()).unwrap_err();
    let rejected = id(&revoked);
    assert_eq!(
        (rejected.id, rejected.got.as_str()),
        ("signature-revoked", "key `gone`, revoked: laptop lost")
    );
    assert_eq!(rejected.expected, "a signature by `good`");
    let rejected = id(&other);
    assert_eq!(
        (rejected.id, rejected.got.as_str()),
        ("signature-key", "key `other`, which may not sign `m`")
    );
    let rejected = id(&unknown);
    assert_eq!((rejected.id, rejected.got), ("signature-key", format!("key {}", unknown.public().hint())));
    assert!(signers.accept(&signature(&other), "x", now()).is_ok());
    // The good key's name over another key's signature.
    let text = String::from_utf8(signature(&unknown)).unwrap();
    let text = text.replace(&unknown.public().hint().to_string(), &good.public().hint().to_string());
    assert_eq!(signers.accept(text.as_bytes(), "m", now()).unwrap_err().id, "signature-forged");
    assert_eq!(signers.accept(b"{}", "m", now()).unwrap_err().id, "signature-malformed");
}

#[test]
fn a_new_entry_is_valid_for_a_year() {
    let key = PrivateKey::generate().unwrap();
    let entry = entry("release", &key.public(), now());
    assert!(entry.contains("valid_from = 2027-06-15\nvalid_until = 2028-06-14\n"), "{entry}");
    let signers = signers(&[entry]);
    assert!(signers.accept(&signature(&key), "m", now()).is_ok());
}

#[test]
fn values_that_cannot_be() {
    let key = PrivateKey::generate().unwrap();
    let good = format!("schema = 1\nunsigned = [\"demo\"]\n{}", key_entry("k", &key, "models = [\"m\"]"));
    Signers::parse(&good).unwrap();
    for (key, from, to) in [
        ("unsigned", "\"demo\"", "\"../demo\""),
        ("unsigned", "\"demo\"", "\"\""),
        ("keys.name", "name = \"k\"", "name = \"\""),
        ("keys.name", "name = \"k\"", "name = \"a\\nb\""),
        ("keys.models", "[\"m\"]", "[\"*\"]"),
        ("keys.revoked", "models = [\"m\"]", "revoked = \"\""),
        ("keys.valid_from", "valid_from = 2027-01-01", "valid_from = 2027-01-01T00:00:00Z"),
        ("keys.valid_from", "valid_from = 2027-01-01", "valid_from = 12:00:00"),
        ("keys.valid_until", "valid_until = 2027-12-31", "valid_until = 2026-12-31"),
        ("keys.public_key", "BEGIN PUBLIC", "BEGIN PRIVATE"),
    ] {
        assert!(good.contains(from), "{from}");
        match Signers::parse(&good.replace(from, to)) {
            Err(ContractError::Value { key: got, .. }) => assert_eq!(got, key),
            other => panic!("{to}: {other:?}"),
        }
    }
    for (from, to) in [
        ("schema = 1\n", ""),
        ("unsigned", "unsinged"),
        ("models = [\"m\"]", "model = \"m\""),
        ("valid_until = 2027-12-31\n", ""),
        ("valid_from = 2027-01-01", "valid_from = \"2027-01-01\""),
        ("valid_from = 2027-01-01", "valid_from = 2027-02-30"),
    ] {
        let parsed = Signers::parse(&good.replace(from, to));
        assert!(matches!(parsed, Err(ContractError::Syntax { .. })), "{to}: {parsed:?}");
    }
    assert!(matches!(
        Signers::parse(&good.replace("schema = 1", "schema = 2")),
        Err(ContractError::Schema { .. })
    ));
    let twice = format!("{good}{}", key_entry("other", &key, ""));
    assert!(matches!(Signers::parse(&twice), Err(ContractError::Value { key: "keys.name", .. })));
    let many: String =
        (0..=limits::SIGNERS_MAX).map(|index| key_entry(&index.to_string(), &key, "")).collect();
    assert!(matches!(
        Signers::parse(&format!("schema = 1\n{many}")),
        Err(ContractError::Value { key: "keys", .. })
    ));
    let large = format!("{good}#{}", " ".repeat(usize::try_from(limits::TOML_BYTES_MAX).unwrap()));
    assert!(matches!(Signers::parse(&large), Err(ContractError::TooLarge { .. })));
}

#[test]
fn days_and_dates_are_each_others_inverse() {
    for (day, text) in [
        (0, "1970-01-01"),
        (-1, "1969-12-31"),
        (11_016, "2000-02-29"),
        (11_017, "2000-03-01"),
        (20_782, "2026-11-25"),
        (47_541, "2100-03-01"),
    ] {
        assert_eq!(date(day), text);
        let read: Datetime = text.parse().unwrap();
        assert_eq!(number(read.date.unwrap()), day, "{text}");
    }
    for day in (0..60_000).step_by(7) {
        assert_eq!(number(date(day).parse::<Datetime>().unwrap().date.unwrap()), day);
    }
}
