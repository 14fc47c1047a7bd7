"""The learner: the server's feed → batches → objectives → a round of LoRA training → an uploaded adapter.

A client of the server's public API like any other. It may be killed at any time and run anywhere.
Reading order: `loop` (what it does all day), `round` (one round), `material` (what it learns from), `trainer` (one
step), `prefix` (the forward pass), `objectives` (the losses), `recipe` (what is minimised of them).
"""
