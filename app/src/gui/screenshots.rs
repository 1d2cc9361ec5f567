//! Pictures of every screen, drawn by the software renderer from a real run: the replies are the model's, and the
//! refusal shows a file that was really changed.

use std::{fs, rc::Rc, sync::mpsc::Receiver};

use camino::{Utf8Path, Utf8PathBuf};
use slint::{ComponentHandle as _, Global as _};

use super::{
    Front, headless,
    ui::{AppWindow, Core, Screen},
};
use crate::{Asset, Config, message::Event, model::MODEL};

/// Writes the pictures into a folder.
///
/// # Errors
/// The folder cannot be written, or the model does not run.
pub fn write(folder: &Utf8Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let folder = &folder.canonicalize_utf8()?;
    let scratch = tempfile_folder()?;
    // The refusal shows the file's name: a path of this machine would make every picture another one.
    std::env::set_current_dir(&scratch)?;
    let screen = headless::install(headless::PHONE)?;
    let ui = AppWindow::new()?;
    ui.show()?;
    let shoot = |name: &str| -> anyhow::Result<()> {
        let path = folder.join(format!("{name}.png"));
        fs::write(&path, screen.png()?)?;
        println!("{path}");
        Ok(())
    };
    let core = Core::get(&ui);

    tampered(&ui, &scratch, &shoot)?;
    let config = Config { cache: scratch.clone(), ..Config::default() };
    let (front, events) = Front::start(&ui, config, scratch.clone())?;
    core.set_refusal_reason(Default::default());
    pump(&front, &events, |event| matches!(event, Event::Ready { .. }));
    core.set_scheme(1);
    for text in ["hello", "i feel sad today", "my cat is ill. 🐈 can you read this: مرحبا بالعالم"]
    {
        core.invoke_say(text.into());
        pump(&front, &events, |event| matches!(event, Event::Reply(_)));
    }
    shoot("chat-light")?;
    core.set_scheme(2);
    core.set_figures_shown(true);
    core.invoke_say("what makes you happy?".into());
    pump(&front, &events, |event| matches!(event, Event::Reply(_)));
    shoot("chat-dark")?;
    core.set_figures_shown(false);
    core.set_scheme(1);
    core.set_screen(Screen::Card);
    shoot("model-card")?;
    core.set_screen(Screen::Settings);
    shoot("settings")?;
    core.invoke_begin();
    core.invoke_say("שלום, איך אתה מרגיש היום?".into());
    pump(&front, &events, |event| matches!(event, Event::Reply(_)));
    core.invoke_list();
    pump(&front, &events, |event| matches!(event, Event::Listed { .. }));
    shoot("conversations")?;
    front.close();
    fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// A linked model with one byte changed: installing, then refused.
fn tampered(
    ui: &AppWindow,
    scratch: &Utf8Path,
    shoot: &dyn Fn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut bytes = MODEL.embedded().map(<[u8]>::to_vec).unwrap_or_else(|| vec![0; 4096]);
    if let Some(byte) = bytes.last_mut() {
        *byte ^= 1;
    }
    let place = Utf8PathBuf::from("model.pte");
    fs::write(&place, bytes)?;
    let config = Config { cache: scratch.to_owned(), asset: Asset::File(place), ..Config::default() };
    let (front, events) = Front::start(ui, config, scratch.to_owned())?;
    Core::get(ui).set_scheme(1);
    let mut shown = false;
    for event in &events {
        let installing = matches!(&event, Event::Installing { done_bytes, total_bytes }
            if done_bytes * 2 >= *total_bytes);
        front.apply(event);
        if installing && !shown {
            shown = true;
            shoot("install")?;
        }
    }
    shoot("refused")?;
    front.close();
    Ok(())
}

/// Brings events to the front until one of a kind.
fn pump(front: &Rc<Front>, events: &Receiver<Event>, until: impl Fn(&Event) -> bool) {
    for event in events {
        let last = until(&event);
        front.apply(event);
        if last {
            return;
        }
    }
}

/// A folder of this process's own.
fn tempfile_folder() -> anyhow::Result<Utf8PathBuf> {
    let folder = std::env::temp_dir().join(format!("proofmark-screenshots-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder.try_into()?)
}
