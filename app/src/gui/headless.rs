//! The same interface without a display: the software renderer draws into memory. For screenshots, tests, and figures
//! without the influence of a window system.

use std::{cell::RefCell, rc::Rc};

use slint::{
    PhysicalSize, PlatformError, Rgb8Pixel,
    platform::{
        Clipboard, Platform, WindowAdapter,
        software_renderer::{MinimalSoftwareWindow, RepaintBufferType},
    },
};

/// A phone's screen, at two pixels a point.
pub(super) const PHONE: (u32, u32) = (840, 1520);
/// Pixels a point.
const SCALE: f32 = 2.0;

/// A screen in memory.
pub struct Screen {
    window: Rc<MinimalSoftwareWindow>,
    clipboard: Rc<RefCell<String>>,
    size: (u32, u32),
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("size", &self.size).finish_non_exhaustive()
    }
}

struct Headless {
    window: Rc<MinimalSoftwareWindow>,
    clipboard: Rc<RefCell<String>>,
    started: std::time::Instant,
}

impl Platform for Headless {
    fn create_window_adapter(&self) -> Result<Rc<dyn WindowAdapter>, PlatformError> {
        Ok(self.window.clone())
    }

    fn duration_since_start(&self) -> std::time::Duration {
        self.started.elapsed()
    }

    fn set_clipboard_text(&self, text: &str, clipboard: Clipboard) {
        if clipboard == Clipboard::DefaultClipboard {
            text.clone_into(&mut self.clipboard.borrow_mut());
        }
    }
}

/// Makes every window of this thread one in memory, of some pixels. Once per thread, before the first window.
///
/// # Errors
/// There is a platform already.
pub fn install(size: (u32, u32)) -> Result<Screen, PlatformError> {
    let window = MinimalSoftwareWindow::new(RepaintBufferType::NewBuffer);
    let clipboard = Rc::new(RefCell::new(String::new()));
    let (started, kept) = (std::time::Instant::now(), clipboard.clone());
    let platform = Headless { window: window.clone(), clipboard: kept, started };
    slint::platform::set_platform(Box::new(platform))
        .map_err(|error| PlatformError::Other(error.to_string()))?;
    window.dispatch_event(slint::platform::WindowEvent::ScaleFactorChanged { scale_factor: SCALE });
    window.set_size(PhysicalSize::new(size.0, size.1));
    Ok(Screen { window, clipboard, size })
}

impl Screen {
    /// The clipboard.
    pub fn clipboard(&self) -> String {
        self.clipboard.borrow().clone()
    }

    /// The pixels of the screen, row by row.
    pub fn draw(&self) -> Vec<Rgb8Pixel> {
        let mut pixels = vec![Rgb8Pixel::default(); self.size.0 as usize * self.size.1 as usize];
        // The first pass lays out, and lists make their rows by it; what changed callbacks set shows in the last.
        for _ in 0..3 {
            slint::platform::update_timers_and_animations();
            self.window.request_redraw();
            self.window.draw_if_needed(|renderer| {
                renderer.render(&mut pixels, self.size.0 as usize);
            });
        }
        pixels
    }

    /// The same as a PNG file.
    ///
    /// # Errors
    /// The encoder fails.
    pub fn png(&self) -> anyhow::Result<Vec<u8>> {
        let pixels = self.draw();
        let bytes: Vec<u8> = pixels.iter().flat_map(|pixel| [pixel.r, pixel.g, pixel.b]).collect();
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.size.0, self.size.1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        encoder.write_header()?.write_image_data(&bytes)?;
        Ok(file)
    }
}
