"""The page of systems says what is there: specs, tests, constructs."""

from __future__ import annotations

import pytest

from tests.packages import ROOT, SPECS
from tests.systems.page import PAGE, page, systems


@pytest.mark.parametrize("system", systems(), ids=lambda each: each["spec"])
def test_a_system_has_its_spec_and_its_test(system: dict[str, str]) -> None:
    assert (SPECS / f"{system['spec']}.moe").is_file()
    assert (ROOT / system["test"]).is_file()
    assert all(system[key] for key in ("title", "oracle", "compared", "largest_error"))


def test_the_page_is_up_to_date(request: pytest.FixtureRequest) -> None:
    text = page()
    if request.config.getoption("--update-golden"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "run `make golden`"
