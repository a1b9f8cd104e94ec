"""Generated code for containerd's services. Only `cloudless.agent.runtime.containerd` uses it."""
