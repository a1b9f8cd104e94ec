"""Deterministic simulation: real coordinators and agents on virtual time, under seeded faults.

`world` puts the parts together (`coordinators`, `agents`: each a process on a machine, `hosts`), `faults` breaks them,
`clients` use them, `ledger` and `checks` say what must hold at every step and in the end, `profile` how a run is set
up, `python -m cloudless.testing.sim` runs seeds. The same seed gives the same history, whatever PYTHONHASHSEED is.
"""
