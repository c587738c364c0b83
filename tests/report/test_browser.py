"""The page in a real browser: what a person does with it."""

import dataclasses
import shutil

import pytest
from sample_report import HOSTILE, make_report

from jaxinterp.report import Report, write_page

selenium = pytest.importorskip("selenium", reason="selenium drives the browser")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-dev-shm-usage",
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    service = shutil.which("chromedriver")
    if browser is None or service is None:
        pytest.skip("needs Chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for switch in (*SWITCHES, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(service))
    yield driver
    driver.quit()


@pytest.fixture
def visit(driver, tmp_path):
    """Opens a report at a width; afterwards the console must be empty and nothing loaded."""

    def go(report, *, width=1280, hash=""):
        path = tmp_path / "report.html"
        write_page(path, report)
        size = {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get("about:blank")
        driver.get(path.as_uri() + hash)
        return driver

    yield go
    assert driver.get_log("browser") == []
    loaded = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert [name for name in driver.execute_script(loaded) if not name.startswith("data:")] == []


def text(driver, selector):
    return driver.execute_script(
        "return document.querySelector(arguments[0])?.textContent", selector
    )


def wait(driver, condition):
    return WebDriverWait(driver, 10).until(lambda _: condition())


def listed(driver):
    rows = driver.find_elements(By.CSS_SELECTOR, "#list .row")
    return [int(row.get_attribute("data-index")) for row in rows]


def in_order(report, key, largest_first=True):
    order = sorted(report.features, key=key, reverse=largest_first)
    return [feature.index for feature in order]


def seen(tokens):
    """Tokens as the page shows them, up to its marks for white space."""
    return "".join("".join(tokens).split())


def test_a_feature_opens_and_shows_its_contexts(visit, report):
    driver = visit(report)
    feature = report.features[4]
    assert text(driver, "#opened") == f"Feature {in_order(report, lambda f: f.peak)[0]}"
    driver.find_element(By.CSS_SELECTOR, f'.row[data-index="{feature.index}"]').click()
    wait(driver, lambda: text(driver, "#opened") == f"Feature {feature.index}")
    assert driver.current_url.endswith(f"#feature-{feature.index}")
    shown = driver.find_elements(By.CSS_SELECTOR, ".contexts .text")
    assert len(shown) == len(feature.contexts)
    context = feature.contexts[0]
    unmarked = shown[0].get_property("textContent").translate({ord(c): None for c in "↵·→"})
    assert "".join(unmarked.split()) == seen(context.tokens)
    tokens = shown[0].find_elements(By.CSS_SELECTOR, ".token")
    shade = [token.value_of_css_property("background-color") for token in tokens]
    active = [value > 0 for value in context.activations]
    assert [colour != "rgba(0, 0, 0, 0)" for colour in shade] == active
    rows = driver.find_elements(By.CSS_SELECTOR, ".logits tbody tr")
    assert len(rows) == len(feature.promoted) + len(feature.suppressed)
    bars = driver.find_elements(By.CSS_SELECTOR, ".detail .chart .bar")
    assert len(bars) == sum(count > 0 for count in feature.histogram.counts)


def test_the_keyboard_opens_a_feature(visit, report):
    driver = visit(report)
    order = in_order(report, lambda f: f.peak)
    driver.find_element(By.CSS_SELECTOR, ".row").send_keys(Keys.ARROW_DOWN)
    driver.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    wait(driver, lambda: text(driver, "#opened") == f"Feature {order[2]}")
    current = driver.find_element(By.CSS_SELECTOR, ".row[aria-current=true]")
    assert current.get_attribute("data-index") == str(order[2])


def test_next_keeps_the_focus(visit, report):
    driver = visit(report)
    order = in_order(report, lambda f: f.peak)
    driver.find_element(By.CSS_SELECTOR, "[data-step=Next]").send_keys(Keys.ENTER)
    wait(driver, lambda: text(driver, "#opened") == f"Feature {order[1]}")
    assert driver.switch_to.active_element.text == "Next"
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    wait(driver, lambda: text(driver, "#opened") == f"Feature {order[2]}")
    driver.back()
    wait(driver, lambda: text(driver, "#opened") == f"Feature {order[1]}")


def test_a_token_says_its_activation(visit, report):
    driver = visit(report)
    token = driver.find_element(By.CSS_SELECTOR, ".contexts .token.focus")
    token.send_keys(Keys.NULL)
    tip = driver.find_element(By.ID, "tip")
    peak = max(feature.peak for feature in report.features)
    assert tip.is_displayed()
    assert tip.text == f"activation {peak:.1f}, 100 % of the peak"
    token.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()


def test_sorting(visit, report):
    driver = visit(report)
    keys = {"peak": lambda f: f.peak, "frequency": lambda f: f.frequency}
    keys |= {"mean_active": lambda f: f.mean_active, "index": lambda f: f.index}
    for name, key in keys.items():
        driver.find_element(By.CSS_SELECTOR, f'#order option[value="{name}"]').click()
        assert listed(driver) == in_order(report, key, largest_first=name != "index")
    driver.find_element(By.ID, "direction").click()
    assert listed(driver) == in_order(report, lambda f: f.index)


def test_search_narrows_and_clears(visit, report):
    special = dataclasses.replace(report.features[5], promoted=((" Quokka", 2.0),))
    report = dataclasses.replace(report, features=(*report.features[:5], special))
    driver = visit(report)
    box = driver.find_element(By.ID, "query")
    for query in ("quokka", f"#{special.index}", f"feature {special.index}"):
        box.clear()
        box.send_keys(query)
        assert listed(driver)[0] == special.index
    box.clear()
    box.send_keys("quokka")
    assert listed(driver) == [special.index]
    assert text(driver, "#status") == "1 of 6 features"
    box.clear()
    box.send_keys("CONVENIENT REUSE")
    expected = {
        f.index
        for f in report.features
        if any("convenient reuse" in "".join(c.tokens).lower() for c in f.contexts)
    }
    assert set(listed(driver)) == expected
    assert driver.find_elements(By.CSS_SELECTOR, "#list .token.match")
    box.clear()
    box.send_keys("no such words")
    assert listed(driver) == []
    assert "No feature matches “no such words”." in text(driver, "#status")
    driver.find_element(By.CSS_SELECTOR, "#status button").click()
    assert len(listed(driver)) == len(report.features)
    assert box.get_property("value") == ""


def test_deep_link(visit, report):
    wanted = report.features[7].index
    driver = visit(report, hash=f"#feature-{wanted}")
    wait(driver, lambda: text(driver, "#opened") == f"Feature {wanted}")
    top = "return document.getElementById('detail').getBoundingClientRect().top"
    wait(driver, lambda: 0 <= driver.execute_script(top) < 100)
    driver.execute_script("location.hash = '#feature-999999'")
    wait(driver, lambda: text(driver, "#status") == "This report has no feature 999999.")


def test_hostile_text_stays_text(visit, hostile):
    driver = visit(hostile)
    assert driver.title == HOSTILE
    assert driver.find_elements(By.TAG_NAME, "img") == []
    assert HOSTILE in text(driver, ".contexts .text")
    assert "\\u202e" in text(driver, ".contexts .text")
    assert HOSTILE in text(driver, ".logits").replace("·", " ")
    assert text(driver, "h1") == HOSTILE
    assert "&lt;" in text(driver, "#detail")
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_a_phone(visit, report):
    driver = visit(report, width=390)
    fits = "return document.documentElement.scrollWidth <= innerWidth && innerWidth === 390"
    assert driver.execute_script(fits)
    assert not driver.find_element(By.ID, "detail").is_displayed()
    row = driver.find_elements(By.CSS_SELECTOR, ".row")[3]
    row.click()
    wait(driver, lambda: driver.find_element(By.ID, "detail").is_displayed())
    assert not driver.find_element(By.ID, "list").is_displayed()
    assert driver.execute_script(fits)
    driver.find_element(By.CSS_SELECTOR, ".contexts .token.focus").click()
    assert driver.find_element(By.ID, "tip").is_displayed()
    driver.find_element(By.CSS_SELECTOR, ".back").click()
    wait(driver, row.is_displayed)
    assert not driver.find_element(By.ID, "detail").is_displayed()
    wait(driver, lambda: driver.switch_to.active_element == row)


def test_long_lists_are_drawn_as_they_are_scrolled(visit):
    driver = visit(make_report(features=300, contexts=1, length=8))
    assert len(listed(driver)) < 300
    driver.execute_script("document.getElementById('browser').scrollIntoView()")
    for _ in range(10):
        driver.execute_script("document.getElementById('scroller').scrollTop = 1e9")
        driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 30))")
    wait(driver, lambda: len(listed(driver)) == 300)
    assert len(set(listed(driver))) == 300
    assert not driver.find_element(By.ID, "more").is_displayed()


def test_nothing_to_show(visit, report):
    driver = visit(Report("Nothing yet"))
    assert text(driver, "#status") == "This report has no features."
    assert "No training curve" in text(driver, "#training")
    assert not driver.find_element(By.ID, "detail").is_displayed()
    lone = dataclasses.replace(report, profile=report.profile[2:3], features=report.features[:1])
    driver = visit(lone)
    assert "n/a" in text(driver, ".profile table")
    assert driver.find_elements(By.CSS_SELECTOR, "#layers .dot.mle")
