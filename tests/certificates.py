"""Certificates for tests, made by the openssl program: an authority, and what it signs."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """One certificate authority of its own, in `folder`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._pair = self._make(name, ["basicConstraints=critical,CA:true"])
        self.certificate = self._pair.certificate

    def issue(self, name: str, *names: str, client: bool = False) -> Pair:
        """A certificate for a server, or a client, with these subject alternative names."""
        usage = "clientAuth" if client else "serverAuth"
        extensions = ["basicConstraints=critical,CA:false", f"extendedKeyUsage={usage}"]
        if names:
            extensions.append(f"subjectAltName={','.join(names)}")
        signer = ["-CA", str(self._pair.certificate), "-CAkey", str(self._pair.key)]
        return self._make(name, extensions, signer)

    def _make(self, name: str, extensions: list[str], signer: list[str] | None = None) -> Pair:
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        command = ["openssl", "req", "-x509", *_KEY, "-subj", f"/CN={name}", *(signer or [])]
        command += ["-keyout", str(pair.key), "-out", str(pair.certificate)]
        for extension in extensions:
            command += ["-addext", extension]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return pair

    def client_context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """What a client trusts that knows this authority, and the certificate that it shows."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return context
