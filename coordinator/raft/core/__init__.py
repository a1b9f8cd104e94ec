"""Raft, pure: `step(state, event, now_ms=, jitter=) -> (state, effects)`.

After D. Ongaro, "Consensus: Bridging Theory and Practice" (Stanford, 2014); "§" in this package refers to it. The core
holds no entries, only the shape of the log (which indexes carry which term); the shell keeps the data.

    model      members, the log's shape, progress of each peer, the state
    messages   what members say to each other
    events     what happens to a member
    effects    what the shell has to do
    start      the state when the process starts
    step       the transition function, over one module for each concern:
               election, following, replication, commit, disk, reads, membership, hand_over, snapshots, timing
    draft      a state within one step
"""
