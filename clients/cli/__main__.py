"""`python -m clients.cli`: the `plumbline` command where its script is not installed."""

from __future__ import annotations

from clients.cli import main

main()
