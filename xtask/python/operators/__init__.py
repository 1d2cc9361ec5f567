"""Programs of one operator each, by upstream's own exporter: what the mutation study changes."""
