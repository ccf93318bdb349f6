"""Common mistakes of new users: the message has the next command."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgefuse.app.demo_command import next_commands
from edgefuse.bundle import open_bundle
from edgefuse.errors import UserError
from edgefuse.io.folder_kinds import not_a
from edgefuse.io.text import quoted
from edgefuse.synth.commands import synth
from edgefuse.training.run import open_run
from edgefuse_export.tensorrt.commands import lint_onnx
from edgefuse_runtime.recording.commands import record
from toy_bundle import make_toy_bundle


def test_a_folder_of_another_kind_is_recognised(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "demo/bundle").folder
    run, data = tmp_path / "demo/runs/gated", tmp_path / "demo/data"
    for folder, name in ((run, "run.json"), (data, "dataset.json")):
        folder.mkdir(parents=True)
        (folder / name).write_text("{}")
    with pytest.raises(UserError, match=f"looks like a bundle, which is exported already: edgefuse live {bundle}"):
        open_run(bundle)
    expected = {
        run: f"it looks like a run: edgefuse export {run} --out BUNDLE",
        data: f"it looks like a data set: edgefuse train {data} --out RUN",
        tmp_path / "demo": f"{bundle} is one: give that",
        bundle / "model.onnx": f"a file of one: give the folder, {bundle}",
        tmp_path / "absent": "does not exist; make one with edgefuse export RUN",
        tmp_path / "demo/runs": "make one with edgefuse export RUN",
    }
    for path, words in expected.items():
        with pytest.raises(UserError, match="is not a bundle") as caught:
            open_bundle(path)
        assert words in str(caught.value)
    assert f"{run} is one: give that" in not_a("run", tmp_path / "demo")


def test_paths_with_blanks_are_quoted_in_commands(tmp_path: Path) -> None:
    run = tmp_path / "it's my run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    command = not_a("bundle", run).split("it looks like a run: ")[1]
    assert shlex.split(command) == ["edgefuse", "export", str(run), "--out", "BUNDLE"]
    assert quoted("a\nb") == "'a\\nb'"
    assert quoted(Path("plain/name")) == "plain/name"


def test_the_next_command_of_a_command_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my mugs"
    synth(out, num_pairs=8, size=32, seed=0, workers=1, force=False)
    assert shlex.split(capsys.readouterr().err.split("next: ")[1]) == ["edgefuse", "train", str(out), "--out", "RUN"]
    record(str(tmp_path / "my takes"), label="cup", camera="synthetic", frames=1)
    said = capsys.readouterr().err.split("next: ")[1]
    assert shlex.split(said) == ["edgefuse", "train", str(tmp_path / "my takes"), "--out", "RUN"]


def test_the_last_lines_of_the_demo_are_valid_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result: Any = SimpleNamespace(bundle=Path("my demo/bundle"), recording=Path("my demo/live.db3"))
    live = "edgefuse live 'my demo/bundle' --camera 'my demo/live.db3' --roi 'my demo/live.json'"
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("activate", "edgefuse"):
        (tmp_path / ".venv/bin" / name).touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert next_commands(result, prefix=tmp_path / ".venv") == ["next: . .venv/bin/activate", f"      {live}"]
    monkeypatch.setenv("PATH", str(tmp_path / ".venv/bin"))
    assert next_commands(result, prefix=tmp_path / ".venv") == [f"next: {live}"]
    assert next_commands(result, prefix=tmp_path / "usr") == [f"next: {live}"]


def test_a_folder_is_no_onnx_file_and_names_show_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"is a folder: give an ONNX file, such as .*model\.onnx"):
        lint_onnx([tmp_path])
    bundle = make_toy_bundle(tmp_path / "b\x1b[2J")
    lint_onnx([bundle.folder / "model.onnx"])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "b\\x1b[2J/model.onnx: accepted by " in out
