"""The core: updates, records, items and their validation, in plain Python."""
