"""The network of namespaces that fault tests use: hosts reach each other, and cuts are one-way."""

import os
import subprocess
import sys

import pytest

from cloudless.testing.underlay import Underlay

pytestmark = pytest.mark.containerd  # needs root

if os.geteuid() != 0:
    pytest.skip("needs root", allow_module_level=True)


RECEIVE = """
import socket, sys
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind((sys.argv[1], 4000))
print("bound", flush=True)
here.settimeout(float(sys.argv[2]))
try:
    here.recv(10)
except TimeoutError:
    sys.exit(1)
"""
SEND = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"there", (sys.argv[1], 4000))
"""


def run_on(net, host):
    return [*(net.enter(host) if host != "gateway" else []), sys.executable, "-c"]


def one_way(net, source, target):
    """Whether a datagram arrives, whatever the way back."""
    address = net.gateway if target == "gateway" else net.address(target)
    receiver = subprocess.Popen([*run_on(net, target), RECEIVE, address, "0.5"], stdout=subprocess.PIPE)
    try:
        assert receiver.stdout.readline() == b"bound\n"
        subprocess.run([*run_on(net, source), SEND, address], capture_output=True)
        return receiver.wait() == 0
    finally:
        receiver.kill()
        receiver.wait()
        receiver.stdout.close()


def reaches(net, source, target):
    return one_way(net, source, target) and one_way(net, target, source)


def test_hosts_reach_each_other_until_they_are_cut_and_again_after_the_heal():
    with Underlay(("a", "b", "c")) as net:
        assert reaches(net, "a", "b")
        assert reaches(net, "gateway", "c")
        net.split(("a",), ("b", "c"))
        assert not reaches(net, "a", "b")
        assert reaches(net, "b", "c")
        assert reaches(net, "gateway", "a")
        net.heal()
        assert reaches(net, "a", "b")
        net.cut("a", "gateway")
        assert not reaches(net, "a", "gateway")


def test_a_cut_is_one_way():
    with Underlay(("a", "b")) as net:
        net.cut("a", "b")
        assert not one_way(net, "a", "b")
        assert one_way(net, "b", "a")


def test_nothing_is_left_behind():
    with Underlay(("a",)) as net:
        assert net._namespace("a") in subprocess.check_output(["ip", "netns", "list"], text=True)
    assert net._namespace("a") not in subprocess.check_output(["ip", "netns", "list"], text=True)
    links = subprocess.check_output(["ip", "-o", "link"], text=True)
    assert net._bridge not in links
    assert net._veth("a") not in links
