//! Where packages come from, as the user has configured pip or uv.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, anyhow};
use camino::Utf8PathBuf;
use toml::Table;

/// Settings of pip that are obeyed.
const PIP: [&str; 12] = [
    "cache-dir",
    "cert",
    "client-cert",
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "no-cache-dir",
    "proxy",
    "retries",
    "timeout",
    "trusted-host",
];
/// Variables of uv that are obeyed; those of a named index begin with the last.
const UV: [&str; 16] = [
    "UV_CACHE_DIR",
    "UV_CONCURRENT_DOWNLOADS",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_HTTP_RETRIES",
    "UV_HTTP_TIMEOUT",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_INSECURE_HOST",
    "UV_KEYRING_PROVIDER",
    "UV_LINK_MODE",
    "UV_NATIVE_TLS",
    "UV_NO_CACHE",
    "UV_SYSTEM_CERTS",
    "UV_INDEX_",
];
/// Of those, the ones that add a place to a chosen index.
pub(super) const OTHER_INDEXES: [&str; 4] =
    ["UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INDEX_URL"];

type Variables = BTreeMap<String, String>;

/// What was found, as variables of pip and of uv.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pip: Variables,
    uv: Variables,
}

impl Settings {
    /// From what `pip config list` says, the environment, and the person's own `uv.toml`.
    pub(super) fn find(listed: &str, env: &impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let names = UV.iter().map(|name| (*name).to_owned());
        let indexes = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("UV_INDEX_"));
        let set = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let mut uv: Variables =
            names.chain(indexes).filter_map(|name| set(&name).map(|value| (name, value))).collect();
        if let Some((path, table)) = own_file(env)? {
            let own =
                of_table(&table).map_err(|key| anyhow!("{path}: {key}: got no text, expected an address"))?;
            for (name, value) in own {
                uv.entry(name).or_insert(value);
            }
        }
        let mut pip = of_pip(listed);
        let authority = ["SSL_CERT_FILE", "CURL_CA_BUNDLE"].iter().find_map(|name| set(name));
        if let Some(authority) = &authority {
            pip.entry("cert".to_owned()).or_insert_with(|| authority.clone());
        }
        share(&mut uv, &pip, &set);
        let pip = pip
            .into_iter()
            .map(|(key, value)| (format!("PIP_{}", key.to_uppercase().replace('-', "_")), value));
        Ok(Self { pip: pip.collect(), uv })
    }

    pub(super) fn pip(&self) -> Variables {
        self.pip.clone()
    }

    pub(super) fn uv(&self) -> Variables {
        self.uv.clone()
    }
}

/// Settings of pip alone are passed on to uv, which does not read them.
fn share(uv: &mut Variables, pip: &Variables, set: &impl Fn(&str) -> Option<String>) {
    let mut copy_setting = |name: &str, key: &str| {
        if let Some(value) = pip.get(key) {
            uv.entry(name.to_owned()).or_insert_with(|| value.clone());
        }
    };
    copy_setting("UV_INSECURE_HOST", "trusted-host");
    copy_setting("UV_HTTP_TIMEOUT", "timeout");
    if set("SSL_CERT_FILE").is_none() {
        copy_setting("SSL_CERT_FILE", "cert");
    }
    if !uv.contains_key("UV_DEFAULT_INDEX") && !uv.contains_key("UV_INDEX_URL") {
        for (name, key) in [
            ("UV_DEFAULT_INDEX", "index-url"),
            ("UV_INDEX", "extra-index-url"),
            ("UV_FIND_LINKS", "find-links"),
        ] {
            if let Some(value) = pip.get(key) {
                uv.entry(name.to_owned()).or_insert_with(|| value.clone());
            }
        }
    }
    let proxied =
        ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"].iter().any(|name| set(name).is_some());
    if let Some(proxy) = pip.get("proxy").filter(|_| !proxied) {
        for name in ["HTTPS_PROXY", "HTTP_PROXY"] {
            uv.entry(name.to_owned()).or_insert_with(|| proxy.clone());
        }
    }
}

/// The settings of `pip config list`: `SECTION.KEY='VALUE'` a line. A command's own section goes before `global`, and the
/// environment before both.
fn of_pip(listed: &str) -> Variables {
    let mut found = Variables::new();
    for section in ["global", "install", ":env:"] {
        for line in listed.lines() {
            let Some((name, value)) = line.split_once('=') else { continue };
            let Some(key) = name.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            if PIP.contains(&key) {
                // In a file each item of a list has its own line; in a variable spaces separate them.
                let value = value.trim_matches(['\'', '"']).replace("\\n", " ");
                let key = if key == "default-timeout" { "timeout" } else { key };
                found.insert(key.to_owned(), value.trim().to_owned());
            }
        }
    }
    found
}

/// The person's own `uv.toml`, or the system's. One that lies above the work tree belongs to whatever project is there.
fn own_file(env: &impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<(Utf8PathBuf, Table)>> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(Utf8PathBuf::from);
    let home = || set("HOME").map(|home| home.join(".config"));
    let own = set("XDG_CONFIG_HOME").or_else(home).map(|folder| folder.join("uv/uv.toml"));
    let places = [set("UV_CONFIG_FILE"), own, Some(Utf8PathBuf::from("/etc/uv/uv.toml"))];
    let Some(path) = places.into_iter().flatten().find(|path| path.is_file()) else { return Ok(None) };
    let text = fs::read_to_string(&path).with_context(|| format!("{path}: cannot be read"))?;
    let table = text.parse().map_err(|error| anyhow!("{path}: {error}"))?;
    Ok(Some((path, table)))
}

/// The settings of a `uv.toml` as variables; those for `uv pip` alone go first.
fn of_table(table: &Table) -> Result<Variables, &'static str> {
    let none = Table::new();
    let pip = table.get("pip").and_then(toml::Value::as_table).unwrap_or(&none);
    let mut found = Variables::new();
    let mut add = |name: &str, value: String| {
        let list: &mut String = found.entry(name.to_owned()).or_default();
        *list = format!("{list} {value}").trim_start().to_owned();
    };
    for (key, name) in [
        ("index-url", "UV_DEFAULT_INDEX"),
        ("extra-index-url", "UV_INDEX"),
        ("find-links", "UV_FIND_LINKS"),
        ("allow-insecure-host", "UV_INSECURE_HOST"),
        ("keyring-provider", "UV_KEYRING_PROVIDER"),
        ("native-tls", "UV_NATIVE_TLS"),
        ("system-certs", "UV_SYSTEM_CERTS"),
        ("cache-dir", "UV_CACHE_DIR"),
        ("link-mode", "UV_LINK_MODE"),
    ] {
        if let Some(value) = pip.get(key).or_else(|| table.get(key)) {
            add(name, text_of(value).ok_or(key)?);
        }
    }
    for index in table.get("index").and_then(toml::Value::as_array).into_iter().flatten() {
        let is = |key: &str| index.get(key).and_then(toml::Value::as_bool).unwrap_or(false);
        let name = if is("default") { "UV_DEFAULT_INDEX" } else { "UV_INDEX" };
        // An explicit one is for the packages that name it: none does here.
        if !is("explicit") {
            add(name, index.get("url").and_then(text_of).ok_or("index.url")?);
        }
    }
    Ok(found)
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Boolean(it) => Some(it.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(items?.join(" "))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(listed: &str, variables: &[(&str, &str)]) -> Settings {
        let env =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Settings::find(listed, &env).unwrap()
    }

    fn named(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_says_where_packages_are_is_obeyed_and_nothing_else() {
        let listed = ":env:.index-url='https://mirror.example/simple'\n:env:.user='1'\n:env:.target='/elsewhere'\n\
                      global.index-url='https://other.example/simple'\nglobal.no-index='true'\n\
                      install.trusted-host='\\na.example\\nb.example'\nglobal.cert='/ca.pem'\nglobal.proxy='http://p:1'\n\
                      global.default-timeout='60'\nlist.format='json'\n";
        let found = find(listed, &[("UV_NO_INDEX", "1"), ("UV_PYTHON", "3.9"), ("UV_LINK_MODE", "copy")]);
        assert_eq!(
            found.pip(),
            named(&[
                ("PIP_CERT", "/ca.pem"),
                ("PIP_INDEX_URL", "https://mirror.example/simple"),
                ("PIP_PROXY", "http://p:1"),
                ("PIP_TIMEOUT", "60"),
                ("PIP_TRUSTED_HOST", "a.example b.example"),
            ])
        );
        assert_eq!(
            found.uv(),
            named(&[
                ("HTTPS_PROXY", "http://p:1"),
                ("HTTP_PROXY", "http://p:1"),
                ("SSL_CERT_FILE", "/ca.pem"),
                ("UV_DEFAULT_INDEX", "https://mirror.example/simple"),
                ("UV_HTTP_TIMEOUT", "60"),
                ("UV_INSECURE_HOST", "a.example b.example"),
                ("UV_LINK_MODE", "copy"),
            ])
        );
        assert_eq!(find("", &[]), Settings::default());
    }

    #[test]
    fn what_was_told_to_uv_goes_before_what_was_told_to_pip() {
        let listed =
            "global.index-url='https://pip.example/'\nglobal.extra-index-url='https://more.example/'\n";
        let found = find(listed, &[("UV_INDEX_URL", "https://uv.example/"), ("SSL_CERT_FILE", "/own.pem")]);
        assert_eq!(found.uv(), named(&[("UV_INDEX_URL", "https://uv.example/")]));
        assert_eq!(found.pip().get("PIP_CERT").map(String::as_str), Some("/own.pem"));
        let found = find("global.proxy='http://p:1'\n", &[("HTTPS_PROXY", "http://q:2")]);
        assert_eq!(found.uv(), Variables::new());
    }

    #[test]
    fn a_persons_uv_toml_says_where_and_not_what() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("uv.toml");
        fs::write(
            &path,
            "index-url = \"https://a.example/\"\nnative-tls = true\nno-index = true\nallow-insecure-host = [\"a\", \"b\"]\n\
             [pip]\nno-index = true\ntarget = \"x\"\nindex-url = \"https://b.example/\"\n\
             [[index]]\nurl = \"https://c.example/\"\n[[index]]\nurl = \"https://d.example/\"\nexplicit = true\n",
        )
        .unwrap();
        let found = find("", &[("UV_CONFIG_FILE", path.to_str().unwrap())]);
        assert_eq!(
            found.uv(),
            named(&[
                ("UV_DEFAULT_INDEX", "https://b.example/"),
                ("UV_INDEX", "https://c.example/"),
                ("UV_INSECURE_HOST", "a b"),
                ("UV_NATIVE_TLS", "true"),
            ])
        );
        fs::write(&path, "index-url = 7\n").unwrap();
        let env = |name: &str| (name == "UV_CONFIG_FILE").then(|| path.to_str().unwrap().to_owned());
        let error = Settings::find("", &env).unwrap_err().to_string();
        assert!(error.ends_with("index-url: got no text, expected an address"), "{error}");
    }
}
