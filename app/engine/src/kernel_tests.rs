//! Our operators against plain Rust, called through the runtime's registry and their own validation.
