"""The vLLM engine seen from the server: a port, its HTTP client, its launcher and a fake for unit tests.

port        Engine: what the pipeline, the probe and the gate may ask for
client      VllmEngine: the port over HTTP, for one engine URL
launcher    EngineProcess: starts and supervises one vLLM process (embedded default)
fake        FakeEngine: a deterministic adapter of the port for unit tests
"""
