"""The system call filter of the process runtime: a deny list as classic BPF, made without any library.

Denied with EPERM: what reaches other processes (ptrace, process_vm_*, kcmp, pidfd_getfd), the kernel (modules,
kexec, bpf, perf events, userfaultfd, reboot, swap, accounting, quotas, kernel log, I/O ports), its keys, clocks and
names, the tree of mounts and every namespace (unshare, setns, clone with a namespace flag). Denied with ENOSYS, so
that programs fall back: clone3 (its flags cannot be read here), io_uring (it would pass this filter by), and every
call newer than this list. Sockets are of the families below only; terminals cannot be fed (TIOCSTI, TIOCLINUX).
Programs of a foreign ABI (32-bit or x32 on 64-bit) get EPERM for everything.

The numbers are those of libseccomp 2.5, which the tests compare. A deny list is weaker than the allow list of
the container runtimes; it is what runs arbitrary programs of the device without breaking them.
"""

from __future__ import annotations

import errno
import struct

_ARCHITECTURES = {"amd64": 0xC000003E, "arm64": 0xC00000B7, "arm": 0x40000028}
_ORDER = ("amd64", "arm64", "arm")

# name: numbers on amd64, arm64, arm (-1: the architecture has none)
DENIED: dict[str, tuple[int, int, int]] = {
    "acct": (163, 89, 51),
    "add_key": (248, 217, 309),
    "adjtimex": (159, 171, 124),
    "bpf": (321, 280, 386),
    "chroot": (161, 51, 61),
    "clock_adjtime": (305, 266, 372),
    "clock_adjtime64": (-1, -1, 405),
    "clock_settime": (227, 112, 262),
    "clock_settime64": (-1, -1, 404),
    "delete_module": (176, 106, 129),
    "fanotify_init": (300, 262, 367),
    "finit_module": (313, 273, 379),
    "fsconfig": (431, 431, 431),
    "fsmount": (432, 432, 432),
    "fsopen": (430, 430, 430),
    "fspick": (433, 433, 433),
    "init_module": (175, 105, 128),
    "ioperm": (173, -1, -1),
    "iopl": (172, -1, -1),
    "kcmp": (312, 272, 378),
    "kexec_file_load": (320, 294, 401),
    "kexec_load": (246, 104, 347),
    "keyctl": (250, 219, 311),
    "lookup_dcookie": (212, 18, 249),
    "migrate_pages": (256, 238, 400),
    "mount": (165, 40, 21),
    "mount_setattr": (442, 442, 442),
    "move_mount": (429, 429, 429),
    "move_pages": (279, 239, 344),
    "name_to_handle_at": (303, 264, 370),
    "nfsservctl": (180, 42, 169),
    "open_by_handle_at": (304, 265, 371),
    "open_tree": (428, 428, 428),
    "perf_event_open": (298, 241, 364),
    "pidfd_getfd": (438, 438, 438),
    "pivot_root": (155, 41, 218),
    "process_vm_readv": (310, 270, 376),
    "process_vm_writev": (311, 271, 377),
    "ptrace": (101, 117, 26),
    "quotactl": (179, 60, 131),
    "quotactl_fd": (443, 443, 443),
    "reboot": (169, 142, 88),
    "request_key": (249, 218, 310),
    "setdomainname": (171, 162, 121),
    "sethostname": (170, 161, 74),
    "setns": (308, 268, 375),
    "settimeofday": (164, 170, 79),
    "swapoff": (168, 225, 115),
    "swapon": (167, 224, 87),
    "syslog": (103, 116, 103),
    "umount2": (166, 39, 52),
    "unshare": (272, 97, 337),
    "userfaultfd": (323, 282, 388),
    "uselib": (134, -1, 86),
    "vhangup": (153, 58, 111),
}
ABSENT: dict[str, tuple[int, int, int]] = {
    "clone3": (435, 435, 435),
    "io_uring_enter": (426, 426, 426),
    "io_uring_register": (427, 427, 427),
    "io_uring_setup": (425, 425, 425),
}
CHECKED: dict[str, tuple[int, int, int]] = {"clone": (56, 220, 120), "ioctl": (16, 29, 54), "socket": (41, 198, 281)}

_NEWEST = 466  # removexattrat; newer calls get ENOSYS
_ARM_PRIVATE = 0x0F0000  # cacheflush, set_tls, ...: every program on arm needs them
_NAMESPACES = 0x7E02_0080  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET, TIME
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16

_LOAD, _EQUAL, _GREATER, _GREATER_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW = 0x7FFF_0000


def _refuse(number: int) -> int:
    return 0x0005_0000 | number  # SECCOMP_RET_ERRNO


def program(arch: str, *, unix_sockets: bool) -> bytes | None:
    """The filter for `arch` (amd64, arm64, arm), for prctl(PR_SET_SECCOMP); None where the numbers are not known.

    `unix_sockets` False refuses socket(AF_UNIX): for containers that run as the device's own user, whose session
    services (D-Bus, container engines) listen on such sockets and would do anything for that user.
    """
    if arch not in _ARCHITECTURES:
        return None
    column = _ORDER.index(arch)
    code: list[tuple[int, int, int, int]] = []

    def test(opcode: int, value: int, then: list[tuple[int, int, int, int]]) -> None:
        """Runs `then` when the test holds; it must end with a return."""
        code.append((opcode, 0, len(then), value))
        code.extend(then)

    def back(value: int) -> list[tuple[int, int, int, int]]:
        return [(_RETURN, 0, 0, value)]

    code.append((_LOAD, 0, 0, _ARCHITECTURE_AT))
    code.append((_EQUAL, 1, 0, _ARCHITECTURES[arch]))
    code.extend(back(_refuse(errno.EPERM)))
    code.append((_LOAD, 0, 0, _NUMBER_AT))
    if arch == "arm":
        test(_GREATER_EQUAL, _ARM_PRIVATE, back(_ALLOW))
    test(_GREATER, _NEWEST, back(_refuse(errno.ENOSYS)))
    for numbers in DENIED.values():
        if numbers[column] >= 0:
            test(_EQUAL, numbers[column], back(_refuse(errno.EPERM)))
    for numbers in ABSENT.values():
        test(_EQUAL, numbers[column], back(_refuse(errno.ENOSYS)))
    first, second = (_LOAD, 0, 0, _ARGUMENTS_AT), (_LOAD, 0, 0, _ARGUMENTS_AT + 8)
    test(
        _EQUAL,
        CHECKED["clone"][column],
        [first, (_ANY_BIT, 0, 1, _NAMESPACES), *back(_refuse(errno.EPERM)), *back(_ALLOW)],
    )
    feeding = [(_EQUAL, len(_TERMINAL_INPUT) - i, 0, value) for i, value in enumerate(_TERMINAL_INPUT)]
    test(_EQUAL, CHECKED["ioctl"][column], [second, *feeding, *back(_ALLOW), *back(_refuse(errno.EPERM))])
    families = [AF_INET, AF_INET6, AF_NETLINK] + ([AF_UNIX] if unix_sockets else [])
    allowed = [(_EQUAL, len(families) - i, 0, value) for i, value in enumerate(families)]
    test(_EQUAL, CHECKED["socket"][column], [first, *allowed, *back(_refuse(errno.EAFNOSUPPORT)), *back(_ALLOW)])
    code.extend(back(_ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
