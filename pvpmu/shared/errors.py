"""Every error a user can meet, each one line, each with its exit status.

::

    PvpmuError            status 1
    ├── UsageError        status 2   the command line or an input file is wrong
    ├── NameInUseError    status 1   a live process owns the name
    ├── PeerError         status 1   the other side is absent, gone or broke the protocol
    │   └── RefusedError  status 1   the other side said no, and why
    └── ResourceError     status 1   the machine refused memory, a semaphore or a CPU

A guest's fault (#GP) is none of these: it is an architectural result
(:class:`GeneralProtectionError` exists only inside the guest, where the instruction faulted).
"""


class PvpmuError(Exception):
    """Base of all errors that end a command with one line and a non-zero status."""

    status = 1


class UsageError(PvpmuError):
    """The command line or an input file is wrong (exit status 2)."""

    status = 2


class NameInUseError(PvpmuError):
    """A live process already owns the VM name."""


class PeerError(PvpmuError):
    """The other side is absent, has gone, or sent something the protocol does not allow."""


class RefusedError(PeerError):
    """The other side refused: a code of :class:`pvpmu.shared.control.RefusalCode`, or its words."""


class ResourceError(PvpmuError):
    """The machine refused shared memory, a semaphore or a CPU."""


class GeneralProtectionError(Exception):
    """#GP(0) raised in the guest by the access that caused it (SDM vol. 3A, 6.15)."""

    def __init__(self, op: str, address: int, value: int = 0) -> None:
        self.op = op
        self.address = address
        self.value = value
        super().__init__(f"#GP(0): {op} {address:#x} value {value:#x}")
