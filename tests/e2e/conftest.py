"""Platforms of real processes: one that many tests share, and others for those that break something."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.data import shapes_zip
from tests.e2e.platform import Platform

MakePlatform = Callable[..., Platform]


@pytest.fixture(scope="package")
def make_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakePlatform]:
    """Return what starts a platform with the shapes uploaded; settings are environment variables."""
    made: list[Platform] = []

    def make(**settings: str) -> Platform:
        root = tmp_path_factory.mktemp("platform")
        platform = Platform(root / "home", settings)
        made.append(platform)
        platform.start()
        platform.client.datasets.upload(shapes_zip(root / "shapes.zip"), "shapes")
        return platform

    yield make
    for platform in made:
        platform.stop()


@pytest.fixture(scope="package")
def shared_platform(make_platform: MakePlatform) -> Platform:
    """Return the platform that tests share; they leave its services alone."""
    return make_platform()


@pytest.fixture(scope="module")
def platform(shared_platform: Platform) -> Platform:
    """Return the platform of a module's tests; modules that break something have their own."""
    return shared_platform


@pytest.fixture(scope="package")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shapes as a zip."""
    return shapes_zip(tmp_path_factory.mktemp("data") / "shapes.zip")
