"""The service: HTTP API, alignment pipeline, store, adapter registry, gate, routing and the engine's client."""
