//! The window on a real display: Xvfb keeps its picture in a file, which can be read.
//!
//! **Invariant:** nothing outlives its owner: neither the server nor an app on it.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, ErrorKind},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::Utf8Path;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    child,
    exit::{Exit, Failure},
};

/// A page of text has more colours, by the smoothed edges of its letters; an empty window has two or three.
const COLOURS_MIN: usize = 16;
/// Width and height of the display, pixels.
const SIDE: usize = 1000;
/// How often the display is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// Longer than a cursor stays on or off.
const STILL: Duration = Duration::from_millis(300);
/// Words of an XWD header: see X11/XWDFile.h.
const XWD_HEADER_BYTES: usize = 0;
const XWD_COLOURS: usize = 19;

/// An X server without a screen.
pub(super) struct Display {
    server: Owned,
    folder: tempfile::TempDir,
    name: String,
}

/// A process that ends with its owner.
pub(super) struct Owned(Child);

impl Owned {
    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Tells the app to end, which it must do in order.
    pub(super) fn end(mut self, app: &Utf8Path) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "{app} --gui: told to end, ended with {status}, expected success");
        Ok(())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Display {
    pub(super) fn start() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let mut command = child::command("Xvfb");
        let screen = format!("{SIDE}x{SIDE}x24");
        command.args(["-displayfd", "1", "-screen", "0", &screen, "-nolisten", "tcp", "-fbdir"]);
        let started =
            command.arg(folder.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(
                |error| {
                    let code =
                        if error.kind() == ErrorKind::NotFound { "not installed" } else { "not started" };
                    let hint = "install the X server without a screen: apt-get install xvfb";
                    Failure::new(Exit::Tests, anyhow!("Xvfb: {code}: {error}"), hint)
                },
            )?;
        let mut server = Owned(started);
        let said = server.0.stdout.take().context("no standard output")?;
        let mut number = String::new();
        BufReader::new(said).read_line(&mut number)?;
        if number.trim().is_empty() {
            return Err(anyhow!("Xvfb: ended before it had a display").into());
        }
        Ok(Self { server, folder, name: format!(":{}", number.trim()) })
    }

    /// A command whose windows open here.
    pub(super) fn command(&self, program: &Utf8Path) -> Command {
        let mut command = child::command(program);
        command.env("DISPLAY", &self.name).env_remove("WAYLAND_DISPLAY");
        command
    }

    /// What the display shows, as its server keeps it.
    fn picture(&self) -> anyhow::Result<Vec<u8>> {
        Ok(fs::read(self.folder.path().join("Xvfb_screen0"))?)
    }

    /// Different colours on the display.
    fn colours(&self) -> anyhow::Result<usize> {
        Ok(pixels(&self.picture()?)?.iter().collect::<BTreeSet<_>>().len())
    }

    /// Writes a rectangle of the display, which begins at its corner, as a PNG.
    pub(super) fn photograph(&self, width: usize, height: usize, path: &Utf8Path) -> anyhow::Result<()> {
        let picture = self.picture()?;
        let rows = pixels(&picture)?.chunks(SIDE).take(height).flat_map(|row| row.iter().take(width));
        let bytes: Vec<u8> = rows.flat_map(|&[blue, green, red, _]| [red, green, blue]).collect();
        let file = fs::File::create(path).with_context(|| format!("{path}: cannot be written"))?;
        let mut encoder = png::Encoder::new(file, width.try_into()?, height.try_into()?);
        encoder.set_color(png::ColorType::Rgb);
        Ok(encoder.write_header()?.write_image_data(&bytes)?)
    }

    /// Waits until the display has stood still for a while: animations are over.
    pub(super) fn settle(&self) -> anyhow::Result<()> {
        let mut before = self.picture()?;
        loop {
            std::thread::sleep(STILL);
            let now = self.picture()?;
            if now == before {
                return Ok(());
            }
            before = now;
        }
    }

    /// Starts the app's window and waits for its first frame with text.
    pub(super) fn open(&mut self, app: &Utf8Path, data: &Path) -> anyhow::Result<Owned> {
        let child = self.command(app).args(["--gui", "--data"]).arg(data).spawn();
        let mut child = Owned(child.with_context(|| format!("{app}: cannot be started"))?);
        while self.colours()? < COLOURS_MIN {
            self.look(app, &mut child)?;
        }
        Ok(child)
    }

    /// Waits a little, and fails when there is nothing left to wait for.
    pub(super) fn look(&mut self, app: &Utf8Path, child: &mut Owned) -> anyhow::Result<()> {
        if let Some(status) = child.0.try_wait()? {
            bail!("{app} --gui: ended with {status}, expected a window");
        }
        if let Some(status) = self.server.0.try_wait()? {
            bail!("Xvfb: ended with {status}");
        }
        std::thread::sleep(LOOK);
        Ok(())
    }

    /// From the start of an app to its first frame with text, milliseconds; then the app is told to end, and must do so
    /// in order.
    pub(super) fn first_frame(&mut self, app: &Utf8Path) -> anyhow::Result<f64> {
        let data = tempfile::tempdir()?;
        let since = Instant::now();
        let child = self.open(app, data.path())?;
        let elapsed = since.elapsed().as_secs_f64() * 1e3;
        child.end(app)?;
        Ok(elapsed)
    }
}

/// Its pixels: blue, green, red and nothing, row by row, each of [`SIDE`].
fn pixels(picture: &[u8]) -> anyhow::Result<&[[u8; 4]]> {
    let word = |index: usize| -> anyhow::Result<usize> {
        let word = picture.get(index * 4..).and_then(|rest| rest.first_chunk::<4>());
        Ok(u32::from_be_bytes(*word.context("Xvfb_screen0: got no header")?) as usize)
    };
    let pixels = picture.get(word(XWD_HEADER_BYTES)? + word(XWD_COLOURS)? * 12..);
    let pixels = pixels.context("Xvfb_screen0: got no picture")?;
    Ok(pixels.as_chunks::<4>().0)
}
