"""Schema changes, oldest first. `versions/` holds one module each."""
