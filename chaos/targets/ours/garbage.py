"""What another program could leave under its keys in Redis: each kind by name, as the commands that put it there."""

from __future__ import annotations

from dataclasses import dataclass

Words = tuple[str, ...]
Kinds = dict[str, tuple[Words, ...]]
LAST = "18446744073709551615-18446744073709551615"
NO_ID, TEXT_ID, LARGE = "abc", "0192e4a0-5a1c-7c3e-8f5e-0123456789ab", "x" * (1 << 20)


def kinds(stream: str, group: str) -> Kinds:
    """Name of each kind -> commands. None destroys what the record does not hold too."""
    keys = _Keys(stream, group)
    return keys.entries() | keys.members() | keys.wrong_types() | keys.ids()


@dataclass(frozen=True)
class _Keys:
    stream: str
    group: str

    @property
    def dlq(self) -> str:
        return f"{self.stream}:dlq"

    def key(self, name: str) -> str:
        return f"{{{self.stream}}}:{name}"

    def letters(self, name: str) -> str:
        return f"{{{self.dlq}}}:{name}"

    def entry(self, *fields: str, id: str = "*") -> Words:
        return ("XADD", self.stream, id, *fields)

    def entries(self) -> Kinds:
        lane, entry = self.key("lane:NOOP"), self.entry
        return {
            "entry-other-field": (entry("foo", "bar"),),
            "entry-short-id": (entry("id", NO_ID),),
            "entry-text-id": (entry("id", TEXT_ID),),
            "entry-large-id": (entry("id", LARGE),),
            "entry-empty-id": (entry("id", ""),),
            "entry-many-fields": (entry("id", NO_ID, "id", NO_ID, "foo", "bar"),),
            "entry-raw-bytes": (_raw("XADD", self.stream, r"'*', 'id', '\255\254'"),),
            "entry-unknown-id": (entry("id", "sixteen-bytes-ok"),),
            "entries-thirty": (entry("id", NO_ID),) * 30,
            "entry-in-lane": (("SADD", self.key("lanes"), "NOOP"), ("XADD", lane, "*", "id", NO_ID)),
            "entry-adopted": (
                entry("id", NO_ID),
                ("XREADGROUP", "GROUP", self.group, "a stranger", "COUNT", "1", "STREAMS", self.stream, ">"),
            ),
        }

    def members(self) -> Kinds:
        retry, lanes, turn, index = self.key("retry"), self.key("lanes"), self.key("reconciler"), self.letters("index")
        return {
            "retry-short-id": (("ZADD", retry, "1", NO_ID),),
            "retry-text-id": (("ZADD", retry, "-inf", TEXT_ID),),
            "retry-large-id": (("ZADD", retry, "1", LARGE),),
            "retry-never-due": (("ZADD", retry, "+inf", NO_ID),),
            "lanes-raw-bytes": (_raw("SADD", lanes, r"'\255\254'"),),
            "lanes-unknown": (("SADD", lanes, "NO SUCH TYPE"),),
            "consumer-raw-bytes": (
                (
                    "EVAL",
                    r"redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], ARGV[1], '\255')",
                    "1",
                    self.stream,
                    self.group,
                ),
            ),
            "turn-for-ever": (("SET", turn, "somebody"),),
            "turn-for-a-year": (("SET", turn, "somebody", "EX", "31536000"),),
            "dlq-entry": (("XADD", self.dlq, "*", "foo", "bar"),),
            "dlq-index": (("ZADD", index, "0", "! no entry"), _raw("ZADD", index, r"0, '\255\254'")),
            "dlq-digest": (("HSET", self.letters("digest"), "sum", "not a number", "last", "0-0"),),
        }

    def wrong_types(self) -> Kinds:
        return {
            "stream-of-wrong-type": (("SET", self.stream, "x"),),
            "retry-of-wrong-type": (("SET", self.key("retry"), "x"),),
            "lanes-of-wrong-type": (("SET", self.key("lanes"), "x"),),
            "turn-of-wrong-type": (("DEL", self.key("reconciler")), ("RPUSH", self.key("reconciler"), "x")),
            "lane-of-wrong-type": (("SADD", self.key("lanes"), "NOOP"), ("SET", self.key("lane:NOOP"), "x")),
            "dlq-of-wrong-type": (("SET", self.dlq, "x"),),
            "dlq-index-of-wrong-type": (("SET", self.letters("index"), "x"),),
            "dlq-digest-of-wrong-type": (("SET", self.letters("digest"), "x"),),
        }

    def ids(self) -> Kinds:
        return {
            "stream-ids-used-up": (("DEL", self.stream), self.entry("id", NO_ID, id=LAST)),
            "stream-ids-ahead": (self.entry("id", NO_ID, id="9999999999999-0"),),
            "group-ahead": (("XGROUP", "SETID", self.stream, self.group, LAST),),
            "dlq-ids-used-up": (("DEL", self.dlq), ("XADD", self.dlq, LAST, "foo", "bar")),
        }


def _raw(command: str, key: str, arguments: str) -> Words:
    """Bytes that are no text, written as Lua quotes them."""
    return ("EVAL", f"return redis.call('{command}', KEYS[1], {arguments})", "1", key)
