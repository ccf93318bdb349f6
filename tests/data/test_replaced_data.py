"""`--force` replaces complete data sets made by a command, and never anything recorded, described or added by the user."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgefuse.data.dataset import write_pair
from edgefuse.data.description import is_made_by_command, write_description
from edgefuse.synth.rendered_set import write_dataset


def test_a_data_set_made_by_a_command_is_distinguished_from_the_users(tmp_path: Path) -> None:
    made = write_dataset(tmp_path / "made", num_pairs=8, size=32, num_workers=1)
    assert is_made_by_command(made)
    (made / "thesis.txt").touch()
    assert not is_made_by_command(made)
    write_pair(tmp_path / "own/cup/a", "f0", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16))
    assert not is_made_by_command(tmp_path / "own")
    write_description(tmp_path / "own", camera="mine")
    assert not is_made_by_command(tmp_path / "own") and not is_made_by_command(tmp_path / "absent")
