"""The page of settings says what the code says."""

from tools.settings_page import PAGE, page


def test_the_page_of_settings_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `python tools/settings_page.py`"
