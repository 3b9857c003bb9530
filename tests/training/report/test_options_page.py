import pytest

from training.report.options_page import PAGE, options_page

pytestmark = pytest.mark.training


def test_the_page_in_docs_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == options_page(), (
        "run python -m training.report.options_page"
    )
