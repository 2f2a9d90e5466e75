"""Whatever is on the page is there as data: a Parquet file beside the page, and a frame."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from planted_searches import STAR, WIDTHS, Search, cells, searched, trial

from robsearch import report
from robsearch.errors import InputError
from robsearch.report.cost import cost_by_width
from robsearch.report.evidence import Evidence
from robsearch.report.plots import Plots
from robsearch.report.tables import TABLES, folder_beside, write_tables
from robsearch.trials.files import arrow_table

REASON = "<OOM> & 'worse'\x1b[2J"
"""What a person reads of it is escaped; what a program reads is the text."""


SMALL = arrow_table(pd.DataFrame({"trial": ["w4-000"]}))


def rows_of() -> list[dict[str, Any]]:
    lams = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    rows = [trial(width, number, lam) for width in WIDTHS for number, lam in enumerate(lams)]
    for row in rows:
        row |= {"param/lam": row["lam"], "param/drop": (0, "none")[row["number"] % 2]}
    failed = {"state": "FAIL", "value": math.nan, "reason": REASON}
    return [*rows, {**trial(4.0, 9, 1.0), **failed}]


@pytest.fixture(scope="module")
def planted() -> Search:
    return searched(rows_of())


@pytest.fixture(scope="module")
def written(planted: Search, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(planted, tmp_path_factory.mktemp("report") / "report.html")


def test_each_figure_and_table_of_the_page_links_to_its_numbers(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    pieces = text.count("<figure>") + text.count("<table>") + text.count("<dl>")
    assert text.count('<p class="data">') == pieces
    links = set(re.findall(r'<a href="(\./[^"]*)"', text))
    assert links == {f"./report-data/{file.name}" for file in written.parent.glob("*/*")}
    for link in links:
        assert pq.read_table(written.parent / link).num_rows > 0


def test_the_files_are_the_frames(planted: Search, written: Path) -> None:
    tables = Plots.of(planted).tables
    assert set(tables) == {file.stem for file in written.parent.glob("report-data/*.parquet")}
    assert set(tables) <= set(TABLES)
    assert len(tables) == len(list(tables)) > 15
    for name in tables:
        file = pq.read_table(written.parent / "report-data" / f"{name}.parquet")
        assert file.column_names == list(map(str, tables[name].columns))
        assert file.num_rows == len(tables[name])


def test_a_table_says_what_the_page_says(planted: Search, written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    rows = Plots.of(planted).tables["lam-by-width"].set_index("width")
    assert rows.index.tolist() == list(STAR)
    for width in WIDTHS:
        lam, _, _, ended = cells(text, f"{width:g}")
        assert rows.loc[width, "lam"] == pytest.approx(float(lam), rel=0.01)
        assert ended.startswith(f"{rows.loc[width, 'done']} done")
    lost = Plots.of(planted).tables["regret"]
    assert lost.loc[lost["width"] == lost["width_of_lam"], "lost"].tolist() == [0, 0]


def test_a_text_is_raw_in_the_file_and_escaped_on_the_page(written: Path) -> None:
    rows = pd.read_parquet(written.parent / "report-data" / "failures.parquet")
    assert rows["reason"].tolist() == [REASON]
    text = written.read_text(encoding="utf-8")
    assert "&lt;OOM&gt; &amp; &#39;worse&#39;\\x1b[2J" in text
    assert "<OOM>" not in text


def test_a_choice_of_words_and_numbers_becomes_words() -> None:
    mixed = arrow_table(pd.DataFrame({"drop": [0, "none", None], "n": [1, 2, 3]}))
    assert mixed.to_pylist()[0] == {"drop": "0", "n": 1}
    assert mixed["drop"].to_pylist() == ["0", "none", None]


def test_a_name_that_is_no_utf_8_is_escaped() -> None:
    names = pd.Series(["a\udcff", "b"], dtype=object)
    assert arrow_table(pd.DataFrame({"name": names}))["name"].to_pylist() == ["a\\udcff", "b"]


def test_elsewhere_the_files_lie_beside_that_page(tmp_path: Path) -> None:
    small = searched([trial(4.0, 0, 1.0)])
    page = report.write(small, tmp_path / "for you.html", follow_link=True)
    assert 'href="./for%20you-data/trials.parquet"' in page.read_text(encoding="utf-8")
    assert (tmp_path / "for you-data" / "trials.parquet").exists()


def test_a_page_that_is_no_file_has_no_files(planted: Search, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert folder_beside(pipe) is None
    assert folder_beside(Path("/dev/stdout")) is None
    assert folder_beside(tmp_path / "a.html") == tmp_path / "a-data"
    # What goes to standard output has no links either.
    assert "parquet" not in report.render_piece(cost_by_width, Evidence.of(planted))


def test_a_table_that_is_no_more_leaves_no_file_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "report-data"
    folder.mkdir()
    (folder / "front.parquet").write_text("of a former search")
    (folder / "mine.txt").write_text("mine")
    write_tables({"trials": SMALL}, folder)
    assert {file.name for file in folder.iterdir()} == {"mine.txt", "trials.parquet"}


def test_a_folder_that_is_a_link_leads_no_table_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "report-data").symlink_to(elsewhere)
    write_tables({"trials": SMALL}, tmp_path / "report-data")
    assert list(elsewhere.iterdir()) == []
    assert not (tmp_path / "report-data").is_symlink()


def test_a_file_in_the_place_of_the_folder_is_kept_and_refused(tmp_path: Path) -> None:
    (tmp_path / "report-data").write_text("mine")
    with pytest.raises(InputError, match="expected to write the report"):
        report.write(searched([trial(4.0, 0, 1.0)]), tmp_path / "report.html")
    assert (tmp_path / "report-data").read_text() == "mine"


def test_a_table_that_is_not_there_says_why(planted: Search) -> None:
    tables = Plots.of(planted).tables
    assert "front" not in tables
    with pytest.raises(KeyError, match="of this search: the search has no front"):
        tables["front"]
    with pytest.raises(KeyError, match="there are lam-by-width, regret, "):
        tables["lambda"]
