"""Ports of loopback: one that is handed out stays free until its server listens."""

import contextlib
import socket
from pathlib import Path

import pytest

from trainbeacon.stack import ports


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the kernel tells its range, as Linux has it by default; machines differ."""
    told = tmp_path / "ip_local_port_range"
    told.write_text("32768\t60999\n")
    monkeypatch.setattr(ports, "_KERNELS_RANGE", told)
    return told


@pytest.mark.usefixtures("kernel")
def test_the_kernel_gives_the_port_to_nobody_else() -> None:
    """It lies below the range for outgoing connections, and above the ports that people know."""
    found = {ports.free_port() for _ in range(50)}
    assert 11_000 <= min(found) < max(found) < 32_768
    assert len(found) > 40  # no two askers at one time are sent to the same one


def test_a_port_that_somebody_has_is_not_given(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twenty ports fifteen are taken: it is one of the others."""
    monkeypatch.setattr(ports, "_FEWEST", 20)
    kernel.write_text("11020\t60999\n")
    with contextlib.ExitStack() as taken:
        for port in range(11_000, 11_015):
            with contextlib.suppress(OSError):  # by somebody else, then
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
        assert {ports.free_port() for _ in range(20)} <= {*range(11_015, 11_020)}


@pytest.mark.parametrize("content", ["1024\t60999\n", "", "none"])
def test_where_the_kernel_takes_nearly_all_ports_it_chooses(content: str, kernel: Path) -> None:
    """A machine whose range begins low, or tells none, leaves no room below: any free port will do."""
    kernel.write_text(content)
    assert ports.port_is_free(ports.free_port())


def test_free_is_where_a_server_could_listen() -> None:
    """Taken while somebody listens, free again at once after."""
    port = ports.free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert not ports.port_is_free(port)
    assert ports.port_is_free(port)
