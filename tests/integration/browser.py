"""What a person does in Dagster's UI, in Debian's Chromium; runs in the clients environment.

``python browser.py CHROMIUM URL PICTURE WHAT [ARGUMENT ...]`` does one thing, takes a picture of
what is to be seen in the end and prints what it says as JSON.
"""

import json
import re
import sys

from playwright.sync_api import Page, sync_playwright

# Sensors look every half minute.
_LOOK_MS = 90_000
_RUN_LIMIT_MS = 1_200_000
_ENDED = re.compile(r"^(Success|Failure|Canceled)$")


def graph(page: Page, url: str, *assets: str) -> list[str]:
    """Return the assets of the graph; all that are asked for have to be there."""
    page.goto(f"{url}/locations/optikit/asset-groups/optimization")
    for asset in assets:
        page.get_by_text(asset, exact=True).first.wait_for()
    shown = page.locator("body").inner_text().split()
    return [asset for asset in assets if asset in shown]


def materialize(page: Page, url: str, asset: str, *partition: str) -> str:
    """Ask for one partition, a part of its key for each dimension; return how its run ended."""
    page.goto(f"{url}/assets/{asset}")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name=re.compile("Confirm|Launch")).first.wait_for()
    # Of what is missing upstream the UI warns; it is made first.
    if (confirm := page.get_by_role("button", name="Confirm")).is_visible():
        confirm.click()
    dialog = page.get_by_role("dialog").filter(has_text="Partition selection")
    for part in partition:
        dialog.get_by_text("Select a partition").first.click()
        choices = page.locator("label:visible, [role=option]:visible, li:visible")
        choices.filter(has_text=part).last.click()
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Launch 1 run").click()
    dialog.wait_for(state="hidden")
    page.goto(f"{url}/runs")
    page.locator("a[href*='/runs/']").filter(has_text=re.compile("^[0-9a-f]{8}$")).first.click()
    ended = page.get_by_text(_ENDED).first
    ended.wait_for(timeout=_RUN_LIMIT_MS)
    return ended.inner_text()


def page_of(page: Page, url: str, path: str, *texts: str) -> str:
    """Return what a page says once all of the texts are on it."""
    page.goto(f"{url}/{path}")
    for text in texts:
        page.get_by_text(text).first.wait_for()
    return page.locator("body").inner_text()


def report(page: Page, url: str, asset: str, partition: str) -> str:
    """Follow the link of a partition to its report, and return what that says."""
    page.goto(f"{url}/assets/{asset}?view=partitions&partition={partition}")
    link = page.get_by_role("link", name="report").first
    page.goto(str(link.get_attribute("href")))
    return page.locator("body").inner_text()


def main(chromium: str, url: str, picture: str, what: str, *arguments: str) -> None:
    """Do what is asked for; the picture is taken also of what went wrong."""
    doings = {"graph": graph, "materialize": materialize, "page": page_of, "report": report}
    with sync_playwright() as playwright:
        # Nothing but loopback is looked at, and containers allow no sandbox.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.set_default_timeout(_LOOK_MS)
        try:
            found = doings[what](page, url, *arguments)
        finally:
            page.screenshot(path=picture)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
