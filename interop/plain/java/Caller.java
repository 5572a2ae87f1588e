import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.CountDownLatch;
import java.util.stream.Collectors;

/**
 * A client that knows nothing of Plait: grpc-java with grpc-xds, and a bootstrap in the environment.
 *
 * <p>{@code Caller METHOD CALLS REQUEST...} calls testing.v1.EchoService so often with each request,
 * which are in hexadecimal, one after the other and without a deadline of its own. It says what was
 * answered how often; a failure counts under its code. 0 calls: with one request, eight at a time
 * until SIGTERM.
 */
public final class Caller {
  private static final String SERVICE = "testing.v1.EchoService";
  private static final int CALLERS = 8;

  private final Channel channel;
  private final MethodDescriptor<byte[], byte[]> method;
  private final Map<String, Integer> answers = new ConcurrentSkipListMap<>();

  private Caller(Channel channel, String method) {
    this.channel = channel;
    this.method =
        MethodDescriptor.<byte[], byte[]>newBuilder()
            .setType(MethodDescriptor.MethodType.UNARY)
            .setFullMethodName(MethodDescriptor.generateFullMethodName(SERVICE, method))
            .setRequestMarshaller(new Bytes())
            .setResponseMarshaller(new Bytes())
            .build();
  }

  public static void main(String[] args) throws InterruptedException {
    ManagedChannel channel =
        Grpc.newChannelBuilder("xds:///" + SERVICE, InsecureChannelCredentials.create()).build();
    Caller caller = new Caller(channel, args[0]);
    int calls = Integer.parseInt(args[1]);
    for (int index = 2; index < args.length; index++) {
      for (int number = 0; number < Math.max(1, calls); number++) {
        caller.call(HexFormat.of().parseHex(args[index]));
      }
    }
    if (calls == 0) {
      caller.callUntilTold(HexFormat.of().parseHex(args[2]));
    } else {
      caller.say("ready");
    }
    channel.shutdownNow();
  }

  private void callUntilTold(byte[] request) throws InterruptedException {
    CountDownLatch told = new CountDownLatch(1);
    Thread main = Thread.currentThread();
    Thread hook =
        new Thread(
            () -> {
              told.countDown();
              join(main);
              // As the JVM ends by a signal, its exit code is not ours to say otherwise.
              Runtime.getRuntime().halt(0);
            });
    Runtime.getRuntime().addShutdownHook(hook);
    say("ready");
    Thread[] callers = new Thread[CALLERS];
    for (int number = 0; number < CALLERS; number++) {
      callers[number] =
          new Thread(
              () -> {
                while (told.getCount() > 0) {
                  call(request);
                }
              });
      callers[number].start();
    }
    for (Thread each : callers) {
      each.join();
    }
    say("done");
  }

  private static void join(Thread thread) {
    try {
      thread.join();
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private void call(byte[] request) {
    String answer;
    try {
      byte[] response =
          ClientCalls.blockingUnaryCall(channel, method, CallOptions.DEFAULT, request);
      answer = HexFormat.of().formatHex(response);
    } catch (StatusRuntimeException failed) {
      answer = failed.getStatus().getCode() + ": " + failed.getStatus().getDescription();
    }
    answers.merge(answer, 1, Integer::sum);
  }

  private void say(String event) {
    String counts =
        answers.entrySet().stream()
            .map(each -> quoted(each.getKey()) + ": " + each.getValue())
            .collect(Collectors.joining(", "));
    System.out.println("{\"event\": " + quoted(event) + ", \"answers\": {" + counts + "}}");
    System.out.flush();
  }

  private static String quoted(String text) {
    return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"").replaceAll("\\R", " ") + '"';
  }

  /** Messages as they are on the wire. */
  private static final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
    @Override
    public InputStream stream(byte[] value) {
      return new ByteArrayInputStream(value);
    }

    @Override
    public byte[] parse(InputStream stream) {
      try {
        return stream.readAllBytes();
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }
  }
}
