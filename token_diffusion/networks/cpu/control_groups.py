"""The control groups that this process is in: where Linux says how much of a machine a container may use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def folders(controller: str, root: Path) -> Iterator[Path]:
    """Of this process's control groups that know of `controller` ("cpu", "memory"), and of those around them, seen from here.

    root: of the file system in which they are looked up.
    """
    for mount, inside in _groups(controller, root):
        top = root / mount.relative_to("/")
        group = top / inside
        for folder in [group, *group.parents]:
            yield folder
            if folder == top:
                break


def _groups(controller: str, root: Path) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """Where such groups are mounted, each with this process's own group in there."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # no Linux, or no /proc
        return
    # "4:cpu,cpuacct:/a/b" of version 1; "0::/a/b" of version 2, which has one hierarchy for everything.
    ours = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            ours["cgroup" if controllers else "cgroup2"] = PurePosixPath(path)
    for line in mounts:
        # "36 35 0:30 /docker/1f /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu": root of the mount, then its place.
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in ours or (kind == "cgroup" and controller not in options.split(",")):
            continue
        mounted, place = (PurePosixPath(_unescaped(part)) for part in before.split(" ")[3:5])
        # A namespace may show a path that is not below what is mounted: then what is mounted is the group itself.
        below = ours[kind].is_relative_to(mounted) and ".." not in ours[kind].parts
        yield place, ours[kind].relative_to(mounted) if below else PurePosixPath()


def _unescaped(path: str) -> str:
    r"""A path of mountinfo, in which blanks and backslashes are \040 and the like."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
