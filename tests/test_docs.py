"""The documents cannot go stale: commands and flags are parsed, and paths, links and names must exist."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import tyro

from xmrank.config.choices import choose, find_choices, make_defaults
from xmrank.config.common_flags import COMMON_FLAGS
from xmrank.config.hub import HUB_COMMANDS
from xmrank.config.jobs import JOBS
from xmrank.config.parsing import parse_command, parse_config
from xmrank.config.printing import format_config
from xmrank.runtime.errors import ConfigError

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SETTLED = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
"""All but the changelog, which names flags that are gone."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SCRIPT = re.compile(r"^(?:python )?(?:jobs/|benchmarks/)?(\w+)\.py\b|^xmrank (\w+)\b")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*(?:\.[\w-]+)*")
OPTION = re.compile(r"^[│ ]*(--\S.*?)(?:  |$)", re.MULTILINE)
"""Where a help text lists a flag: at the beginning of a line, its forms with commas between them."""
REPOSITORY_PATH = re.compile(r"(?<![\w/.-])(?:xmrank|docs|jobs|tests|benchmarks)/[\w./*-]+")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OTHER_TOOLS = {"--compile-bytecode"}
"""Flags of uv in the text."""


def blocks_of(path, language):
    return [text for kind, text in FENCE.findall(path.read_text()) if kind == language]


def prose_of(path):
    """The document without its fenced blocks."""
    return FENCE.sub("", path.read_text())


def inline_codes(path):
    """What stands between single backquotes; it may run over the end of a line."""
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*[-*|#])", prose_of(path))
    return [code for paragraph in paragraphs for code in INLINE.findall(" ".join(paragraph.split()))]


def commands_of(path):
    """Every job command of the shell blocks, as words."""
    commands = []
    for block in blocks_of(path, "sh"):
        lines = block.replace("\\\n", " ").splitlines()
        commands += [shlex.split(line, comments=True) for line in lines]
    return [words for words in map(job_command, commands) if words]


def job_command(words):
    """The job's name and its arguments; empty where a command runs none."""
    for position, word in enumerate(words):
        script = re.fullmatch(r"(?:\./)?jobs/(\w+)\.py", word)
        if script:
            return [script[1], *words[position + 1 :]]
        if word == "xmrank" and position == 0 and len(words) > 1:
            return words[1:]
    return []


def config_type(job):
    """The class of a job's configuration, or of a command's."""
    return JOBS[job].load_config() if job in JOBS else HUB_COMMANDS[job][1]


def help_texts(job):
    """The ``--help`` of a job, for each dataclass that can be chosen."""
    config = config_type(job)
    choices = list(find_choices(config))
    chosen = [{}] + [{choice.path: option} for choice in choices for option in choice.options.values()]
    for options in chosen:
        defaults = choose(make_defaults(config), options)
        parser = tyro.extras.get_parser(config, default=defaults, config=(tyro.conf.AvoidSubcommands,))
        yield parser.format_help()


def flags_of(job):
    """All flags that a job takes."""
    choosing = {f"--{choice.path}" for choice in find_choices(config_type(job))}
    listed = [option for text in help_texts(job) for option in OPTION.findall(text)]
    return choosing | {flag for option in listed for flag in FLAG.findall(option)} | {*COMMON_FLAGS, "--help"}


@pytest.fixture(scope="session")
def script_flags():
    """The flags of every job and benchmark."""
    jobs = {script.stem: flags_of(script.stem) for script in (ROOT / "jobs").glob("*.py")}
    benchmarks = {script.stem: set(FLAG.findall(script.read_text())) for script in (ROOT / "benchmarks").glob("*.py")}
    return benchmarks | jobs | {command: flags_of(command) for command in HUB_COMMANDS}


COMMANDS = [(path, words) for path in DOCUMENTS for words in commands_of(path)]


@pytest.mark.parametrize(("path", "words"), COMMANDS, ids=lambda value: getattr(value, "name", None))
def test_a_command_is_accepted_by_its_parser_and_can_be_printed_as_a_preset(path, words, tmp_path):
    job, *arguments = words
    if job in HUB_COMMANDS:
        assert parse_command(config_type(job), arguments, program=job)
        return
    config = parse_config(config_type(job), arguments, name=job)
    # As a file that --preset takes, it is the same configuration.
    preset = tmp_path / "printed.yaml"
    preset.write_text(format_config(config, job))
    assert parse_config(config_type(job), ["--preset", str(preset)], name=job) == config


@pytest.mark.parametrize("path", SETTLED, ids=lambda path: str(path.relative_to(ROOT)))
def test_flags_in_the_text_exist_and_take_the_value_beside_them(path, script_flags):
    """A flag after a script's name must be that script's; one that stands alone, any script's."""
    wrong = [code for code in inline_codes(path) if FLAG.search(code) and not is_accepted(code, script_flags)]
    assert not wrong


def is_accepted(code, script_flags):
    """Whether a script knows the flags of this code, and if it is a job, whether its parser accepts them."""
    script = SCRIPT.match(code)
    flags = set(FLAG.findall(code))
    words = shlex.split(code[script.end() :] if script else code)
    scripts = [script[1] or script[2]] if script else list(script_flags)
    owners = [name for name in scripts if flags <= script_flags[name]]
    if flags <= OTHER_TOOLS:
        return True
    if len(words) == len(flags):  # there are no values to check
        return bool(owners)
    return any(is_benchmark(name) or parses(name, words) for name in owners)


def is_benchmark(name):
    return (ROOT / "benchmarks" / f"{name}.py").is_file()


def parses(job, words):
    """Whether the job takes these flags, with its default choices or with one of the others.

    Flags that it requires besides may be missing, as the text names them elsewhere.
    """
    choices = find_choices(config_type(job))
    others = [[f"--{choice.path}", option] for choice in choices for option in choice.options]
    for chosen in [[], *others]:
        try:
            parse_config(config_type(job), [*chosen, *words], name=job)
        except ConfigError as error:
            if not str(error).endswith(": required"):
                continue
        return True
    return False


@pytest.mark.parametrize("script", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_flags_in_help_texts_exist(script, script_flags):
    """A stage's help may speak of its own flags, which have the stage's name in front in an experiment, or others'."""
    any_script = set().union(*script_flags.values())
    mentioned = {flag for text in help_texts(script.stem) for flag in FLAG.findall(text)}
    assert mentioned <= any_script


@pytest.mark.parametrize("path", SETTLED, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_in_the_text_exist(path):
    named = {name.rstrip(".,") for name in REPOSITORY_PATH.findall(path.read_text())}
    missing = [name for name in sorted(named) if "X" not in name and not list(ROOT.glob(name))]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    broken = []
    for link in LINK.findall(prose_of(path)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert not broken


def anchors_of(path):
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", prose_of(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", SETTLED, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_names_in_the_text_exist(path):
    names = {code for code in inline_codes(path) if re.fullmatch(r"xmrank(\.\w+)+", code)}
    assert not [name for name in sorted(names) if not exists(name)]


def exists(name):
    """Whether a dotted name is a module of the package or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for attribute in parts[length:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


DIFFS = blocks_of(ROOT / "CONTRIBUTING.md", "diff")


@pytest.mark.parametrize("diff", DIFFS, ids=range(len(DIFFS)))
def test_a_diff_applies_to_this_version(diff):
    check = subprocess.run(["git", "apply", "--check", "-"], input=diff, text=True, cwd=ROOT, capture_output=True)
    assert check.returncode == 0, check.stderr
