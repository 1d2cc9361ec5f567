//! A conversation through the real window: pointer and keys come from the display server, as those of a user do, and another
//! process reads the reply from the store.
//!
//! **Invariant:** nothing in the app is called or patched: the binary that users get answers.

use std::{io::Write as _, process::Stdio};

use anyhow::{Context as _, ensure};
use camino::Utf8Path;

use super::display::Display;

const MESSAGE: &str = "Hello";
/// From the lower edge of the window to the message field, pixels.
const FIELD: usize = 40;

/// Opens the window, clicks into the message field, types, and waits until the reply is stored. Returns the reply; with
/// `picture`, the window as it stands then is written there.
///
/// # Errors
/// The app or the display ended, `xdotool` is not installed, or the message that was stored is not the one that was typed.
pub(super) fn hold(
    display: &mut Display,
    app: &Utf8Path,
    picture: Option<&Utf8Path>,
) -> anyhow::Result<String> {
    let data = tempfile::tempdir()?;
    let mut child = display.open(app, data.path())?;
    let pid = child.id().to_string();
    let window = xdotool(display, &["search", "--sync", "--onlyvisible", "--pid", &pid])?;
    let window = window.lines().next().context("xdotool: found no window")?.to_owned();
    let (width, height) = geometry(display, &window)?;
    let (x, y) = ((width / 3).to_string(), height.saturating_sub(FIELD).to_string());
    xdotool(display, &["mousemove", "--window", &window, &x, &y, "click", "1"])?;
    // Without a window manager nothing else gives the window the keyboard focus.
    xdotool(display, &["windowfocus", "--sync", &window, "type", MESSAGE])?;
    xdotool(display, &["key", "Return"])?;
    let (said, reply) = loop {
        if let Some(found) = stored(app, data.path())? {
            break found;
        }
        display.look(app, &mut child)?;
    };
    ensure!(said == MESSAGE, "{app} --gui: stored the message {said:?}, expected {MESSAGE:?}");
    if let Some(path) = picture {
        display.settle()?;
        display.photograph(width, height, path)?;
    }
    child.end(app)?;
    Ok(reply)
}

fn geometry(display: &Display, window: &str) -> anyhow::Result<(usize, usize)> {
    let said = xdotool(display, &["getwindowgeometry", "--shell", window])?;
    let value = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.and_then(|value| value.parse().ok()).with_context(|| format!("xdotool: got no {name}: {said:?}"))
    };
    Ok((value("WIDTH")?, value("HEIGHT")?))
}

fn xdotool(display: &Display, arguments: &[&str]) -> anyhow::Result<String> {
    let output = display
        .command(Utf8Path::new("xdotool"))
        .args(arguments)
        .output()
        .context("xdotool: cannot be started; install it: apt-get install xdotool")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "xdotool {}: {}", arguments.join(" "), complaint.trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// Message and reply of the first conversation, once both are stored, by the terminal front.
fn stored(app: &Utf8Path, data: &std::path::Path) -> anyhow::Result<Option<(String, String)>> {
    let mut child = crate::child::command(app)
        .arg("--data")
        .arg(data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    child.stdin.take().context("no standard input")?.write_all(b"/list\n/open 1\n")?;
    let said = String::from_utf8(child.wait_with_output()?.stdout)?;
    let Some((_, conversation)) = said.split_once("(2 messages)\n") else { return Ok(None) };
    let parts = conversation.strip_prefix("> ").and_then(|rest| rest.split_once('\n'));
    let (message, reply) = parts.with_context(|| format!("{app}: cannot read the conversation: {said:?}"))?;
    Ok(Some((message.to_owned(), reply.trim().to_owned())))
}
