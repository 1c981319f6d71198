"""A report's page, read as a browser would."""

import re
from html.parser import HTMLParser


class Reader(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    """The page; it has to be whole, well-formed and need nothing else."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    assert not {"script", "link", "img", "iframe", "b", "worker"} & {tag for tag, _ in reader.tags}
    for _, attributes in reader.tags:
        assert not {"src", "href", "onload", "style"} & attributes.keys()
    assert not re.search(r"https?:|url\(|@import", page)
    assert not re.search(r"\b(nan|inf|None)\b", reader.text)
    return reader


def counted(reader: Reader, tag: str) -> int:
    """How many elements of that name there are."""
    return sum(name == tag for name, _ in reader.tags)
