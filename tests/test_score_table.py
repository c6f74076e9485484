"""The table: one line per score, and what was published for the same architecture."""

from dinojax.score_table import markdown

HASHES = {"protocol_hash": "aa11", "checkpoint_fingerprint": "bb22"}
FOUND = {
    "checkpoint_fingerprint": "bb22",
    "arch": "vits14",
    "scores": [
        {"task": "knn", "metric": "top1", "value": 0.5, "spread": None, **HASHES},
        {"task": "linear", "metric": "top1", "value": 0.75, "spread": 0.01234, **HASHES},
    ],
    "protocols": {"aa11": {"k": 20}},
    "data": {"train": {"records": 7}, "test": {"records": 3}},
}


def test_lines():
    assert markdown(FOUND).splitlines() == [
        "| task | metric | value | spread | protocol |",
        "| --- | --- | --- | --- | --- |",
        "| knn | top1 | 0.5000 |  | `aa11` |",
        "| linear | top1 | 0.7500 | 0.0123 | `aa11` |",
        "",
        "Checkpoint `bb22` (vits14); 7 train, 3 test.",
        "",
        '* `aa11`: {"k": 20}',
    ]


def test_published_scores_of_the_same_architecture():
    published = [("vits14", "linear_top1", 0.811, "a table"), ("vitb14", "knn_top1", 0.9, "it")]
    lines = markdown(FOUND, published).splitlines()
    assert lines[0] == "| task | metric | value | spread | published | protocol |"
    assert lines[2:4] == [
        "| knn | top1 | 0.5000 |  |  | `aa11` |",
        "| linear | top1 | 0.7500 | 0.0123 | 0.8110 (a table) | `aa11` |",
    ]
    assert markdown(FOUND, published[1:]) == markdown(FOUND)
