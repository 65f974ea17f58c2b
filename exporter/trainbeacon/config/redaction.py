"""What may leave the process: hyperparameters and tags that look like secrets are refused.

Everything on /metrics is readable by whoever can reach the port, and people pass `vars(args)`. A name is
judged by its words, a value by what its text would show. Refusing too much costs one label; refusing too
little costs a password. No check can know a secret under a harmless name.
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

# A word of a name, or two neighbours joined: `api_key`, `apiKey` and `apikey` are one case.
_SECRET_WORDS = {
    *("auth", "oauth", "authorization", "credential", "credentials"),
    *("apikey", "apikeys", "accesskey", "accesskeys", "privatekey", "privatekeys", "sshkey"),
    *("accesstokens", "apitokens"),
}
# The end of a word too: `dbpassword`, `clientsecret`.
_SECRET_ENDINGS = ("password", "passwords", "passwd", "passphrase", "secret", "secrets")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_URL_WITH_USER = re.compile(r"://[^\s/'\"]+@")
_NAME_IN_TEXT = re.compile(r"(?<![\w.-])(?:([\w.-]+)['\"]?\s{0,9}[=:]|--([\w.-]+))")
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
        name = printable(full_name, VALUE_LIMIT)
        number = _as_number(value)
        text = "" if number is not None else as_text(value)
        if looks_secret(full_name) or holds_secret(text):
            refused.append(name)
        elif name in kept or len(kept) == MOST_HYPERPARAMETERS:
            dropped.append(name)
        else:
            kept[name] = number if number is not None else printable(text, VALUE_LIMIT)
    return list(kept.items()), refused, dropped


def looks_secret(name: str) -> bool:
    """Whether a name says that its value is a secret: `hf_token`, `dbPassword`; not `max_tokens`."""
    words = [word.lower() for word in _WORD.findall(name[:_READ_LIMIT])]
    if words and words[-1].endswith("token"):
        return True
    joined = [first + second for first, second in pairwise(words)]
    return any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDINGS) for word in (*words, *joined))


def holds_secret(text: str) -> bool:
    """Whether a text shows a URL with a user in it, or a value under a name that looks secret."""
    text = text[:_READ_LIMIT]
    names = (name or option for name, option in _NAME_IN_TEXT.findall(text))
    return _URL_WITH_USER.search(text) is not None or any(map(looks_secret, names))


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
