"""Reads HTML for tests."""

import html.parser


class Reader(html.parser.HTMLParser):
    """Checks that elements are closed in order, and collects their names, attributes and text."""

    EMPTY = ("meta", "img")

    def __init__(self, page: str):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in self.EMPTY:
            self.open.append(name)

    def handle_endtag(self, name):
        if name not in self.EMPTY:
            assert self.open.pop() == name

    def handle_data(self, data):
        self.texts.append(data)
