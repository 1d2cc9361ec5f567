//! Where requests go: a server's endpoint, and which redirects are followed.
//!
//! **Invariant:** a request is `https`, unless the endpoint itself is `http` on this machine's loopback; then only
//! loopback is reached over `http`. The token goes to the endpoint's own scheme, host and port and nowhere else.

use anyhow::{Context as _, bail, ensure};
use ureq::http::Uri;

const ENDPOINT: &str = "https://huggingface.co";
/// Longest address that is followed; signed ones are long.
const URL_BYTES_MAX: usize = 8192;

/// A server, and how its addresses begin.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    base: Uri,
}

impl Endpoint {
    /// `HF_ENDPOINT`, or the public hub.
    pub(crate) fn find(env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let text = env("HF_ENDPOINT").map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        Self::parse(text.as_deref().unwrap_or(ENDPOINT))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let text = text.trim_end_matches('/');
        let expected = "expected https://HOST, or http:// on this machine's loopback";
        let base: Uri =
            text.parse().with_context(|| format!("HF_ENDPOINT: got `{}`, {expected}", printable(text)))?;
        ensure!(
            base.host().is_some() && allowed(&base, true) && !has_user(&base) && base.query().is_none(),
            "HF_ENDPOINT: got `{}`, {expected}",
            printable(text)
        );
        Ok(Self { base })
    }

    /// The server of one address, such as a person typed, and the address.
    pub(crate) fn of(text: &str) -> anyhow::Result<(Self, Uri)> {
        let expected = "expected https://HOST/PATH, or http:// on this machine's loopback";
        let got = || format!("got `{}`, {expected}", printable(text));
        ensure!(text.len() <= URL_BYTES_MAX, "got an address of {} bytes, {expected}", text.len());
        let base: Uri = text.parse().with_context(got)?;
        ensure!(base.host().is_some() && allowed(&base, true) && !has_user(&base), got());
        Ok((Self { base: base.clone() }, base))
    }

    /// An address below the endpoint. `path` is made of checked names, so nothing needs escaping.
    pub(crate) fn url(&self, path: &str) -> anyhow::Result<Uri> {
        let base = self.base.to_string();
        Ok(format!("{}/{path}", base.trim_end_matches('/')).parse()?)
    }

    /// Whether an address is on the endpoint's own scheme, host and port.
    pub(crate) fn owns(&self, uri: &Uri) -> bool {
        let origin = |uri: &Uri| {
            let port = uri.port_u16().or(match uri.scheme_str() {
                Some("https") => Some(443),
                Some("http") => Some(80),
                _ => None,
            });
            let host = uri.host().map(str::to_ascii_lowercase);
            (uri.scheme_str().map(str::to_owned), host, port)
        };
        origin(uri) == origin(&self.base)
    }

    /// Where a redirect leads.
    ///
    /// # Errors
    /// A `Location` that must not be followed.
    pub(crate) fn follow(&self, from: &Uri, location: &str) -> anyhow::Result<Uri> {
        let target = printable(location);
        ensure!(
            location.len() <= URL_BYTES_MAX,
            "redirect: got {} bytes, expected at most {URL_BYTES_MAX}",
            location.len()
        );
        let absolute = if let Some(rest) = location.strip_prefix("//") {
            format!("{}://{rest}", from.scheme_str().unwrap_or("https"))
        } else if location.starts_with('/') {
            let authority = from.authority().context("redirect from no host")?;
            format!("{}://{authority}{location}", from.scheme_str().unwrap_or("https"))
        } else {
            location.to_owned()
        };
        let uri: Uri = absolute.parse().with_context(|| format!("redirect to `{target}`: not an address"))?;
        if !allowed(&uri, self.is_loopback_http()) || has_user(&uri) {
            bail!("redirect to `{target}`: expected https, without a user name");
        }
        Ok(uri)
    }

    fn is_loopback_http(&self) -> bool {
        self.base.scheme_str() == Some("http")
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(printable(&self.base.to_string()).trim_end_matches('/'))
    }
}

/// `https` to anywhere, or `http` to loopback where that is allowed.
fn allowed(uri: &Uri, loopback_http: bool) -> bool {
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) => !host.is_empty(),
        (Some("http"), Some(host)) => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            let address = bare.parse::<std::net::IpAddr>();
            loopback_http && (host == "localhost" || address.is_ok_and(|address| address.is_loopback()))
        }
        _ => false,
    }
}

fn has_user(uri: &Uri) -> bool {
    uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
}

/// An address for messages: no query (it carries signatures), no control characters, bounded.
pub(crate) fn printable(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    let bare = bare.rsplit_once('@').map_or(bare, |(_, after)| after);
    bare.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for good in [
            "https://huggingface.co",
            "https://mirror.example/hf/",
            "http://127.0.0.1:9",
            "http://[::1]:8",
            "http://localhost:1",
        ] {
            assert!(Endpoint::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://huggingface.co",
            "ftp://x",
            "huggingface.co",
            "https://u:p@x",
            "http://127.0.0.1.evil.example",
            "",
            "https://x?y",
        ] {
            let error = Endpoint::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("HF_ENDPOINT: got "), "{bad}: {error}");
            assert!(!error.contains("u:p"), "{error}");
        }
    }

    #[test]
    fn the_token_stays_at_the_endpoints_origin() {
        let hub = Endpoint::parse("https://hub.example").unwrap();
        let owns = |uri: &str| hub.owns(&uri.parse().unwrap());
        assert!(owns("https://hub.example/x") && owns("https://HUB.example:443/x"));
        for other in [
            "http://hub.example/x",
            "https://hub.example:444/x",
            "https://hub.example.evil/x",
            "https://cdn.hub.example/x",
        ] {
            assert!(!owns(other), "{other}");
        }
    }

    #[test]
    fn redirects() {
        let hub = Endpoint::parse("https://hub.example").unwrap();
        let from: Uri = "https://hub.example/a/b".parse().unwrap();
        let follow = |location: &str| hub.follow(&from, location).map(|uri| uri.to_string());
        assert_eq!(follow("/c?d=e").unwrap(), "https://hub.example/c?d=e");
        assert_eq!(follow("//cdn.example/c").unwrap(), "https://cdn.example/c");
        assert_eq!(follow("https://cdn.example/c?Signature=s").unwrap(), "https://cdn.example/c?Signature=s");
        let long = format!("https://cdn.example/{}", "a".repeat(URL_BYTES_MAX));
        for bad in [
            "http://cdn.example/c",
            "http://127.0.0.1/c",
            "file:///etc/passwd",
            "https://u:p@cdn.example/",
            "",
            "https:///c",
            "c",
            &long,
        ] {
            let error = follow(bad).unwrap_err().to_string();
            assert!(!error.contains("u:p") && error.len() < 400, "{error}");
        }
        let error = follow("http://cdn.example/c?Signature=s").unwrap_err().to_string();
        assert!(!error.contains("Signature"), "a signed address is as good as a key: {error}");
    }
}
