"""Deterministic simulation of the replicated log: the real store, engine, Raft core and WAL of three or five members on
virtual time, under seeded faults.

    processes   an event loop whose callbacks belong to processes, which can be killed, frozen and given a wrong clock
    registers   the small state machine that is replicated, so that histories can be checked
    oracle      what must hold at every step, seen over all members and all their lives
    world       members (process, disk, clock), the network between them
    clients     random clients and the history of what they asked and were told
    faults      what breaks, drawn from the seed; `profile` says how much of each
    scenario    one seed from start to verdict

`python -m cloudless.testing.sim_raft` runs seeds. The same seed gives the same history, whatever PYTHONHASHSEED is.
"""
