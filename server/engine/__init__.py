"""The vLLM engine seen from the server: a port, its HTTP client, the process it runs in, and a fake.

    port        Engine: what the pipeline, the probe and the gate may ask for
    client      VllmEngine: the port over HTTP, for one engine URL
    payload     request bodies and the meaning of replies: pure functions
    launcher    EngineProcess: one vLLM process on loopback (embedded default)
    guard       a small process in between, so that no engine outlives its server
    supervisor  EngineSupervisor: keeps one engine ready, or watches one that runs elsewhere
    health      states, transitions and back-off: pure functions
    fake        FakeEngine: a deterministic adapter of the port for unit tests

None of them imports model code.
"""
