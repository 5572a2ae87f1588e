package contract

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	testingv1 "plait.dev/plait/gen/testing/v1"
)

// dial starts a server and makes a connection to it.
func dial(t *testing.T, register func(*grpc.Server)) *grpc.ClientConn {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func echoServer(server *grpc.Server) {
	testingv1.RegisterEchoServiceServer(server, testingv1.UnimplementedEchoServiceServer{})
	healthpb.RegisterHealthServer(server, health.NewServer())
}

func TestLoad_ByReflectionOfEitherVersion(t *testing.T) {
	t.Parallel()
	versions := map[string]func(*grpc.Server){
		"v1": func(s *grpc.Server) { reflection.RegisterV1(s) },
		"v1alpha": func(s *grpc.Server) {
			grpc_reflection_v1alpha.RegisterServerReflectionServer(s,
				reflection.NewServer(reflection.ServerOptions{Services: s}))
		},
	}
	for name, register := range versions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, func(s *grpc.Server) {
				echoServer(s)
				register(s)
			})
			c, err := Load(t.Context(), conn, Source{})
			if err != nil {
				t.Fatal(err)
			}
			if names := c.Names(); !slices.Equal(names, []string{echoService}) {
				t.Errorf("services %v: all but grpc.* were wanted", names)
			}
			if n := len(c.Services[0].Methods); n != 8 || len(c.LeftOut) != 0 {
				t.Errorf("%d methods, %v left out", n, c.LeftOut)
			}
		})
	}
}

func TestLoad_AServiceMayBeWantedByName(t *testing.T) {
	t.Parallel()
	conn := dial(t, func(s *grpc.Server) {
		echoServer(s)
		reflection.Register(s)
	})
	const wanted = "grpc.health.v1.Health"
	c, err := Load(t.Context(), conn, Source{Services: []string{wanted, wanted}})
	if err != nil {
		t.Fatal(err)
	}
	if names := c.Names(); !slices.Equal(names, []string{wanted}) {
		t.Errorf("services %v", names)
	}
	if !slices.Equal(c.LeftOut, []string{wanted + "/Watch"}) {
		t.Errorf("left out %v", c.LeftOut)
	}
	if _, err := Load(t.Context(), conn, Source{Services: []string{"no.Service"}}); err == nil {
		t.Error("a service that nobody has was found")
	}
}

func TestLoad_WithoutReflectionSaysWhatToDo(t *testing.T) {
	t.Parallel()
	conn := dial(t, echoServer)
	_, err := Load(t.Context(), conn, Source{})
	if err == nil || !strings.Contains(err.Error(), "--descriptors") {
		t.Error(err)
	}
}

func TestLoad_EndsWithItsContextWhileThereIsNoServer(t *testing.T) {
	t.Parallel()
	conn, err := grpc.NewClient("passthrough:///127.0.0.1:1",
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Load(ctx, conn, Source{}); err == nil {
		t.Error("no error")
	}
}

// write puts a descriptor set into a file.
func write(t *testing.T, set *descriptorpb.FileDescriptorSet) string {
	t.Helper()
	raw, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "set.binpb")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad_FromAFile(t *testing.T) {
	t.Parallel()
	rpc := func(name string, streams bool) *descriptorpb.MethodDescriptorProto {
		return &descriptorpb.MethodDescriptorProto{
			Name: &name, ServerStreaming: &streams,
			InputType:  proto.String(".google.protobuf.Empty"),
			OutputType: proto.String(".google.protobuf.Timestamp"),
		}
	}
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("a.proto"), Syntax: proto.String("proto3"),
		// Left out of the set, as by buf and protoc for what every language has.
		Dependency: []string{"google/protobuf/empty.proto", "google/protobuf/timestamp.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{
			{Name: proto.String("Plain"), Method: []*descriptorpb.MethodDescriptorProto{
				rpc("One", false), rpc("Many", true),
			}},
			{Name: proto.String("Streams"), Method: []*descriptorpb.MethodDescriptorProto{
				rpc("Many", true),
			}},
		},
	}
	path := write(t, &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{file}})
	c, err := Load(t.Context(), nil, Source{Descriptors: path})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.Names(), []string{"Plain"}) {
		t.Errorf("services %v: one without a unary method is none", c.Names())
	}
	if !slices.Equal(c.LeftOut, []string{"Plain/Many", "Streams/Many"}) {
		t.Errorf("left out %v", c.LeftOut)
	}
	if _, err := c.FindDescriptorByName("Plain"); err != nil {
		t.Error(err)
	}
	_, err = Load(t.Context(), nil, Source{Descriptors: path, Services: []string{"Streams"}})
	if err == nil || !strings.Contains(err.Error(), "no unary method") {
		t.Error(err)
	}
}

func TestLoad_WhatIsWrongWithAFileIsSaid(t *testing.T) {
	t.Parallel()
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("\xff\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	unlinked := write(t, echoSet())
	for want, source := range map[string]Source{
		"no serialized FileDescriptorSet": {Descriptors: broken},
		"read the descriptors":            {Descriptors: filepath.Join(t.TempDir(), "none")},
		"a file needs its imports":        {Descriptors: unlinked},
		"read the policies":               {Descriptors: unlinked, Policies: broken + "not"},
	} {
		_, err := Load(t.Context(), nil, source)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
