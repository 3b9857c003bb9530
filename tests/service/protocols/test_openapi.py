from service.protocols.openapi import lane_paths


def test_every_operation_is_complete() -> None:
    """The server's own test asks each path; this one reads what an anchor may have left out."""
    paths = lane_paths()
    assert len(paths) == 34
    for path, methods in paths.items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert {"tags", "summary", "parameters", "responses"} <= set(operation), where
            assert set(operation["responses"]) == {"200", "default"}, where
            assert ("requestBody" in operation) == (method in ("post", "put")), where
            names = [parameter["name"] for parameter in operation["parameters"]]
            assert [n for n in ("name", "version") if f"{{{n}}}" in path] == [
                n for n in names if n in ("name", "version")
            ], where
