"""Deterministic simulation: the real coordinator and agents on virtual time, under seeded faults.

`world` puts the parts together, `faults` breaks them, `checks` says what must hold at every step and in the end,
`python -m cloudless.testing.sim` runs seeds. The same seed gives the same history, whatever PYTHONHASHSEED is.
"""
