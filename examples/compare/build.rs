//! Hands on what the measurements were built with: a figure says little without it.

use std::env;
use std::fs;
use std::path::Path;

fn main() {
    let manifest = Path::new("../../Cargo.toml");
    println!("cargo::rerun-if-changed={}", manifest.display());
    println!("cargo::rerun-if-env-changed=CARGO_PROFILE_RELEASE_LTO");
    println!("cargo::rerun-if-env-changed=CARGO_PROFILE_RELEASE_CODEGEN_UNITS");
    let text = fs::read_to_string(manifest).unwrap_or_default();
    let profile = env::var("PROFILE").unwrap_or_default();
    let opt_level = env::var("OPT_LEVEL").unwrap_or_default();
    let lto = setting(&text, &profile, "lto").unwrap_or_else(|| "false".to_owned());
    let units = setting(&text, &profile, "codegen-units")
        .unwrap_or_else(|| if profile == "release" { "16" } else { "256" }.to_owned());
    println!(
        "cargo::rustc-env=COMPARE_PROFILE={profile}, opt-level {opt_level}, LTO {lto}, \
         {units} codegen units"
    );
}

/// What the environment or the workspace's manifest says of the profile. Cargo tells build scripts
/// neither.
fn setting(manifest: &str, profile: &str, key: &str) -> Option<String> {
    let variable = format!("CARGO_PROFILE_{profile}_{key}").to_uppercase();
    if let Ok(value) = env::var(variable.replace('-', "_")) {
        return Some(value);
    }
    let (_, section) = manifest.split_once(&format!("[profile.{profile}]"))?;
    let section = section.split("\n[").next()?;
    section.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
    })
}
