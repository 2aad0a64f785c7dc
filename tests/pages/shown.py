"""What a page shows: it is asked for, and its table is read."""

from __future__ import annotations

import html
import re

from django.test import Client

UNREADABLE = [
    {"FirstName": {"B": b"\xff\x00"}},
    {"FirstName": {"N": "5"}},
    {"FirstName": {"M": {"a": {"BS": [b"\xff"]}}}},
    {"_fence:topic-1:0": {"S": "x"}},
    {"_fence:topic-1:0": {"N": "1.5"}},
    {"_fence:topic-1:0": {"B": b"\xff"}},
    {"_fence:x": {"NULL": True}},
    {"_incarnation": {"B": b"\xff"}},
    {"_incarnation": {"S": "x"}},
]
"""What other programs may leave in an item."""


def get_page(path="/profiles/", **query):
    response = Client().get(path, query)
    assert response["Content-Type"] == "text/html; charset=utf-8"
    return response


def rows(response):
    """The texts of the table's cells, row by row."""
    body = response.content.decode().partition("<tbody>")[2].partition("</tbody>")[0]
    cells = r"<t[dh][^>]*>(?:<a [^>]*>)?(.*?)(?:</a>)?</t[dh]>"
    return [
        [html.unescape(text) for text in re.findall(cells, row, re.S)]
        for row in body.split("</tr>")[:-1]
    ]
