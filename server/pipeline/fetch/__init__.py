"""Fetching images by address: which addresses may be asked for, and the asking itself."""
