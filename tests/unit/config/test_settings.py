"""Settings: where they come from, and what is said about those that cannot be used."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainbeacon import catalogue
from trainbeacon.config.settings import Config, ConfigError, public_hyperparameters
from trainbeacon.identity.parallel import DIMENSIONS

ALL_THRESHOLDS = dict.fromkeys(catalogue.THRESHOLDS, 0.5)

#: Not `from_type(object)`: that grows with what else the process has loaded.
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.decimals()
    | st.builds(object)
    | st.just(int),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.fixture
def yaml_file(tmp_path):
    """Write a settings file and return its path."""

    def write(text: str) -> str:
        path = tmp_path / "beacon.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


class TestPrecedence:
    def test_defaults(self):
        """Without any source the documented defaults hold."""
        config = Config.load({}, {})

        assert Config() == config
        assert ("process", "::", 9797, 60, 3600) == (
            config.serve,
            config.host,
            config.port,
            config.linger_seconds,
            config.retention_seconds,
        )

    @pytest.mark.parametrize(
        ("keywords", "environ", "expected"),
        [
            ({"owner": "k"}, {"TRAINBEACON_OWNER": "e"}, "k"),
            ({}, {"TRAINBEACON_OWNER": "e"}, "e"),
            ({"owner": None}, {"TRAINBEACON_OWNER": "e"}, "e"),
            ({"owner": None}, {"TRAINBEACON_OWNER": ""}, "f"),
            ({}, {}, "f"),
            ({"owner": ""}, {"TRAINBEACON_OWNER": "e"}, ""),
        ],
    )
    def test_keyword_then_environment_then_file(self, yaml_file, keywords, environ, expected):
        """A keyword beats the environment, which beats the file; None and empty variables give nothing."""
        config = Config.load({**keywords, "config": yaml_file("owner: f\n")}, environ)

        assert expected == config.owner

    def test_file_from_environment(self, yaml_file):
        """TRAINBEACON_CONFIG names the file too, and the keyword beats it."""
        path = yaml_file("port: 1234\ntags: {team: nlp}\nrun:\n")

        assert Config(port=1234, tags={"team": "nlp"}) == Config.load({}, {"TRAINBEACON_CONFIG": path})
        assert Config(port=1234, tags={"team": "nlp"}) == Config.load(
            {"config": Path(path)}, {"TRAINBEACON_CONFIG": "/not/there"}
        )

    def test_mappings_are_taken_whole(self, yaml_file):
        """A stronger source replaces a mapping; nothing is merged behind the user's back."""
        config = Config.load(
            {"config": yaml_file("tags: {a: file, b: file}\n")}, {"TRAINBEACON_TAGS": "a=variable"}
        )

        assert {"a": "variable"} == config.tags

    def test_process_environment_by_default(self, monkeypatch):
        """Without an explicit environment the process's own is read."""
        monkeypatch.setenv("TRAINBEACON_PROJECT", "from the process")

        assert "from the process" == Config.load({}).project

    def test_every_field_has_a_variable(self):
        """Each setting can be given in the environment, as TRAINBEACON_<FIELD>."""
        texts = {
            "tags": "a=b, c=d=e",
            "hyperparameters": "lr=3e-4,layers=12,optimizer=adam",
            "thresholds": "accuracy_min=0.8,metric:f1_min=0.5",
            "steps_planned": "1000",
            "enabled": "no",
            "serve": "thread",
            "port": "0",
            "linger_seconds": "1.5",
            "retention_seconds": "1e3",
            "gpu": "OFF",
            "user_metrics": "0",
            "probes_off": "layers,evidence",
            "mirror": "wandb,mlflow",
            "evidence_seconds": "2.5",
            "stacks_signal": "SIGUSR2",
            "count_flops": "1",
            "model_flops_per_step": "2.5e12",
            "peak_flops": "989e12",
            **dict.fromkeys(DIMENSIONS, "3"),
        }
        names = {field.name for field in fields(Config)}
        environ = {f"TRAINBEACON_{name.upper()}": texts.get(name, f"a-{name}") for name in names}

        expected = {name: f"a-{name}" for name in names} | {
            "tags": {"a": "b", "c": "d=e"},
            "hyperparameters": {"lr": 3e-4, "layers": 12, "optimizer": "adam"},
            "thresholds": {"accuracy_min": 0.8, "metric:f1_min": 0.5},
            "steps_planned": 1000,
            "enabled": False,
            "serve": "thread",
            "port": 0,
            "linger_seconds": 1.5,
            "retention_seconds": 1000.0,
            "gpu": False,
            "user_metrics": False,
            "probes_off": ("layers", "evidence"),
            "mirror": ("wandb", "mlflow"),
            "evidence_seconds": 2.5,
            "stacks_signal": "SIGUSR2",
            "count_flops": True,
            "model_flops_per_step": 2.5e12,
            "peak_flops": 989e12,
            **dict.fromkeys(DIMENSIONS, 3),
        }
        paths = ("directory", "web_config", "sd_file", "sd_dir", "evidence_dir", "state_file")
        expected |= {name: os.path.abspath(f"a-{name}") for name in paths}  # the script may change its folder
        assert Config(**expected) == Config.load({}, environ)

    @pytest.mark.parametrize(("text", "value"), [("1", True), ("True", True), ("yes", True), ("on", True)])
    @pytest.mark.parametrize(("no", "off"), [("0", False), ("FALSE", False), ("no", False), ("off", False)])
    def test_words_for_yes_and_no(self, text, value, no, off):
        """The usual words switch a setting on and off."""
        config = Config.load({}, {"TRAINBEACON_ENABLED": text, "TRAINBEACON_GPU": no})

        assert (value, off) == (config.enabled, config.gpu)

    @pytest.mark.parametrize(
        ("keywords", "expected"),
        [
            ({"steps_planned": np.int64(5)}, Config(steps_planned=5)),
            ({"linger_seconds": np.float32(2)}, Config(linger_seconds=2.0)),
            ({"linger_seconds": Fraction(1, 2)}, Config(linger_seconds=0.5)),
            ({"directory": Path("/tmp/boxes")}, Config(directory="/tmp/boxes")),
            ({"run": " gpt small (2) "}, Config(run="gpt small (2)")),
            ({"run": "r" * 128}, Config(run="r" * 128)),
            ({"thresholds": ALL_THRESHOLDS}, Config(thresholds=ALL_THRESHOLDS)),
            ({"host": "::1", "port": 65535}, Config(host="::1", port=65535)),
        ],
    )
    def test_values_in_the_forms_people_have(self, keywords, expected):
        """NumPy numbers, paths and surrounding blanks are taken for what they mean."""
        assert expected == Config.load(keywords, {})

    def test_frozen(self):
        """Settings do not change after start."""
        with pytest.raises(FrozenInstanceError):
            Config().port = 1  # type: ignore[misc]

    def test_later_changes_of_the_caller_do_not_reach_it(self):
        """The mappings are the beacon's own: a script that goes on using its dict changes nothing."""
        tags, hyperparameters = {"a": "b"}, {"lr": 1}
        config = Config.load({"tags": tags, "hyperparameters": hyperparameters}, {})
        tags["a"], hyperparameters["lr"] = "c", 2

        assert ({"a": "b"}, {"lr": 1}) == (config.tags, config.hyperparameters)


MISTAKES = [
    # keywords, environment, what the message must say
    ({"prot": 5}, {}, ["prot", "keyword", "5", "Did you mean port?"]),
    ({"zzz": 5}, {}, ["zzz", "keyword", "The settings are run, project", "config"]),
    ({}, {"TRAINBEACON_PROT": "5"}, ["TRAINBEACON_PROT", "environment", "'5'", "TRAINBEACON_PORT?"]),
    ({}, {"TRAINBEACON_port": "5"}, ["TRAINBEACON_port", "Did you mean TRAINBEACON_PORT?"]),
    ({"port": "9797"}, {}, ["port (keyword)", "'9797'", "type str", "0 to 65535"]),
    ({"port": 70000}, {}, ["port (keyword)", "70000", "0 to 65535"]),
    ({"port": -1}, {}, ["port", "-1", "0 to 65535"]),
    ({"port": True}, {}, ["port", "type bool"]),
    ({"port": 9797.0}, {}, ["port", "type float"]),
    ({}, {"TRAINBEACON_PORT": "http"}, ["TRAINBEACON_PORT (environment", "'http'", "not a whole number"]),
    ({}, {"TRAINBEACON_PORT": "70000"}, ["TRAINBEACON_PORT", "70000", "0 to 65535"]),
    ({"serve": "proces"}, {}, ["serve", "'proces'", "Did you mean process?", "process, thread, off"]),
    ({"serve": 3}, {}, ["serve", "3", "process, thread, off"]),
    ({"enabled": "yes"}, {}, ["enabled", "'yes'", "True or False"]),
    ({"gpu": 1}, {}, ["gpu", "type int", "True or False"]),
    ({}, {"TRAINBEACON_GPU": "maybe"}, ["TRAINBEACON_GPU", "'maybe'", "true", "off"]),
    ({"run": ""}, {}, ["run", "empty", "leave it out"]),
    ({"run": "x" * 129}, {}, ["run", "129 characters", "128"]),
    ({"run": "a\nb"}, {}, ["run", "'a\\nb'", "cannot be printed"]),
    ({"run": "a\udc80"}, {}, ["run", "cannot be printed"]),
    ({"run": 7}, {}, ["run", "7", "type int, not text"]),
    ({"linger_seconds": 0}, {}, ["linger_seconds", "0", "above 0"]),
    ({"linger_seconds": math.nan}, {}, ["linger_seconds", "nan", "finite"]),
    ({"retention_seconds": math.inf}, {}, ["retention_seconds", "inf", "finite"]),
    ({"retention_seconds": 10**400}, {}, ["retention_seconds", "too large"]),
    ({}, {"TRAINBEACON_LINGER_SECONDS": "1m"}, ["TRAINBEACON_LINGER_SECONDS", "'1m'", "seconds above 0"]),
    ({"steps_planned": 0}, {}, ["steps_planned", "0", "above 0"]),
    ({"host": "http://x"}, {}, ["host", "http://x", "127.0.0.1"]),
    ({"advertise": "a b"}, {}, ["advertise", "'a b'", "Prometheus reaches this host"]),
    ({"directory": 5}, {}, ["directory", "5", "Give a path"]),
    ({"tags": {str(n): "x" for n in range(11)}}, {}, ["tags", "11 tags", "at most 10"]),
    ({"tags": {"version": 3}}, {}, ["tags", "'version'", "type int, not text"]),
    ({"tags": {"note": "x" * 65}}, {}, ["tags", "'note'", "65 characters", "64"]),
    ({"tags": ["a"]}, {}, ["tags", "type list, not a mapping"]),
    ({}, {"TRAINBEACON_TAGS": "nlp"}, ["TRAINBEACON_TAGS", "'nlp'", "team=nlp,branch=main"]),
    ({}, {"TRAINBEACON_TAGS": "a=1,a=2"}, ["TRAINBEACON_TAGS", "'a' comes twice"]),
    ({"hyperparameters": SimpleNamespace(lr=1)}, {}, ["hyperparameters", "not a mapping", "vars(args)"]),
    ({"thresholds": {"acuracy_min": 0.5}}, {}, ["thresholds", "'acuracy_min'", "Did you mean accuracy_min?"]),
    ({"thresholds": {"metric:f1": 0.5}}, {}, ["thresholds", "'metric:f1'", "metric:<name>_min"]),
    ({"thresholds": {"metric:_min": 0.5}}, {}, ["thresholds", "'metric:_min'"]),
    ({"thresholds": {"loss_max": True}}, {}, ["thresholds", "loss_max", "type bool"]),
    ({"thresholds": {"loss_max": math.nan}}, {}, ["thresholds", "loss_max", "finite"]),
    ({"thresholds": {"loss_max": "4"}}, {}, ["thresholds", "loss_max", "type str"]),
    ({"thresholds": {"accuracy_min": 80}}, {}, ["thresholds", "accuracy_min", "0.8 for 80 %"]),
    ({"thresholds": {"stall_seconds": 0}}, {}, ["thresholds", "stall_seconds", "above 0"]),
    ({"thresholds": {f"metric:m{n}_min": 1 for n in range(31)}}, {}, ["thresholds", "31", "at most 30"]),
    ({}, {"TRAINBEACON_THRESHOLDS": "loss_max=x"}, ["TRAINBEACON_THRESHOLDS", "not a number"]),
    ({"config": 5}, {}, ["config (keyword)", "5", "path of a YAML file"]),
    ({"config": "/not/there.yaml"}, {}, ["config (keyword)", "/not/there.yaml", "No such file"]),
    ({}, {"TRAINBEACON_CONFIG": "/no.yaml"}, ["variable TRAINBEACON_CONFIG", "/no.yaml", "No such file"]),
    ({"owner": "ok"}, {"TRAINBEACON_OWNER": "a\x00b"}, ["TRAINBEACON_OWNER", "cannot be printed"]),
]


class TestMistakes:
    @pytest.mark.parametrize(("keywords", "environ", "parts"), MISTAKES)
    def test_message_names_setting_source_value_and_fix(self, keywords, environ, parts):
        """A mistake raises at once and says which setting, from where, its value and what to do."""
        with pytest.raises(ConfigError) as raised:
            Config.load(keywords, environ)

        assert [] == [part for part in parts if part not in str(raised.value)], str(raised.value)

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("prot: 5\n", ["prot (file ", "beacon.yaml", "5", "Did you mean port?"]),
            ("port: high\n", ["port (file ", "beacon.yaml", "'high'", "0 to 65535"]),
            ("on: 5\n", ["True (file ", "no such setting"]),
            ("config: other.yaml\n", ["config (file ", "no such setting"]),
            ("- port\n", ["beacon.yaml", "no mapping", "setting: value"]),
            ("port: [\n", ["beacon.yaml", "not valid YAML", "line 2"]),
            ("a: \x07\n", ["beacon.yaml", "not valid YAML"]),
        ],
    )
    def test_mistakes_in_the_file_name_it(self, yaml_file, text, parts):
        """What is wrong in the file names the file and the key."""
        with pytest.raises(ConfigError) as raised:
            Config.load({"config": yaml_file(text)}, {})

        assert [] == [part for part in parts if part not in str(raised.value)], str(raised.value)

    def test_file_that_is_no_text(self, tmp_path):
        """A checkpoint given by mistake is refused as a settings file, with its name."""
        path = tmp_path / "model.pt"
        path.write_bytes(b"PK\x03\x04\xff\xfe")

        with pytest.raises(ConfigError, match=r"model\.pt' is not valid YAML"):
            Config.load({"config": path}, {})

    @pytest.mark.parametrize(
        ("keywords", "environ"),
        [
            ({"tags": {"hf_token": "hunter2"}}, {}),
            ({"tags": {"db": "postgres://me:hunter2@host/db"}}, {}),
            ({"tags": {"note": "password=hunter2"}}, {}),
            ({"wandb_api_key": "hunter2"}, {}),
            ({"hyperparameters": "password=hunter2"}, {}),
            ({}, {"TRAINBEACON_TAGS": "a=b,api_key=hunter2"}),
            ({}, {"TRAINBEACON_API_TOKEN": "hunter2"}),
            ({}, {"TRAINBEACON_TAGS": "password=,hunter2"}),
        ],
    )
    def test_secrets_are_refused_without_being_shown(self, keywords, environ):
        """A secret in the wrong place raises, and does not reach the log with the message."""
        with pytest.raises(ConfigError) as raised:
            Config.load(keywords, environ)

        assert "hunter2" not in str(raised.value)

    def test_kubernetes_service_links_are_no_settings(self):
        """In a pod beside a Service named trainbeacon, the variables that Kubernetes adds break nothing."""
        environ = {
            "TRAINBEACON_SERVICE_HOST": "10.0.0.1",
            "TRAINBEACON_SERVICE_PORT": "9797",
            "TRAINBEACON_SERVICE_PORT_METRICS": "9797",
            "TRAINBEACON_PORT": "tcp://10.0.0.1:9797",
            "TRAINBEACON_PORT_9797_TCP": "tcp://10.0.0.1:9797",
            "TRAINBEACON_PORT_9797_TCP_ADDR": "10.0.0.1",
            "TRAINBEACON_AGENT_SERVICE_HOST": "10.0.0.2",
            "TRAINBEACON_AGENT_PORT": "tcp://10.0.0.2:9797",
        }

        assert Config() == Config.load({}, environ)

    @given(
        st.dictionaries(st.sampled_from([f.name for f in fields(Config)]), ANYTHING | st.text()),
        st.dictionaries(
            st.sampled_from([f"TRAINBEACON_{f.name.upper()}" for f in fields(Config)]), st.text()
        ),
    )
    def test_whatever_is_given_loads_or_raises_config_error(self, keywords, environ):
        """No value ends in anything but settings or a ConfigError."""
        try:
            config = Config.load(keywords, environ)
        except ConfigError:
            return
        assert 0 <= config.port <= 65535
        assert config.run is None or config.run.isprintable()


SECRET_NAMES = """
    password PASSWORD db_password dbPassword db.password db-password dbpassword passwd
    ssh_passphrase passPhrase secret client_secret clientSecret AWS_SECRET_ACCESS_KEY credential
    gcp-credentials api_key apiKey APIKey apikey api.keys wandb-api-key access_key accessKeyId
    private_key privateKeyPath auth http_auth auth_header token hf_token hfToken HF_TOKEN hub.token
    access-token token2 accesstoken my/secret/x
    wandb_key WANDB_KEY pwd db_pass dbpass jwt hf_key openai_key sshKey ssh_key encryption_key slack_webhook
    cookie sentry_dsn creds user_pass smtp_pass githubToken refresh_tokens pass session_token my_pat wandbkey
    account_key signing_key connection_string db_pwd
"""
HARMLESS_NAMES = """
    max_tokens maxTokens num_tokens tokens tokenizer tokenizer_name token_dropout tokens_per_batch author
    authors authority keys key_size lr secretary passes forward_pass access private keyboard api monkey
    attention_heads keypoints num_keypoints bypass n_pass pass_through sort_key key_dim image_key label_key
    pad_token eos_token bos_token mask_token max_token path compass primary_key patience pattern
    query_key_value
    attn_key lowpass_hz pass_rate two_pass hidden_keys patch_size dispatch state_key per_token image_token
"""


class TestPublicHyperparameters:
    @pytest.mark.parametrize("name", SECRET_NAMES.split())
    def test_secret_names_are_refused(self, name):
        """A name whose words say secret is refused by name, and its value goes nowhere."""
        assert ([], [name], []) == public_hyperparameters({name: "x"})
        assert ([], [name], []) == public_hyperparameters({name: 5})

    @pytest.mark.parametrize("name", HARMLESS_NAMES.split())
    def test_harmless_names_pass(self, name):
        """A name that only resembles one is served."""
        assert ([(name, "x")], [], []) == public_hyperparameters({name: "x"})

    @pytest.mark.parametrize(
        "value",
        [
            "postgres://me:hunter2@host/db",
            "redis://:hunter2@host",
            "https://hunter2@github.com/x.git",
            "x" * 100 + " https://me:hunter2@host",
            {"store": {"url": "s3://me:hunter2@host"}},
            ["a", ("b", {"api_key": "hunter2"})],
            {"wandb": {"token": "hunter2"}},
            "--api-key hunter2",
            "train.py --hf_token=hunter2",
            "https://host/x?token=hunter2",
            SimpleNamespace(password="hunter2"),
        ],
    )
    def test_secret_values_are_refused(self, value):
        """A secret inside a harmless name's value, however deep, is refused."""
        assert ([], ["data"], []) == public_hyperparameters({"data": value})

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (3, 3),
            (3e-4, 3e-4),
            (np.float32(0.5), 0.5),
            (np.int64(7), 7),
            (math.inf, math.inf),
            (True, "True"),
            (np.True_, "True"),
            (None, "None"),
            ("3", "3"),
            (10**400, str(10**400)[:64]),
            ("x" * 65, "x" * 64),
            ("a\nb\udc80", "a_b_"),
            ([1, "b"], "[1, 'b']"),
            (Path("/data/s3"), "/data/s3"),
            ("s3://bucket/user@example", "s3://bucket/user@example"),
            (np.zeros(3), "ndarray"),
        ],
    )
    def test_numbers_are_told_from_text(self, value, expected):
        """Numbers stay plain Python numbers, a bool is none; all else is printable text of 64 characters."""
        [(name, kept)] = public_hyperparameters({"x": value})[0]

        assert ("x", expected, type(expected)) == (name, kept, type(kept))

    def test_first_twenty_in_order(self):
        """Twenty are kept in the order given, refused ones not counted; the others are named as dropped."""
        given = {"password": "x", **{f"p{n}": n for n in range(25)}}

        kept, refused, dropped = public_hyperparameters(given)

        assert [(f"p{n}", n) for n in range(20)] == kept
        assert ["password"] == refused
        assert [f"p{n}" for n in range(20, 25)] == dropped

    def test_names_that_become_equal_are_kept_once(self):
        """Two long names with one beginning cannot both be label values: the second is dropped."""
        kept, _, dropped = public_hyperparameters({"n" * 64 + "a": 1, "n" * 64 + "b": 2})

        assert ([("n" * 64, 1)], ["n" * 64]) == (kept, dropped)

    def test_objects_whose_text_fails(self):
        """An object that cannot be printed is served by its type's name: a run never dies of an argument."""

        class Broken:
            def __str__(self) -> str:
                raise RuntimeError("no text")

        assert [("x", "Broken")] == public_hyperparameters({"x": Broken()})[0]

    def test_large_values_cost_little(self):
        """Only the beginning of a large value is looked at."""
        kept, _, _ = public_hyperparameters({"ids": list(range(2_000_000)), "text": "a:" * 10_000_000})

        assert ["[0, 1, 2", "a:a:a:a:"] == [str(text)[:8] for _, text in kept]

    @given(st.dictionaries(st.text() | st.integers(), ANYTHING | st.text()))
    def test_never_raises_and_always_fits_labels(self, mapping):
        """Whatever a mapping holds, what is served can be written as label values."""
        kept, refused, dropped = public_hyperparameters(mapping)  # type: ignore[arg-type]

        assert len(mapping) == len(kept) + len(refused) + len(dropped)
        assert len(kept) <= 20
        for text in [part for pair in kept for part in pair if isinstance(part, str)]:
            assert text.isprintable()
            assert len(text) <= 64


def test_import_is_light():
    """Importing the settings loads no YAML, NumPy, torch or client library: start must stay quick."""
    code = (
        "import sys, trainbeacon.config, trainbeacon.identity;"
        "print({'yaml', 'numpy', 'torch', 'psutil', 'prometheus_client', 'difflib'} & set(sys.modules))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ
    ).stdout

    assert "set()" == output.strip()
