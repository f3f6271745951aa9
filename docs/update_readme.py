"""Puts what a run of `meanfield limits` printed, and its figure, into the README.

meanfield limits --out FOLDER && python docs/update_readme.py FOLDER
"""

import json
import shutil
import sys
from pathlib import Path

from meanfield.cli import table

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def main(folder):
    report = json.loads((Path(folder) / "limits.json").read_text())
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    block = f"{BEGIN}\n```text\n{table(report)}\n```\n\n{report['date'][:10]}; {versions}.\n{END}"
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(before + block + after)
    shutil.copy(Path(folder) / "limits.png", ROOT / "docs" / "limits.png")


if __name__ == "__main__":
    main(sys.argv[1])
