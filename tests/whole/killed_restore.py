"""`relay restore --replace`, killed before its first step on the disk, its second, and so on, each time in a new place.

A program of its own, for it forks: `python -m tests.whole.killed_restore TEMPLATE FOLDER`. TEMPLATE has a database
`relay.db` and a backup `copy.db`; FOLDER gets a folder for each try, in its order, of which only the last one ended.
"""

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from relay.restore import restore
from relay.settings import Settings, given

STEPS = ("link", "unlink", "replace", "fsync")
NOW_MS = 1_790_000_000_000


def settings(folder: Path) -> Settings:
    return given(database_url=f"sqlite:///{folder}/relay.db", upstream_token="upstream-token", admin_token="a" * 24)


def die_before(step: int) -> None:
    """From now on this process is killed before so many more steps have been done."""
    left = itertools.count(step - 1, -1)

    def counted(does: Any) -> Any:
        def one(*arguments: Any, **named: Any) -> Any:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return does(*arguments, **named)

        return one

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def main(template: Path, folder: Path) -> None:
    for step in itertools.count(1):
        place = folder / f"{step:03}"
        shutil.copytree(template, place)
        child = os.fork()
        if child == 0:
            die_before(step)
            restore(place / "copy.db", settings(place), NOW_MS, put_aside=True)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
