"""Which clusters stand for which caches, and the tree as lines."""

from typing import Any

from vclust_py.cache import learn, outline, traces
from vclust_py.cache.history import History


def history(*requests: str) -> History:
    """Requests of one-letter packages; the size of a package is its place in the alphabet, in KiB."""
    letters = "abcdefgh"
    return traces.of(
        {
            "packages": [
                {"id": number, "name": letter, "version": "1", "installed_size": 1024 * (number + 1)}
                for number, letter in enumerate(letters)
            ],
            "requests": [{"closure": [letters.index(letter) for letter in one]} for one in requests],
        }
    )


def shown(past: History, *caches: str) -> list[tuple[Any, ...]]:
    tree = learn.cluster(past.table)
    marked = outline.marked(tree, past, [{f"{letter}=1" for letter in cache} for cache in caches])
    return [
        (line["depth"], line["requests"], line["chosen"], "".join(name[0] for name in line["more"]))
        for line in outline.lines(tree, past, marked)
    ]


def test_each_cluster_under_the_one_that_has_less() -> None:
    assert shown(history("gh", "ghf", "ghf", "a"), "gh") == [
        (0, 3, True, "hg"),
        (1, 2, False, "f"),
        (1, 1, False, ""),
        (0, 1, False, "a"),
    ]


def test_a_cache_is_marked_where_most_requests_hold_it() -> None:
    past = history("gh", "ghf", "hf")
    assert [line[:3] for line in shown(past, "h", "gh", "ab")] == [
        (0, 3, True),
        (1, 2, True),
        (2, 1, False),
        (2, 1, False),
        (1, 1, False),
    ]


def test_of_a_large_tree_the_roots_and_what_is_marked() -> None:
    letters = "abcdefgh"
    requests = [
        "".join(letters[place] for place in range(8) if number >> place & 1) for number in range(128, 192)
    ]
    lines = shown(history(*requests), "hf")
    assert [line[:3] for line in lines] == [(0, 64, False), *[line[:3] for line in lines[1:]]]
    assert 2 <= len(lines) <= 3
    assert sum(line[2] for line in lines) == 1


def test_without_requests() -> None:
    assert shown(history(), "gh") == []
    assert shown(history(""), "gh") == [(0, 1, False, "")]


def test_a_drawing_has_requests_side_by_side_and_what_they_share_above() -> None:
    tree = learn.cluster(history("gh", "ghf", "a").table)
    gh, ghf = (7 + 8) * 1024, (6 + 7 + 8) * 1024
    drawing = outline.drawing(tree, [3])
    # What has nothing in common with others stands apart, without a line.
    assert drawing.marks == [(1.5, gh)]
    assert sorted(drawing.lines) == [
        (0, ((1, gh), (1, gh), (1.5, gh))),
        (0, ((2, ghf), (2, gh), (1.5, gh))),
    ]
    assert {mark for mark, _ in outline.drawing(tree, []).lines} == {-1}


def test_of_marked_clusters_the_innermost_gives_the_colour() -> None:
    tree = learn.cluster(history("gh", "ghf", "gd", "gde").table)
    inner, outer = 4, 6
    drawing = outline.drawing(tree, [inner, outer])
    assert len(drawing.marks) == 2
    colours = [mark for mark, _ in drawing.lines]
    assert (colours.count(0), colours.count(1)) == (2, 4)
