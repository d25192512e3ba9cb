"""Make docs/page.png: the page of `recvae serve`, in Chromium, for a model of the made-up film club.

    python -m benchmarks.picture --record        docs/page.png
    python -m benchmarks.picture --out FILE      another file

The titles are those of data_prep's sample, and the fonts this machine's.
"""

import tempfile
from pathlib import Path

from benchmarks.harness import DOCS, parser
from benchmarks.speed.page import chromium, served
from data_prep import sample
from recvae import EASE

HISTORY = "#item=60&item=70&item=11"


def main() -> None:
    options = parser(__doc__)
    arguments = options.parse_args()
    where = DOCS / "page.png" if arguments.record else arguments.out
    if where is None:
        options.error("name the picture to write with --out FILE, or replace that of the pages with --record")
    data = sample().dataset()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "films"
        ids, titles = list(data.item_ids), list(data.item_titles)
        EASE().fit(data.train, item_ids=ids, titles=titles, item_tags=data.item_tags).save(run)
        with served(run) as url, chromium() as browser:
            page = browser.new_page(viewport={"width": 1200, "height": 880}, reduced_motion="reduce")
            page.goto(url + HISTORY)
            page.wait_for_selector("#rows .row")
            page.screenshot(path=where)


if __name__ == "__main__":
    main()
