"""The other side of `cargo xtask bench --against`: upstream's own tools, as anyone runs them."""
