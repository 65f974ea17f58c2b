"""Ports of loopback: one that is handed out stays free until its server listens."""

import socket
from pathlib import Path

import pytest

from trainbeacon import ports


def kernels_range() -> tuple[int, int]:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    return low, high


def test_the_kernel_gives_the_port_to_nobody_else() -> None:
    """It lies outside of the range for outgoing connections, and above the ports that people know."""
    low, high = kernels_range()
    found = {ports.free_port() for _ in range(50)}
    assert all(not low <= port <= high for port in found)
    assert min(found) >= 11_000
    assert len(found) > 40  # no two askers at one time are sent to the same one


def test_a_port_that_somebody_has_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether he listens or only holds it: the next one is tried."""
    first, second = ports.free_port(), ports.free_port()
    drawn = [first, first, second]
    monkeypatch.setattr(ports._DICE, "randrange", lambda low, end: drawn.pop(0))
    with socket.create_server(("127.0.0.1", first)):
        assert ports.free_port() == second
    assert not drawn


@pytest.mark.parametrize("content", ["1024\t60999\n", "", "none"])
def test_where_the_kernel_takes_nearly_all_ports_it_chooses(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose range begins low, or tells none, leaves no room below: any free port will do."""
    told = tmp_path / "ip_local_port_range"
    told.write_text(content)
    monkeypatch.setattr(ports, "_KERNELS_RANGE", told)
    assert ports.port_is_free(ports.free_port())


def test_free_is_where_a_server_could_listen() -> None:
    """Taken while somebody listens, free again at once after."""
    port = ports.free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert not ports.port_is_free(port)
    assert ports.port_is_free(port)
