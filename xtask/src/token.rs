//! The access token of the hub.
//!
//! **Invariant:** the token leaves this process only in the `Authorization` header of a request to the endpoint itself
//! (or on the standard input of `gh secret set`). It has no `Display`, its `Debug` hides it, and [`Token::redact`] goes
//! over every text that a server wrote before it is shown.

use std::fmt;

use anyhow::{Context as _, ensure};
use camino::Utf8PathBuf;

/// No token of any hub is longer.
const TOKEN_BYTES_MAX: u64 = 4096;
/// The variables that hold a token, the first that is set counts.
pub(crate) const TOKEN_VARIABLES: [&str; 2] = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
/// What a token is replaced with.
const HIDDEN: &str = "[token]";

/// A token and where it came from.
#[derive(Clone)]
pub(crate) struct Token {
    secret: String,
    origin: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HIDDEN} from {}", self.origin)
    }
}

impl Token {
    /// The token of the environment or of the hub client's file; `None` when there is none.
    ///
    /// # Errors
    /// A token that is there but cannot be one.
    pub(crate) fn find(env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Self>> {
        let set =
            |name: &str| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        for name in TOKEN_VARIABLES {
            if let Some(secret) = set(name) {
                return Self::new(secret, name.to_owned()).map(Some);
            }
        }
        let named = set("HF_TOKEN_PATH").map(Utf8PathBuf::from);
        let Some(path) = named.or_else(|| home(&set).map(|home| home.join("token"))) else { return Ok(None) };
        if !path.is_file() {
            return Ok(None);
        }
        let size = path.metadata().with_context(|| format!("{path}: cannot be looked at"))?.len();
        ensure!(
            size <= TOKEN_BYTES_MAX,
            "{path}: got {size} bytes, expected a token of at most {TOKEN_BYTES_MAX}"
        );
        let text = std::fs::read_to_string(&path).with_context(|| format!("{path}: cannot be read"))?;
        match text.trim() {
            "" => Ok(None),
            secret => Self::new(secret.to_owned(), path.into_string()).map(Some),
        }
    }

    fn new(secret: String, origin: String) -> anyhow::Result<Self> {
        // Anything else would break the header apart, or was pasted wrongly.
        let plain = secret.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(
            plain,
            "{origin}: got {} characters with spaces or others that no token has, expected one word",
            secret.chars().count()
        );
        Ok(Self { secret, origin })
    }

    /// Where it came from, for messages.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// The header's value.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.secret)
    }

    /// The secret itself, for a child's standard input.
    pub(crate) fn expose(&self) -> &str {
        &self.secret
    }

    /// A server's text without the token.
    pub(crate) fn redact(token: Option<&Self>, text: &str) -> String {
        token.map_or_else(|| text.to_owned(), |token| text.replace(&token.secret, HIDDEN))
    }
}

/// The hub client's folder, as its documentation describes.
fn home(set: &impl Fn(&str) -> Option<String>) -> Option<Utf8PathBuf> {
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| format!("{home}/.cache")));
    set("HF_HOME").or_else(|| cache.map(|cache| format!("{cache}/huggingface"))).map(Utf8PathBuf::from)
}

/// The environment of this process.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn find(variables: &[(&str, &str)]) -> anyhow::Result<Option<Token>> {
        let map: HashMap<_, _> = variables.iter().copied().collect();
        Token::find(|name| map.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn the_documented_places_are_looked_at_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let hub = folder.path().join(".cache/huggingface");
        std::fs::create_dir_all(&hub).unwrap();
        std::fs::write(hub.join("token"), "hf_home\n").unwrap();
        let other = folder.path().join("other");
        std::fs::write(&other, "hf_path").unwrap();
        let other = other.to_str().unwrap();
        let secret = |variables: &[(&str, &str)]| find(variables).unwrap().map(|token| token.secret);
        assert_eq!(secret(&[("HOME", home)]).as_deref(), Some("hf_home"));
        assert_eq!(
            secret(&[("HOME", "/nowhere"), ("HF_HOME", hub.to_str().unwrap())]).as_deref(),
            Some("hf_home")
        );
        assert_eq!(secret(&[("HOME", home), ("HF_TOKEN_PATH", other)]).as_deref(), Some("hf_path"));
        let all = [("HOME", home), ("HF_TOKEN_PATH", other), ("HF_TOKEN", " hf_env\n")];
        assert_eq!(secret(&all).as_deref(), Some("hf_env"));
        assert_eq!(secret(&[("HOME", "/nowhere"), ("HF_TOKEN", "")]), None);
    }

    #[test]
    fn a_token_that_would_break_a_header_is_refused_unseen() {
        for secret in ["hf_a b", "hf_a\r\nHost: evil", "hf_ü"] {
            let error = find(&[("HF_TOKEN", secret)]).unwrap_err().to_string();
            assert!(error.starts_with("HF_TOKEN: got ") && !error.contains("hf_"), "{error}");
        }
    }

    #[test]
    fn neither_debug_nor_a_server_shows_it() {
        let token = find(&[("HF_TOKEN", "hf_secret")]).unwrap().unwrap();
        assert_eq!(format!("{token:?}"), "[token] from HF_TOKEN");
        assert_eq!(Token::redact(Some(&token), "you sent hf_secret!"), "you sent [token]!");
    }
}
