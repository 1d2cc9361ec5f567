"""Programs of one operator each, exported with upstream's own exporter: what the mutation study changes."""
