"""The documentation: pages for people, and `reference/`, which writes the pages that follow from the code."""
