"""What a user, a trial, a file or a server can choose is shown as text, leads nowhere, and runs
nothing; what robsearch starts listens on this machine alone. ``SECURITY.md`` names these tests."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import html.parser
import http.server
import io
import ipaddress
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import optuna
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow_stores import free_port
from planted_searches import Search, page, searched, trial
from rich.live import Live
from rich.text import Text

from robsearch import Folder, InputError, load_search, report
from robsearch.claims.claim import Claim, Part, Verdict
from robsearch.claims.figures import forest, means_by_arm
from robsearch.claims.page import REPORT, Validation, write as write_validation
from robsearch.claims.statistics import Effect, estimate
from robsearch.printing import echo, printable
from robsearch.search.commands.delete import deletion
from robsearch.search.grid import Grid, PlainTextConsole, printer
from robsearch.search.options import RunOptions
from robsearch.search.recording import _artifacts, as_text
from robsearch.search.resuming import load_recorded
from robsearch.search.tables import write_csv
from robsearch.study import SearchRecord, drop_trial, open_storage
from robsearch.trials.checkpoints import Attempt, drop_weights
from robsearch.trials.files import DamagedError, write_text
from robsearch.trials.loading import read_checkpoint
from robsearch.trials.run_facts import RunFacts, write_run

ROOT = Path(__file__).parents[1]
MARKUP = (
    "<script>alert(1)</script>\" onload='x' &lt; [red]red[/red] [link=http://evil]l[/link] :ghost: "
)
CONTROL = "\x1b[2J\x1b]8;;http://evil\x07\x1b]52;c;QQ==\x07\r\x08\x9b2J\x85\x7f\u202e\u2066\u2028"
HOSTILE = f"{MARKUP}{CONTROL}"
NAME = HOSTILE.replace("/", "|")
"""The same as the name of a file."""
RAW = re.compile(
    "[^\n -~\u00a0-\ud7ff\ue000-\uffff]|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
"""Not what ``printable`` looks for: all but the plain letters of any language, and what turns
them."""
POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%"
COMMANDS = """
import json, sys
from robsearch.cli import main

for words in json.loads(sys.argv[1]):
    for stream in (sys.stdout, sys.stderr):
        print("$", words[0], file=stream, flush=True)
    sys.argv = ["robsearch", *words]
    try:
        main()
    except SystemExit as end:
        print("exit", end.code, flush=True)
"""


def raw(text: str) -> list[str]:
    """The places in a text at which a terminal would obey it."""
    return [text[max(found.start() - 40, 0) : found.end()] for found in RAW.finditer(text)]


# --- what is shown ---


def hostile_results(folder: Path) -> Path:
    """A search that was trained once, and whose every text somebody has rewritten since."""
    with tarfile.open(ROOT / "tests/support/files/results-0.2.0.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    results = folder / "results"
    home = results / "digits-1"
    hostile_storage(home)
    trials = home / "trials"
    for attempt in trials.glob("*/a1/attempt.json"):
        facts = json.loads(attempt.read_text())
        facts |= {"node": HOSTILE, "device": HOSTILE, "commit": HOSTILE}
        facts["versions"] = {HOSTILE: HOSTILE}
        attempt.write_text(json.dumps(facts))
    measured = trials / "w16-000"
    test = json.loads((measured / "test.json").read_text())
    (measured / "test.json").write_text(json.dumps({**test, f"test/{HOSTILE}/mean": 1.0}))
    layers = pq.read_table(measured / "layers.parquet").to_pandas()
    for column in ("measure", "layer"):
        layers[column] = layers[column] + HOSTILE
    pq.write_table(pa.Table.from_pandas(layers), measured / "layers.parquet")
    hostile_run = RunFacts(HOSTILE, params={HOSTILE: HOSTILE}, tags={HOSTILE: HOSTILE})
    write_run(trials / "w16-001", hostile_run)
    # Damage is told with the path, and a path may be hostile as well.
    (trials / "w64-000" / "test.json").write_text(HOSTILE)
    other = results / NAME
    other.mkdir()
    (other / "optuna.journal").write_text(f"{HOSTILE}\n")
    return results


def hostile_storage(home: Path) -> None:
    storage = open_storage(None, home)
    record = SearchRecord.load(storage, "digits-1")
    number = storage.get_study_id_from_name("digits-1")
    facts = storage.get_study_user_attrs(number)["search"]
    setting = {**record.setting, HOSTILE: HOSTILE, "objective": HOSTILE}
    storage.set_study_user_attr(number, "search", {**facts, "setting": setting, "trials": 90})
    lease = storage.get_study_id_from_name("digits-1@lease-1")
    owner = {"host": HOSTILE, "pid": HOSTILE, "started": 1.0, "renewed": 1.0}
    storage.set_study_user_attr(lease, "owner", owner)
    study = storage.get_study_id_from_name("digits-1@w16")
    endings = (("w16-002", "FAIL", None), ("w16-003", "COMPLETE", [0.99]))
    for place, (name, state, values) in enumerate(endings):
        suggestion = storage.create_new_trial(study)
        choices = optuna.distributions.CategoricalDistribution([HOSTILE, "other"])
        storage.set_trial_param(suggestion, HOSTILE, 0, choices)
        lams = optuna.distributions.FloatDistribution(0.5, 64.0, log=True)
        storage.set_trial_param(suggestion, "lam", 3.0 + place, lams)
        facts = {"trial": name, "width": 16.0, "replicate": None, "state": state, "seed": 1}
        facts |= {"reason": HOSTILE, "lam": 3.0, "best_epoch": 1, "epochs": 1, "recipe": HOSTILE}
        facts |= {"val/robust_accuracy": 0.99, "val/natural_accuracy": 0.99}
        storage.set_trial_user_attr(suggestion, "trainings", [facts])
        ended = optuna.trial.TrialState[state]
        storage.set_trial_state_values(suggestion, ended, values)
    drop_trial(storage, "digits-1", "w256-000", HOSTILE)


@contextlib.contextmanager
def hostile_server() -> Iterator[str]:
    """An MLflow server that is well, and answers each question with a hostile refusal."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            refusal = {"error_code": "INTERNAL_ERROR", "message": HOSTILE}
            content = b"OK" if self.path == "/health" else json.dumps(refusal).encode()
            self.send_response(200 if self.path == "/health" else 400)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815  # both names are those of the library

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def run_commands(*commands: list[str]) -> str:
    """What a terminal would be sent of these commands, one after another in one process."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        capture_output=True,
        timeout=800,
        stdin=subprocess.DEVNULL,
    )
    return (done.stdout + done.stderr).decode("utf-8", errors="surrogateescape")


@pytest.mark.timeout(900)
def test_no_command_sends_a_terminal_what_others_chose(tmp_path: Path) -> None:
    results = hostile_results(tmp_path)
    at = ["--results", str(results)]
    out = tmp_path / "out"
    table = tmp_path / f"{NAME}.csv"
    table.write_text(f"width,{HOSTILE}\n1,2\n")
    with hostile_server() as address:
        said = run_commands(
            ["list", *at],
            ["list", *at, "--json"],
            ["status", *at],
            ["status", "digits-1", *at],
            ["status", "digits-1", *at, "--json"],
            ["status", NAME, *at],
            ["compare", "digits-1", *at, "--out", str(out)],
            ["report", "digits-1", *at],
            ["repair", NAME, *at],
            ["evaluate", "digits-1/w16-009", *at],
            ["delete", NAME, *at],
            ["sync", "digits-1", *at, "--tracking", address],
            ["doctor", *at, "--tracking", address],
            ["validate", "war", "--from-table", str(table)],
            ["launch", NAME, *at],
        )
    assert raw(said) == []
    # Each has said it, and as it stands there: no style, no link, no emoji.
    parts = dict(re.findall(r"^\$ (\w+)\n(.*?)(?=^\$ |\Z)", said, re.DOTALL | re.MULTILINE))
    assert {"list", "status", "compare", "report", "doctor", "launch"} <= parts.keys()
    assert said.count("[red]red[") > 10
    assert said.count("[link=http:") > 10
    assert "\\x1b[2J" in said
    assert "👻" not in said
    assert "Traceback" not in said
    # What is written for people, who look at it in a terminal.
    for file in (out / "comparison.csv", results / "digits-1" / "report.html"):
        assert raw(file.read_text()) == []
        assert "\\x1b[2J" in file.read_text()
    assert parsed((results / "digits-1" / "report.html").read_text()).unsafe == []


def test_a_line_a_table_and_a_live_table_are_text_on_a_terminal() -> None:
    """On a terminal there are styles of our own, and no other command."""
    stream = io.StringIO()
    console = PlainTextConsole(file=stream, force_terminal=True, width=200, color_system="standard")
    printer(console)(HOSTILE)
    console.print(HOSTILE, Text(HOSTILE, style="bold"))
    console.print(Grid([HOSTILE, HOSTILE], [[HOSTILE, Text(HOSTILE)]], Text(HOSTILE)))
    with Live(get_renderable=lambda: Text(HOSTILE), console=console, auto_refresh=False) as live:
        live.refresh()
    ours = re.compile(r"\x1b\[(\d+(;\d+)*m|\?25[lh]|2K|1A)|\r")
    assert raw(ours.sub("", stream.getvalue())) == []
    assert "[red]red[/red]" in stream.getvalue()


def test_warnings_logs_and_errors_that_nobody_caught_are_text_too() -> None:
    code = f"""
import logging, threading, warnings
from robsearch.printing import keep_printable
keep_printable()
hostile = {HOSTILE!r}
warnings.warn(hostile)
logging.getLogger("x").warning("%s", hostile)
try:
    raise ValueError(hostile)
except ValueError:
    logging.exception(hostile)
thread = threading.Thread(target=lambda: exec("raise ValueError(hostile)", globals()))
thread.start()
thread.join()
raise ValueError(hostile)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert raw(done.stderr) == []
    assert done.stderr.count("\\x1b[2J") >= 6


def test_each_kind_of_control_character_is_written_as_python_writes_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        printable("a\nb\x1b\r\x9b\u202e\udc80é–\u202f") == "a\nb\\x1b\\r\\x9b\\u202e\\udc80é–\u202f"
    )
    echo(HOSTILE)
    echo(HOSTILE, err=True)
    assert raw("".join(capsys.readouterr())) == []


def test_all_is_printed_through_one_of_two_doors() -> None:
    """Else a command would be sent to a terminal by the next line that somebody adds."""
    doors = {"robsearch/printing.py", "robsearch/search/grid.py"}
    found = []
    for file in sorted((ROOT / "robsearch").rglob("*.py")):
        where = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and where not in doors:
                called = ast.unparse(node.func)
                if called in ("print", "Console", "typer.echo", "typer.secho", "click.echo"):
                    found.append(f"{where}:{node.lineno} {called}")
    assert found == []


def test_an_error_text_a_csv_and_what_mlflow_is_told_are_printable(tmp_path: Path) -> None:
    write_text(tmp_path / "error.txt", HOSTILE)
    write_csv(pd.DataFrame({HOSTILE: [HOSTILE, None], "n": [1, 2]}), tmp_path / "t.csv")
    for name in ("error.txt", "t.csv"):
        assert raw((tmp_path / name).read_text()) == []
    assert len(pd.read_csv(tmp_path / "t.csv")) == 2
    facts = RunFacts("w4-000", params={"x": HOSTILE}, tags={"y": HOSTILE})
    assert raw(facts.params["x"] + facts.tags["y"]) == []
    assert as_text("[a](javascript:x) <b> `c` lambda*") == (
        r"\[a\](javascript:x) \<b\> \`c\` lambda\*"
    )


# --- pages ---


LEADS = re.compile(r"#|https?://|\./report-data/[a-z-]+\.parquet$")
"""Where a page may lead: within itself, to the web, and to the numbers beside it."""


class Page(html.parser.HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.unsafe: list[str] = []
        self.labels: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "img", "link", "base", "form"):
            self.unsafe.append(tag)
        if tag == "svg":
            self.labels.append(dict(attrs)["aria-label"])
        for name, value in attrs:
            if name.startswith("on"):
                self.unsafe.append(f"{tag} {name}")
            leads = name in ("href", "src", "xlink:href", "action")
            if leads and not LEADS.match(str(value)):
                self.unsafe.append(f"{tag} {name}={value}")


def parsed(text: str) -> Page:
    result = Page()
    result.feed(text)
    return result


def test_the_report_escapes_what_it_is_told(tmp_path: Path) -> None:
    rows = [trial(width, number, 2.0**number) for width in (4.0, 16.0) for number in range(4)]
    rows.append({**trial(4.0, 9, 1.0), "state": "FAIL", "reason": HOSTILE, "value": float("nan")})
    for row in rows:
        row |= {f"params/{HOSTILE}": HOSTILE, "choices": HOSTILE, "strongest/attack": HOSTILE}
        row["trial"] = f"{row['trial']}{HOSTILE}"
    given = searched(rows)
    hostile = Search(
        given.trials,
        given.epochs,
        given.ridge,
        name=HOSTILE,
        space=HOSTILE,
        links={HOSTILE: HOSTILE, "x": f"javascript:{HOSTILE}"},
        setting={HOSTILE: HOSTILE, "test examples": HOSTILE},
    )
    text = page(hostile, tmp_path)
    assert parsed(text).unsafe == []
    assert len(parsed(text).labels) > 3
    assert raw(text) == []
    assert text.count("&lt;script&gt;") > 20  # it is there: tooltips, tables, headings


def test_the_page_of_a_validation_escapes_what_it_is_told(tmp_path: Path) -> None:
    claim = Claim(HOSTILE, HOSTILE, HOSTILE, lambda evidence: (), HOSTILE)
    effect = Effect(HOSTILE, HOSTILE, (0.1, 0.2, 0.3), 0.1)
    part = Part(effect, estimate(effect.per_seed))
    verdicts = (
        Verdict(claim, "supported", (part,)),
        Verdict(claim, "inconclusive", reason=HOSTILE),
    )
    trials = pd.DataFrame(
        {"arm": [HOSTILE] * 3, "width": [4.0] * 3, "seed": range(3), "m": [0.1, 0.2, 0.3]}
    )
    drawn = (
        forest([part], HOSTILE, HOSTILE),
        means_by_arm(trials, {HOSTILE: ("m", 1.0)}, HOSTILE),
    )
    tables = {HOSTILE: pd.DataFrame({HOSTILE: [HOSTILE]})}
    given = Validation(HOSTILE, tmp_path, verdicts, {}, tables, drawn)
    write_validation(given, 1, {"searches": HOSTILE, HOSTILE: HOSTILE})
    text = (tmp_path / REPORT).read_text()
    assert parsed(text).unsafe == []
    assert parsed(text).labels == [printable(HOSTILE)] * 2
    assert raw(text) == []
    assert text.count("&lt;script&gt;") > 10


# --- what leads elsewhere, or would run ---


def test_a_trial_of_the_storage_cannot_be_named_like_a_path(tmp_path: Path) -> None:
    results = hostile_results(tmp_path)
    storage = open_storage(None, results / "digits-1")
    suggestion = storage.create_new_trial(storage.get_study_id_from_name("digits-1@w64"))
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("../../../outside", str(outside), "..", "", "a' OR 'b"):
        facts = {"trial": name, "width": 64.0, "replicate": None, "state": "RUNNING"}
        storage.set_trial_user_attr(suggestion, "trainings", [facts])
        with pytest.raises(InputError, match="expected the name of a trial in the storage, got"):
            load_search("digits-1", results)
    assert list(outside.iterdir()) == []


def test_a_search_cannot_be_named_like_a_path(tmp_path: Path) -> None:
    elsewhere = hostile_results(tmp_path) / "digits-1"
    here = tmp_path / "here"
    here.mkdir()
    assert load_search("digits-1", elsewhere.parent).name == "digits-1"
    names = ("../results/digits-1", str(elsewhere), "x/../../results/digits-1", ".", "..", "a\0b")
    for name in names:
        with pytest.raises(InputError, match=r"expected the name of a search, got .*: searches in"):
            load_search(name, here)


class Payload:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.file),)


def test_a_checkpoint_runs_nothing_when_it_is_read(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    folder = tmp_path / "w4-000" / "a1" / "epoch-0001"
    folder.mkdir(parents=True)
    for content in (pickle.dumps(Payload(ran)), saved({"epoch": 1, "x": Payload(ran)})):
        (folder / "state.pt").write_bytes(content)
        entry = {"epoch": 1, "time": 1.0, "val/robust_accuracy": 0.5}
        history = {"sha256": hashlib.sha256(content).hexdigest(), "epochs": [entry]}
        (folder / "history.json").write_text(json.dumps(history))
        with pytest.raises(DamagedError, match="cannot be loaded"):
            read_checkpoint(folder)
    assert not ran.exists()


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_a_link_in_a_results_folder_leads_no_writer_out_of_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    weights = outside / "a1" / "epoch-0001" / "state.pt"
    weights.parent.mkdir(parents=True)
    weights.write_text("precious")
    trials = tmp_path / "s" / "trials"
    trials.mkdir(parents=True)
    (trials / "w4-000").symlink_to(outside)
    with pytest.raises(InputError, match=r"expected a folder .*w4-000, got a link to .*outside"):
        Attempt.claim(trials / "w4-000")
    drop_weights(trials / "w4-000")
    for name in ("error.txt", "report.html"):
        link = trials.parent / name
        link.symlink_to(weights)
        if name == "error.txt":
            write_text(link, "new")
        else:
            report.write(searched([trial(4.0, 0, 2.0)]), link)
        assert not link.is_symlink()
        assert "precious" not in link.read_text()
    assert weights.read_text() == "precious"
    assert sorted(path.name for path in outside.iterdir()) == ["a1"]


def test_a_link_in_a_results_folder_shows_mlflow_no_other_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    folder = tmp_path / "s" / "trials" / "w4-000"
    folder.mkdir(parents=True)
    for name in ("figures", "tables", "claims"):
        (folder / name).symlink_to(secret)
    (folder / "test.json").write_text("{}")
    (folder / "report.html").symlink_to(secret / "key")
    (folder / "mine.parquet").write_text("shown")
    shown = _artifacts(folder, folder.parent)
    assert sorted(file.name for file in shown) == ["mine.parquet", "test.json"]


def test_a_search_that_is_a_link_is_not_deleted_through_it(tmp_path: Path) -> None:
    results = hostile_results(tmp_path)
    (results / "linked").symlink_to(results / "digits-1")
    with pytest.raises(InputError, match=r"expected the search's own folder .*, got a link to"):
        deletion("linked", RunOptions(results=results))
    assert (results / "digits-1" / "optuna.journal").exists()


@pytest.mark.parametrize("root", ["{results}/code", "results/code"])
def test_no_code_is_imported_from_among_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    code = results / "code"
    code.mkdir(parents=True)
    (code / "sent_with_results.py").write_text("raise SystemExit('it ran')")
    (results / "s").mkdir()
    facts = {"imports_from": root.format(results=results)}
    (results / "s" / "search.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="no module named 'sent_with_results'"):
        load_recorded("sent_with_results:space", results / "s")


def test_to_look_at_a_search_imports_no_code_of_its_space(tmp_path: Path) -> None:
    results = hostile_results(tmp_path)
    storage = open_storage(None, results / "digits-1")
    number = storage.get_study_id_from_name("digits-1")
    facts = storage.get_study_user_attrs(number)["search"]
    storage.set_study_user_attr(number, "search", {**facts, "space": "sent_with_results:space"})
    code = results / "code"
    code.mkdir()
    (code / "sent_with_results.py").write_text("open('ran', 'w')")
    search = load_search("digits-1", results)
    report.write(search, search.report)
    assert "sent_with_results" not in sys.modules


def test_an_image_is_never_given_to_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file's name is."""
    ran = tmp_path / "ran"
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for split in ("train", "test"):
        for kind in ("a", "b"):
            folder = tmp_path / "set" / split / kind
            folder.mkdir(parents=True)
            for name in ("x.png", "y.png"):
                (folder / name).write_text(POSTSCRIPT + name)
    with pytest.raises(InputError, match="expected a readable image"):
        Folder(str(tmp_path / "set"), size=(8, 8), val=2).read()
    assert not ran.exists()


# --- what listens ---


def listening(process: psutil.Process) -> set[tuple[str, str]]:
    """The addresses at which a process and all below it listen, each with the program's name."""
    found = set()
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            for place in each.net_connections("inet"):
                if place.status == psutil.CONN_LISTEN:
                    address = ipaddress.ip_address(place.laddr.ip)
                    # ::ffff:127.0.0.1 is that of IPv4 for a socket of both kinds.
                    mapped = getattr(address, "ipv4_mapped", None)
                    found.add((each.name(), str(mapped or address)))
    return found


def ended(process: subprocess.Popen[str]) -> None:
    """Ends a process that a test has started, with all below it."""
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    for each in (*below, process):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            each.kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_ray_of_its_own_listens_on_this_machine_alone_and_asks_for_the_token(
    tmp_path: Path,
) -> None:
    code = """
import sys
from robsearch import cluster

if __name__ == "__main__":
    with cluster.connected(None, cpus=1):
        import ray
        ray.get(ray.remote(lambda: None).remote())
        print(cluster.connection.head_address(), flush=True)
        sys.stdin.read()
"""
    (tmp_path / ".ray").mkdir(mode=0o755)
    variables = {**os.environ, "HOME": str(tmp_path), "RAY_raylet_start_wait_time_s": "300"}
    # As a user has it: Ray itself asks for a token where none is switched off.
    del variables["RAY_AUTH_MODE"]
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
    )
    try:
        head = process.stdout.readline().strip()
        time.sleep(5)  # agents begin to listen later
        places = listening(psutil.Process(process.pid))
        assert len(places) >= 2
        assert {address for _, address in places} <= {"127.0.0.1", "::1"}
        with grpc.insecure_channel(head) as channel:
            for method in ("NodeInfoGcsService/CheckAlive", "InternalKVGcsService/InternalKVKeys"):
                with pytest.raises(grpc.RpcError) as refused:
                    channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=30)
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        token = tmp_path / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o777 == 0o600
        assert token.parent.stat().st_mode & 0o777 == 0o700
    finally:
        ended(process)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_mlflow_ui_listens_on_this_machine_alone(tmp_path: Path) -> None:
    results = hostile_results(tmp_path)
    port = free_port()
    words = ["ui", "digits-1", "--results", str(results), "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from robsearch.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        places = listening(psutil.Process(process.pid))
        assert {address for _, address in places} == {"127.0.0.1"}
        # A page that another site leads to it, by a name of its own, is refused.
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
            assert b" 403 " in connection.recv(64)
    finally:
        ended(process)


# --- SECURITY.md ---


def test_each_test_that_the_policy_names_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 15
    there = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))
    assert named - there == set()
    own = set(re.findall(r"^def (test_\w+)", Path(__file__).read_text(), re.MULTILINE))
    assert own - named == {"test_each_test_that_the_policy_names_exists"}
    assert "SECURITY.md" in (ROOT / "README.md").read_text(encoding="utf-8")
