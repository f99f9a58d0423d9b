"""The bytes of a page, pinned: what an implementation in another language will see.

The first step lists every word that is not 0, by byte offset, the others what changes. A failure
here is a change of the protocol, which needs another version.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from pvpmu.shared import page
from pvpmu.shared import registers as msr

New = Callable[..., Any]

REGISTERED = {
    0x000: 1,  # version
    0x008: 0x1D8,  # size
    0x010: 2,  # features: FREEZE
    0x018: 1,  # generation
    0x040: 0xFFFF_FFFF_0020_0000,  # evtsel_reserved
    0x048: 0xFFFF_FFFF_FFFF_F444,  # fixed_ctr_ctrl_reserved
    0x050: 0xFFFF_FFF8_FFFF_FF00,  # global_ctrl_reserved
    0x058: 0x3FFF_FFF8_FFFF_FF00,  # ovf_ctrl_reserved
    0x060: 0xFFFF_FFFF_FFFE_E800,  # lvtpc_dropped
    0x068: 0xFFFF_FFFF_FFFF,  # gp_mask
    0x070: 0xFFFF_FFFF_FFFF,  # fixed_mask
    0x078: 0x7_0000_00FF,  # status_mask
    0x080: 0x3_0000_0003,  # live
    0x0B8: 2,  # seq
    0x100: 0x7_0000_00FF,  # global_ctrl
    0x108: 0xBB,  # fixed_ctr_ctrl
    0x110: 0x400,  # lvtpc
    0x140: 0x53_00C4,  # evtsel[0]
    0x148: 0x53_412E,  # evtsel[1]
    0x180: (1 << 48) - 1000,  # pmc[0]
    0x188: (1 << 48) - 1000,  # pmc[1]
    0x1C0: (1 << 48) - 1000,  # fixed_ctr[0]
    0x1C8: (1 << 48) - 1000,  # fixed_ctr[1]
}
FROZEN = {
    0x080: 0,  # live
    0x088: 1,  # raised
    0x090: 1,  # freeze_seq
    0x098: 1,  # pmi_seq
    0x0B8: 4,
    0x180: 0,
    0x1C8: (1 << 48) - 600,
}
COMMITTED = {
    0x080: 0x3_0000_0003,
    0x0B8: 6,
    0x0C0: 1 | 1 << 40,  # acked: the guest's, as are the next three
    0x0C8: 1,  # release_seq
    0x0D0: 1,  # pmi_ack
    0x0D8: 1,  # ovf_ctrl
    0x100: 0x3_0000_0003,
    0x180: (1 << 48) - 77,
}
STOPPED = {
    0x080: 0,
    0x0B8: 8,
    0x100: 0,
    0x180: (1 << 48) - 74,
    0x1C8: (1 << 48) - 593,
}
REFUSED = {
    0x0A8: 1 << 9 | 1 << 24,  # rejected: evtsel[1], fixed_ctr[0], put back
    0x0B0: 0x187 << 32 | 1,  # reject_reason: RESERVED_BITS
    0x0B8: 10,
}
GONE = {0x000: 0, 0x018: 0}


def bytes_of(*changes: dict[int, int]) -> bytes:
    """A page of these words, later ones over earlier ones, and 0 elsewhere."""
    made = bytearray(page.PAGE_SIZE)
    for words in changes:
        for offset, value in words.items():
            struct.pack_into("<Q", made, offset, value)
    return bytes(made)


@pytest.mark.rule("PG-1", "VER-1", "REG-7")
def test_the_bytes_of_a_page_through_its_life(new_machine: New) -> None:
    machine = new_machine()
    machine.run_four()
    window = machine.register()
    steps = [REGISTERED]
    assert window.tobytes() == bytes_of(*steps)
    machine.nmi(branches=1000, cycles=400)
    steps.append(FROZEN)
    assert window.tobytes() == bytes_of(*steps)
    window[page.ACKED], window[page.PMI_ACK], window[page.OVF_CTRL] = 1 | 1 << 40, 1, 1
    window[page.PMC] = (1 << 48) - 77
    window[page.RELEASE_SEQ] = window[page.FREEZE_SEQ]
    machine.write(msr.GLOBAL_CTRL, 0x3_0000_0003, blocked=True)
    steps.append(COMMITTED)
    assert window.tobytes() == bytes_of(*steps)
    machine.write(msr.GLOBAL_CTRL, 0, cycles=7, branches=3)
    steps.append(STOPPED)
    assert window.tobytes() == bytes_of(*steps)
    window[page.EVTSEL + 1], window[page.FIXED_CTR] = 1 << 40, 1 << 50
    machine.write(msr.GLOBAL_CTRL, 1)
    steps.append(REFUSED)
    assert window.tobytes() == bytes_of(*steps)
    machine.write(msr.PV_PAGE, 0)
    steps.append(GONE)
    assert window.tobytes() == bytes_of(*steps)
