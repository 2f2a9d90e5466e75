"""``--watch``: a look that is taken again until the search has ended."""

import re
from dataclasses import replace

import pytest
from command_processes import end_all, started, wait_until
from compared_searches import search, trial

from robsearch.search.commands import watch
from robsearch.search.commands.watch import looks


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    end_all()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_status_and_report_follow_a_search_to_its_end(tmp_path):
    words = ("search_spaces.quickstart:digits", "--name", "s", "--trials", "3", "--parallel", "1")
    launch = started(tmp_path, "launch", *words)
    wait_until(lambda: any((tmp_path / "s" / "trials").glob("*")), launch)
    page = tmp_path / "s" / "watched.html"
    status = started(tmp_path, "status", "s", "--watch")
    report = started(tmp_path, "report", "s", "--watch", "--out", str(page))
    wait_until(page.exists, report)
    pages = set()

    def has_ended():
        pages.add(page.read_text(encoding="utf-8"))
        return launch.poll() is not None

    wait_until(has_ended, report)
    said, _ = status.communicate(timeout=120)
    report.communicate(timeout=120)
    assert (launch.returncode, status.returncode, report.returncode) == (0, 0, 0)
    # It stood at some epoch, with what it had reached, and at the end nothing runs.
    reached = re.findall(r"w\d+-\S+ +\S+ +(\d+)/60 +(\d+\.\d)%", said)
    assert reached, said
    assert "3 of 3 trials ended" in said
    assert said.rstrip().endswith("complete")
    while_it_ran = [text for text in pages if "Not ended yet" in text]
    assert while_it_ran
    assert all('http-equiv="refresh"' in text for text in while_it_ran)
    last = page.read_text(encoding="utf-8")
    assert "refresh" not in last
    assert "Not ended yet" not in last


def test_a_search_is_looked_at_until_its_driver_is_gone(tmp_path):
    """Also before anything was measured, when there are no columns of the test split."""
    made = search(tmp_path, "s", [trial(4, 0, None, state="RUNNING")], widths=(4,))
    columns = [name for name in made.trials if not name.startswith("test/")]
    made = replace(made, trials=made.trials[columns], epochs=made.epochs.iloc[:0])
    driven = made, {"alive": True, "renewed": 1.0}
    gone = made, None

    left = iter((driven, gone))

    def look():
        standing, driver = next(left)
        again = replace(standing)
        object.__setattr__(again, "driver", driver)
        return again

    assert [each.driver for each in looks(look)] == [driven[1], None]


def test_a_driver_elsewhere_that_rests_ends_the_watch(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "EXPIRE_SECONDS", 0.0)
    monkeypatch.setattr(watch, "SECONDS_BETWEEN", 0.01)
    made = search(tmp_path, "s", [trial(4, 0, 0.5)], widths=(4,))
    renewals = iter((1.0, 2.0, 2.0, 2.0, 2.0))

    def look():
        again = replace(made)
        object.__setattr__(again, "driver", {"alive": None, "renewed": next(renewals)})
        return again

    assert len(list(looks(look))) == 2  # the first look, and the last
    assert next(renewals) == 2.0  # it did not go on for ever


def test_a_page_is_read_again_only_while_it_is_rewritten(tmp_path):
    from planted_searches import searched, trial as planted_trial

    from robsearch import report

    rows = [planted_trial(4.0, 0, 1.0), planted_trial(4.0, 1, 2.0)]
    rows[1] |= {"state": "RUNNING", "value": None, "recipe_epochs": 6}
    planted = searched(rows)
    watched = report.page(planted, refresh=10)
    assert '<meta http-equiv="refresh" content="10">' in watched
    once = report.page(planted)
    assert "refresh" not in once
    for text in (watched, once):
        assert "Not ended yet" in text
        assert "3 of 6" in text
    assert "Not ended yet" not in report.page(searched(rows[:1]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status", "--watch"], "expected the name of a search, and no --json, with --watch"),
        (["status", "s", "--watch", "--json"], "and no --json, with --watch, got s"),
        (["report", "s", "--watch", "--out", "-"], "expected a file to --watch, got --out -"),
        (
            ["status", "s", "--watch", "--address", "http://127.0.0.1:1"],
            "expected one look with --address URL, got --watch",
        ),
    ],
)
def test_what_cannot_be_watched_is_refused(words, said, tmp_path):
    process = started(tmp_path, *words)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert said in output
