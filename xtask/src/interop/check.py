"""Reads a file with a line of JSON for each response and parses its fields with a parser of structured fields.
Prints how many of them it read as they were meant."""

import json
import sys

from http_sfv import List


def expect(field, meant, keys):
    parsed = List()
    parsed.parse(field.encode("ascii"))
    assert len(parsed) == len(meant), "another number of members"
    for item, member in zip(parsed, meant):
        # A token would be a class of its own.
        assert type(item.value) is str and item.value == member["name"], f"the name {item.value!r}"
        assert list(item.params) == keys, f"the keys {list(item.params)}"
        for key, value in item.params.items():
            assert type(value) is int and value >= 0, f"{key} is no count"
            assert key == "t" or value == member[key], f"{key} is {value}"


read = 0
for line in open(sys.argv[1], encoding="ascii"):
    told = json.loads(line)
    try:
        expect(told["policy"], told["meant"], ["q", "w"])
        expect(told["ratelimit"], told["meant"], ["r", "t"])
        read += 1
    except (AssertionError, ValueError) as error:
        print(f"http-sfv: {error}: {told['policy']} / {told['ratelimit']}", file=sys.stderr)
print(f"http-sfv {read}")
