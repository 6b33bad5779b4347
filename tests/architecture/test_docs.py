"""The documents are true: they name all there is, their links lead somewhere, their code runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import click
import pyarrow as pa
import pytest
import yaml

import ecgstore.cli
import ecgtrain.cli
from ecgstore.build.plan import Recipe, Storage
from ecgstore.errors import REASONS
from ecgstore.storage import layout, tables
from ecgtrain.recipes import shipped

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PROGRAMS = {"ecgstore": ecgstore.cli.main, "ecgtrain": ecgtrain.cli.main}
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted(DOCS.rglob("*.md")),
]


class Block(NamedTuple):
    """A fenced block of code: its language, what else stands behind the fence, its first line, its text."""

    language: str
    note: str
    line: int
    text: str


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    opened: tuple[str, str, int] | None = None
    body: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("```"):
            body.append(line)
        elif opened is None:
            language, _, note = line[3:].partition(" ")
            opened, body = (language, note.strip(), number + 1), []
        else:
            found.append(Block(*opened, "\n".join(body) + "\n"))
            opened = None
    assert opened is None, f"{name_of(page)}: a block is never closed"
    return found


def prose(page: Path) -> str:
    """The page without its blocks of code and without code in a line."""
    return re.sub(r"`[^`\n]*`", "``", re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S))


@pytest.fixture(scope="module")
def make_reference() -> ModuleType:
    return maker("make_reference")


def maker(name: str) -> ModuleType:
    """The script in docs/ that writes a page."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_commands_say(make_reference: ModuleType) -> None:
    written = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert written == make_reference.reference(), "run: python docs/make_reference.py"


def test_the_page_of_recipes_is_what_the_settings_say_and_leaves_no_key_untold() -> None:
    make_recipes = maker("make_recipes")
    assert (DOCS / "recipes.md").read_text(encoding="utf-8") == make_recipes.page(), "run: python docs/make_recipes.py"
    assert make_recipes.untold() == [], "say in the docstring of the settings what the key means"


def test_every_key_of_every_shipped_recipe_stands_on_the_page_of_recipes() -> None:
    text = (DOCS / "recipes.md").read_text(encoding="utf-8")

    def keys(content: object) -> set[str]:
        if isinstance(content, dict):
            # What a store must say of its preparation has the store's keys.
            below = [value for key, value in content.items() if key != "expects"]
            return set(content) | {key for value in below for key in keys(value)}
        return {key for value in content for key in keys(value)} if isinstance(content, list) else set()

    for name, path in shipped().items():
        assert f"| `{name}` |" in text
        # Codes of tasks are named by whoever asks.
        used = keys(yaml.safe_load(path.read_text(encoding="utf-8"))) - {"extends", "codes"}
        assert not [key for key in used if f"| `{key}` |" not in text], name


def test_the_reference_names_every_command_and_option() -> None:
    sections = dict(re.findall(r"^##+ (ec\S.*?)\n(.*?)(?=^##|\Z)", (DOCS / "reference.md").read_text(), re.M | re.S))
    for program, group in PROGRAMS.items():
        assert program in sections
        for word, command in group.commands.items():
            name = f"{program} {word}"
            assert name in sections, f"{name} has no section"
            for parameter in command.params:
                if isinstance(parameter, click.Option):
                    for spelling in parameter.opts:
                        assert re.search(rf"`{re.escape(spelling)}\b", sections[name]), f"{name} {spelling}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_is_listed_in_a_line_of_its_own(program: str) -> None:
    for name, command in PROGRAMS[program].commands.items():
        said = command.get_short_help_str(limit=40)
        assert command.short_help, name
        assert 10 < len(said) <= 40
        assert not said.endswith((".", "…"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_and_option_has_a_help_text(program: str) -> None:
    for word, command in PROGRAMS[program].commands.items():
        assert command.help, f"{program} {word}"
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, f"{program} {word} {parameter.name}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_help_ends_with_two_examples(program: str, make_reference: ModuleType) -> None:
    """That they are understood is tested on the page of the reference."""
    for name, command in make_reference.commands(program, PROGRAMS[program]):
        if not isinstance(command, click.Group):
            examples = [line.strip() for line in (command.epilog or "").replace("\\\n", "").splitlines()]
            assert examples[:2] == ["\b", "Examples:"], name
            assert len(set(examples[2:])) >= 2, name
            assert all(line.startswith(f"{name} ") or line == name for line in examples[2:]), name


def commands_in(page: Path) -> list[tuple[int, str]]:
    """The lines of console blocks behind a prompt, and those of scripts, with ``\\`` continuations joined."""
    found = []
    for block in blocks(page):
        lines = block.text.replace("\\\n", " ").splitlines()
        if block.language == "console":
            found += [(block.line, line[2:]) for line in lines if line.startswith("$ ")]
        elif block.language == "bash":
            # A variable of a script may be a number.
            found += [(block.line, re.sub(r"\$\{\w+\}", "1", line)) for line in lines]
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_on_a_page_are_understood(page: Path) -> None:
    for line, command in commands_in(page):
        where = f"{name_of(page)}, block at line {line}: {command}"
        for part in re.split(r"&&|\|", command):
            words = shlex.split(part, comments=True)
            words = words[: min((words.index(arrow) for arrow in (">", ">>") if arrow in words), default=len(words))]
            for word in words:
                if re.match(r"(tests|benchmarks)/", word):
                    assert (ROOT / word).exists(), where
            starts = [i for i, word in enumerate(words) if word in PROGRAMS]
            if starts and (starts[0] == 0 or words[starts[0] - 1] == "-m"):
                _parse(words[starts[0] :], where)


def _parse(words: list[str], where: str) -> None:
    """Let click read a command line as it would, without doing what it says."""
    group = PROGRAMS[words[0]]
    if len(words) == 1 or words[1].startswith("-"):
        return
    command = group.commands.get(words[1])
    assert command is not None, where
    while isinstance(command, click.Group):
        words = words[1:]
        command = command.commands.get(words[1])
        assert command is not None, where
    if set(words) & {"-h", "--help"}:
        return
    try:
        context = command.make_context(words[1], words[2:])
        recipe = context.params.get("recipe", "")
        assert recipe.endswith(".yaml") or recipe in {"", *shipped()}, f"{where}: no such recipe"
    except click.exceptions.Exit:  # an option that answers at once, such as `fetch --list`
        return
    except click.ClickException as error:
        pytest.fail(f"{where}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors(found), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_tests_and_benchmarks_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`((?:tests|benchmarks)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


#: Pages for those who change the code; they may speak of its folders as they like.
FOR_CONTRIBUTORS = {DOCS / "architecture.md", *(DOCS / "adr").glob("*.md")}


FOR_CONTRIBUTORS |= {ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"}
OF_THE_HOUSE = re.compile(r"(?i)\b(?:rooms?|wings?|occupants?|houses?|bears?)\b")


@pytest.mark.parametrize(
    "page", [*(page for page in PAGES if page not in FOR_CONTRIBUTORS), *sorted(DOCS.rglob("*.ipynb"))], ids=name_of
)
def test_a_page_for_users_has_no_words_of_the_house(page: Path) -> None:
    assert OF_THE_HOUSE.findall(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", ["format", "formats", "conditioning", "quality", "noise", "lineage", "fetch", "scale"])
def test_what_is_done_to_the_signals_of_a_store_is_a_preparation(name: str) -> None:
    """A recipe is that of a run, whatever the files of a store call the other one."""
    assert re.findall(r"(?i)\brecipes?\b", prose(DOCS / f"{name}.md")) == []


def anchors(page: Path) -> set[str]:
    """What a heading is called in a link: lower case, no punctuation, hyphens for spaces. A Python name is its own."""
    names = re.findall(r"(?m)^::: (\S+)$", page.read_text())
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings} | {*names}


def test_an_index_names_every_page() -> None:
    """The first index, or that of its folder, which the first one names."""
    index = (DOCS / "README.md").read_text()
    for page in DOCS.rglob("*.md"):
        own = page.parent / "README.md"
        named = f"]({page.relative_to(DOCS).as_posix()})" in index or (
            own.exists() and f"]({page.name})" in own.read_text()
        )
        assert named or page == DOCS / "README.md", name_of(page)


def section(page: Path, heading: str) -> str:
    """The text below a heading, up to the next one of the second level."""
    text = page.read_text()
    begin = text.index(f"\n{heading}")
    end = text.find("\n## ", begin + 1)
    return text[begin : end if end > 0 else None]


def rows(page: Path, heading: str) -> set[str]:
    """Words in code style in the first cells of the tables below a heading."""
    cells = re.findall(r"^\| (`[^|]+`) \|", section(page, heading), re.M)
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        ("## `records.parquet`", tables.RECORDS_SCHEMA),
        ("## `leads.parquet`", tables.leads_schema(12)),
        ("## `statements.parquet`", tables.STATEMENTS_SCHEMA),
        ("## `beats.parquet`", tables.BEATS_SCHEMA),
        ("## `rejected.parquet`", tables.REJECTED_SCHEMA),
    ],
)
def test_the_format_names_every_column_with_its_type_in_order(heading: str, schema: pa.Schema) -> None:
    text = section(DOCS / "format.md", heading)
    stated = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", text, re.M)
    assert [row for row in stated if row[0] not in REASONS] == [(field.name, kind(field.type)) for field in schema]


def kind(type_: pa.DataType) -> str:
    """What a type is called in the documents."""
    if pa.types.is_fixed_size_list(type_):
        return f"list of {kind(type_.value_type)}"
    return {"float": "float32", "double": "float64"}.get(str(type_), str(type_))


@pytest.mark.parametrize("page", [DOCS / "format.md", DOCS / "start.md"], ids=name_of)
def test_every_reason_stands_in_the_tables_with_its_meaning(page: Path) -> None:
    for reason, meaning in REASONS.items():
        assert f"| `{reason}` | {meaning} |" in page.read_text(), reason


@pytest.fixture(scope="module")
def noisy_store(mini_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ecgstore import NoiseSettings, augment_store, open_store

    out = tmp_path_factory.mktemp("noisy") / "noisy.ecg"
    augment_store(open_store(mini_store), out, NoiseSettings(kind="muscle", snr_db=6))
    return out


#: Attributes that stand only where there is something to say: neither of the two stores has them.
ON_OCCASION = {
    "withdrawn",
    "lineage",
    "patient_key_check",
    "record_ids",
    "folds_drawn",
    "vocabulary_by_site",
    "beats",
    "blocks",
}


def test_the_format_names_every_attribute(mini_store: Path, noisy_store: Path) -> None:
    page = DOCS / "format.md"
    of_both = [json.loads((store / "zarr.json").read_text())["attributes"] for store in (mini_store, noisy_store)]
    assert set(of_both[1]) - set(of_both[0]) == {"noise", "parent"}
    assert rows(page, "## `zarr.json`") == set(of_both[1]) | ON_OCCASION
    assert rows(page, "## `manifest.json`") == set(json.loads((mini_store / "manifest.json").read_text()))
    for name in (*Recipe.model_fields, *Storage.model_fields):
        assert f"`{name}`" in section(page, "## `zarr.json`"), name


def test_the_format_names_every_object(mini_store: Path) -> None:
    for path in mini_store.iterdir():
        assert f"── {path.name}" in (DOCS / "format.md").read_text()


def test_the_format_says_its_version() -> None:
    text = (DOCS / "format.md").read_text()
    assert f"an ecgstore, format version {layout.FORMAT_VERSION}." in text
    assert f"| `format_version` | integer | {layout.FORMAT_VERSION};" in text


def test_the_format_names_what_a_commit_holds(mini_store: Path, noisy_store: Path) -> None:
    text = section(DOCS / "format.md", "## `commits/`")
    for store in (mini_store, noisy_store):
        commit, about = tables.from_arrow(next((store / "commits").iterdir()).read_bytes())
        assert rows(DOCS / "format.md", "## `commits/`") == set(about)
        names = [name for name in commit.column_names if not name.startswith(("leads.", "beats."))]
        assert "`, `".join(names) in re.sub(r"\s+", " ", text)
        assert all(f"`{name}`" in text for name in commit.column_names if name.startswith("beats."))


def test_the_format_says_how_a_chunk_is_packed(mini_store: Path) -> None:
    codecs = json.loads((mini_store / "signal" / "zarr.json").read_text())["codecs"][0]["configuration"]["codecs"]
    blosc = codecs[1]["configuration"]
    packed = f"`blosc` ({blosc['cname']}, level {blosc['clevel']}, {blosc['shuffle']}, typesize {blosc['typesize']}; "
    packed += f"blocks of {blosc['blocksize']:,} bytes)"
    assert packed in section(DOCS / "format.md", "## `signal/`")


def test_the_format_names_what_a_store_holds_while_it_is_built(mini: Path, tmp_path: Path) -> None:
    from ecgstore import IngestSettings, StoreIncomplete, ingest_folder, seal_store

    out = tmp_path / "out.ecg"
    ingest_folder(mini, out, IngestSettings(), part=(2, 8))
    with pytest.raises(StoreIncomplete):
        seal_store(out)
    stated = rows(DOCS / "format.md", "## From building to sealed")
    there = {path.name for path in out.iterdir() if path.name.startswith("building.")}
    assert there <= stated
    assert there == {name for name in stated if name.startswith("building.")}
    assert set(json.loads((out / layout.BUILDING).read_text())) <= stated


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_says_whether_it_runs(page: Path) -> None:
    for block in blocks(page):
        where = f"{name_of(page)}, line {block.line}"
        known = {"python", "console", "bash", "text", "yaml", "json", "r", "julia", "cpp"}
        assert block.language in known, f"{where}: say what language it is"
        if block.language == "python" and block.note:
            assert re.fullmatch(r"no-run: .+", block.note), f"{where}: `python` runs, `python no-run: why` does not"
        if block.language == "python":
            compile(block.text, where, "exec")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_runs(page: Path, mini: Path, mini_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with the bundled records as ``ptbxl`` and their store as ``ptbxl.ecg``."""
    (tmp_path / "ptbxl").symlink_to(mini)
    (tmp_path / "ptbxl.ecg").symlink_to(mini_store)
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python" and not block.note:
            # Empty lines in front, so that a traceback names the line of the page.
            exec(compile("\n" * (block.line - 1) + block.text, name_of(page), "exec"), space)
