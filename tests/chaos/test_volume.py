"""A node's own file system, on a real loop device."""

import os

import pytest

from chaos.kit import why_no_lab
from chaos.volume import Volume

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(os.geteuid() != 0 or why_no_lab() is not None, reason="needs root"),
]


@pytest.fixture
def volume(tmp_path):
    made = Volume(tmp_path / "n1", 32)
    made.mount()
    yield made
    made.unmount()


def room(volume):
    state = os.statvfs(volume.directory)
    return state.f_bavail * state.f_frsize


def test_a_full_volume_takes_nothing_more_and_has_room_again_afterwards(volume):
    before = room(volume)
    volume.fill("wal", full=True)
    with pytest.raises(OSError, match="No space"):
        (volume.directory / "more").write_bytes(b"x" * 65536)
    (volume.directory / "more").unlink()
    volume.fill("wal", full=False)
    assert room(volume) == before


def test_it_stays_full_for_as_long_as_anybody_wants_that(volume):
    volume.fill("wal", full=True)
    volume.fill("record", full=True)
    volume.fill("wal", full=False)
    assert room(volume) == 0
    volume.fill("record", full=False)
    assert room(volume) > 0


def test_it_is_unmounted_although_a_file_is_open(volume):
    with (volume.directory / "open").open("w"):
        volume.unmount()
    assert not os.path.ismount(volume.directory)
    assert not volume.directory.with_suffix(".img").exists()
    volume.unmount()  # once more does no harm
