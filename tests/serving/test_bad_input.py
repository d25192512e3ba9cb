"""Every bad input has its status and its sentence, and the service is alive after it."""

import json
import random
import socket
import time

import pytest
from serving_models import fitted
from serving_process import here, problem, raw

LIMITS = {"max_k": 50, "max_history": 100, "max_batch": 5, "max_body": 20_000, "body_within": 0.4, "head_within": 0.4,
          "max_explained": 3}  # fmt: skip
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    fitted("ease").save(folder / "ease")
    fitted("popularity").save(folder / "popularity")
    with here({"films": folder / "ease", "popular": folder / "popularity"}, **LIMITS) as service:
        yield service
        assert service.events("failure") == []  # no answer was a bug's


@pytest.fixture(scope="module")
def client(service):
    with service.client() as client:
        yield client


@pytest.fixture(autouse=True)
def alive(service):
    """After each test the service answers as before."""
    yield
    with service.client() as client:
        assert client.post("/v1/recommend", json={"history": ["001"], "k": 1}).status_code == 200


def head(length, more=""):
    return (
        f"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
        f"{more}\r\n"
    ).encode()


def first_line(answer):
    return answer.split(b"\r\n", 1)[0]


NOT_JSON = [b"", b"{", b"history=001", b"\xff\xfe\x00", b'{"history": ["\\ud800"]}', b"[" * 10_000,
            b'{"history": [1e', b"{\"history\": [\"001\"]} x", b'{"a":' * 3_000]  # fmt: skip


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:12]))
@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/recommend/batch", "/v1/similar"])
def test_a_body_that_is_no_json(client, path, body):
    document = problem(client.post(path, content=body, headers=JSON), 400)
    assert document["detail"].startswith("The body is not JSON: ")


UNUSABLE = [
    ({}, "history", "The field 'history' is missing."),
    ([], "", "The body must be a JSON object."),
    (None, "", "The body must be a JSON object."),
    ({"histroy": ["001"]}, "histroy", "Did you mean 'history'?"),
    ({"history": [], "deny_tag": []}, "deny_tag", "Did you mean 'deny_tags'?"),
    ({"history": [], "seed": 1}, "seed", "There is no field 'seed'. Known: history, ratings, k,"),
    ({"history": "001"}, "history", "'history' must be a list, and is '001'."),
    ({"history": [1]}, "history.0", "Place 1 of 'history' must be a text, and is 1."),
    ({"history": [], "k": 0}, "k", "'k' must be greater than or equal to 1, and is 0."),
    ({"history": [], "k": -1}, "k", "and is -1."),
    ({"history": [], "k": 51}, "k", "'k' must be at most 50, and is 51."),
    ({"history": [], "k": 10**30}, "k", "'k' must be at most 50, and is 1000"),
    ({"history": ["001", "002", "003", "004"], "reasons": 1}, "reasons", "histories of up to 3 items, and this has 4"),
    ({"history": [], "k": 2.5}, "k", "'k' must be a whole number, and is 2.5."),
    ({"history": [], "k": "10"}, "k", "'k' must be a whole number, and is '10'."),
    ({"history": [], "k": True}, "k", "'k' must be a whole number, and is True."),
    ({"history": [], "k": None}, "k", "'k' must be a whole number, and is None."),
    ({"history": [], "exclude_seen": 1}, "exclude_seen", "'exclude_seen' must be true or false, and is 1."),
    ({"history": [], "diversity": 1.5}, "diversity", "'diversity' must be less than or equal to 1, and is 1.5."),
    ({"history": [], "diversity": float("nan")}, "diversity", "and is nan."),
    ({"history": [], "reasons": 101}, "reasons", "and is 101."),
    ({"history": [], "most_per_tag": 0}, "most_per_tag", "and is 0."),
    ({"history": ["001"] * 101}, "history", "The history has 101 items; this service takes 100."),
    ({"history": ["x", "y"], "strict": True}, "history", "None of the history's items is known: 'x', 'y'."),
    ({"history": [], "allow": ["x"]}, "allow", "None of the allowed items is known"),
    ({"history": [], "allow": []}, "allow", "None of the allowed items is known"),
    ({"history": [], "allow": "001"}, "allow", "'allow' must be a list, and is '001'."),
    ({"history": [], "allow_tags": ["Comdy"]}, "allow_tags.0", "tag"),
    ({"history": [], "conditions": ["Comedy"]}, "conditions", "This EASE model has no conditions"),
    ({"history": ["001"], "ratings": [5]}, "ratings", "This model was trained on clicks"),
    ({"history": ["001"], "ratings": [0]}, "ratings.0", "Place 1 of 'ratings' must be greater than 0, and is 0."),
]  # fmt: skip


@pytest.mark.parametrize(("body", "field", "sentence"), UNUSABLE, ids=lambda value: str(value)[:40])
def test_a_value_that_cannot_be_used(client, body, field, sentence):
    content = json.dumps(body).encode()
    document = problem(client.post("/v1/recommend", content=content, headers=JSON), 422)
    [error] = [one for one in document["errors"] if sentence in one["detail"]]
    assert error["field"] == (field or "")
    assert sentence in document["detail"]
    if isinstance(body, dict):  # in a batch it is that query's own mistake
        queries = {"queries": [{"history": ["001"], "k": 1}, body, {"history": [], "k": 2}]}
        answer = client.post("/v1/recommend/batch", content=json.dumps(queries).encode(), headers=JSON)
        assert answer.status_code == 200, answer.text
        good, bad, also = answer.json()["answers"]
        assert [len(good["items"]), len(also["items"])] == [1, 2]
        assert sentence in bad["problem"]["detail"]
        assert bad["problem"]["status"] == 422
        assert f"queries.1.{field}" in [one["field"] for one in bad["problem"]["errors"]]


def test_all_mistakes_of_a_body_are_named(client):
    document = problem(client.post("/v1/recommend", json={"k": 0, "diversity": 2, "whatever": 1}), 422)
    assert {one["field"] for one in document["errors"]} == {"history", "k", "diversity", "whatever"}
    assert "There are 3 more such mistakes; see errors." in document["detail"]


def test_unknown_items_are_listed_and_no_error(client):
    asked = {"history": ["001", "x", "x", "y"], "deny": ["z", "002"], "allow": ["003", "w"], "k": 5}
    answer = client.post("/v1/recommend", json=asked).json()
    assert answer["unknown"] == ["x", "y", "w", "z"]
    assert [item["item"] for item in answer["items"]] == ["003"]
    nobody = client.post("/v1/recommend", json={"history": ["x"], "k": 3}).json()
    assert len(nobody["items"]) == 3
    assert nobody["unknown"] == ["x"]


def test_a_batch_that_cannot_be_used_at_all(client):
    assert "5" in problem(client.post("/v1/recommend/batch", json={"queries": [{"history": []}] * 6}), 422)["detail"]
    for body in ({}, {"queries": {}}, {"queries": [], "x": 1}, []):
        problem(client.post("/v1/recommend/batch", json=body), 422)
    assert client.post("/v1/recommend/batch", json={"queries": []}).json()["answers"] == []
    odd = client.post("/v1/recommend/batch", json={"queries": [1, "x", None, [], {"history": []}]}).json()["answers"]
    assert [one.get("problem", {}).get("status", 200) for one in odd] == [422, 422, 422, 422, 200]


def test_similar_items_that_cannot_be_had(client):
    assert "Did you mean" not in problem(client.post("/v1/similar", json={"item": "999"}), 404)["detail"]
    problem(client.post("/v1/similar", json={"item": "001", "k": 0}), 422)
    problem(client.post("/v1/similar", json={"items": "001"}), 422)
    document = problem(client.post("/v1/models/popular/similar", json={"item": "001"}), 422)
    assert "which are alike" in document["detail"]


def test_paths_and_methods_that_are_not_there(client):
    problem(client.get("/v1/nothing"), 404)
    problem(client.get("/page/../../setup.cfg"), 404)
    problem(client.get("/page/%2e%2e/routes.py"), 404)
    assert "Did you mean 'films'?" in problem(client.get("/v1/models/film"), 404)["detail"]
    answer = client.get("/v1/recommend")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"
    for path in ("/v1/items?limit=0", "/v1/items?limit=x", "/v1/items?limit=99999", "/v1/items?query=x",
                 "/v1/items?q=a&id=001"):  # fmt: skip
        problem(client.get(path), 422)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_another_content_type(client, kind):
    headers = {"content-type": kind} if kind else {}
    document = problem(client.post("/v1/recommend", content=b'{"history": []}', headers=headers), 415)
    assert "Content-Type: application/json" in document["detail"]
    good = client.post(
        "/v1/recommend", content=b'{"history": []}', headers={"content-type": "Application/JSON; charset=utf-8"}
    )
    assert good.status_code == 200


def test_a_packed_body(client):
    problem(client.post("/v1/recommend", content=b"\x1f\x8b", headers={**JSON, "content-encoding": "gzip"}), 415)


def test_a_body_that_is_too_large(client, service):
    million = json.dumps({"history": ["001"] * 1_000_000}).encode()
    assert "20,000 bytes" in problem(client.post("/v1/recommend", content=million, headers=JSON), 413)["detail"]

    def parts():
        for _ in range(100):
            yield b" " * 10_000

    problem(client.post("/v1/recommend", content=parts(), headers=JSON), 413)  # in chunks, of no stated length
    assert first_line(raw(service.port, head(10**15))).startswith(b"HTTP/1.1 413 ")
    assert first_line(raw(service.port, head(10**15, "expect: 100-continue\r\n"))).startswith(b"HTTP/1.1 413 ")


def test_http_of_1_0(service):
    body = b'{"history": ["001"], "k": 1}'
    answer = raw(service.port, head(len(body)).replace(b"HTTP/1.1", b"HTTP/1.0") + body)
    assert first_line(answer) == b"HTTP/1.1 200 OK"
    assert b"connection: close" in answer
    assert first_line(raw(service.port, b"GET /health/live HTTP/1.0\r\n\r\n")) == b"HTTP/1.1 200 OK"


RUBBISH = [random.Random(7).randbytes(4096), b"\x00" * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
           b"GET\r\n\r\n",
           b"HELO\r\n",
           b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
           b"POST /v1/recommend HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
           b"POST /v1/recommend HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n12345",
           b"POST /v1/recommend HTTP/1.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
           b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n"]  # fmt: skip


@pytest.mark.parametrize("rubbish", RUBBISH, ids=lambda value: repr(value[:20]))
def test_binary_rubbish(service, rubbish):
    answer = raw(service.port, rubbish, shut=True)
    assert not answer or first_line(answer)[9:12] in (b"400", b"404", b"431", b"408"), answer[:300]
    if answer:
        assert b"application/problem+json" in answer


def test_half_requests(service):
    began = time.monotonic()
    assert first_line(raw(service.port, b"POST /v1/rec")).startswith(b"HTTP/1.1 408 ")
    answer = raw(service.port, head(100) + b'{"history"')
    assert first_line(answer).startswith(b"HTTP/1.1 408 ")
    assert b"The body did not arrive within 0.4 seconds." in answer
    assert raw(service.port) == b""  # a connection without a word
    assert time.monotonic() - began < 10
    raw(service.port, head(100) + b'{"history"', shut=True)  # the client is gone
    raw(service.port, b"POST /v1/rec", shut=True)
    slow = raw(service.port, *[bytes([byte]) for byte in head(2)], pause=0.05)  # byte by byte
    assert not slow or first_line(slow).startswith(b"HTTP/1.1 408 ")  # lost where the client was sending


def test_a_client_that_leaves_before_its_answer(service):
    body = json.dumps({"history": ["001"], "k": 50, "reasons": 1}).encode()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(head(len(body)) + body)


def test_a_head_that_is_too_large(service):
    answer = raw(service.port, b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 200_000)
    assert not answer or first_line(answer).startswith(b"HTTP/1.1 431 ")


def test_several_requests_at_once_on_one_connection(service):
    body = b'{"history": ["001"], "k": 1}'
    last = b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = raw(service.port, (head(len(body)) + body) * 3 + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 4


def test_ids_of_requests_are_taken_where_they_are_harmless(client, service):
    for given, same in (("abc-1", True), ("x" * 129, False), ("a b", False), ("a\tb", False), ("é".encode(), False)):
        answer = client.get("/health/live", headers={"x-request-id": given})
        assert (answer.headers["x-request-id"] == given) == same
    events = service.events("request")
    assert {"id", "client", "method", "path", "status", "ms"} <= set(events[-1])
    assert any(event["id"] == "abc-1" for event in events)


def test_metrics_count_requests_by_route_and_status(client):
    client.post("/v1/recommend", content=b"{", headers=JSON)
    client.get("/secret/path/1")
    text = client.get("/metrics").text
    assert 'recvae_requests_total{method="POST",route="/v1/recommend",status="400"}' in text
    assert 'recvae_requests_total{method="GET",route="none",status="404"}' in text
    assert "secret" not in text
    assert "recvae_batch_questions_count" in text
    assert "recvae_queue_seconds_bucket" in text
    assert 'recvae_model_info{kind="ease",model="films",version=' in text
