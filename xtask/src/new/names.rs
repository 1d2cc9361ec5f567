//! What files of a new model's folder are called.

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TEMPLATE: &str = "chat_template.jinja";
/// The licence's own text, and what copies must keep.
pub(super) const AGREEMENT: &str = "LICENSE.txt";
pub(super) const NOTICE: &str = "NOTICE";
/// Where a recipe looks for a checkpoint that lies on this machine: a link, which git does not take.
pub(super) const LINK: &str = "checkpoint";
