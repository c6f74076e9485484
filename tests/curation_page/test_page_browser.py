"""The page in a real browser, wide and narrow, light and dark.

Needs ``pip install -e '.[browser]'`` and Chromium, of the system or of ``playwright install``.
"""

import pytest
from curated_pages import make_pool

from dinojax.curate import curate

pytestmark = pytest.mark.browser

MEASURES = """() => ({
  broken: [...document.images].filter(image => !(image.complete && image.naturalWidth)).length,
  images: document.images.length,
  beyond: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  outside: [...document.querySelectorAll("body *")].filter(one => !one.closest(".wide")
    && one.getBoundingClientRect().right > innerWidth + 0.5).map(one => one.outerHTML.slice(0, 60)),
  tiles: [...new Set([...document.querySelectorAll(".tile img, .tile .gap")].map(one => {
    const box = one.getBoundingClientRect();
    return `${box.width.toFixed(1)} ${box.height.toFixed(1)}`;
  }))],
  paper: getComputedStyle(document.body).backgroundColor,
  text: [...document.querySelectorAll("svg text")].map(one => one.getBoundingClientRect())
    .filter(box => box.width && (box.left < 0 || box.right > innerWidth)).length,
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    config, work = make_pool(root), root / "curated"
    for stage in ("dedup", "cluster", "sample", "retrieve"):
        curate(stage, config, work)
    (root / "pool" / "small" / "copy.png").write_bytes(b"no image")
    curate("page", config, work)
    return work / "page" / "index.html"


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize(("scheme", "paper"), [("light", "255, 255, 255"), ("dark", "21, 24, 28")])
def test_it_fits(browser, page, width, scheme, paper):
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda said: complaints.append(said.text))
    tab.on("request", lambda asked: complaints.append(asked.url[:80]))
    tab.goto(f"file://{page}")
    tab.locator("summary").first.click()
    found = tab.evaluate(MEASURES)
    tab.close()
    assert [one for one in complaints if not one.startswith(("file:", "data:"))] == []
    assert found["images"] > 50 and found["broken"] == 0
    assert found["beyond"] <= 0 and found["outside"] == [] and found["text"] == 0
    assert len(found["tiles"]) == 1, "tiles of several sizes"
    assert found["paper"] == f"rgb({paper})"
