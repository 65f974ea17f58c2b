"""A bad link, in a process, for kernels without `netem`: frames between two interfaces are held up and lost.

    python -m tests.cluster.wire ONE OTHER --loss 0.2 --delay 0.2 --seed 1
    python -m tests.cluster.wire --plain INTERFACE

The second form has an interface of this network send whole frames with their sums, which the first needs.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import heapq
import random
import select
import socket
import struct
import time

_SIOCETHTOOL = 0x8946
#: Sums of sent packets, and what joins packets to larger ones than the link carries, are turned off.
_OFFLOADS = (0x17, 0x1F, 0x24, 0x2C)
_EVERY_PROTOCOL = 3
_LONGEST_FRAME = 1 << 16


def plain(interface: str) -> None:
    """Have the kernel, not the device that there is none of, cut and sum up what is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for offload in _OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", offload, 0))
            request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request.ljust(40, b"\0"))


def carry(one: str, other: str, loss: float, delay: float, seed: int) -> None:
    """Carry frames both ways until an interface is gone."""
    dice = random.Random(seed)
    ends = {_open(one): one, _open(other): other}
    sockets = list(ends)
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for ready in select.select(sockets, [], [], pause)[0]:
            frame, source = ready.recvfrom(_LONGEST_FRAME)
            if source[2] == socket.PACKET_OUTGOING or dice.random() < loss:
                continue
            number += 1
            to = 1 - sockets.index(ready)
            heapq.heappush(waiting, (time.monotonic() + delay, number, to, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, to, frame = heapq.heappop(waiting)
            sockets[to].send(frame)


def _open(interface: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL))
    opened.bind((interface, 0))
    return opened


def main() -> None:
    """One of the two forms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("interfaces", nargs="*")
    parser.add_argument("--plain", default="")
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds, each way")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.plain:
        plain(options.plain)
        return
    one, other = options.interfaces
    carry(one, other, options.loss, options.delay, options.seed)


if __name__ == "__main__":
    main()
