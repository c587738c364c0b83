import pytest
from sample_report import hostile_report, make_report

from jaxinterp.report import Report


@pytest.fixture(scope="session")
def report() -> Report:
    return make_report()


@pytest.fixture(scope="session")
def hostile() -> Report:
    return hostile_report()
