import asyncio
import json
import re

import pytest

from optikit_assets.benchmarker.client import (
    ClientLimits,
    CompletionClient,
    Flight,
    RequestShape,
)
from optikit_assets.benchmarker.event_stream import EventParser
from optikit_assets.benchmarker.prompts import Prompt
from optikit_assets.specs.workload import Endpoint
from tests.servers.imitation import Behaviour, running

TOKEN = b'data: {"choices":[{"index":0,"text":"a"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def chunk(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def prompt(content, tokens):
    return Prompt(content, 3, tokens, "0")


def complete(
    base_url, *, tokens=6, timeout_s=5.0, model="imitation", endpoint: Endpoint = "completions"
):
    content = b'[{"role": "user", "content": "x"}]' if endpoint == "chat" else b"[1, 2, 3]"

    async def go():
        async with CompletionClient(base_url, limits=ClientLimits(connect_s=1.0)) as client:
            flight = Flight(client.now())
            body = RequestShape(endpoint).body(model, prompt(content, tokens))
            await client.complete(flight, body, timeout_s)
            return flight

    return asyncio.run(go())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_are_counted_however_the_bytes_are_cut(size):
    stream = TOKEN * 2 + b": ping\n\n" + USAGE + DONE
    parser = EventParser()
    tokens = sum(parser.feed(stream[i : i + size]) for i in range(0, len(stream), size))
    parser.close()
    assert tokens == 2
    assert parser.usage == (5, 2)


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_a_stream_may_end_with_the_reason_instead_of_done(endpoint):
    one = TOKEN if endpoint == "completions" else chunk({"content": "a"})
    empty = {"text": ""} if endpoint == "completions" else {"delta": {}}
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    last = {"choices": [{**empty, "finish_reason": "length"}], "usage": usage}
    end = b"data: " + json.dumps(last).encode() + b"\n\n"
    parser = EventParser(endpoint, ends_with_reason=True)
    assert parser.feed(one * 2) == 2
    with pytest.raises(ValueError, match="without a finish_reason"):
        parser.close()
    assert parser.feed(end) == 0
    parser.close()
    assert parser.usage == (5, 3)
    # None of its tokens printed anything: that there were some is known at the end.
    silent = EventParser(endpoint, ends_with_reason=True)
    assert silent.feed(end) == 1
    silent.close()


def test_a_reason_ends_no_stream_that_has_to_say_done():
    parser = EventParser()
    parser.feed(b'data: {"choices":[{"text":"a","finish_reason":"stop"}]}\n\n' + USAGE)
    with pytest.raises(ValueError, match=r"without \[DONE\]"):
        parser.close()


def test_events_with_carriage_returns_are_understood():
    parser = EventParser()
    assert parser.feed((TOKEN * 3 + DONE).replace(b"\n", b"\r\n")) == 3
    parser.close()
    assert parser.usage is None


@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_events_need_not_begin_alike(size):
    stream = b"".join(TOKEN.replace(b"{", b'{"created":%d,' % n, 1) * 2 for n in range(5)) + DONE
    parser = EventParser()
    assert sum(parser.feed(stream[i : i + size]) for i in range(0, len(stream), size)) == 10
    parser.close()


@pytest.mark.parametrize(
    ("deltas", "tokens"),
    [
        ([{"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}], 2),
        ([{"role": "assistant", "content": None}, {"content": "a"}, {}], 1),
        ([{"role": "assistant"}, {"reasoning_content": "a"}, {"content": "b"}], 2),
        ([{"role": "assistant", "content": ""}, {"reasoning": "a"}, {"content": "b"}], 2),
        # Some servers repeat the role in every chunk.
        ([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}], 2),
        # An end-of-sequence token that is ignored prints nothing.
        ([{"role": "assistant", "content": ""}, {"content": ""}, {"content": "a"}], 2),
    ],
)
def test_chat_deltas_are_tokens_unless_they_only_open_or_close_the_message(deltas, tokens):
    parser = EventParser("chat")
    assert parser.feed(b"".join(map(chunk, deltas)) + USAGE + DONE) == tokens
    parser.close()
    assert parser.usage == (5, 2)


def test_chat_stream_without_deltas_is_named():
    with pytest.raises(ValueError, match="no delta"):
        EventParser("chat").feed(TOKEN)


@pytest.mark.parametrize("reasons", [False, True])
def test_first_token_of_a_chat_is_not_the_delta_that_opens_it(reasons):
    with running(Behaviour(prefill_s=0.2, token_s=0.01, reasons=reasons)) as server:
        flight = complete(server.base_url, endpoint="chat")
    assert flight.ok
    # The opening delta came at once.
    assert flight.first_token_s - flight.sent_s >= 0.2
    assert len(flight.gaps_s) == 5
    assert (flight.input_tokens, flight.output_tokens) == (6, 6)
    assert (flight.expected_input, flight.expected_output) == (3, 6)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"<html>busy</html>\n\n", "expected 'data:'"),
        (b"data: {oops\n\n", "expected JSON"),
        (b"data: {oops}\n\n", "invalid JSON"),
        (TOKEN + b'data: {"error":{"message":"engine died"}}\n\n', "engine died"),
        (TOKEN + b"data: {garbage}\n\n" + USAGE + DONE, "invalid JSON"),
        (TOKEN * 2 + b"data: {garbage}\n\n" + TOKEN, "invalid JSON"),
        (TOKEN + b'data: {"choices":[{"index":0}]}\n\n', "no text"),
        (TOKEN + b'data: {"choices":7}\n\n', "no text"),
        (b'data: {"object":"x"}\n\n', "no choices"),
        (b'data: {"choices":[],"usage":{"total":3}}\n\n', "usage without token counts"),
        (TOKEN + USAGE.replace(b"2", b"1e999"), "usage without token counts"),
        (TOKEN + USAGE.replace(b"2", b"1" + b"0" * 30), "usage without token counts"),
        (TOKEN + USAGE.replace(b"2", b"-1"), "usage without token counts"),
        (TOKEN + b'data: {"usage":{"a":' + b"[" * 100_000 + b"}\n\n", "invalid JSON"),
        (TOKEN + TOKEN, r"ended without \[DONE\]"),
        (b"data: " + b"x" * 1_100_000, "more than"),
    ],
)
def test_malformed_streams_are_named(stream, message):
    def parse():
        parser = EventParser()
        parser.feed(stream)
        parser.close()

    with pytest.raises(ValueError, match=message):
        parse()


def test_caches_are_salted_by_run_and_scope():
    asked = prompt(b"[1]", 4)
    assert b"cache_salt" not in RequestShape().body("m", asked).content
    salted = json.loads(RequestShape(salt="ab").body("m", asked).content)
    assert salted["cache_salt"] == "ab.0"


def test_timeline_of_a_request_follows_the_server():
    with running(Behaviour(prefill_s=0.05, token_s=0.02)) as server:
        flight = complete(server.base_url)
    assert flight.ok
    assert (flight.input_tokens, flight.output_tokens) == (3, 6)
    assert flight.usage_reported
    assert flight.first_token_s - flight.sent_s >= 0.05
    assert len(flight.gaps_s) == 5
    assert flight.last_token_s - flight.sent_s >= 0.15
    assert sum(flight.gaps_s) == pytest.approx(flight.last_token_s - flight.first_token_s)


def test_request_asks_for_exactly_the_output_length():
    with running(Behaviour()) as server:
        complete(server.base_url, tokens=4)
        body = server.bodies[0]
    assert (body["max_tokens"], body["min_tokens"], body["ignore_eos"]) == (4, 4, True)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["temperature"] == 0
    assert body["prompt"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("http_429", "HTTP 429"),
        ("http_500", "HTTP 500"),
        ("malformed", "malformed stream"),
        ("error_event", "engine died"),
        ("truncated", r"without \[DONE\]"),
        ("die", "connection lost"),
    ],
)
def test_faults_of_the_server_become_the_error_of_the_request(fault, error):
    with running(Behaviour(fault=fault, token_s=0.02)) as server:
        flight = complete(server.base_url)
    assert not flight.ok
    assert flight.error is not None
    assert re.search(error, flight.error)


def test_request_without_an_end_is_given_up_at_its_limit():
    with running(Behaviour(fault="hang")) as server:
        flight = complete(server.base_url, timeout_s=0.2)
    assert flight.error == "no end of the stream within 0.2 s"


def test_refused_connection_is_marked():
    with running(Behaviour()) as server:
        url = server.base_url
    flight = complete(url)
    assert flight.refused
    assert flight.error is not None
    assert "cannot connect" in flight.error


@pytest.mark.parametrize(
    ("details", "cached"),
    [({"cached_tokens": 4}, 4), ({"cached_tokens": None}, 0), ({}, 0), (None, 0), ("4", 0)],
)
def test_tokens_from_the_cache_are_known_where_the_server_tells(details, cached):
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": details}
    parser = EventParser("completions")
    parser.feed(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
    assert (parser.usage, parser.cached_tokens) == ((5, 2), cached)


def test_without_usage_tokens_are_counted_from_events():
    with running(Behaviour(reports_usage=False)) as server:
        flight = complete(server.base_url, tokens=5)
    assert flight.output_tokens == 5
    assert not flight.usage_reported


def test_cancelled_request_closes_its_connection():
    async def go(base_url, server):
        async with CompletionClient(base_url) as client:
            flight = Flight(client.now())
            body = RequestShape().body("imitation", prompt(b"[1]", 100))
            task = asyncio.create_task(client.complete(flight, body, 30.0))
            await asyncio.sleep(0.2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for _ in range(100):
                if server.dropped:
                    break
                await asyncio.sleep(0.02)
            return flight

    with running(Behaviour(token_s=0.1)) as server:
        flight = asyncio.run(go(server.base_url, server))
        assert server.dropped == 1
    assert flight.error == "cancelled"
