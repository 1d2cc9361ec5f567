//! The proxy for an address: the variables, read as curl reads them (see "Environment" in curl(1)).
//!
//! **Invariant:** a proxy that is set for an address is used, or refused with the name of its variable; it is never ignored, and
//! its password is never shown.

use std::net::IpAddr;

use anyhow::{Context as _, bail, ensure};
use ureq::{Proxy, http::Uri};

/// The variables that count for a scheme, the first that is set does. Upper-case `HTTP_PROXY` is left out on purpose, as curl
/// leaves it out: a web server sets it from a request's `Proxy` header.
const HTTP: [&str; 3] = ["http_proxy", "all_proxy", "ALL_PROXY"];
const HTTPS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const EXCEPT: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// Port of a proxy that names none: curl's.
const PORT: u16 = 1080;
/// What to do about a proxy that is not spoken to.
pub(crate) const HINT: &str = "name an http proxy, or the host in NO_PROXY if it is reached without one";
const EXPECTED: &str = "expected http://HOST:PORT or https://HOST:PORT";

/// The proxy for an address; `None` where it is reached directly.
///
/// # Errors
/// A variable that names no proxy that is spoken to here.
pub(crate) fn of(uri: &Uri, env: &impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Proxy>> {
    let Some(host) = uri.host() else { return Ok(None) };
    let names: &[&str] = if uri.scheme_str() == Some("http") { &HTTP } else { &HTTPS };
    let Some((name, value)) = first(names, env) else { return Ok(None) };
    if first(&EXCEPT, env).is_some_and(|(_, list)| excepts(&list, host)) {
        return Ok(None);
    }
    parse(name, &value).map(Some)
}

fn first<'a>(names: &[&'a str], env: &impl Fn(&str) -> Option<String>) -> Option<(&'a str, String)> {
    let set = |name: &&'a str| {
        let value = env(name)?.trim().to_owned();
        (!value.is_empty()).then_some((*name, value))
    };
    names.iter().find_map(set)
}

fn parse(name: &str, value: &str) -> anyhow::Result<Proxy> {
    let (scheme, rest) = value.split_once("://").unwrap_or(("http", value));
    let scheme = scheme.to_ascii_lowercase();
    if scheme.starts_with("socks") {
        bail!("{name}: got a proxy of the kind {scheme}, {EXPECTED}");
    }
    ensure!(scheme == "http" || scheme == "https", "{name}: got a proxy of another kind, {EXPECTED}");
    let rest = rest.trim_end_matches('/');
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let bare = place.rsplit_once(']').map_or(place, |(_, after)| after);
    let port = match (bare.contains(':'), scheme.as_str()) {
        (true, _) => String::new(),
        (false, "https") => ":443".to_owned(),
        (false, _) => format!(":{PORT}"),
    };
    // The cause would show the address, and with it a password.
    let proxy = Proxy::new(&format!("{scheme}://{rest}{port}")).ok().filter(|proxy| !proxy.host().is_empty());
    proxy.with_context(|| format!("{name}: got no address of a proxy, {EXPECTED}"))
}

/// Whether a list of `NO_PROXY` has a host: names with all that is below them, addresses, and networks.
fn excepts(list: &str, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        let entry = entry.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        match address {
            Some(address) => within(&entry, address),
            None => {
                let entry = entry.trim_start_matches('.').trim_end_matches('.');
                let below =
                    host.strip_suffix(entry).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                !entry.is_empty() && below
            }
        }
    })
}

/// Whether an address is an entry's, or in an entry's network.
fn within(entry: &str, address: IpAddr) -> bool {
    let (network, bits) = match entry.split_once('/') {
        Some((network, bits)) => (network, bits.parse().ok()),
        None => (entry, Some(128)),
    };
    let Some((network, bits)) = network.parse::<IpAddr>().ok().zip(bits) else { return false };
    let wide = |address: IpAddr| match address {
        IpAddr::V4(four) => (u128::from(u32::from(four)) << 96, 32),
        IpAddr::V6(six) => (u128::from(six), 128),
    };
    let ((one, length), (other, own)) = (wide(network), wide(address));
    let bits: u32 = if entry.contains('/') { bits } else { length };
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits.min(128)) };
    length == own && bits <= length && one & mask == other & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(address: &str, variables: &[(&str, &str)]) -> anyhow::Result<Option<String>> {
        let env =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let found = of(&address.parse().unwrap(), &env)?;
        Ok(found.map(|proxy| format!("{}:{}", proxy.host(), proxy.port())))
    }

    #[test]
    fn each_scheme_has_its_variables_and_lower_case_goes_first() {
        let (http, https) = ("http://hub.example/x", "https://hub.example/x");
        for (address, variables, expected) in [
            (https, &[("HTTPS_PROXY", "http://a:1")][..], Some("a:1")),
            (http, &[("HTTPS_PROXY", "http://a:1")], None),
            (http, &[("HTTP_PROXY", "http://a:1")], None),
            (http, &[("http_proxy", "http://a:1")], Some("a:1")),
            (https, &[("http_proxy", "http://a:1")], None),
            (https, &[("https_proxy", "http://b:2"), ("HTTPS_PROXY", "http://a:1")], Some("b:2")),
            (https, &[("https_proxy", " "), ("HTTPS_PROXY", "http://a:1")], Some("a:1")),
            (http, &[("ALL_PROXY", "a:1")], Some("a:1")),
            (https, &[("all_proxy", "c:3"), ("ALL_PROXY", "a:1")], Some("c:3")),
            (https, &[("HTTPS_PROXY", "http://a:1"), ("all_proxy", "c:3")], Some("a:1")),
            (https, &[("HTTPS_PROXY", "proxy")], Some("proxy:1080")),
            (https, &[("HTTPS_PROXY", "https://u:p@proxy/")], Some("proxy:443")),
            (https, &[("HTTPS_PROXY", "http://[::1]:9")], Some("[::1]:9")),
            (https, &[], None),
        ] {
            assert_eq!(asked(address, variables).unwrap().as_deref(), expected, "{address} {variables:?}");
        }
    }

    #[test]
    fn exceptions() {
        for (list, host, excepted) in [
            ("localhost, 127.0.0.1", "127.0.0.1", true),
            ("localhost 127.0.0.1", "127.0.0.1", true),
            ("localhost,127.0.0.1", "localhost", true),
            ("*", "hub.example", true),
            ("example", "hub.example", true),
            (".hub.example", "hub.example", true),
            ("hub.example.", "HUB.example", true),
            ("b.example", "hub.example", false),
            ("hub.example", "example", false),
            ("127.0.0.0/8", "127.9.9.9", true),
            ("127.0.0.0/8", "128.0.0.1", false),
            ("0.0.0.0/0", "10.1.2.3", true),
            ("10.0.0.0/33", "10.0.0.1", false),
            ("127.0.0.1", "127.0.0.10", false),
            ("::1", "[::1]", true),
            ("[fe80::]/10", "[fe80::1]", false),
            ("fe80::/10", "[fe80::1]", true),
            ("0.0.1", "127.0.0.1", false),
            ("", "hub.example", false),
        ] {
            assert_eq!(excepts(list, host), excepted, "{list} {host}");
        }
        let variables = [("HTTPS_PROXY", "socks5://a:1"), ("NO_PROXY", "hub.example")];
        assert_eq!(asked("https://hub.example/x", &variables).unwrap(), None);
    }

    #[test]
    fn what_is_not_spoken_to_is_refused_by_name_and_without_its_password() {
        for (value, expected) in [
            (
                "socks5://127.0.0.1:9",
                "ALL_PROXY: got a proxy of the kind socks5, expected http://HOST:PORT or https://HOST:PORT",
            ),
            (
                "SOCKS5H://u:secret@127.0.0.1:9",
                "ALL_PROXY: got a proxy of the kind socks5h, expected http://HOST:PORT or https://HOST:PORT",
            ),
            (
                "ftp://u:secret@a",
                "ALL_PROXY: got a proxy of another kind, expected http://HOST:PORT or https://HOST:PORT",
            ),
            (
                "http://u:secret@",
                "ALL_PROXY: got no address of a proxy, expected http://HOST:PORT or https://HOST:PORT",
            ),
        ] {
            let error = asked("https://hub.example/x", &[("ALL_PROXY", value)]).unwrap_err();
            assert_eq!(format!("{error:#}"), expected);
        }
    }
}
