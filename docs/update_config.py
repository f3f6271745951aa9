"""Puts the fields of a run's description, as the code has them, into docs/config.md: python docs/update_config.py"""

from pathlib import Path

from meanfield import config

PAGE = Path(__file__).resolve().parent / "config.md"
BEGIN, END = "<!-- fields: begin -->\n", "<!-- fields: end -->"


def main():
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(before + BEGIN + "\n" + config.table() + "\n" + END + after)


if __name__ == "__main__":
    main()
