"""Pods as the chart renders them, by podman: what the kubelet does for them is done here, flag by flag."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.images.podman import podman, run

#: As a bridge to the rendered text: what is in a pod template.
Template = Mapping[str, Any]
_MEGABYTES = {"Mi": 1, "Gi": 1024}


class Pod:
    """One pod on the network of this machine; a context manager, after which nothing of it is left.

    Args:
        name: of the pod; containers are called `<name>-<container>`.
        template: its `spec`.
        folder: for its volumes.
        files: the content of config maps and secrets, by name of the volume and file.
    """

    def __init__(
        self,
        name: str,
        template: Template,
        folder: Path,
        files: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._name, self._spec, self._folder, self._files = name, template, folder, files or {}
        self._context = template.get("securityContext", {})
        self._mounted: list[Path] = []

    def __enter__(self) -> Pod:
        for volume in self._spec.get("volumes", ()):
            self._make_volume(volume)
        return self

    def __exit__(self, *_: object) -> None:
        podman("rm", "--force", "--time=2", *map(self.container, self._containers()), check=False)
        for path in self._mounted:
            subprocess.run(["umount", "--lazy", path], check=False)

    def container(self, name: str) -> str:
        """Name of a container for podman."""
        return f"{self._name}-{name}"

    def _containers(self) -> dict[str, Any]:
        both = [*self._spec.get("initContainers", ()), *self._spec["containers"]]
        return {each["name"]: each for each in both}

    def start(self, name: str) -> None:
        """Start a container with its users, limits, volumes, variables and arguments."""
        spec = self._containers()[name]
        context = {**self._context, **spec["securityContext"]}
        group = self._context.get("fsGroup")
        flags = [
            "--network=host",
            f"--user={context['runAsUser']}:{context['runAsGroup']}",
            f"--memory={_megabytes(spec['resources']['limits']['memory'])}m",
            *([f"--group-add={group}"] if group else []),
            *(["--read-only", "--read-only-tmpfs=false"] if context["readOnlyRootFilesystem"] else []),
            *([] if context["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges"]),
            *(f"--cap-drop={each}" for each in context["capabilities"]["drop"]),
            *(f"--env={each['name']}={each['value']}" for each in spec.get("env", ())),
            *(self._mount(each) for each in spec.get("volumeMounts", ())),
        ]
        command = spec.get("command", [])
        if command:
            flags.append(f"--entrypoint={command[0]}")
        run(self.container(name), spec["image"], *flags, command=[*command[1:], *spec.get("args", ())])

    def _mount(self, mount: Mapping[str, Any]) -> str:
        source = self._folder / mount["name"] / mount.get("subPath", "")
        return f"--volume={source}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}"

    def _make_volume(self, volume: Mapping[str, Any]) -> None:
        """As the kubelet does: of the pod's group, and files as `defaultMode` says."""
        path, group = self._folder / volume["name"], self._context.get("fsGroup", 0)
        path.mkdir()
        if "emptyDir" in volume:
            size = _megabytes(volume["emptyDir"].get("sizeLimit", "64Mi"))
            options = f"size={size}m,mode=2777,gid={group}"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "volume", path], check=True)
            self._mounted.append(path)
            return
        for name, text in self._files[volume["name"]].items():
            (path / name).write_text(text)
            os.chown(path / name, 0, group)
            (path / name).chmod(0o440)

    # What podman says

    def state(self, name: str) -> str:
        """`running`, `exited` ..."""
        return podman("inspect", "--format={{.State.Status}}", self.container(name)).strip()

    def exit_code(self, name: str) -> int:
        """Of a container that has ended."""
        return int(podman("inspect", "--format={{.State.ExitCode}}", self.container(name)))

    def logs(self, name: str) -> str:
        """What it has printed."""
        return podman("logs", self.container(name))

    def inside(self, name: str, code: str) -> str:
        """What a line of Python prints in a container."""
        return podman("exec", self.container(name), "python", "-c", code, check=False)

    def kill(self, name: str) -> None:
        """SIGKILL to all of it."""
        podman("kill", self.container(name))

    def stop(self, name: str, seconds: int) -> None:
        """SIGTERM, and SIGKILL after that many seconds."""
        podman("stop", f"--time={seconds}", self.container(name), seconds=seconds + 30)


def _megabytes(quantity: str) -> int:
    return int(quantity[:-2]) * _MEGABYTES[quantity[-2:]]
