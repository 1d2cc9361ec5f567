//! `mobile`: plans are printed without effects, missing SDKs are named, and the projects' files say what the plans rely on.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn mobile(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("mobile")
        .args(arguments)
        .env_remove("ANDROID_HOME")
        .env_remove("ANDROID_NDK_HOME")
        .output()
        .unwrap()
}

/// The steps of a plan, with this checkout's path replaced; what was found of the tools differs between machines.
fn steps(arguments: &[&str]) -> String {
    let output = mobile(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_str().unwrap();
    let mut lines = Vec::new();
    for step in plan["steps"].as_array().unwrap() {
        lines.push(format!("# {}", step["why"].as_str().unwrap()));
        for (name, value) in step["env"].as_object().into_iter().flatten() {
            // Which toolchain is taken depends on the machine.
            if name != "RUSTC" {
                lines.push(format!("{name}={}", value.as_str().unwrap()));
            }
        }
        let argv: Vec<_> =
            step["argv"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        lines.push(argv.join(" ").replacen("/usr/bin/cargo ", "cargo ", 1));
        lines.extend(step["output"].as_str().map(|output| format!("-> {output}")));
    }
    lines.join("\n").replace(root, "[root]").replace("darwin-x86_64", "linux-x86_64")
}

#[test]
fn the_plan_of_arm64_linux() {
    insta::assert_snapshot!(steps(&["arm64-linux", "--run", "--dry-run"]));
}

#[test]
fn the_plan_of_android() {
    insta::assert_snapshot!(steps(&["android", "--release", "--dry-run"]));
}

#[test]
fn the_plan_of_ios() {
    insta::assert_snapshot!(steps(&["ios", "--release", "--dry-run"]));
}

#[test]
fn without_an_sdk_nothing_is_done_and_every_missing_tool_has_its_command() {
    let output = mobile(&["android"]);
    assert_eq!(output.status.code(), Some(30));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("missing: Android SDK (ANDROID_HOME), Android NDK 27.2.12479018"), "{stderr}");
    assert!(stderr.contains("sdkmanager 'ndk;27.2.12479018'; export ANDROID_NDK_HOME="), "{stderr}");
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

#[test]
fn the_android_manifest_names_the_library_and_asks_for_nothing() {
    let text = read("app/android/app/src/main/AndroidManifest.xml");
    let document = roxmltree::Document::parse(&text).unwrap();
    let android = "http://schemas.android.com/apk/res/android";
    let named = |tag: &'static str, name: &'static str| {
        document
            .descendants()
            .filter(move |node| node.has_tag_name(tag))
            .find_map(move |node| node.attribute((android, name)))
    };
    assert_eq!(named("meta-data", "value"), Some("app"));
    assert_eq!(named("application", "hasCode"), Some("false"));
    assert_eq!(named("application", "extractNativeLibs"), Some("false"));
    let resources = Path::new(ROOT).join("app/android/app/src/main/res");
    let icon = named("application", "icon").unwrap().strip_prefix("@mipmap/").unwrap();
    let icon = resources.join(format!("mipmap-anydpi-v26/{icon}.xml"));
    let text = std::fs::read_to_string(icon).unwrap();
    let layers = roxmltree::Document::parse(&text).unwrap();
    for layer in layers.root_element().children().filter(roxmltree::Node::is_element) {
        match layer.attribute((android, "drawable")).unwrap().strip_prefix("@drawable/") {
            Some(name) => assert!(resources.join(format!("drawable/{name}.xml")).is_file(), "{name}"),
            None => assert!(resources.join("values/colors.xml").is_file()),
        }
    }
    // Whatever else changes the window's size makes the activity, and with it the model, anew.
    let changes: Vec<_> = named("activity", "configChanges").unwrap().split('|').collect();
    for change in ["orientation", "screenSize", "smallestScreenSize", "screenLayout", "density", "uiMode"] {
        assert!(changes.contains(&change), "{change}: {changes:?}");
    }
    assert_eq!(document.descendants().filter(|node| node.has_tag_name("uses-permission")).count(), 0);
}

#[test]
fn the_property_lists_of_ios_are_well_formed() {
    for (path, key) in [
        ("app/ios/Info.plist", "UILaunchScreen"),
        // The window is attached to its scene by the interface's library.
        ("app/ios/Info.plist", "UIApplicationSceneManifest"),
        // Documents that were exported show in the Files app.
        ("app/ios/Info.plist", "UIFileSharingEnabled"),
        // A store wants a reason for file times, clocks and free space.
        ("app/ios/PrivacyInfo.xcprivacy", "NSPrivacyAccessedAPITypes"),
        // An app for iPads turns every way.
        ("app/ios/Info.plist", "UISupportedInterfaceOrientations~ipad"),
        ("app/ios/Proofmark.entitlements", "com.apple.developer.kernel.increased-memory-limit"),
    ] {
        let text = read(path);
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
        let document = roxmltree::Document::parse_with_options(&text, options).unwrap();
        let keys: Vec<_> = document
            .descendants()
            .filter(|node| node.has_tag_name("key"))
            .filter_map(|node| node.text())
            .collect();
        assert!(keys.contains(&key), "{path}: {keys:?}");
        // A key is followed by its value.
        for node in document.descendants().filter(|node| node.has_tag_name("key")) {
            let value = node.next_sibling_element().unwrap();
            assert!(!value.has_tag_name("key"), "{path}: {:?} has no value", node.text());
        }
    }
}

#[test]
fn the_ios_project_is_yaml_and_its_files_exist() {
    let documents = yaml_rust2::YamlLoader::load_from_str(&read("app/ios/project.yml")).unwrap();
    let target = &documents[0]["targets"]["Proofmark"];
    assert_eq!(target["dependencies"][0]["framework"].as_str(), Some("Proofmark.xcframework"));
    let settings = &target["settings"]["base"];
    for file in ["INFOPLIST_FILE", "CODE_SIGN_ENTITLEMENTS"].map(|key| settings[key].as_str().unwrap()) {
        assert!(Path::new(ROOT).join("app/ios").join(file).is_file(), "{file}");
    }
    for source in target["sources"].as_vec().unwrap().iter().filter(|source| source["optional"].is_badvalue())
    {
        let path = source["path"].as_str().unwrap();
        assert!(Path::new(ROOT).join("app/ios").join(path).exists(), "{path}");
    }
    let icon = settings["ASSETCATALOG_COMPILER_APPICON_NAME"].as_str().unwrap();
    let folder = format!("app/ios/Assets.xcassets/{icon}.appiconset");
    let contents: Value = serde_json::from_str(&read(&format!("{folder}/Contents.json"))).unwrap();
    let picture = contents["images"][0]["filename"].as_str().unwrap();
    assert!(Path::new(ROOT).join(folder).join(picture).is_file(), "{picture}");
    // The one thing that the app's main calls, by the name that Rust gives it.
    let entry = "proofmark_window(void)";
    assert!(read("app/ios/Sources/main.c").contains(entry));
    assert!(read("app/src/gui/ios.rs").contains(&entry.replace("void", "")));
}
