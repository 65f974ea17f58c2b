"""Which files of tests are begun first, so that no worker is left alone with a long one at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

#: Those that take more than a minute, the longest first; most of them wait for real time to pass.
LONG_FILES = (
    "tests/rules/test_promtool.py",
    "tests/campaign/test_campaign.py",
    "tests/e2e/test_node_loss.py",
    "tests/integrations/test_contract.py",
    "tests/e2e/test_up.py",
    "tests/targets/test_targets.py",
    "tests/e2e/test_notifications.py",
    "tests/e2e/test_dashboard_data.py",
    "tests/rules/test_first_screens.py",
    "tests/doctor/test_monitoring.py",
    "tests/diagnosis/test_stragglers.py",
    "tests/e2e/test_shards.py",
    "tests/e2e/test_replicas.py",
    "tests/diagnosis/test_memory.py",
    "tests/diagnosis/test_hangs.py",
)
_PLACES = {name: place for place, name in enumerate(LONG_FILES)}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put them first. Within a file, and among the others, the order stays."""

    def place(item: pytest.Item) -> int:
        return _PLACES.get(Path(item.path).relative_to(config.rootpath).as_posix(), len(_PLACES))

    items.sort(key=place)
