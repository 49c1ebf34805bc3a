"""JSON from files is read as the standard has it: anything ambiguous is refused, with a reason."""

from __future__ import annotations

import pytest

from glance_fast.storage.strict_json import canonical, parse_object

REFUSED = {
    b'{"a": 1, "b": 2, "a": 3}': "the key 'a' is there 2 times",
    b'{"a": {"b": 1, "b": 1}}': "the key 'b' is there 2 times",
    b'{"a": NaN}': "NaN is no number of JSON",
    b'{"a": -Infinity}': "-Infinity is no number of JSON",
    b'{"a": 1e999}': "the number 1e999 is beyond the range of floats",
    b'{"a": "\\ud800"}': "surrogates not allowed",
    b'{"a": "\xff"}': "can't decode byte",
    b'\xef\xbb\xbf{"a": 1}': "BOM",
    b'{"a": ' * 100_000: "nested too deeply",
    b'{"a": ' + b"9" * 5000 + b"}": "4300 digits",
    b"[1]": "it holds no JSON object",
    b'{"a": 1} {': "Extra data",
    b"": "Expecting value",
}


@pytest.mark.parametrize("data", REFUSED, ids=lambda data: repr(data[:20]))
def test_what_is_ambiguous_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=REFUSED[data]):
        parse_object(data)


def test_equal_values_have_one_canonical_text() -> None:
    first = parse_object(b'{"b": [1, 2.50], "a": "\xc3\xa9"}')
    second = parse_object(b'{\n "a": "\\u00e9",\n "b": [1,\t25e-1]\n}\n')
    assert canonical(first) == canonical(second) == b'{"a":"\\u00e9","b":[1,2.5]}'
    assert canonical({"a": 1}) != canonical({"a": 1.0})
