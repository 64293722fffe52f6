"""A copy becomes the data directory only when it is whole, whatever cut the work in two."""

import os
from pathlib import Path

import pytest

from metako.model.errors import DataDirectoryError
from metako.model.ids import NodeId
from metako.postgres.files import DATA_ID_FILE, ServerFiles
from metako.postgres.osuser import OsUser
from metako.postgres.settings import ServerSettings

SELF = OsUser("self", os.getuid(), os.getgid(), tuple(os.getgroups()), switch=False)
SOURCE_ID = "ab" * 16


@pytest.fixture
def files(tmp_path):
    settings = ServerSettings(
        node=NodeId("n1"),
        data_dir=tmp_path / "pg" / "data",
        state_dir=tmp_path / "state",
        socket_dir=tmp_path / "s",
        listen="127.0.0.1",
        port=5432,
        secret=b"secret",
    )
    (tmp_path / "pg").mkdir()
    return ServerFiles(settings, SELF)


def copied(files):
    """Copy as a base backup does: what marks the source's data comes along, and not last."""
    directory = files.prepare_clone()
    (directory / DATA_ID_FILE).write_text(SOURCE_ID + "\n")
    (directory / "PG_VERSION").write_text("15\n")
    return directory


def test_a_copy_that_was_cut_off_is_never_put_in_place(files):
    copied(files)
    files.finish_interrupted_swap()
    assert not files.data.exists()
    with pytest.raises(DataDirectoryError, match="not a finished clone"):
        files.swap_clone()


def test_a_whole_copy_has_an_identity_of_its_own_and_is_put_in_place_after_a_crash(files):
    copied(files)
    files.complete_clone()
    files.finish_interrupted_swap()  # what the next start does
    assert (files.data / "PG_VERSION").exists()
    assert files.data_id() not in ("", SOURCE_ID)
    assert sorted(path.name for path in files.data.parent.iterdir()) == ["data"]


def test_the_mark_of_an_earlier_copy_says_nothing_about_the_next_one(files):
    copied(files)
    files.complete_clone()
    copied(files)
    files.finish_interrupted_swap()
    assert not files.data.exists()


def test_a_mark_that_was_left_behind_by_a_crash_says_nothing_either(files):
    copied(files)
    files.complete_clone()
    mark = files.data.with_name("data.clone.complete")
    text = mark.read_text()
    files.swap_clone()
    mark.write_text(text)  # the crash came before its removal was durable
    files.data.rename(files.data.with_name("elsewhere"))
    directory = files.data.with_name("data.clone")
    directory.mkdir()
    (directory / DATA_ID_FILE).write_text(SOURCE_ID + "\n")
    files.finish_interrupted_swap()
    assert not files.data.exists()


def test_history_files_are_read_again_when_they_change_and_only_then(files, monkeypatch):
    files.wal.mkdir(parents=True)
    two, three = files.wal / "00000002.history", files.wal / "00000003.history"
    two.write_text("1\t0/10\tx\n")
    three.write_text("2\t0/20\tx\n")
    assert files.histories() == {2: "1\t0/10\tx\n", 3: "2\t0/20\tx\n"}
    read = []
    honest = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda p, **o: read.append(p.name) or honest(p, **o))
    assert set(files.histories()) == {2, 3}
    assert read == []
    (files.wal / "new").write_text("2\t0/99\tx\n")
    (files.wal / "new").rename(three)
    assert files.histories()[3] == "2\t0/99\tx\n"
    assert read == ["00000003.history"]
    two.unlink()
    assert set(files.histories()) == {3}
