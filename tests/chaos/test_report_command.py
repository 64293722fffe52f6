"""The report's command: where the page goes, and what is said when there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chaos import report, report_kit
from chaos.report_read import HistoryError


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A directory with the shortest history that is one."""
    path = tmp_path / "small"
    path.mkdir()
    (path / "history.jsonl").write_text('{"t": 0, "e": "run"}\n', encoding="utf-8")
    return path


def test_the_command_writes_the_page(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    verdict = small / "verdict.json"
    verdict.write_text(json.dumps(report_kit.verdict(failing=True)), encoding="utf-8")
    assert report.main([str(small), "--out", str(out)]) == 0
    assert '"title":"Failed: 1 violation"' in out.read_text(encoding="utf-8")
    assert report.main([str(small)]) == 0
    assert (small / "report.html").read_bytes() == out.read_bytes()


def test_a_torn_last_line_is_counted(small: Path) -> None:
    with (small / "history.jsonl").open("ab") as file:
        file.write(b'{"t": 1\xff')
    assert report.main([str(small)]) == 0
    page = (small / "report.html").read_text(encoding="utf-8")
    assert '"unread":1' in page
    assert '"title":"Not checked"' in page


@pytest.mark.parametrize("content", [None, "", "no JSON\n", '{"t": 0, "e": "op"}\n', "[1]\n"])
def test_a_history_that_cannot_be_read_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    path = tmp_path / "history.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert report.main([str(tmp_path)]) == report.EXIT_UNREADABLE == 3
    said = capsys.readouterr().err
    assert f"cannot read {path}" in said
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"ok": "yes"}'])
def test_a_broken_verdict_is_no_missing_verdict(small: Path, tmp_path: Path, content: str) -> None:
    verdict = tmp_path / "verdict.json"
    verdict.write_text(content, encoding="utf-8")
    with pytest.raises(HistoryError, match=r"verdict\.json"):
        report.write_report(small, tmp_path / "page.html", verdict)
    assert not (tmp_path / "page.html").exists()


def test_a_verdict_that_was_named_must_be_there(small: Path, tmp_path: Path) -> None:
    arguments = [str(small), "--verdict", str(tmp_path / "none.json")]
    assert report.main(arguments) == report.EXIT_UNREADABLE


def test_a_page_that_cannot_be_written_is_an_error(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "missing" / "page.html"
    assert report.main([str(small), "--out", str(out)]) == report.EXIT_UNREADABLE
    assert f"cannot write {out}" in capsys.readouterr().err
