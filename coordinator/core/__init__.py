"""The coordinator's pure core: what the fabric should be, and how it gets there.

    entry ──► machine.apply ──► State ──► reconcile ──► ApplyPlan ──► (log) ──► machine.apply ...
                                  │           └─ scheduler: which node, and why
                                  ├─► assignments: what one node shall run
                                  └─► views: what people see

- `commands` are what an entry of the replicated log can say; `machine` applies them to the `state`.
- `reconcile` compares what is wanted with what is and plans the difference; `scheduler` finds the nodes.
- `snapshot` turns the state into canonical bytes and back.

Nothing here reads a clock, does I/O or makes an id: times and seeds come in, decisions go out as data.
"""
