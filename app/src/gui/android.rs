//! Where Android enters: the same window, with the folders and the asset of the package.
//!
//! **Invariant:** the model is mapped where it lies in the package, uncompressed; nothing is unpacked.

use camino::Utf8PathBuf;
use slint::android::{
    AndroidApp,
    android_activity::{MainEvent, PollEvent},
};

use super::front;
use crate::{Asset, Config, model::MODEL};

#[expect(unsafe_code, reason = "the name by which the activity finds it")]
#[unsafe(no_mangle)]
fn android_main(app: AndroidApp) {
    let started = config(&app).and_then(|config| {
        let documents = documents(&app)?;
        let initialized = slint::android::init_with_event_listener(app, |event| {
            // In the background the system may end the process at any time; what it gets back keeps it alive longer.
            match event {
                PollEvent::Main(MainEvent::Pause) => front::with(super::Front::pause),
                PollEvent::Main(MainEvent::LowMemory) => front::with(super::Front::release),
                _ => {}
            }
        });
        initialized?;
        super::run(config, documents)
    });
    if let Err(error) = started {
        // Goes to the system's log.
        eprintln!("error: {error:#}");
    }
}

/// On shared storage where it can be: what lies in an app's own folder no person can get at.
fn documents(app: &AndroidApp) -> anyhow::Result<Utf8PathBuf> {
    let folder = app.external_data_path().or_else(|| app.internal_data_path());
    Ok(Utf8PathBuf::try_from(folder.ok_or_else(|| anyhow::anyhow!("the app has no folder"))?)?)
}

fn config(app: &AndroidApp) -> anyhow::Result<Config> {
    let files = app.internal_data_path().ok_or_else(|| anyhow::anyhow!("the app has no folder"))?;
    let files = Utf8PathBuf::try_from(files)?;
    // Beside `files`: emptied by the system at updates, which is right for packed weights.
    let cache = files.parent().map_or_else(|| files.join("cache"), |folder| folder.join("code_cache"));
    let (data, asset) = (Some(files.join("conversations")), asset(app)?);
    Ok(Config { data, cache, asset, ..Config::default() })
}

/// The model as an asset of the package; nothing to find for an embedded one.
fn asset(app: &AndroidApp) -> anyhow::Result<Asset> {
    if MODEL.embedded().is_some() {
        return Ok(Asset::Default);
    }
    let name = model_assets::manifest::Manifest::parse(MODEL.manifest)?.file;
    let path = std::ffi::CString::new(name.clone())?;
    let opened = app.asset_manager().open(&path).map(|asset| asset.open_file_descriptor());
    let found = match opened {
        Some(Ok(found)) => found,
        Some(Err(error)) => return Ok(Asset::Missing(format!("{name}: got a compressed asset ({error})"))),
        None => return Ok(Asset::Missing(format!("{name}: got no such asset in this package"))),
    };
    Ok(Asset::Range {
        file: std::fs::File::from(found.fd),
        path: Utf8PathBuf::from(name),
        offset: u64::try_from(found.offset)?,
        len: u64::try_from(found.size)?,
    })
}
