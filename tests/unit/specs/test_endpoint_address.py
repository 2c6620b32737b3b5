import pytest

from optikit_assets.errors import EndpointError
from optikit_assets.specs.endpoint_address import (
    EndpointAddress,
    authorization,
    without_credentials,
)

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "url", "credentials"),
    [
        ("http://host:8000/v1/", "http://host:8000/v1", ""),
        ("https://ada:hunter2@host/v1", "https://host/v1", "ada:hunter2"),
        ("http://ada:hunter2%40%2F@[::1]:80/v1", "http://[::1]:80/v1", "ada:hunter2@/"),
        ("http://hunter2@host", "http://host", "hunter2:"),
        ("http://@host/v1", "http://host/v1", ""),
    ],
)
def test_user_and_password_are_taken_out_of_a_url(text: str, url: str, credentials: str) -> None:
    address = EndpointAddress.parse(text)
    assert (address.url, address.credentials) == (url, credentials)
    assert SECRET not in repr(address)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "ada:hunter2@host/v1",
        "ftp://ada:hunter2@host/v1",
        "http://ada:hunter2@/v1",
        "http://ada:hunter2@host:80a/v1",
        "http://ada:hunter2@[host/v1",
        "http://ada:hun/ter2hunter2@host/v1",
        "http://ada:1/hunter2@host/v1",
        "http://ada:1?hunter2@host/v1",
        "http://hunter2?1@host/v1",
        "http://hunter2#1@host/v1",
        "http://host/v1?api_key=hunter2",
        "http://host/v1#hunter2",
    ],
)
def test_what_is_no_base_url_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(EndpointError, match="--base-url ") as caught:
        EndpointAddress.parse(text, called="--base-url")
    assert SECRET not in str(caught.value)


def test_credentials_of_the_url_win_over_a_key() -> None:
    assert authorization("ada:hunter2", "key") == {"Authorization": "Basic YWRhOmh1bnRlcjI="}
    assert authorization("", "key") == {"Authorization": "Bearer key"}
    assert authorization(None, None) == {}


def test_a_text_is_shown_without_the_credentials_of_its_urls() -> None:
    shown = without_credentials("judge_endpont: 'http://ada:hun/ter2@host/v1'")
    assert shown == "judge_endpont: 'http://…@host/v1'"
