import pytest

from chutes.util.user import validate_the_username


def test_names() -> None:
    assert validate_the_username("my_User1") == "my_User1"


@pytest.mark.parametrize("name", ["", "ab", "a" * 16, "a-b", "ü12", "abc\n"])
def test_invalid_names(name: str) -> None:
    with pytest.raises(ValueError, match="3 to 15"):
        validate_the_username(name)
