//! The chat app.

mod model;
mod provenance;

fn main() -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(&provenance::provenance(&model::MODEL)?)?);
    Ok(())
}
