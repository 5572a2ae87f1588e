// grpc-interop-server is the service of grpc-go's interop suite as its authors wrote it, on a free
// port of the loopback, with server reflection and a readiness line. It knows nothing of Plait.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "grpc-interop-server:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("grpc-interop-server", flag.ContinueOnError)
	address := flags.String("listen", "127.0.0.1:0", "where to listen")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	reflection.Register(server)
	if _, err := fmt.Printf("{\"event\":\"ready\",\"address\":%q}\n", listener.Addr()); err != nil {
		return err
	}
	return server.Serve(listener)
}
