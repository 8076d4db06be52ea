# ruff: noqa: E501  (tables: one line each is easier to read)
"""The hand-made attacks: bodies, addresses, heads and framings that broke a server somewhere, each with its name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.hostile.wire import request

MIB = (1 << 20) - 200
NOOP = b'{"type":"NOOP","payload":{}}'
SOME_ID = "01890000-0000-7000-8000-000000000000"


class Attack(NamedTuple):
    """Bytes to send. `refused`: an answer below 400 would be wrong; `cut`: hang up instead of waiting for one."""

    name: str
    raw: bytes
    refused: bool = False
    cut: bool = False


def job(payload: bytes = b"{}", more: bytes = b"") -> bytes:
    """The body of a submission."""
    return b'{"type":"NOOP","payload":' + payload + more + b"}"


def _filled(piece: bytes, size: int = MIB) -> bytes:
    return b'{"a":[' + b",".join([piece] * (size // (len(piece) + 1) - 10)) + b"]}"


SHAPES: dict[str, bytes] = {  # payloads of a mebibyte, each the slowest of its kind
    "lists": _filled(b"[]"),
    "objects": _filled(b"{}"),
    "empty strings": _filled(b'""'),
    "99 lists deep": _filled(b"[" * 98 + b"]" * 98),
    "99 objects deep": b'{"a":' * 99 + b'"' + b"x" * (MIB - 700) + b'"' + b"}" * 99,
    "small objects": _filled(b'{"a":1}'),
    "the smallest floats": _filled(b"5e-324"),
    "floats near the smallest": _filled(b"2.2250738585072011e-308"),
    "long floats": _filled(b"1.2345678901234567e-300"),
    "floats half-way": _filled(b"1.00000000000000011102230246251565404236316680908203125" + b"0" * 700 + b"1"),
    "one endless float": b'{"a":0.' + b"1" * MIB + b"}",
    "big numbers": _filled(b"9" * 4_299),
    "digits": _filled(b"1"),
    "keys": b"{" + b",".join(b'"%d":1' % (n * 7_919 % 99_991) for n in range(99_000)) + b"}",
    "escapes": b'{"a":"' + rb"\n" * (MIB // 2) + b'"}',
    "quotes": b'{"a":"' + rb"\"" * (MIB // 2) + b'"}',
    "backslashes": b'{"a":"' + rb"\\" * (MIB // 2) + b'"}',
    "escaped characters": b'{"a":"' + rb"\u00e4" * (MIB // 6) + b'"}',
    "brackets in strings": _filled(b'"[\\"{"'),
}
BROKEN: dict[str, bytes] = {  # bodies of a mebibyte that are none
    "an escape that is none": job(b'{"a":"' + rb"\"" * (MIB // 2) + rb"\q" + b'"}'),
    "a string without end": job(b'{"a":"' + rb"\"" * (MIB // 2)),
    "backslashes without end": job(b'{"a":"' + b"\\" * MIB),
    "a NUL behind backslashes": job(b'{"a":"' + rb"\\" * (MIB // 2) + rb"\u0000" + b'"}'),
    "lists without end": job(b'{"a":' + b"[" * MIB),
    "objects without end": job(b'{"a":' * (MIB // 5)),
    "101 levels at the end": job(_filled(b"[]", MIB - 300)[:-2] + b"," + b"[" * 101 + b"]" * 101 + b"]}"),
    "a float too many": job(_filled(b"1e300", MIB - 300)[:-2] + b",1e400]}"),
    "a byte that is no UTF-8": job(_filled(b'"\xc3\xa4"', MIB - 300)[:-2] + b',"\xff"]}'),
    "blanks": b" " * MIB,
    "digits": b"1" * MIB,
    "a type of a mebibyte": b'{"type":"' + b"x" * MIB + b'","payload":{}}',
    "a field of a mebibyte": b'{"type":"NOOP","payload":{},"' + b"x" * MIB + b'":1}',
    "a key of a mebibyte": job(more=b',"idempotency_key":"' + b"k" * MIB + b'"'),
    "attempts of a mebibyte": job(more=b',"max_attempts":' + b"9" * MIB),
    "a delay of a mebibyte": job(more=b',"delay_seconds":1' + b"0" * MIB),
    "lists as a type": b'{"payload":{},"type":[' + b"[]," * (MIB // 3) + b"[]]}",
    "a lone surrogate at the end": job(b'{"a":"' + rb"\u00e4" * (MIB // 6) + rb"\ud800" + b'"}'),
    "fields and fields": b"{" + b'"type":"NOOP",' * (MIB // 14) + b'"tipe":1}',
}
VALUES = {
    "type": [b"null", b"1", b'""', b'"' + b"x" * 201 + b'"', rb'"\u0000"', rb'"a\nb"', b"[]", b'"noop "', b'"NOOP\xff"'],
    "payload": [b"null", b"[]", b"1", b'"{}"', b"{", b"{}}", b'{"a":01}', b'{"a":+1}', b'{"a":1.}', b'{"a":.5}',
                b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-}', b'{"a":1e400}', b"{'a':1}", b"{a:1}", b'{"a":1,}', b'{"a"}',
                rb'{"a":"\ud800"}', rb'{"a":"\u12"}', b'{"a":"\t"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xc0\xaf"}',
                rb'{"a":"\u0000"}', rb'{"a\u0000":1}', b"{}//", b"/**/{}", b'{"a":' + b"9" * 5_000 + b"}",
                b"\xef\xbb\xbf{}", b'{"a":"\xff"}', b'{"\xff":1}'],
    "delay_seconds": [b"-1", b"1e400", b"-0.1", b"31622401", b'"1"', b"[]", b"true", b"NaN"],
    "run_at": [b"1", b'""', b'"now"', b'"2030-01-01"', b'"2030-01-01T00:00:00"', b'"9999-12-31T23:59:59Z"',
               b'"2030-13-01T00:00:00Z"', b'"2030-01-01T00:00:00+99:00"', b'"2030-01-01T00:00:61Z"', b"{}"],
    "max_attempts": [b"0", b"-1", b"1001", b"1.5", b'"3"', b"99999999999999999999", b"1e3000", b"true"],
    "timeout_seconds": [b"0", b"-1", b"1e400", b"31622401", b'"1"', b"[]"],
    "idempotency_key": [b'""', b"1", b'"' + b"k" * 256 + b'"', rb'"\u0000"', rb'"a\nb"', rb'"\ud800"', b"[]"],
    "unknown": [b"1", b"null", b"{}"],
}  # fmt: skip
BATCHES = [b"", b"{}", b"[]", b"null", b'{"jobs":null}', b'{"jobs":{}}', b'{"jobs":[]}', b'{"jobs":[1]}', b'{"jobs":[{}]}',
           b'{"jobs":[' + NOOP + b",]}", b'{"jobs":[' + NOOP + b"]", b'{"jobs":[' + NOOP + b'],"more":1}',
           b'{"jobs":[' + NOOP + b"," + job(b"[]") + b"]}", b'{"jobs":[' + NOOP + b"]}{}",
           b'{"jobs":[' + b",".join([NOOP] * 10_001) + b"]}", b'{"jobs":[' + b"[" * 5_000,
           b'{"jobs":[' + b",".join([job(more=b',"idempotency_key":"same"')] * 2) + b"]}"]  # fmt: skip
SELECTIONS = [b"", b"[]", b"null", b'{"ids":{}}', b'{"ids":["x"]}', b'{"ids":[1]}', b'{"limit":0}', b'{"limit":10001}',
              b'{"older_than_seconds":-1}', b'{"older_than_seconds":1e400}', rb'{"type":"\u0000"}', rb'{"error":"\u0000"}',
              b'{"dry_run":1}', b'{"tipe":1}', b'{"ids":[' + b",".join([b'""'] * 300_000) + b"]}",
              b'{"error":"' + b"%" * 1_001 + b'"}', b"[" * 500_000, b'{"ids":[' + b'"\\"",' * 100_000]  # fmt: skip
PATHS = ["/jobs%0A", "/jobs/batch%0A", "/jobs/", "/jobs//", "//jobs", "/jobs/batch/", "/JOBS", "/jobs%00", "/jobs/..", "/%2e%2e",
         "/jobs/%2e%2e/jobs", "/jobs\\", "/jobs;a=1", "/jobs%2Fbatch", "/jobs/%0D%0A", "/jobs/%FF", "/jobs/%", "/jobs/%zz",
         "/" + "a" * 30_000, "/jobs/" + "%00" * 5_000, "/jobs/" + "a" * 201, "/jobs/" + SOME_ID.replace("-", ""),
         "/jobs/01890000-0000-7000-80000-00000000000", "/jobs/0189000-00000-7000-8000-000000000000",
         f"/jobs/{{{SOME_ID}}}", f"/jobs/urn:uuid:{SOME_ID}", f"/jobs/{SOME_ID}%0A", f"/jobs/{SOME_ID}/cancel/",
         f"/jobs/{SOME_ID}/CANCEL", "/dlq/", "/dlq/redrive/", "/docs/../jobs", "/.git/config", "/%ff%fe", "/jobs/%C0%AF",
         "http://evil.example/jobs", "/jobs#x", "*", "/readyz%0A", "/metrics%20", "/healthz/", "/openapi.json/"]  # fmt: skip
QUERIES = ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=1.5", "limit=", "limit=99999999999999999999", "cursor=x",
           "cursor=%00", "cursor=" + "A" * 101, "cursor=%F0%9F", "status=X", "status=%00", "type=%00",
           "type=" + "x" * 201]  # fmt: skip
ODD_QUERIES = ["type='%20OR%201=1", "type=%25%25", "limit=1&limit=1000", "a=1&" * 5_000, "&" * 20_000, "=" * 9_000, "%" * 9_000,
               "type=" + "%41" * 200, "type=%ED%A0%80", "cursor=" + "A" * 22, "cursor=AAAAAAAAAAAAAAAAAAAAAA%3D%3D", "status=FAILED"]  # fmt: skip
WAITS = ["wait=-1", "wait=61", "wait=x", "wait=NaN", "wait=Infinity", "wait=1e400", "wait=%00"]
HEADS: list[tuple[str, bytes]] = [
    ("Idempotency-Key", b""),
    ("Idempotency-Key", b"k" * 256),
    ("Idempotency-Key", b"a\tb"),
    ("Idempotency-Key", b"\xff" * 256),
]
ODD_HEADS: list[tuple[str, bytes]] = [
    ("Idempotency-Key", b"\xc3\xa4"),
    ("Idempotency-Key", b"\xe4"),
    ("Content-Encoding", b"gzip"),
    ("Expect", b"100-continue"),
    ("Expect", b"something"),
    ("Accept", b"*" * 20_000),
    ("Cookie", b"a=1; " * 9_000),
    ("Range", b"bytes=0-,0-,0-"),
    ("X-Forwarded-For", b"1" * 10_000),
    ("X-HTTP-Method-Override", b"DELETE"),
    ("Upgrade", b"h2c"),
    ("TE", b"trailers"),
    ("Authorization", b"Bearer " + b"\xff" * 5_000),
    ("Authorization", b"Basic \x80"),
    ("Accept-Language", b"\x80\x81\x82"),
]
METHODS = ["GET", "PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "HEAD", "LINK"]
HOST, JSON = b"Host: 127.0.0.1\r\n", b"Content-Type: application/json\r\n"
POST = b"POST /jobs HTTP/1.1\r\n" + HOST + JSON
FRAMES = [  # what is no request at all
    b"\r\n\r\n\r\n\x00", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"get / HTTP/1.1\r\n" + HOST + b"\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET  / HTTP/1.1\r\n\r\n", b"\x00" * 100,
    b"GET / HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n", b"GET / HTTP/1.1\r\nA\x00: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nA : x\r\n\r\n", b"GET / HTTP/1.1\r\nA: x\x00\r\n\r\n", b"GET \xff\xfe HTTP/1.1\r\n\r\n",
    POST + b"Content-Length: -1\r\n\r\n", POST + b"Content-Length: +28\r\n\r\n" + NOOP, POST + b"Content-Length: 1e3\r\n\r\n",
    POST + b"Content-Length: 99999999999999999999999\r\n\r\n", POST + b"Content-Length: 28\r\nContent-Length: 27\r\n\r\n" + NOOP,
    POST + b"Content-Length: 28\r\nTransfer-Encoding: chunked\r\n\r\n" + NOOP, POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", POST + b"X: y\r\n folded\r\nContent-Length: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000, b"GET / HTTP/1.1\r\nA: " + b"b" * 200_000, b"GET /" + b"a" * 200_000,
    b"G" * 200_000, POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200_000,
]  # fmt: skip
CUTS = [
    POST + b"Content-Length: 100\r\n\r\n" + NOOP, POST + b"Transfer-Encoding: chunked\r\n\r\n1c\r\n" + NOOP, POST, POST[:20],
    request("POST", "/jobs/batch", b'{"jobs":[' + NOOP)[:-1], request("POST", "/jobs", job(SHAPES["lists"]))[:-1],
    b"GET /jobs HTTP/1.1\r\n" + HOST + b"\r\n", (b"GET /docs HTTP/1.1\r\n" + HOST + b"\r\n") * 200, b"",
    (b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") * 6_000, b"GET / HTTP/1.1\r\n\r\n" * 30_000,
]  # fmt: skip


def small() -> Iterator[Attack]:
    """All but those of a mebibyte and more."""
    yield from _bodies()
    yield from _addresses()
    yield from _heads()
    for n, raw in enumerate(FRAMES):
        yield Attack(f"frame {n}", raw, refused=True)
    for n, raw in enumerate(CUTS):
        yield Attack(f"cut {n}", raw, cut=True)


def _bodies() -> Iterator[Attack]:
    for field, values in VALUES.items():
        for n, value in enumerate(values):
            fields = {"type": b'"NOOP"', "payload": b"{}", field: value}
            body = b"{" + b",".join(b'"%s":%s' % (name.encode(), text) for name, text in fields.items()) + b"}"
            yield Attack(f"{field} {n}", request("POST", "/jobs", body), refused=True)
            yield Attack(f"batch {field} {n}", request("POST", "/jobs/batch", b'{"jobs":[%s,%s]}' % (NOOP, body)), True)
    for n, body in enumerate(BATCHES):
        yield Attack(f"batch {n}", request("POST", "/jobs/batch", body), refused=True)
    for n, body in enumerate(SELECTIONS):
        yield Attack(f"redrive {n}", request("POST", "/dlq/redrive", body), refused=True)
        yield Attack(f"purge {n}", request("DELETE", "/dlq", body), refused=True)


def _addresses() -> Iterator[Attack]:
    for path in PATHS:
        is_bad = not path.startswith("http:") and "#" not in path
        yield Attack(f"POST {path[:40]}", request("POST", path, NOOP), refused=is_bad)
        yield Attack(f"GET {path[:40]}", request("GET", path))
    for query in [*QUERIES, *ODD_QUERIES]:
        for path in ("/jobs", "/dlq"):
            is_odd = query in ODD_QUERIES or (path == "/dlq" and query.startswith("status"))
            yield Attack(f"GET {path}?{query[:40]}", request("GET", f"{path}?{query}"), refused=not is_odd)
    for query in WAITS:
        yield Attack(query, request("GET", f"/jobs/{SOME_ID}?{query}"), refused=True)


def _heads() -> Iterator[Attack]:
    for n, (name, value) in enumerate([*HEADS, *ODD_HEADS]):
        yield Attack(f"{name} {n}", request("POST", "/jobs", NOOP, (name, value)), refused=(name, value) in HEADS)
        yield Attack(f"batch {name} {n}", request("POST", "/jobs/batch", b'{"jobs":[' + NOOP + b"]}", (name, value)))
    two = ("Idempotency-Key", "a"), ("Idempotency-Key", "b")
    yield Attack("two keys", request("POST", "/jobs", NOOP, *two), refused=True)
    for method in METHODS:
        for path in ("/jobs", "/jobs/batch", "/dlq/redrive", "/docs"):
            yield Attack(f"{method} {path}", request(method, path, b"" if method == "HEAD" else NOOP))


def large() -> Iterator[Attack]:
    """Those of a mebibyte and more, legal ones too: each on its own could stop a loop that does it in one go."""
    for n, (name, payload) in enumerate(SHAPES.items()):
        keyed = job(payload, b',"idempotency_key":"large %d"' % n)
        yield Attack(f"a job of {name}", request("POST", "/jobs", keyed))
        yield Attack(f"a job of {name}, again", request("POST", "/jobs", keyed))
    for name, body in BROKEN.items():
        yield Attack(f"a job of {name}", request("POST", "/jobs", body), refused=True)
        yield Attack(f"a batch of {name}", request("POST", "/jobs/batch", b'{"jobs":[' + body + b"]}"), refused=True)
        yield Attack(f"a redrive of {name}", request("POST", "/dlq/redrive", body), refused=True)
    for name in ("lists", "99 lists deep", "the smallest floats", "keys", "empty strings"):
        jobs = b",".join([job(SHAPES[name])] * 15)
        yield Attack(f"a batch of {name}", request("POST", "/jobs/batch", b'{"jobs":[' + jobs + b"]}"))
        yield Attack(f"a cut batch of {name}", request("POST", "/jobs/batch", b'{"jobs":[' + jobs + b"]"), refused=True)
    many = {
        "500,000 jobs": NOOP + b",",
        "objects": b"{},",
        "lists": b"[],",
        "numbers": b"1,",
        "blanks": b" ",
        "[": b"[",
    }
    for name, piece in many.items():
        body = b'{"jobs":[' + piece * (15_000_000 // len(piece)) + NOOP + b"]}"
        yield Attack(f"a batch of {name}", request("POST", "/jobs/batch", body), refused=True)
    small_jobs = b",".join([job(b'{"a":"' + b"x" * 1_400 + b'"}')] * 10_000)
    yield Attack("10,000 jobs", request("POST", "/jobs/batch", b'{"jobs":[' + small_jobs + b"]}"))
    one = b'{"jobs":[' + job(b'{"a":[' + b"[]," * 5_000_000 + b"[]]}") + b"]}"
    yield Attack("a batch of one job of 15 MB", request("POST", "/jobs/batch", one), refused=True)
