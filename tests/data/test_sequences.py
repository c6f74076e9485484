"""Frames by name."""

from dinojax.data.sequences import find_sequences


class Named:
    class_names = None

    def __init__(self, *ids: str):
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int):
        raise AssertionError("no image is read")

    def record_id(self, index: int) -> str:
        return self.ids[index]


def test_sequences():
    """By number and not by letter; single images and names without a number are no videos."""
    source = Named(
        "bear/10.jpg", "bear/9.jpg", "val/0016E5_08009.png", "val/0016E5_07979.png",
        "val/0001TP_1.png", "cow/1", "cow/02", "one.jpg", "bear/11.jpg",
    )  # fmt: skip
    assert find_sequences(source) == {"bear/": [1, 0, 8], "cow/": [5, 6], "val/0016E5_": [3, 2]}
