//! Which index PyTorch comes from. The default index's Linux build carries CUDA: gigabytes that an export on the CPU
//! never uses. PyTorch's own CPU index is tried first, with a short timeout.
//!
//! **Invariant:** whichever index was used is recorded in the receipt and in the manifest. The default route is pinned
//! by hash in the lock. The CPU route is pinned by version, and its digest is checked against the one that the index
//! itself publishes: the lock cannot name hashes that the default index does not serve.

use std::{
    net::{TcpStream, ToSocketAddrs as _},
    sync::mpsc,
    time::Duration,
};

use ureq::http::Uri;

use crate::{http::proxy, packages::Packages, token::environment};

const CPU_INDEX: &str = "https://download.pytorch.org/whl/cpu";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Only the CUDA build of PyTorch needs these.
const CUDA_ONLY: [&str; 3] = ["nvidia-", "cuda-", "triton"];

/// The CPU index, if it applies to this platform and answers.
pub(crate) fn reachable_cpu_index() -> Option<String> {
    if !cfg!(target_os = "linux") {
        // The default index's macOS builds are CPU builds.
        return None;
    }
    let index = std::env::var("PROOFMARK_TORCH_CPU_INDEX").unwrap_or_else(|_| CPU_INDEX.to_owned());
    answers(&index).then_some(index)
}

/// Installs the locked version of PyTorch's CPU build.
pub(crate) fn install(
    shell: &xshell::Shell,
    packages: &Packages,
    index: &str,
    lock: &str,
) -> anyhow::Result<()> {
    let version = version(lock).ok_or_else(|| anyhow::anyhow!("requirements.lock pins no torch"))?;
    let requirement = format!("torch=={version}+cpu");
    packages.uv_from(shell, index, &["--no-deps", &requirement]).env("UV_HTTP_TIMEOUT", "30").run()?;
    Ok(())
}

/// The lock without PyTorch and without what only its CUDA build needs.
pub(crate) fn without_torch(lock: &str) -> String {
    let mut kept = String::new();
    let mut keep = true;
    for line in lock.lines() {
        // A requirement begins at the margin; its hashes and comments are indented below it.
        if line.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            keep = !line.starts_with("torch==") && !CUDA_ONLY.iter().any(|prefix| line.starts_with(prefix));
        }
        if keep {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

fn version(lock: &str) -> Option<&str> {
    lock.lines().find_map(|line| line.strip_prefix("torch==")?.split([' ', '\\', ';']).next())
}

/// Whether the host of `url`, or the proxy to it, accepts a connection within the timeout, name look-up included.
fn answers(url: &str) -> bool {
    let Some(uri) = url.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some()) else { return false };
    // uv may know a proxy that this client does not support, and has its own fall-back.
    let proxy = proxy::of(&uri, &environment).ok().flatten();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    let own = (uri.host().unwrap_or_default().to_owned(), port);
    let (host, port) = proxy.map_or(own, |proxy| (proxy.host().to_owned(), proxy.port()));
    let address = format!("{host}:{port}");
    // A look-up has no timeout of its own, so it gets a thread that may be left behind.
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let addresses = address.to_socket_addrs().into_iter().flatten();
        let connected = addresses.take(2).any(|a| TcpStream::connect_timeout(&a, CONNECT_TIMEOUT).is_ok());
        let _ = sender.send(connected);
    });
    receiver.recv_timeout(CONNECT_TIMEOUT).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = include_str!("../python/requirements.lock");

    #[test]
    fn a_listening_index_answers_and_a_closed_one_does_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/whl/cpu", listener.local_addr().unwrap());
        assert!(answers(&url));
        drop(listener);
        assert!(!answers(&url));
        assert!(!answers("nonsense"));
    }

    #[test]
    fn the_cpu_lock_keeps_everything_but_torch_and_cuda() {
        let kept = without_torch(LOCK);
        let names = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|l| l.starts_with(|c: char| c.is_ascii_alphanumeric()));
            lines.filter_map(|l| l.split("==").next().map(str::to_owned)).collect()
        };
        let dropped: Vec<_> = names(LOCK).into_iter().filter(|name| !names(&kept).contains(name)).collect();
        assert!(dropped.contains(&"torch".to_owned()));
        assert!(
            dropped.iter().all(|n| n == "torch" || CUDA_ONLY.iter().any(|p| n.starts_with(p))),
            "{dropped:?}"
        );
        assert!(names(&kept).contains(&"torchao".to_owned()));
        assert_eq!(version(LOCK), Some("2.15.0"));
        assert!(!kept.contains("nvidia"), "a hash or comment of a dropped package stayed");
    }
}
