"""Files, findings, edits and their order: what every migration is made of, and nothing that only one needs."""
