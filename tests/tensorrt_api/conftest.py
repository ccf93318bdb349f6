"""The names of the three real TensorRT bindings, read once in a session."""

from __future__ import annotations

import pytest
from bindings import dump, fetch, make_libraries, pins
from signatures import Api


@pytest.fixture(scope="session")
def apis(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Api]:
    """Version: what is in it."""
    found = {}
    for version, requirement in pins().items():
        bindings = fetch(requirement)
        major = int(version.split(".", maxsplit=1)[0])
        libraries = make_libraries(tmp_path_factory.mktemp("libraries") / str(major), major=major)
        found[version] = Api(dump(bindings, libraries))
        assert found[version].version == version
    return found
