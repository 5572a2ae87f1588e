package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// synced answers whether the broker syncs what it acknowledges: its own word, in the welcome of a
// session.
func synced(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	address := cmp.Or(os.Getenv("PLAIT_ADDRESS"), "127.0.0.1:7420")
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	stream, err := plaitv1.NewTaskServiceClient(conn).SubmitStream(ctx, grpc.WaitForReady(true))
	if err != nil {
		return false, err
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return false, err
	}
	err = stream.Send(&plaitv1.SubmitStreamRequest{Message: &plaitv1.SubmitStreamRequest_Hello{
		Hello: &plaitv1.SessionHello{Session: id, Client: "plait-bench-go"},
	}})
	if err != nil {
		return false, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return false, err
	}
	welcome := answer.GetWelcome()
	if welcome == nil {
		return false, errors.New("the broker's first message is no welcome")
	}
	return welcome.GetSynced(), nil
}
