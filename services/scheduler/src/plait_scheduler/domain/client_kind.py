"""The gRPC implementations that dial us, and what each cannot do.

A client ignores what it does not support, without a word, so what is asked in vain is said here.
"""

import enum


class ClientKind(enum.Enum):
    """An implementation of gRPC, as its user agent says."""

    # Python, C++, Ruby, PHP.
    C_CORE = "C-core"
    GO = "Go"
    JAVA = "Java"
    NODE = "Node"
    # tonic-xds, alpha.
    RUST = "Rust"
    # Plait's own SDKs, whatever is under them: attempts and deadlines are theirs.
    PLAIT = "Plait"
    OTHER = "other"


class Feature(enum.Enum):
    """What a policy can ask of a client."""

    TIMEOUT = "default deadlines"
    RETRY = "retries"
    REQUESTS_MAX = "circuit breaking"
    OUTLIER = "outlier ejection"
    FAULT = "fault injection"


_AGENTS = {
    "gRPC C-core": ClientKind.C_CORE,
    "gRPC Go": ClientKind.GO,
    "gRPC Java": ClientKind.JAVA,
    "gRPC Node": ClientKind.NODE,
    "tonic": ClientKind.RUST,
}

# Measured with grpcio 1.85.1, grpc-go 1.85.0, grpc-java 1.85.1, grpc-js-xds 1.14.1 and tonic-xds
# 0.1.0-alpha.4. C-core's deadlines from outside fire up to 2 s early and are not sent on the wire
# (grpc/grpc#34547, #40633).
_LACKS = {
    ClientKind.C_CORE: frozenset({Feature.TIMEOUT}),
    ClientKind.RUST: frozenset(
        {Feature.TIMEOUT, Feature.REQUESTS_MAX, Feature.OUTLIER, Feature.FAULT}
    ),
    # Unlike the others, a filter that a client does not know may be rejected by it.
    ClientKind.OTHER: frozenset({Feature.FAULT}),
}


# SDKs name their node like themselves.
_PLAIT = "plait-"
_OWN = frozenset({Feature.TIMEOUT, Feature.RETRY})


def client_kind(user_agent: str, node: str = "") -> ClientKind:
    """The kind of a client by its node's user agent and id."""
    if node.startswith(_PLAIT):
        return ClientKind.PLAIT
    found = (kind for prefix, kind in _AGENTS.items() if user_agent.startswith(prefix))
    return next(found, ClientKind.OTHER)


def is_told(kind: ClientKind, feature: Feature) -> bool:
    """Whether a client of this kind is to do as a policy says: it can, and nothing else does."""
    return feature not in lacks(kind) and not (kind is ClientKind.PLAIT and feature in _OWN)


def lacks(kind: ClientKind) -> frozenset[Feature]:
    """What it cannot do."""
    return _LACKS.get(kind, frozenset())
