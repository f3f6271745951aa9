"""Puts what runs of `meanfield bench` measured, docs/benchmarks/*.json, into docs/benchmarks.md.

meanfield bench --json docs/benchmarks/NAME.json && python docs/update_benchmarks.py
"""

import json
from pathlib import Path

from meanfield.benchmarks.report import markdown

DOCS = Path(__file__).resolve().parent
BEGIN, END = "<!-- runs: begin -->", "<!-- runs: end -->"


def main():
    sections = []
    for path in sorted((DOCS / "benchmarks").glob("*.json")):
        report = json.loads(path.read_text())
        title = f"### {path.stem}" + (" (`--quick`)" if report["quick"] else "")
        sections.append(f"{title}\n\n{markdown(report)}")
    block = "\n\n".join([BEGIN, *(sections or ["No run is recorded yet."]), END])
    page = DOCS / "benchmarks.md"
    text = page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(before + block + after)


if __name__ == "__main__":
    main()
