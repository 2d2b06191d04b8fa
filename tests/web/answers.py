"""Answers of a relay, held against its own document: status, media type, headers, every field."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx2
import jsonschema_rs

Json = dict[str, Any]


def closed(schema: Any) -> Any:
    """The same, but an object has no fields that are not named. The document itself leaves room for tomorrow's."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if found.get("type") == "object" and isinstance(found.get("properties"), dict):
        found.setdefault("additionalProperties", False)
    return found


@dataclass
class Document:
    """An OpenAPI document, its schemas closed; `seen` is what was held against it: method, path and status."""

    whole: Json
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.components = closed(self.whole["components"])

    def faults(self, schema: Json, value: object) -> list[str]:
        """What is wrong with a value."""
        judge = jsonschema_rs.Draft202012Validator(
            {**closed(schema), "components": self.components}, validate_formats=True
        )
        return [f"{'/'.join(map(str, fault.instance_path))}: {fault.message}" for fault in judge.iter_errors(value)]

    def shape_faults(self, name: str, value: object) -> list[str]:
        return self.faults({"$ref": f"#/components/schemas/{name}"}, value)

    def operation(self, method: str, path: str) -> Json:
        found: Json = self.whole["paths"][path][method.lower()]
        return found

    def response(self, method: str, path: str, status: int) -> Json:
        """What is said of this status."""
        said: Json = self.operation(method, path)["responses"]
        found: Json | None = said.get(str(status), said.get("default"))
        assert found is not None, f"{method} {path} answered {status}, of which nothing is said"
        if "$ref" in found:
            response: Json = self.whole["components"]["responses"][found["$ref"].rsplit("/", 1)[-1]]
            return response
        return found

    def judge(self, method: str, path: str, answer: httpx2.Response) -> None:
        """Fails where the answer is another than the document has it."""
        where = f"{method} {path}: {answer.status_code}"
        said = self.response(method, path, answer.status_code)
        self.seen.add(where)
        for name in said.get("headers", {}):
            assert name in answer.headers, f"{where} has no {name}"
        content = said.get("content", {})
        if not content:
            assert answer.content == b"", f"{where} has a body of which nothing is said"
            return
        media = answer.headers["content-type"].partition(";")[0]
        assert media in content or "*/*" in content, f"{where} is {media}"
        if media.endswith("json"):
            schema = content.get(media, content.get("*/*"))["schema"]
            for text in answer.text.splitlines() if media.endswith("ndjson") else [answer.text]:
                faults = self.faults(schema, json.loads(text))
                assert faults == [], f"{where}\n{faults}\n{text[:3000]}"


@dataclass
class Judged:
    """A client whose every answer is held against the document; it takes addresses as the document writes them."""

    client: httpx2.AsyncClient
    document: Document

    async def __call__(self, method: str, path: str, ids: Json | None = None, **more: Any) -> httpx2.Response:
        given = ids or {}
        url = re.sub(r"{(\w+)}", lambda name: str(given[name[1]]), path)
        answer = await self.client.request(method, url, **more)
        self.document.judge(method, path, answer)
        return answer
