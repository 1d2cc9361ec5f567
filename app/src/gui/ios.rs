//! Where iOS enters: the same window, with the folders of the app's container and the model of its bundle.
//!
//! **Invariant:** the model is mapped where the system installed it; nothing is unpacked or copied.

use std::ffi::c_int;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use model_assets::manifest::Manifest;
use slint::winit_030::{CustomApplicationHandler, EventResult, winit::event_loop::ActiveEventLoop};

use super::front;
use crate::{Asset, Config, dirs, model::MODEL};

/// Shows the window until the system ends the process; `main` calls it, on the main thread, and nothing else. Answers
/// only when there is no window: 1.
#[expect(unsafe_code, reason = "the name by which the app's main finds it")]
#[unsafe(no_mangle)]
extern "C" fn proofmark_window() -> c_int {
    if let Err(error) = show() {
        // Goes to the system's log.
        eprintln!("error: {error:#}");
    }
    1
}

fn show() -> anyhow::Result<()> {
    let config = config()?;
    let documents = dirs::documents().context("the app has no folder")?;
    slint::BackendSelector::new().with_winit_custom_application_handler(Background).select()?;
    super::run(config, documents)
}

/// In the background the system may end the process at any time; what it gets back keeps it alive longer.
struct Background;

impl CustomApplicationHandler for Background {
    fn suspended(&mut self, _: &ActiveEventLoop) -> EventResult {
        front::with(super::Front::pause);
        EventResult::Propagate
    }

    fn memory_warning(&mut self, _: &ActiveEventLoop) -> EventResult {
        front::with(super::Front::release);
        EventResult::Propagate
    }
}

/// `HOME` is the app's container. Caches are not backed up, and the system may empty them: right for packed weights.
fn config() -> anyhow::Result<Config> {
    let data = Some(dirs::data().context("the app has no folder")?);
    let cache = dirs::cache().context("the app has no folder")?;
    Ok(Config { data, cache, asset: asset()?, ..Config::default() })
}

/// The model as a file of the bundle, in the folder of that name in `project.yml`; nothing to find for an embedded one.
fn asset() -> anyhow::Result<Asset> {
    if MODEL.embedded().is_some() {
        return Ok(Asset::Default);
    }
    let binary = Utf8PathBuf::try_from(std::env::current_exe()?)?;
    let bundle = binary.parent().context("the app has no bundle")?;
    Ok(Asset::File(bundle.join("Model").join(Manifest::parse(MODEL.manifest)?.file)))
}
