"""Tables, figures and evidence of a search and of a validation, and that evidence is checked."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from compared_searches import search, trial
from planted_regularization import EPS, SEEDS, STUDY, evidence

from robsearch.claims.registration import register
from robsearch.claims.running import judge_study
from robsearch.errors import InputError
from robsearch.publishing import verify
from robsearch.publishing.archive import (
    archive_search,
    archive_validation,
    read_archive,
    shipped_study,
    tables_of,
    write_archive,
)
from robsearch.publishing.figures import search_figures, validation_figures
from robsearch.publishing.latex import Table, escaped
from robsearch.publishing.paper import _references, _with_the_plan
from robsearch.publishing.tables import _regret, _short

STRONGEST = {
    "strongest/robust_accuracy": 0.5,
    "strongest/attack": "PGD-20",
    "strongest/on": "test",
    "strongest/n": 100,
    "strongest/low": 0.4,
    "strongest/high": 0.6,
}
FACTS = {"versions": {"robsearch": "0"}, "commands": []}


def planted(folder: Path):
    """lambda* is 4 at width 4 and 8 at width 8."""
    trials = []
    for width in (4, 8):
        for number in range(1, 8):
            value = 0.6 - 0.01 * (number - np.log2(width)) ** 2
            name = f"w{width}-{number:03d}"
            trials.append(trial(width, number, value, trial=name, seed=number, **STRONGEST))
    return search(folder, "planted", trials)


def with_tables(made) -> dict[str, bytes]:
    files = archive_search(made, FACTS)
    tables = tables_of(files)
    return files | {f"tables/{name}.tex": table.latex.encode() for name, table in tables.items()}


def altered(files: dict[str, bytes], column: str) -> bytes:
    """The trials, of which one number is another."""
    table = pq.read_table(io.BytesIO(files["trials.parquet"]))
    place = table.column_names.index(column)
    first = pa.array([1.0] + [0.0] * (len(table) - 1))
    changed = table.set_column(place, column, pc.add(table[column], pc.multiply(first, 0.05)))
    stream = io.BytesIO()
    pq.write_table(changed, stream)
    return stream.getvalue()


def wrong(path: Path) -> dict[str, str]:
    return {check.name: check.text for check in verify(path) if not check.holds}


# --- LaTeX ---


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & 5 % of {x}", r"a\_b \& 5 \% of \{x\}"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("lambda* of 3", r"$\lambda^*$ of 3"),
        ("λ = 3 ± 1", r"$\lambda$ = 3 $\pm$ 1"),
        ("two\nlines", "two lines"),
        ("x^2 ~ $1", r"x\textasciicircum{}2 \textasciitilde{} \$1"),
        ("1.2 * width^-0.30, and", "1.2 * width$^{-0.30}$, and"),
    ],
)
def test_any_text_is_text_in_latex(text: str, latex: str) -> None:
    assert escaped(text) == latex


def test_a_table_has_a_line_for_each_row_and_a_column_for_each_head() -> None:
    table = Table("What it is.", "x", ("width", "n"), (("4", "7"), ("8", "7")))
    lines = table.latex.splitlines()
    assert r"\begin{tabular}{lr}" in lines
    assert lines.index(r"4 & 7 \\") + 1 == lines.index(r"8 & 7 \\")


def test_a_wide_table_spans_the_page_and_a_wider_one_is_turned_and_stacked() -> None:
    """A page has room for 345 points, a letter takes 4.3 and a gap 8: 9 columns of 7."""
    narrow = Table("", "x", ("width", "n"), (("4", "7"),)).latex
    assert r"\begin{table}" in narrow
    wide = Table("", "x", ("width", *"abcdefgh"), (("4", *["1234567"] * 8),)).latex
    assert r"\begin{table*}" in wide
    assert r"\begin{tabular}{lrrrrrrrr}" in wide
    turned = Table("", "x", ("arm", *"abcdefgh"), (("WAR", *["1.0 [0.0, 2.0]"] * 8),)).latex
    assert r"\begin{tabular}{lr}" in turned
    assert r"a & 1.0 [0.0, 2.0] \\" in turned
    square = Table("", "x", "sabcdef", [["1.0 [0.0, 2.0]"] * 7] * 8).latex
    assert r"1.0\\{}[0.0, 2.0]" in square


def test_a_sentence_gets_lines_and_a_head_too() -> None:
    heads = ("claim", "what was measured", "the number of seeds")
    text = Table("", "x", heads, (("H1", "a sentence of more than a few words", "5"),)).latex
    kinds = re.search(r"\\begin\{tabular\}\{lp\{(\d+)pt\}r\}", text)
    assert kinds is not None
    assert int(kinds[1]) > 100
    assert r"\raggedright\let\\\tabularnewline a sentence of more" in text
    assert r"\begin{tabular}[b]{@{}r@{}}the\\{}number\\{}of\\{}seeds\end{tabular}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_sets_all_tables_within_the_page(tmp_path: Path) -> None:
    search_files = with_tables(planted(tmp_path))
    _, _, validation_files = a_validation(tmp_path)
    tables = [text.decode() for name, text in search_files.items() if name.endswith(".tex")]
    tables += [table.latex for table in tables_of(validation_files, STUDY).values()]
    lines = [r"\documentclass{article}\usepackage{booktabs}", r"\begin{document}", *tables]
    (tmp_path / "all.tex").write_text("\n".join([*lines, r"\end{document}"]))
    words = ("pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout
    # A caption's words may not break; a table that is too wide is too wide by more.
    too_wide = map(float, re.findall(r"Overfull .hbox \(([\d.]+)pt too wide\)", done.stdout))
    assert max(too_wide, default=0.0) < 16


# --- a search ---


def test_tables_of_a_search_have_its_numbers(tmp_path: Path) -> None:
    made = planted(tmp_path)
    text = with_tables(made)["tables/lambda-by-width.tex"].decode()
    row = next(line for line in text.splitlines() if line.startswith("8 & "))
    cells = [cell.strip() for cell in row.removesuffix(r"\\").split("&")]
    assert cells[:2] == ["8", "7"]
    assert float(cells[2]) == pytest.approx(made.ridge.optimum(8.0).lam, rel=0.01)
    assert float(cells[2]) == pytest.approx(8, rel=0.1)
    assert cells[4] == "8"  # the best trial's lambda
    assert cells[5] == "50.0"
    assert cells[6] == "[40.0, 60.0]"
    assert "PGD-20, 100 images of test" in text
    assert "7 training seeds" in text


def test_a_lambda_that_is_not_placed_is_called_so(tmp_path: Path) -> None:
    made = planted(tmp_path)
    assert made.ridge.regret is not None
    regret = made.ridge.regret._replace(placed=(False, True))
    _, first, second = _regret(made, regret).heads
    assert first.endswith(", not placed)")
    assert "not placed" not in second


def test_captions_leave_out_what_is_not_set_and_where_files_lie() -> None:
    folder = "Folder(root='/home/me/pets', size=(16, 16), train=None, fingerprint='8f', val=500)"
    assert _short(folder) == "Folder(size=(16, 16), val=500)"
    assert _short("Digits(train=500)") == "Digits(train=500)"


def test_evidence_makes_its_tables_again(tmp_path: Path) -> None:
    files = with_tables(planted(tmp_path))
    write_archive(files, tmp_path / "evidence.zip")
    checks = verify(tmp_path / "evidence.zip")
    assert all(check.holds for check in checks)
    again = [check.name for check in checks if "byte for byte" in check.text]
    assert again == ["tables/lambda-by-width.tex", "tables/regret.tex"]
    write_archive(files, tmp_path / "same.zip")
    assert (tmp_path / "same.zip").read_bytes() == (tmp_path / "evidence.zip").read_bytes()


def test_one_altered_number_is_seen(tmp_path: Path) -> None:
    files = with_tables(planted(tmp_path))
    changed = files | {"trials.parquet": altered(files, "value")}
    # Whoever alters a number can note the digests anew; the tables still tell.
    write_archive(changed, tmp_path / "altered.zip")
    said = wrong(tmp_path / "altered.zip")
    assert set(said) == {"tables/lambda-by-width.tex", "tables/regret.tex"}
    assert "and the trials make" in said["tables/regret.tex"]


def test_a_changed_a_missing_and_an_added_file_are_seen(tmp_path: Path) -> None:
    files = with_tables(planted(tmp_path))
    write_archive(files, tmp_path / "evidence.zip")
    every = read_archive(tmp_path / "evidence.zip")
    every["tables/regret.tex"] = b"better numbers"
    del every["tables/lambda-by-width.tex"]
    every["tables/more.tex"] = b"one more"
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        for name, content in every.items():
            archive.writestr(name, content)
    assert wrong(tmp_path / "other.zip") == {
        "tables/regret.tex": "was changed",
        "tables/lambda-by-width.tex": "is missing",
        "tables/more.tex": "was not there when the archive was written",
    }


def test_what_is_no_evidence_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(InputError, match=r"expected a file of evidence, got .*text\.zip"):
        verify(tmp_path / "text.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("../../escaped.txt", "x")
    with pytest.raises(InputError, match=r"without epochs\.parquet, facts\.json"):
        verify(tmp_path / "empty.zip")
    assert not (tmp_path.parent.parent / "escaped.txt").exists()
    with pytest.raises(InputError, match="expected a file of evidence"):
        verify(tmp_path / "nowhere.zip")


def test_figures_are_one_column_of_pdf_without_a_date(tmp_path: Path) -> None:
    made = planted(tmp_path)
    files = search_figures(made, tmp_path)
    assert [file.name for file in files] == ["lambda-by-width.pdf", "regret.pdf"]
    contents = [file.read_bytes() for file in files]
    for content in contents:
        assert content.startswith(b"%PDF")
        assert b"/Type3" not in content
        width = float(content.partition(b"/MediaBox [ 0 0 ")[2].split()[0])
        assert width == pytest.approx(3.3 * 72, abs=1)
    search_figures(made, tmp_path)
    assert [file.read_bytes() for file in files] == contents


# --- a validation ---


def a_validation(folder: Path):
    found = evidence(np.random.default_rng(0), noise=0.01, margin=0.5, confidence=0.3)
    found.trials["test/robust_accuracy"] = 0.5  # else no training counts as judged
    registration = register(STUDY, 0, folder, 0)
    plan = (folder / "registration.json").read_bytes()
    files = archive_validation("planted", {"eps": found}, "my_plan:study", plan, FACTS)
    return found, registration, files


def test_a_validation_is_judged_again_from_its_evidence(tmp_path: Path) -> None:
    found, registration, files = a_validation(tmp_path)
    tables = tables_of(files, STUDY)
    text = tables["verdicts"].latex
    judged = judge_study(STUDY, "planted", {"eps": found}, tmp_path)
    for verdict in judged.verdicts:
        assert f"{verdict.claim.name} & {verdict.answer} & " in text
    assert registration.digest in text
    assert f"{len(EPS) * SEEDS} trainings with {SEEDS} seeds" in text
    files |= {f"tables/{name}.tex": table.latex.encode() for name, table in tables.items()}
    write_archive(files, tmp_path / "evidence.zip")
    assert all(check.holds for check in verify(tmp_path / "evidence.zip", STUDY))
    changed = files | {"trials.parquet": altered(files, "test/margin/logit/q50")}
    write_archive(changed, tmp_path / "altered.zip")
    seen = [check.name for check in verify(tmp_path / "altered.zip", STUDY) if not check.holds]
    assert "tables/verdicts.tex" in seen
    (figure,) = validation_figures(judged, tmp_path)
    assert figure.read_bytes().startswith(b"%PDF")


def test_a_plan_that_was_changed_is_seen(tmp_path: Path) -> None:
    _, _, files = a_validation(tmp_path)
    tables = tables_of(files, STUDY)
    files |= {f"tables/{name}.tex": table.latex.encode() for name, table in tables.items()}
    registration = json.loads(files["registration.json"])
    registration["plan"]["seed"] = 7
    files["registration.json"] = json.dumps(registration).encode()
    write_archive(files, tmp_path / "replanned.zip")
    said = {
        check.name: check.text
        for check in verify(tmp_path / "replanned.zip", STUDY)
        if not check.holds
    }
    assert said == {"registration.json": "has the digest of another plan"}


def test_a_damaged_download_is_no_traceback(tmp_path: Path) -> None:
    write_archive(with_tables(planted(tmp_path)), tmp_path / "evidence.zip")
    content = (tmp_path / "evidence.zip").read_bytes()
    refused = 0
    for place in range(0, len(content), len(content) // 25):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / "damaged.zip").write_bytes(damaged)
        try:
            checks = verify(tmp_path / "damaged.zip")
        except InputError:
            refused += 1
        else:
            refused += not all(check.holds for check in checks)
    # What is not seen is a date or a mode, and no content.
    assert refused > 15


def test_digests_that_are_no_list_are_said_to_be_none(tmp_path: Path) -> None:
    write_archive(with_tables(planted(tmp_path)), tmp_path / "evidence.zip")
    files = read_archive(tmp_path / "evidence.zip") | {"sha256.json": b"[]"}
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    assert wrong(tmp_path / "odd.zip") == {"sha256.json": "is no list of digests by file"}


def test_no_code_is_run_because_a_file_names_it(tmp_path: Path) -> None:
    _, _, files = a_validation(tmp_path)
    write_archive(files, tmp_path / "evidence.zip")
    with pytest.raises(InputError, match="pass it yourself with --study, for its code is run"):
        verify(tmp_path / "evidence.zip")


def test_a_shipped_study_is_known_by_its_plan(tmp_path: Path) -> None:
    reference = "regularization.digits"
    assert reference in list(_references())
    study = shipped_study(reference)
    register(study, 3, tmp_path, 0)
    registration = json.loads((tmp_path / "registration.json").read_text())
    assert _with_the_plan("r", registration) == (reference, study)
    registration["digest"] = "0" * 16
    with pytest.raises(InputError, match="expected the plan of a shipped study"):
        _with_the_plan("r", registration)


def test_a_preset_of_several_designs_needs_one_of_them() -> None:
    with pytest.raises(InputError, match="add one of its designs: main, dose-0, dose-15"):
        shipped_study("war.wrong-labels")
