"""The models of the HTTP API: what goes over the wire, and nothing else. Imports nothing heavy.

Field names are OpenAI's where OpenAI has them. Unknown fields are refused at any depth. Times are UTC seconds since the
epoch; log-probabilities are natural. `base` is what the others are made of.
"""
