"""The containerd runtime: a replica's containers as containerd tasks, over its gRPC socket.

Start reading in runtime.py, which implements the Runtime protocol of `agent/runtime/base.py`. `tarindex`, `archive`,
`content` and `images` bring images in; `spec`, `security` and `users` are pure and describe a container; `tasks`,
`execs`, `events` and `stats` talk to the daemon through `client`; `labels` is what survives the agent. `api` is
generated. The replicas' network is made by `cloudless.agent.network`.
"""

from cloudless.agent.runtime.containerd.runtime import ContainerdRuntime

__all__ = ["ContainerdRuntime"]
