"""The life of an adapter: uploaded, checked, probed, gated, tried on a share of the users, promoted, rolled back.

    states       the transition table
    safetensors  the header and the numbers of a safetensors file, read by hand
    files        what an uploaded adapter must look like, before anything is loaded
    base_model   the shapes of the base model's weights, where its directory is at hand
    uploads      upload sessions: files on their way in
    mirror       AdapterMirror: the files in the store that several servers share
    registry     AdapterRegistry: publish, find, verify, advance, forget
    moves        what a move does to the routing row and to the states (pure)
    routing      Router: one routing row for each alias, in memory and by compare-and-swap
    probe        Prober: does the engine serve the adapter that the learner made?
    gate/        Gate: is it good enough, against the active one?
    evidence     tests of harm that may be looked at after every answer (pure)
    rollout      Rollout: drives every adapter through all of this, in the background

A directory without a row, and a row in a state that is not served, are never reachable for an app.
"""
