"""Write the reference pages that are made from the code: the command line, Python, HTTP.

    python docs/make_reference.py            # writes docs/reference/cli.md, api.md, http.md
    python docs/make_reference.py --check    # ends with 1 if they are not up to date

`make docs` checks them before it builds the site.
"""

import argparse
import inspect
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import typer.main
from fastapi.testclient import TestClient

import lookalike
from lookalike import lsh, ml
from lookalike.cli import COMMANDS, app
from lookalike.server import create_app

REFERENCE = Path(__file__).parent / "reference"
SHARED = ("help", "quiet", "verbose", "progress")
"""Options of all commands."""
VALUES = {int: "NUMBER", float: "NUMBER", Path: "PATH"}
"""What stands for values of a type."""
PARTS = {
    "lookalike": (lookalike, "An index, searching, embedding."),
    "lookalike.ml": (
        ml,
        "Stages of `pyspark.ml` ([in Spark](../how-to/spark.md#stages-of-pysparkml)).",
    ),
    "lookalike.lsh": (lsh, "Hashing on Spark ([what it is worth](../explanation/lsh.md))."),
}


def main() -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    stale = []
    for name, text in {"cli.md": cli(), "api.md": api(), "http.md": http()}.items():
        file = REFERENCE / name
        if not file.exists() or file.read_text() != text:
            stale.append(name)
            if not given.check:
                file.write_text(text)
    if given.check and stale:
        sys.stderr.write(f"{', '.join(stale)}: run `python docs/make_reference.py`\n")
    return int(given.check and bool(stale))


def cli() -> str:
    """Return the page of the command line."""
    program: Any = typer.main.get_command(app)
    lines = [
        "# The command line",
        "",
        "`lookalike COMMAND --help` says the same. Results go to stdout, all else to stderr. "
        "The exit code is 0, 1 after an error, 2 after wrong usage, 130 after Ctrl-C.",
        "",
        "Options of the program, before the command:",
        "",
        *options(program.params),
    ]
    for panel, commands in COMMANDS.items():
        lines += [f"## {panel}", ""]
        for name in commands:
            command = program.commands[name]
            arguments = [one for one in command.params if one.param_type_name == "argument"]
            usage = " ".join(usage_of(one) for one in arguments)
            own = [
                one
                for one in command.params
                if one.param_type_name == "option" and one.name not in SHARED
            ]
            lines += [f"### lookalike {name}", "", f"    lookalike {name} {usage}".rstrip(), ""]
            lines += [paragraphs(command.help or ""), ""]
            lines += [f"- `{usage_of(one)}`: {one_line(one.help or '')}" for one in arguments]
            lines += [""] * bool(arguments)
            lines += options(own)
    return "\n".join(lines).rstrip() + "\n"


def usage_of(argument: Any) -> str:
    """Return an argument as the usage of a command shows it."""
    shown = argument.metavar or argument.name.upper()
    return f"{shown}..." if argument.nargs == -1 and "..." not in shown else str(shown)


def options(given: list[Any]) -> list[str]:
    """Return a table of options."""
    if not given:
        return []
    lines = ["| option | |", "| --- | --- |"]
    for one in given:
        names = [f"`{name}`" for name in (*one.opts, *one.secondary_opts)]
        value = "" if one.is_flag else f" `{value_of(one)}`"
        text = one_line(one.help or "")
        if (
            one.default not in (None, False, (), [])
            and "[default" not in text
            and not callable(one.default)
        ):
            text += f" [default: {one.default}]"
        lines.append(f"| {', '.join(names)}{value} | {text} |")
    return [*lines, ""]


def value_of(option: Any) -> str:
    """Return what stands for the value of an option."""
    kind = option.type_descriptor.annotation
    if get_origin(kind) is Literal:
        return "\\|".join(map(str, get_args(kind)))
    return one_line(option.metavar or VALUES.get(kind, "TEXT"))


def one_line(text: str) -> str:
    """Return a text for a cell of a table."""
    return re.sub(r"(?<!\\)\|", "\\|", " ".join(text.split()))


def paragraphs(text: str) -> str:
    """Return a help text, with each paragraph in a line of its own."""
    parts = re.split(r"\n\s*\n", inspect.cleandoc(text).replace("\b", ""))
    return "\n\n".join(" ".join(part.split()) for part in parts)


def api() -> str:
    """Return the page of Python, whose entries mkdocstrings fills from the docstrings."""
    lines = [
        "# Python",
        "",
        "Each name can be imported from the package whose heading it is under.",
        "",
    ]
    for package, (module, about) in PARTS.items():
        lines += [f"## {package}", "", about, ""]
        for name in module.__all__:
            value = getattr(module, name)
            lines += entry(f"{package}.{name}", value, "###")
            for method, function in vars(value).items() if inspect.isclass(value) else ():
                if is_of_another_module(value, method, function):
                    lines += entry(f"{package}.{name}.{method}", function, "####")
    return "\n".join(lines).rstrip() + "\n"


def entry(name: str, value: Any, level: str) -> list[str]:
    """Return the lines of a name: its heading, with an anchor, and what mkdocstrings fills in."""
    place = f"{value.__module__}.{value.__qualname__}"
    return [f"{level} {name} {{ #{name} }}", "", f"::: {place}", ""]


def is_of_another_module(owner: type, name: str, value: Any) -> bool:
    """Tell whether a public method is defined outside of its class, as those of an index are."""
    is_public = inspect.isfunction(value) and not name.startswith("_")
    return is_public and not value.__qualname__.startswith(f"{owner.__name__}.")


def http() -> str:
    """Return the page of HTTP, from the description that the server gives of itself."""
    with tempfile.TemporaryDirectory() as folder:
        index = lookalike.create_index(np.eye(4, dtype=np.float32), Path(folder, "x.index"))
        with TestClient(create_app(index), base_url="http://localhost") as client:
            about = client.get("/api/openapi.json").json()
    lines = [
        "# HTTP",
        "",
        "`lookalike serve INDEX` answers these requests; the page uses the same. "
        "`api/openapi.json` describes them for programs. "
        "[The page](../how-to/page.md#for-programs) has examples, access and limits.",
        "",
    ]
    for path, methods in sorted(about["paths"].items()):
        for method, said in methods.items():
            lines += [f"## {method.upper()} {path.lstrip('/')}", ""]
            lines += [paragraphs(said.get("description") or said.get("summary", "")), ""]
            given = said.get("parameters", [])
            if given:
                lines += ["| parameter | in | |", "| --- | --- | --- |"]
            for one in given:
                text = one.get("description") or one["schema"].get("description", "")
                lines.append(f"| `{one['name']}` | {one['in']} | {one_line(text)} |")
            lines += [""] * bool(given)
            answers = ", ".join(
                f"{status} {a['description']}" for status, a in said["responses"].items()
            )
            lines += [f"Answers: {one_line(answers)}", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
