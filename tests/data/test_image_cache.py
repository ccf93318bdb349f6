"""Images that do not fit into memory are read again, with the same result."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgefuse.data.dataset import load, scan, write_pair
from edgefuse.data.image_cache import Budget, Images
from edgefuse.errors import UserError
from edgefuse.io.memory import available_bytes


@pytest.mark.parametrize("num_bytes", [0, 40 * 40 * 5 * 7, 1 << 40])
def test_results_do_not_depend_on_what_is_cached(colour_and_range: Path, num_bytes: int) -> None:
    all_kept = load(scan([colour_and_range]), budget=Budget(1 << 40))
    rgbd = load(scan([colour_and_range]), budget=Budget(num_bytes))
    assert isinstance(rgbd.rgb, Images) and rgbd.rgb.num_on_disk() == max(0, 60 - num_bytes // (40 * 40 * 5))
    assert rgbd.dataset == all_kept.dataset
    for one, other in ((rgbd.rgb, all_kept.rgb), (rgbd.depth, all_kept.depth)):
        assert len(one) == len(other) == 60
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    part = rgbd.subset([5, 3, 40]).subset([2, 0])
    assert [sample.name for sample in part.dataset.samples] == [rgbd.dataset.samples[i].name for i in (40, 5)]
    assert len(part.rgb) == 2 and np.array_equal(part.depth[0], all_kept.depth[40])
    assert np.array_equal(part.rgb[-1], all_kept.rgb[5]) and np.array_equal(part.rgb[1:][0], all_kept.rgb[5])


def test_a_file_that_changes_meanwhile_is_found(tmp_path: Path) -> None:
    rgb, depth = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint16)
    write_pair(tmp_path / "a/s", "0", rgb, depth)
    rgbd = load(scan([tmp_path]), budget=Budget(0))
    write_pair(tmp_path / "a/s", "0", rgb + 1, depth)
    assert np.array_equal(rgbd.depth[0], depth)
    with pytest.raises(UserError, match=r"0_rgb\.png changed while it was in use"):
        rgbd.rgb[0]
    (tmp_path / "a/s/0_depth.png").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        rgbd.depth[0]


def test_a_limit_of_the_address_space_counts() -> None:
    code = (
        "import resource; from edgefuse.io.memory import available_bytes; "
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); print(available_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert 0 < int(done.stdout) < 1 << 30
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        assert available_bytes() > 1 << 20


def test_large_images_are_loaded_in_less_memory_than_their_size(tmp_path: Path) -> None:
    """24 pairs of 4 megapixels take 480 MB decoded; the process may use 1 GB of address space in addition to its imports."""
    rgb, depth = np.zeros((2000, 2000, 3), np.uint8), np.ones((2000, 2000), np.uint16)
    cv2.circle(rgb, (900, 900), 500, (200, 10, 10), -1)
    for number in range(24):
        depth[number] = 2
        write_pair(tmp_path / "a" / f"s{number}", "0", rgb, depth)
    code = (
        "import resource, sys; from pathlib import Path; from edgefuse.data.dataset import load, scan; "
        "pages = int(Path('/proc/self/statm').read_text().split()[0]); limit = pages * resource.getpagesize() + (1200 << 20); "
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); p = load(scan([Path(sys.argv[1])])); "
        "print(p.rgb.num_on_disk(), sum(int(p.depth[i].max()) for i in range(24)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    num_on_disk, total = map(int, done.stdout.split())
    assert 0 < num_on_disk <= 24 and total == 48
