"""Secrets by their form: refused as a value, blanked where text leaves the process."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from trainbeacon.config.redaction import public_hyperparameters, redacted
from trainbeacon.config.settings import Config, ConfigError
from trainbeacon.recorder.hangs.store import Store

#: In each of the texts below, so that a test can see that it is gone.
SECRET_PART = "hunter2hunter2hunter2AA"
SECRET_TEXTS = [
    f"hf_{SECRET_PART}",
    f"ghp_{SECRET_PART}",
    f"github_pat_11ABC_{SECRET_PART}",
    f"glpat-{SECRET_PART}",
    "AKIAIOSFODNN7EXAMPLE",
    f"xoxb-12345-{SECRET_PART}",
    f"sk-proj-{SECRET_PART}",
    f"sk-ant-api03-{SECRET_PART}-x",
    f"sk_live_{SECRET_PART}",
    f"nvapi-{SECRET_PART}",
    f"AIza{SECRET_PART}0123456789",
    f"eyJhbGciOiJIUzI1NiJ9.{SECRET_PART}.c2ln",
    f"123456789:AA{SECRET_PART}0123456789",
    f"https://hooks.slack.com/services/T0/B0/{SECRET_PART}",
    f"https://discord.com/api/webhooks/1/{SECRET_PART}",
    f"https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key={SECRET_PART}",
    f"https://oapi.dingtalk.com/robot/send?access_token={SECRET_PART}",
    f"https://example.webhook.office.com/webhookb2/{SECRET_PART}",
    f"https://acc.blob.core.windows.net/c?sv=1&sig={SECRET_PART}",
    f"https://bucket.example/x?X-Amz-Signature={SECRET_PART}",
    f"postgres://me:{SECRET_PART}@host/db",
    f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET_PART}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{SECRET_PART}",
    f"Authorization: Bearer {SECRET_PART}0",
    f"curl -H 'X-Api-Key: {SECRET_PART}'",
    f"train.py --wandb-key={SECRET_PART}",
    f"train.py --password {SECRET_PART}",
    f"PWD={SECRET_PART}",
    f"--password 'two words {SECRET_PART}' --lr 0.1",
    f"['train.py', '--password', 'two words {SECRET_PART}']",
    f'{{"client_secret": "two words {SECRET_PART}"}}',
    f"curl -u me:{SECRET_PART} http://host",
    f"s3://bucket/x?Signature={SECRET_PART}",
    f"see https://host/x?token={SECRET_PART}&page=2",
]
HARMLESS_TEXTS = [
    *(
        "sk-learn",
        "sk-learn-pipeline",
        "hf_models",
        "/data/hf_cache/models",
        "meta-llama/Llama-3-8B",
        "adamw",
    ),
    *("lr=0.1,momentum=0.9", "max_tokens=512 pad_token=0", "--max-tokens 5 --keypoints 17", "tokenizer=gpt2"),
    *("token=''", '--password "" --lr 0.1', "python -u train.py --ratio 1:2"),
    *("https://huggingface.co/docs?page=2", "https://example.com/hooks", "git@github.com:me/x.git"),
    *(
        "2026-11-30T10:00:00",
        "file:///home/me",
        "Basic augmentation with flips",
        "bearer of news",
        "password",
    ),
    "deadbeefdeadbeefdeadbeefdeadbeefdeadbeef",
]


@pytest.mark.parametrize("value", SECRET_TEXTS)
def test_secrets_are_known_by_their_form(value: str) -> None:
    """What services issue is refused under any name, and blanked in running text."""
    assert ([], ["data"], []) == public_hyperparameters({"data": value})
    assert ([], ["data"], []) == public_hyperparameters({"data": {"deep": [value]}})
    text = redacted(f"could not reach it: {value} (tried twice)")
    assert "***" in text
    assert text.startswith("could not reach it: ")
    assert SECRET_PART not in text
    assert "AKIAIOS" not in text


@pytest.mark.parametrize("value", HARMLESS_TEXTS)
def test_harmless_texts_pass(value: str) -> None:
    """A value that only resembles a secret is served."""
    assert ([("data", value[:64])], [], []) == public_hyperparameters({"data": value})
    assert value == redacted(value)


def test_random_text_under_a_key_is_refused() -> None:
    """A key of no known form is told by its chance letters where its name says that it is a key."""
    assert ([], ["my_key"], []) == public_hyperparameters({"my_key": "k3jh4kj5h6k7j8h9g0f1d2"})
    assert ([("my_key", "image_rgb")], [], []) == public_hyperparameters({"my_key": "image_rgb"})


@pytest.mark.parametrize("setting", ["run", "project", "owner"])
def test_name_that_is_a_secret_is_refused_at_start(setting: str) -> None:
    """A key pasted into the wrong place raises, and is not in the message."""
    with pytest.raises(ConfigError, match=f"{setting} .*looks like a secret") as raised:
        Config.load({setting: f"hf_{SECRET_PART}"}, environ={})
    assert SECRET_PART not in str(raised.value)


def test_evidence_holds_no_secret(tmp_path: Path) -> None:
    """Whatever comes into the document: a command line, an address, a name."""
    document = {
        "time": 1.0,
        "reason": f"store at postgres://me:{SECRET_PART}@host/db",
        "workers": [{"comm": f"--token={SECRET_PART}"}],
        "stacks": [f'File "x.py", line 1, in <module>  # hf_{SECRET_PART}'],
    }
    text = Path(Store.make(str(tmp_path), "r", 0).write(document)).read_text()
    assert SECRET_PART not in text
    assert 'File "x.py", line 1, in <module>' in json.loads(text)["stacks"][0]


@pytest.mark.parametrize(
    "piece", ["a", "a-", "https://", "x=:", "eyJ", "sk-", "Basic ", "--a ", "https://a?&key"]
)
def test_any_text_is_read_in_bounded_time(piece: str) -> None:
    """A text that is made to be looked at for long costs a moment."""
    begun = time.process_time()
    redacted((piece * 5000)[:4096])
    assert time.process_time() - begun < 2.0
