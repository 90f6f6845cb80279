"""The OpenAPI document says what there is."""

import json
import re

from impasto.api.table import ROUTES


def document(ask) -> dict:
    return ask("GET", "openapi.json").value


def test_every_route_is_in_it_by_its_method_and_path(ask):
    paths = document(ask)["paths"]
    told = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert told == {(route.method, re.sub(r":[^}]+}", "}", route.path)) for route in ROUTES}


def test_it_is_whole(ask):
    text = json.dumps(document(ask))
    schemas = document(ask)["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) <= schemas.keys()
    assert schemas["Train"]["additionalProperties"] is False and "output_name" in schemas["Train"]["required"]


def test_operations_have_names_of_their_own_and_say_every_error(ask):
    operations = [each for methods in document(ask)["paths"].values() for each in methods.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    for operation in operations:
        assert operation["responses"].keys() >= {"400", "401", "404", "500"}
        assert operation["responses"].keys() & {"200", "202"}


def test_a_job_that_is_not_waited_for_is_answered_with_its_id_alone(ask):
    answers = document(ask)["paths"]["/impasto/download-images"]["post"]["responses"]
    schemas = {status: answers[status]["content"]["application/json"]["schema"]["$ref"] for status in ("200", "202")}
    assert schemas == {"200": "#/components/schemas/Downloaded", "202": "#/components/schemas/Posted"}
