"""A kind of stage that takes no time: it writes a line, and those of the stages that it takes.

As a program: ``toy_stages.py run FOLDER`` is such a stage, ``toy_stages.py pipeline WORKDIR`` a
pipeline of three, of which the second works until there is a file ``go`` or SIGTERM.
"""

import hashlib
import json
import signal
import sys
import time
from pathlib import Path

LEFT = 6


def work(folder: Path) -> None:
    given = json.loads((folder / "stage.json").read_text())["given"]
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    say(folder, "begins")
    while given["waits"] and not asked and not (folder.parent / "go").exists():
        time.sleep(0.01)
    if asked or given["code"]:
        say(folder, "leaves")
        sys.exit(LEFT if asked else given["code"])
    taken = [Path(path) for path in given["takes"]]
    taken = [path / "note.txt" if path.is_dir() else path for path in taken]
    words = [given["text"].strip(), *(path.read_text() for path in taken)]
    draft = folder / "draft"
    draft.write_text("|".join(words))
    draft.rename(folder / "note.txt")
    say(folder, "ends")


def say(folder: Path, word: str) -> None:
    with (folder.parent / "log").open("a") as log:
        log.write(f"{folder.name} {word}\n")


if __name__ == "__main__" and sys.argv[1] == "run":
    work(Path(sys.argv[2]))
    sys.exit()

from dataclasses import dataclass  # noqa: E402

from dinojax.runtime.exits import STOPS, leave  # noqa: E402
from dinojax.stages.artefacts import hash_artefact  # noqa: E402
from dinojax.stages.declare import Stage  # noqa: E402
from dinojax.stages.given import Outcome  # noqa: E402
from dinojax.stages.run import run  # noqa: E402


@dataclass(frozen=True)
class Note:
    """Only `text` and `takes` matter to what is written; records are in the file `data`."""

    text: str = ""
    takes: tuple[str, ...] = ()
    data: str | None = None
    waits: bool = False
    code: int = 0

    checkpoint_keys = ("takes",)

    def check(self, others):
        pass

    def settings(self):
        return {"text": self.text, "takes": self.takes}

    def records(self, others):
        return self.data and hashlib.sha1(Path(self.data).read_bytes()).hexdigest()

    def command(self, folder, launcher):
        # Without site-packages Python starts in a tenth of the time.
        return [sys.executable, "-I", "-S", __file__, "run", str(folder)]

    def finish(self, folder):
        note = folder / "note.txt"
        return Outcome({"note.txt": hash_artefact(note)}, {"length": note.stat().st_size})


def notes(**given: Note) -> list[Stage]:
    return [Stage(name, "note", note) for name, note in given.items()]


if __name__ == "__main__":
    from absl import logging

    logging.set_verbosity(logging.INFO)
    stages = notes(
        first=Note("1"),
        slow=Note("2", ("stage:first",), waits=True),
        last=Note("3", ("stage:slow",)),
    )
    try:
        run(stages, sys.argv[2])
    except STOPS as error:
        print(error, file=sys.stderr)
        leave(error)
