"""The agent's decisions, pure: what one replica needs next, which probes are due, what a node adopts or removes.

`plan.plan` compares what is assigned with what was found on the node and says for each replica whether to
start, adopt, stop or remove it. From then on `replica.step` drives that replica: events in (what the runtime
did, what a probe said, a timer), effects out (make the sandbox, start, stop, probe, report). `probes` holds the
thresholds and gating of health checks, `backoff` the delays, `stopping` how a container is ended in good order,
`lifecycle` the table of phases. What the node itself needs comes in as events, too: a replica is evicted for good, or
held for a while. The supervisor runs the effects and feeds back what happened; the same code runs in the simulator.
"""
