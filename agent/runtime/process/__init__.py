"""Plain sandboxed processes, for devices that have no containerd.

A container is a process of the device itself: no image, no network of its own, no root file system of its own.
What holds it back is, as far as the device has it, Landlock (files), seccomp (system calls), a user of its own,
rlimits and a cgroup. `runtime.ProcessRuntime.describe` says what this device has and why not more.

    ProcessRuntime (runtime.py)    the Runtime protocol; keeps no state of its own
      state.py                     the folders that hold what runs: written by agent and shim, read by both
      shim.py                      one small supervisor per container; outlives the agent, records how it ended
      launch.py                    puts a fresh process under its restrictions and executes the program
      confine.py                   what a container is allowed, from its spec and what the device has
      seccomp.py landlock.py       the system call filter; the file rules
      cgroups.py                   limits, where cgroups (v1 or v2) can be written
      probe.py findings.py         what the kernel allows, found out by trying
      exec.py                      one more process under the same restrictions, with pipes or a terminal
      events.py                    "look again" for whoever listens
"""
