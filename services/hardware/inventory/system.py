"""Names: host, operating system, kernel, and the id of this boot."""

import platform
from pathlib import Path

from services.hardware.inventory.roots import Roots, read_text
from services.hardware.resources import SystemInfo


def read_system(roots: Roots) -> SystemInfo:
    """Return what machine this is."""
    return SystemInfo(
        hostname=platform.node(),
        os=_os_name(),
        kernel=platform.release(),
        architecture=platform.machine(),
        in_container=_in_container(roots),
    )


def read_boot_id(roots: Roots) -> str:
    """Return the id that the kernel drew when it started. Empty where it does not say."""
    return read_text(roots.proc / "sys/kernel/random/boot_id") or ""


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _in_container(roots: Roots) -> bool:
    # Docker and Podman leave a file; Kubernetes and containerd show in the path of the control group.
    marks = ("docker", "kubepods", "containerd", "libpod", "lxc")
    groups = read_text(roots.proc / "self/cgroup") or ""
    files = (Path("/.dockerenv"), Path("/run/.containerenv"))
    return any(mark in groups for mark in marks) or any(file.exists() for file in files)
