"""The demo's own small world: coloured shapes, a model that sees them, and people who judge it.

`scenes`, `language`, `users` and `suites` are light (no torch); `tokenizer`, `model`, `train` and
`evaluate` make and measure the committed weights in `shapes_vlm/`. Nothing outside this package
knows what a circle is.
"""
