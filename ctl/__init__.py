"""cloudlessctl: what people and CI use to talk to the fabric.

`main` is the program, `cli` the tree of commands and their common flags; each command lives in its own module
under `commands/` and is imported only when it runs, so that the program starts quickly. A command gets an `App`:
settings, streams, and the `Client` that does the calls. `resources` describes each kind of thing once (how it is
named, listed, shown), `output` and `table` print, `watching` and `waiting` follow changes. Nothing here decides
anything about the fabric: that is the coordinator's.
"""
