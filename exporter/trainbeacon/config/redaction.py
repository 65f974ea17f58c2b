"""What may leave the process: names and texts that look like secrets are refused, or blanked in running text.

Everything on /metrics is readable by whoever can reach the port, and people pass `vars(args)`. A name is
judged by its words, a value by what it shows: the forms in which services issue their keys, addresses with
passwords, values under a name that looks secret. Refusing too much costs one label; refusing too little costs
a password. No check can know a secret of no form under a harmless name.

Threads: every function may be called from any.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from itertools import pairwise
from numbers import Integral, Real

from trainbeacon.identity import printable

#: Hyperparameters served for a run.
MOST_HYPERPARAMETERS = 20
#: Longest name and text of a hyperparameter or tag, in characters.
VALUE_LIMIT = 64
#: What stands where a secret was.
BLANK = "***"

# Names

# A word of a name, or two neighbours joined: `api_key`, `apiKey` and `apikey` are one case.
_SECRET_WORDS = {
    *("auth", "oauth", "authorization", "credential", "credentials", "cred", "creds", "cookie", "cookies"),
    *("pwd", "pswd", "psk", "jwt", "otp", "totp", "dsn", "pat", "webhook", "webhooks", "passcode", "sas"),
    *("connectionstring", "connstring", "sessionid", "keytab"),
}
# The end of a word too: `dbpassword`, `clientsecret`.
_SECRET_ENDINGS = ("password", "passwords", "passwd", "passphrase", "secret", "secrets", "apikey", "apikeys")
# What a key or a pass belongs to where it opens something: `wandb_key`, `db_pass`; not `sort_key`.
_SERVICES = (
    *(
        "anthropic",
        "aws",
        "azure",
        "cohere",
        "comet",
        "clearml",
        "datadog",
        "discord",
        "docker",
        "gcp",
        "gcs",
    ),
    *("gemini", "git", "github", "gitlab", "google", "grafana", "groq", "hf", "hub", "huggingface", "jira"),
    *("jupyter", "kaggle", "kube", "langchain", "langsmith", "minio", "mistral", "mlflow", "neptune", "ngc"),
    *(
        "newrelic",
        "nvidia",
        "openai",
        "opsgenie",
        "pagerduty",
        "pinecone",
        "pushover",
        "replicate",
        "roboflow",
    ),
    *("sendgrid", "sentry", "slack", "smtp", "stripe", "telegram", "together", "twilio", "vault", "wandb"),
)
_ACCOUNTS = (
    *("admin", "bind", "db", "ftp", "ldap", "login", "mail", "mongo", "mysql", "pg", "postgres", "proxy"),
    *("redis", "root", "ssh", "sudo", "user"),
)
_KEY_OWNERS = {
    *_SERVICES,
    *("access", "account", "app", "auth", "bot", "client", "decrypt", "decryption", "deploy", "encrypt"),
    *("encryption", "gpg", "hmac", "licence", "license", "master", "pgp", "private", "rsa", "secret"),
    *("service", "shared", "sign", "signing", "ssh", "ssl", "storage", "subscription", "tls", "webhook"),
}
_PASS_OWNERS = {*_SERVICES, *_ACCOUNTS}
#: What tokens are counted, marked or fed, and not handed to a server: `max_token`, `pad_token`.
_PLAIN_TOKENS = {
    *("bos", "cls", "decoder", "eos", "image", "mask", "max", "min", "new", "next", "num", "pad", "per"),
    *("prompt", "sep", "special", "start", "stop", "unk", "video", "vocab"),
}
_TOKEN_OWNERS = {*_SERVICES, "access", "api", "auth", "bearer", "refresh", "secret", "session"}
#: What they own, written as one word with it: `sshkey`, `dbpass`, `hftoken`.
_OWNERS_OF = {
    "key": _KEY_OWNERS,
    "keys": _KEY_OWNERS,
    "pass": _PASS_OWNERS,
    "pwd": _PASS_OWNERS,
    "token": _TOKEN_OWNERS,
    "tokens": _TOKEN_OWNERS,
}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: A text of which nothing but chance is left: what services make keys of.
_RANDOM = re.compile(r"(?=[^\s]*\d)(?=[^\s]*[A-Za-z])[A-Za-z0-9+/=_-]{20,}")

# Forms

#: The forms of keys that services issue, and of what carries one.
_FORMS = re.compile(
    r"""
    \bhf_[A-Za-z0-9]{16,}
    | \bgh[opsur]_[A-Za-z0-9]{16,} | \bgithub_pat_\w{16,} | \bgl(?:pat|dt|rt|ptt|soat)-[\w-]{16,}
    | \b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{12,}\b
    | \bxox[a-z]-[\w-]{8,} | \bxapp-[\w-]{8,} | \bxwfp-[\w-]{8,}
    | \bsk-[\w-]{0,40}\w{16}[\w-]* | \b[rsp]k_(?:live|test)_\w{10,} | \bgsk_\w{16,} | \br8_\w{20,}
    | \bAIza[\w-]{30,} | \bya29\.[\w-]{16,} | \bGOCSPX-[\w-]{16,}
    | \bnvapi-[\w-]{16,} | \bwandb_v\d_\w{16,} | \bdckr_[a-z]+_[\w-]{16,} | \bnpm_\w{30,} | \bpypi-[\w-]{30,}
    | \bdop_v1_\w{30,} | \bshp[a-z]{2}_\w{16,} | \bglsa_\w{16,} | \bdapi[0-9a-f]{30,} | \bhvs\.[\w-]{20,}
    | \bSG\.[\w-]{10,}\.[\w-]{10,} | \bkey-[0-9a-f]{32}\b | \b\d{8,10}:AA[\w-]{30,}
    | \beyJ[\w-]{8,}\.[\w-]{2,}\.[\w-]*
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY(?:.*?-----END\ [A-Z ]*KEY-----|.*)
    | \b(?i:Bearer|Basic)\s+(?=\S*[0-9=])[\w.~+/=-]{16,}
    | \bhttps?://(?:hooks\.|[^\s/]{1,200}/(?:\S{0,200}/)?(?:webhooks?|hooks)/|discord(?:app)?\.com/api/webhooks/)\S+
    | \bhttps?://\S{0,200}(?:webhook\.office\.com|api\.telegram\.org/bot|/open-apis/bot/|/robot/send|/webhook/send)\S*
    | \b(?:https?|s3|gs|abfss?|wasbs?)://\S{0,500}[?&](?i:key|sig|signature|code|x-amz-\w+|x-goog-\w+)=[^\s&]+\S*
    """,
    re.VERBOSE | re.DOTALL,
)
#: A user and password as curl, wget and others take them.
_USER_OPTION = re.compile(r"(?<!\S)(-u\s{0,9}|--user[= ])[^\s:'\"]{1,200}:[^\s'\"]+")
_USER_IN_URL = re.compile(r"(://)[^\s/'\"@]{1,200}@")
#: A name that a value follows, and the value.
_NAME = re.compile(r"(?<![\w.-])(?:--[\w.-]+|[\w.-]+(?=['\"]?\s{0,9}[=:]))")
_VALUE = re.compile(
    r"""(['"]?\s{0,9}[=:,]?\s{0,9}")[^"\n]+ | (['"]?\s{0,9}[=:,]?\s{0,9}')[^'\n]+
    | (['"]?\s{0,9}[=:]?\s{0,9}['"]?)(?![=:])[^\s'",;&)}\]]+""",
    re.VERBOSE,
)
# No further than this into a text; what is served is its beginning.
_READ_LIMIT = 4096


def public_hyperparameters(
    mapping: Mapping[str, object],
) -> tuple[list[tuple[str, float | str]], list[str], list[str]]:
    """What of a run's hyperparameters is served: `(kept, refused, dropped)`.

    `kept` holds at most 20 pairs in the order given: an int or a float for a number (NumPy's too, a bool is
    none), else text of at most 64 characters. `refused` names what looks like a secret, `dropped` what
    came after the 20 or repeats a name. Never raises for what the mapping holds, never copies a tensor.
    """
    kept: dict[str, float | str] = {}
    refused: list[str] = []
    dropped: list[str] = []
    for key, value in mapping.items():
        full_name = as_text(key)
        name = printable(redacted(full_name), VALUE_LIMIT)
        number = _as_number(value)
        text = "" if number is not None else as_text(value)
        if looks_secret(full_name) or holds_secret(full_name) or _is_secret_pair(full_name, text):
            refused.append(name)
        elif name in kept or len(kept) == MOST_HYPERPARAMETERS:
            dropped.append(name)
        else:
            kept[name] = number if number is not None else printable(text, VALUE_LIMIT)
    return list(kept.items()), refused, dropped


def looks_secret(name: str) -> bool:
    """Whether a name says that its value is a secret: `hf_token`, `dbPassword`; not `max_tokens`."""
    words = [word.lower() for word in _WORD.findall(name[:_READ_LIMIT])]
    joined = [first + second for first, second in pairwise(words)]
    if any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDINGS) for word in (*words, *joined)):
        return True
    if any(what in ("key", "keys") and owner in _KEY_OWNERS for owner, what in pairwise(words)):
        return True
    return any(map(_opens_alone, words)) or (bool(words) and _opens(*["", *words][-2:]))


def _opens(owner: str, what: str) -> bool:
    """Whether a name that ends in this owner's pass or token is of a secret."""
    if what == "pass":
        return owner in ("", *_PASS_OWNERS)
    if what == "token":
        return owner not in _PLAIN_TOKENS
    return what == "tokens" and owner in _TOKEN_OWNERS


def _opens_alone(word: str) -> bool:
    """The same of a word that is written together: `sshkey`, `dbpass`, `hftoken`."""
    for what, owners in _OWNERS_OF.items():
        if word.endswith(what) and word.removesuffix(what) in owners:
            return True
    return False


def holds_secret(text: str) -> bool:
    """Whether a text shows a key of a known form, an address with a user, or a value under a secret name."""
    return redacted(text[:_READ_LIMIT]) != text[:_READ_LIMIT]


def redacted(text: str) -> str:
    """The text with `***` in the place of each secret that is recognised."""
    text = _FORMS.sub(BLANK, _USER_IN_URL.sub(rf"\1{BLANK}@", _USER_OPTION.sub(rf"\1{BLANK}", text)))
    parts, at, done = [], 0, 0
    while (name := _NAME.search(text, at)) is not None:
        at = name.end()
        value = _VALUE.match(text, at) if looks_secret(name[0]) else None
        if value is None:
            continue
        begins = value.end(value.lastindex or 0)
        if not text.startswith(BLANK, begins):
            parts += [text[done:begins], BLANK]
            at = done = value.end()
    return "".join([*parts, text[done:]])


def _is_secret_pair(name: str, text: str) -> bool:
    """Whether a value is a secret by itself, or by its form under a name that may be one."""
    words = [word.lower() for word in _WORD.findall(name[:_READ_LIMIT])]
    may_be = bool(words) and words[-1] in ("key", "keys", "pass")
    return holds_secret(text) or (may_be and _RANDOM.fullmatch(text) is not None)


def _as_number(value: object) -> float | None:
    """The value as int or float where it is a number that a sample can hold."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except Exception:  # noqa: BLE001 - a number type of the user's own, or an int beyond a float's range
        return None
    return int(value) if isinstance(value, Integral) and math.isfinite(number) else number


def as_text(value: object) -> str:
    """The value as text, bounded in time and length whatever it is."""
    if isinstance(value, str):
        return value
    if hasattr(value, "shape") and not (type(value).__module__ == "numpy" and value.shape == ()):
        # A tensor or an array: its text would be long, and for a GPU tensor a synchronisation.
        return type(value).__name__
    try:
        return _bounded.repr(value) if isinstance(value, _CONTAINERS) else str(value)
    except Exception:  # noqa: BLE001 - the user's own __str__
        return type(value).__name__


_CONTAINERS = (Mapping, list, tuple, set, frozenset)
_bounded = reprlib.Repr()
_bounded.maxlevel = 6
_bounded.maxdict = _bounded.maxlist = _bounded.maxtuple = _bounded.maxset = _bounded.maxfrozenset = 50
_bounded.maxstring = _bounded.maxother = _READ_LIMIT
