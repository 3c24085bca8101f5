"""What a page must be, whatever stands in it: well-formed, by itself, and told to those who do not see it."""

from html.parser import HTMLParser

VOID = {"meta", "br", "img", "input", "hr", "link"}
_REFERENCES = {"src", "href", "xlink:href", "action", "data", "srcset", "poster", "background"}


class Page(HTMLParser):
    """Raises AssertionError where a page is not as it must be; `text` is what stands between the tags."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.text = ""
        self._children: list[list[str]] = [[]]
        self.feed(page)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        for tag, given in self.tags:
            for name in _REFERENCES & given.keys():
                assert str(given[name]).startswith("#"), f"{tag} {name}={given[name]}"
                assert str(given[name])[1:] in self.ids
            for name in ("aria-labelledby", "for"):
                assert given.get(name) is None or given[name] in self.ids
            assert not any(name.startswith("on") for name in given), tag
        assert "url(" not in page
        assert "@import" not in page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), f"{tag}: an attribute twice"
        assert tag not in ("script", "iframe", "object", "embed", "form", "base", "link"), tag
        self.tags.append((tag, given))
        if given.get("id"):
            self.ids.append(str(given["id"]))
        self._children[-1].append(tag)
        if tag not in VOID:
            self.open.append(tag)
            self._children.append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}>"
        children = self._children.pop()
        outermost = tag == "svg" and "svg" not in self.open
        if outermost:
            assert children[:1] == ["title"], "a picture without a title"
        if tag == "table":
            assert children[:1] == ["caption"], "a table without a caption"
        if tag == "details":
            assert children[:1] == ["summary"], "details without a summary"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)
