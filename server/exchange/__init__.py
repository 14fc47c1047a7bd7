"""Preference data on its way out and in: the export for other trainers, and groups from elsewhere."""
