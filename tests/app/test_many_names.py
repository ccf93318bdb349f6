"""A thousand classes with control characters and markup in their names: output stays short and safe, one line per message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgefuse.bundle import Bundle
from edgefuse.errors import UserError
from edgefuse.evaluation.metrics import class_numbers
from edgefuse_runtime.engines import open_engine
from toy_bundle import make_toy_bundle

EDGEFUSE = (sys.executable, "-c", "from edgefuse.app.main import main; main()")
LABELS = tuple(f"class [bold]{number}[/x] $a_{number}$ | \x1b[31m \udce9" for number in range(1000))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_toy_bundle(tmp_path_factory.mktemp("many") / "bundle", labels=LABELS)


def edgefuse(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EDGEFUSE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )


def test_names_are_unchanged_after_export(bundle: Bundle) -> None:
    with open_engine(bundle, engine="cpu") as engine:
        assert engine.labels == LABELS


def test_live_shows_a_few_of_them(bundle: Bundle, tmp_path: Path) -> None:
    done = edgefuse("live", bundle.folder, "--camera", "synthetic", "--frames", 2, "--jsonl", tmp_path / "x.jsonl")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr and len(done.stdout + done.stderr) < 3000
    lines = (tmp_path / "x.jsonl").read_bytes().splitlines()
    started, *others = lines  # the event "started" lists the classes, once a run
    assert json.loads(started)["event"] == "started"
    assert json.loads(started)["detail"]["model"]["labels"] == list(LABELS)
    assert all(len(line) < 3000 for line in others) and json.loads(others[0])["label"] in LABELS


def test_a_message_names_a_few_of_them(bundle: Bundle) -> None:
    with pytest.raises(UserError, match="and 995 more") as caught:
        class_numbers(["mug"], LABELS)
    assert len(str(caught.value)) < 500
