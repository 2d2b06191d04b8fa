"""Both engines have the same tables, columns and indexes."""

import re

from relay.store.migrate import migrations


def schema(engine: str) -> tuple[dict[str, list[str]], set[str]]:
    """The columns of each table, and the names of the indexes."""
    text = re.sub(r"--.*", "", "".join(step.sql for step in migrations(engine)))
    tables = {
        match[1]: re.findall(r"(?m)^    ([a-z0-9_]+) ", match[2])
        for match in re.finditer(r"CREATE TABLE (\w+) \((.*?)\n\)", text, re.DOTALL)
    }
    return tables, set(re.findall(r"CREATE INDEX (\w+)", text))


def test_the_schemas_are_the_same_but_for_the_index_of_words() -> None:
    tables, indexes = schema("sqlite")
    assert len(tables) > 15
    assert schema("postgres") == (tables, indexes | {"jobs_by_words"})
