"""An unmodified gRPC client: grpcio, generated stubs, and a bootstrap in the environment.

`python plain_caller.py TARGET CALLS` prints who answered how often; a failure counts as its code.
"""

import collections
import json
import sys

import grpc

from testing.v1 import echo_pb2, echo_pb2_grpc


def main(target: str, calls: int) -> None:
    """Calls one after the other, without a deadline of its own."""
    answers: collections.Counter[str] = collections.Counter()
    with grpc.insecure_channel(target) as channel:
        stub = echo_pb2_grpc.EchoServiceStub(channel)
        for _ in range(calls):
            try:
                answers[stub.Echo(echo_pb2.EchoRequest(payload=b"plain")).payload.decode()] += 1
            except grpc.RpcError as error:
                answers[error.code().name] += 1
    said = {"event": "ready", "answers": answers}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
