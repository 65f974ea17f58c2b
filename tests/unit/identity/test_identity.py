"""Who a process is: run, rank and attempt out of what a launcher leaves in the environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainbeacon.identity import Identity, ProcessFacts, current, identify, read_facts, script_name

FACTS = ProcessFacts(
    script="train",
    start_time=1_760_000_000.5,  # 2025-10-09 08:53:20 UTC
    hostname="node-a",
    process="node-a boot 100 5000",
    launcher="node-a boot 90 4000",
)
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "job42",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "2",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "head",
    "MASTER_PORT": "29500",
}
ONE_NODE = TORCHRUN | {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "1",
    "GROUP_RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
}
BY_HAND = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "head", "MASTER_PORT": "1234"}


def on(hostname: str, *, pid: int = 100, launcher: int = 90, start: float = FACTS.start_time) -> ProcessFacts:
    """The facts of another process of the same script."""
    return replace(
        FACTS,
        hostname=hostname,
        start_time=start,
        process=f"{hostname} boot {pid} 5000",
        launcher=f"{hostname} boot {launcher} 4000",
    )


class TestPlain:
    def test_everything(self):
        """A process that nobody launched is rank 0 of 1, named by its script and its start in UTC."""
        expected = Identity(
            run=identify({}, FACTS).run,
            run_id=identify({}, FACTS).run_id,
            hostname="node-a",
            attempt=1_760_000_000,
            launcher="none",
        )

        assert expected == identify({}, FACTS)
        assert re.fullmatch("train-20251009-085320-[0-9a-f]{4}", expected.run)
        assert (0, 0, 0, 1, 1, ()) == (
            expected.rank,
            expected.local_rank,
            expected.node_rank,
            expected.world_size,
            expected.local_world_size,
            expected.warnings,
        )

    def test_run_id_tells_processes_apart(self):
        """Two processes given one name by the user are still two jobs."""
        run_ids = {identify({}, facts).run_id for facts in (FACTS, on("node-a", pid=101), on("node-b"))}

        assert len(run_ids) == 3

    def test_started_in_the_same_second(self):
        """Runs that a loop in a shell starts at once do not share a name."""
        assert identify({}, FACTS).run != identify({}, on("node-a", pid=101)).run


class TestTorchrun:
    def test_everything(self):
        """torchrun's variables say who the rank is; its id names the run."""
        identity = identify(TORCHRUN, FACTS)

        expected = Identity(
            run="train-job42",
            run_id=identity.run_id,
            rank=5,
            local_rank=1,
            node_rank=2,
            world_size=8,
            local_world_size=2,
            hostname="node-a",
            attempt=0,
            launcher="torchrun",
        )
        assert expected == identity

    @pytest.mark.parametrize("run_id", ["job42", "none", "", "None"])
    def test_equal_on_all_nodes(self, run_id):
        """Ranks of different nodes arrive at one name without talking to each other."""
        environ = TORCHRUN | {"TORCHELASTIC_RUN_ID": run_id}
        identities = [
            identify(environ | {"RANK": str(rank), "LOCAL_RANK": str(rank % 2)}, on(f"node-{rank // 2}"))
            for rank in range(8)
        ]

        assert len({(identity.run, identity.run_id) for identity in identities}) == 1
        assert [identity.rank for identity in identities] == list(range(8))

    def test_restart_keeps_the_name_and_counts_the_attempt(self):
        """A restart is the same run in its next attempt, although the processes are new ones."""
        for environ in (TORCHRUN, ONE_NODE):
            before = identify(environ, on("node-a", pid=100))
            again = environ | {"TORCHELASTIC_RESTART_COUNT": "3", "MASTER_PORT": "40123"}
            after = identify(again, on("node-a", pid=900, start=FACTS.start_time + 60))

            assert (after.run, after.run_id) == (before.run, before.run_id)
            assert (before.attempt, after.attempt) == (0, 3)

    def test_jobs_of_one_node_differ(self):
        """Without an id two jobs on one node are distinguished by the agents that launched them."""
        first, second = (identify(ONE_NODE, on("node-a", launcher=pid)) for pid in (90, 91))

        assert first.run != second.run
        assert first.run_id != second.run_id

    def test_jobs_of_many_nodes_differ_by_address(self):
        """Without an id two jobs over several nodes are distinguished by where their ranks meet."""
        environ = TORCHRUN | {"TORCHELASTIC_RUN_ID": "none"}
        runs = {
            identify(environ | {"MASTER_ADDR": address, "MASTER_PORT": port}, FACTS).run
            for address, port in [("head", "29500"), ("head", "29501"), ("other", "29500")]
        }

        assert len(runs) == 3

    def test_elastic_job_keeps_its_name_on_one_node(self):
        """A job with an id that shrinks to the ranks of one node is still the same run."""
        environ = TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}
        large, small = identify(environ, FACTS), identify(environ | {"WORLD_SIZE": "2"}, FACTS)

        assert (small.run, small.run_id) == (large.run, large.run_id)
        assert (large.world_size, small.world_size) == (8, 2)


class TestByHand:
    def test_everything(self):
        """RANK, WORLD_SIZE and MASTER_ADDR alone: one process a node is assumed."""
        identity = identify(BY_HAND, FACTS)

        expected = Identity(
            run=identity.run,
            run_id=identity.run_id,
            rank=3,
            local_rank=0,
            node_rank=3,
            world_size=4,
            local_world_size=1,
            hostname="node-a",
            attempt=1_760_000_000,
            launcher="env",
        )
        assert expected == identity
        assert identity.run.startswith("train-")

    @pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "::1", "LOCALHOST"])
    def test_loopback_means_one_node(self, address):
        """Ranks that meet on the loopback interface are all on this node."""
        identity = identify(BY_HAND | {"MASTER_ADDR": address}, FACTS)

        assert (3, 0, 4) == (identity.local_rank, identity.node_rank, identity.local_world_size)

    def test_local_rank_is_taken_where_told(self):
        """LOCAL_RANK without LOCAL_WORLD_SIZE is believed."""
        assert identify(BY_HAND | {"LOCAL_RANK": "2"}, FACTS).local_rank == 2

    def test_equal_on_all_ranks_and_different_between_jobs(self):
        """The address is what the ranks share; localhost means another job on every host."""
        nodes = {identify(BY_HAND | {"RANK": str(n)}, on(f"node-{n}")).run for n in range(4)}
        local = BY_HAND | {"MASTER_ADDR": "localhost"}
        hosts = {identify(local, on(host)).run for host in ("node-a", "node-b")}

        assert len(nodes) == 1
        assert len(hosts) == 2

    def test_rank_alone_is_no_launcher(self):
        """A stray RANK says nothing about a job."""
        assert identify({"RANK": "1"}, FACTS) == identify({}, FACTS)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"RANK": "abc"}, ["RANK='abc'", "not a whole number"]),
        ({"RANK": "8"}, ["RANK='8'", "below WORLD_SIZE"]),
        ({"RANK": "-1"}, ["RANK='-1'", "at least 0"]),
        ({"RANK": "1.0"}, ["RANK='1.0'"]),
        ({"RANK": "9" * 5000}, ["RANK='9999"]),
        ({"RANK": None}, ["RANK is not set"]),
        ({"WORLD_SIZE": "0"}, ["WORLD_SIZE='0'", "at least 1"]),
        ({"WORLD_SIZE": str(2**31)}, ["WORLD_SIZE=", "below 2**31"]),
        ({"WORLD_SIZE": ""}, ["WORLD_SIZE=''"]),
        ({"LOCAL_RANK": "2"}, ["LOCAL_RANK='2'", "below LOCAL_WORLD_SIZE"]),
        ({"LOCAL_WORLD_SIZE": "9"}, ["LOCAL_WORLD_SIZE='9'", "WORLD_SIZE"]),
        ({"GROUP_RANK": "x"}, ["GROUP_RANK='x'"]),
        ({"TORCHELASTIC_RESTART_COUNT": "-2"}, ["TORCHELASTIC_RESTART_COUNT='-2'"]),
        ({"TORCHELASTIC_RUN_ID": None, "MASTER_ADDR": None}, ["MASTER_ADDR is not set"]),
        ({"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": " "}, ["MASTER_ADDR is not set"]),
    ],
)
def test_malformed_variables_make_a_plain_process_with_a_warning(change, parts):
    """A launcher that cannot be right costs the rank, not the run: one warning says which variable it was."""
    environ = {name: text for name, text in (TORCHRUN | change).items() if text is not None}

    identity = identify(environ, FACTS)

    assert replace(identity, warnings=()) == identify({}, FACTS)
    [warning] = identity.warnings
    assert [part for part in [*parts, "rank 0"] if part not in warning] == []


class TestHostile:
    def test_control_characters_and_length(self):
        """Whatever the launcher's id holds, the name is printable and at most 128 characters long."""
        identity = identify(TORCHRUN | {"TORCHELASTIC_RUN_ID": "a\nb\x00\udc80"}, FACTS)

        assert identity.run == "train-a_b__"

    def test_long_ids_stay_different(self):
        """Ids that differ at the end only are not cut into one."""
        runs = {
            identify(TORCHRUN | {"TORCHELASTIC_RUN_ID": "x" * 300 + end}, FACTS).run for end in ("a", "b")
        }

        assert sorted(map(len, runs)) == [128, 128]

    @given(
        st.dictionaries(
            st.sampled_from(sorted(TORCHRUN)), st.text(max_size=200) | st.integers().map(str) | st.just("1")
        ),
        st.text(max_size=300),
        st.text(max_size=300),
    )
    def test_never_raises_and_always_fits_labels(self, environ, script, hostname):
        """No environment ends in an exception, in a rank outside its world or in a text that is no label."""
        identity = identify(environ, replace(FACTS, script=script, hostname=hostname))

        assert 0 <= identity.rank < identity.world_size
        assert 1 <= identity.local_world_size <= identity.world_size
        assert identity.attempt >= 0
        for text in (identity.run, identity.run_id, identity.hostname):
            assert text.isprintable()
            assert len(text) <= 128


@pytest.mark.parametrize(
    ("argv0", "expected"),
    [
        ("/home/me/train.py", "train"),
        ("train.v2.py", "train.v2"),
        ("/usr/bin/trainer", "trainer"),
        ("/site/pkg/mod.py", "mod"),
        ("/site/pkg/__main__.py", "pkg"),
        ("/site/ipykernel_launcher.py", "notebook"),
        ("/site/colab_kernel_launcher.py", "notebook"),
        ("/site/ipykernel/__main__.py", "notebook"),
        ("-c", "python"),
        ("-m", "python"),
        ("-", "python"),
        ("", "python"),
        ("__main__.py", "python"),
    ],
)
def test_script_name(argv0, expected):
    """The program is called what its user calls it."""
    assert script_name([argv0]) == expected


class TestThisProcess:
    def test_facts_of_the_operating_system(self):
        """The texts that stand for this process and its launcher are stable and not the same."""
        first, second = read_facts(), read_facts()

        assert first.hostname == os.uname().nodename
        assert (first.process, first.launcher) == (second.process, second.launcher)
        assert first.process != first.launcher

    def test_current_reads_the_environment(self, monkeypatch):
        """current() is identify() of this process."""
        for name, text in TORCHRUN.items():
            monkeypatch.setenv(name, text)

        assert (current().rank, current().world_size) == (5, 8)

    def test_without_proc(self, monkeypatch):
        """Where there is no /proc (macOS) the process id and the host have to do."""
        monkeypatch.setattr("trainbeacon.identity.process._read", lambda path: "")

        assert str(os.getpid()) in read_facts().process.split()
        assert str(os.getppid()) in read_facts().launcher.split()

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [(["-c"], "python"), (["work.py"], "work"), (["-m", "work"], "work"), (["-m", "package"], "package")],
    )
    def test_script_as_python_starts_it(self, tmp_path, arguments, expected):
        """The name holds for each way in which Python is told to run something."""
        code = "from trainbeacon.identity import read_facts; print(read_facts().script)"
        (tmp_path / "work.py").write_text(code)
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "__main__.py").write_text(code)
        arguments = [*arguments, code] if arguments == ["-c"] else arguments

        output = subprocess.check_output([sys.executable, *arguments], cwd=tmp_path, text=True)

        assert output.strip() == expected


WORKER = """
import json, os, sys
from dataclasses import asdict
from trainbeacon.identity import current
identity = current()
with open(f"{sys.argv[1]}/{identity.attempt}-{identity.rank}.json", "w") as file:
    json.dump(asdict(identity), file)
if identity.attempt == 0 and "--fail" in sys.argv and identity.rank == 1:
    sys.exit(3)
"""


class TestRealTorchrun:
    """What torchrun itself gives its ranks, in all the ways a job is started on one node."""

    def launch(self, tmp_path, *options: str, program: tuple[str, ...] = (), failing: bool = False) -> dict:
        """Run two ranks to their end; the identities that they wrote, by attempt and rank."""
        pytest.importorskip("torch")
        script, out = tmp_path / "worker.py", tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        script.write_text(WORKER)
        out.mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options]
        command += [*(program or (str(script),)), str(out), *(["--fail"] if failing else [])]
        environ = {name: text for name, text in os.environ.items() if name not in TORCHRUN}
        environ["OMP_NUM_THREADS"] = "1"
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return {path.stem: json.loads(path.read_text()) for path in out.iterdir()}

    def test_standalone_with_a_restart(self, tmp_path):
        """Both ranks arrive at one run and run_id, and keep them when the agent restarts them."""
        found = self.launch(tmp_path, "--standalone", "--max-restarts", "1", failing=True)

        assert {"1-0", "1-1"} <= set(found)
        assert "0-1" in found
        assert len({(identity["run"], identity["run_id"]) for identity in found.values()}) == 1
        assert found["1-1"] == found["0-1"] | {"attempt": 1}
        assert [found["1-0"]["rank"], found["1-1"]["rank"]] == [0, 1]
        assert [found["1-0"]["local_rank"], found["1-1"]["local_rank"]] == [0, 1]
        assert found["1-0"]["run"].startswith("worker-")
        assert {(i["launcher"], i["world_size"], i["warnings"] == []) for i in found.values()} == {
            ("torchrun", 2, True)
        }

    def test_without_an_id_behind_a_wrapper(self, tmp_path):
        """With torchrun's default id the agent tells jobs apart, also behind a shell around each rank."""
        options = ("--master-addr", "127.0.0.1", "--master-port", "0", "--no-python")
        shell = ("bash", "-c", f"{sys.executable} {tmp_path}/worker.py $0; exit $?")
        first = self.launch(tmp_path, *options, program=shell)
        second = self.launch(tmp_path, *options, program=shell)

        runs = [{(i["run"], i["run_id"]) for i in found.values()} for found in (first, second)]
        assert [len(run) for run in runs] == [1, 1]
        assert runs[0] != runs[1]
        assert sorted(first) == ["0-0", "0-1"]


def test_identity_can_be_written_as_json():
    """The identity travels in headers and logs as plain values."""
    assert json.loads(json.dumps(asdict(identify(TORCHRUN, FACTS))))["rank"] == 5
