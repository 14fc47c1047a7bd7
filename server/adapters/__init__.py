"""The life of an adapter: uploaded, checked, probed, gated, tried on a share of the users, promoted, rolled back.

    states       the transition table
    safetensors  the header and the numbers of a safetensors file, read by hand
    files        what an uploaded adapter must look like, before anything is loaded
    base_model   the shapes of the base model's weights, where its directory is at hand
    uploads      upload sessions: files on their way in
    mirror       AdapterMirror: the files in the store that several servers share
    registry     AdapterRegistry: publish, find, verify, advance
    lineage      what an adapter grew out of, and what grew out of it (pure)
    moves        what a move does to the routing row and to the states (pure)
    routing      Router: one routing row for each alias, in memory and by compare-and-swap
    lease        RoutingLease: no server routes by a row that another one has moved
    probe        Prober: does the engine serve the adapter that the learner made?
    replicas     ReplicaProber: the same of every replica, before it serves and before a move
    unloading    Unloader: the engines forget what nobody needs
    gate/        Gate: is it good enough, against the active one?
    examination  Examiner: brings staged adapters through probe and gate
    canary/      what a canary's answers say, users being the unit; may be looked at any time (pure)
    following    Follower: reads that evidence from the store as it grows
    restraint    when the server holds its own moves back (pure)
    rollout      Rollout: drives every adapter through all of this, in the background
    shadow_report  what answers that nobody saw say about an adapter (pure)
    quarantine   the signals behind an adapter, set aside with it
    forgetting   what can be done about adapters that learned from somebody who was erased (pure)
    report/      an adapter's page: markdown and HTML, with plots (pure)

A directory without a row, and a row in a state that is not served, are never reachable for an app.
"""
