"""Draw docs/images/view.png: a bundled record in the page of `ecgstore view`, measured with the calipers.

    python docs/make_view_picture.py

It needs a Chromium (Debian: ``apt install chromium``) and playwright, which the extra ``dev`` brings.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from ecgstore import IngestSettings, ingest_folder
from ecgstore.look.view.server import Serving
from ecgstore.look.view.view import open_view

HERE = Path(__file__).parent
MINI = HERE.parent / "tests" / "data" / "ptbxl_mini"
PICTURE = HERE / "images" / "view.png"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
RECORD = "145"
#: From one beat of the long lead II to the next, and from its foot to its top: seconds, mV.
FROM, TO = (3.59, 0.0), (4.75, 0.66)


@contextmanager
def served() -> Iterator[str]:
    """The address of the page of the bundled records, with the raw ones beneath."""
    with tempfile.TemporaryDirectory() as folder:
        store, raw = Path(folder) / "ptbxl.ecg", Path(folder) / "raw.ecg"
        ingest_folder(MINI, store, IngestSettings())
        ingest_folder(MINI, raw, IngestSettings(profile="raw"))
        serving = Serving(open_view(str(store), raw=str(raw)))
        thread = threading.Thread(target=serving.run, daemon=True)
        thread.start()
        yield serving.address
        serving.stop()
        thread.join()


def measure(tab: Any) -> None:
    """Draw the calipers from FROM to TO in the lowest lead, with the mouse, as a reader does."""
    points = tab.evaluate(
        """points => {
            const lowest = [...document.querySelectorAll("#paper path.trace")].at(-1);
            const to_screen = lowest.ownerSVGElement.getScreenCTM();
            return points.map(([at_s, mv]) => {
                const at = new DOMPoint(+lowest.dataset.x + 25 * at_s, +lowest.dataset.y - 10 * mv);
                const on_screen = at.matrixTransform(to_screen);
                return [on_screen.x, on_screen.y];
            });
        }""",
        [FROM, TO],
    )
    tab.click("#calipers")
    tab.mouse.move(*points[0])
    tab.mouse.down()
    tab.mouse.move(*points[1], steps=4)
    tab.mouse.up()


def main() -> None:
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1400, "height": 800})
        tab.goto(address)
        tab.wait_for_selector("#rows tbody tr")
        tab.goto(f"{address.partition('?')[0]}?record={RECORD}&layout=3x4%2B1&speed=25&gain=10")
        tab.wait_for_selector("#paper path.trace.raw")
        measure(tab)
        taken = Image.open(BytesIO(tab.screenshot()))
        browser.close()
    # 256 colours: the page has few, and the file is a third as large.
    taken.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
